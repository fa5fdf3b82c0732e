//! Hosts with one reconciler each, which exchange what they would advertise.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use shoutd_core::advertise::{AdvertisedEndpoint, AdvertisedNetwork};
use shoutd_core::multicast::{Memberships, Remote, replication};
use shoutd_core::plane::Tier;
use shoutd_netlink::{Filtering, GroupFilter, Namespace, Pinned, Route};

use crate::support::{Capture, Host, PATIENCE, Running, World, connected, udp, vni};

pub const PORT: u16 = 5000;

/// Hosts with one reconciler each, which exchange what they would advertise.
pub struct Cluster {
    pub running: Vec<Running>,
    pub hosts: Vec<Host>,
    pub containers: Vec<Namespace>,
    _world: World,
}

impl Cluster {
    pub fn start(tiers: &[Tier]) -> Self {
        let (mut world, containers) = connected(u8::try_from(tiers.len()).unwrap());
        let mut hosts: Vec<Host> = world.hosts.drain(..).collect();
        let running = hosts
            .iter_mut()
            .zip(tiers)
            .map(|(host, tier)| Running::start_with(host, *tier))
            .collect();
        let mut cluster = Self { running, hosts, containers, _world: world };
        cluster.advertise();
        cluster
    }

    /// What a host would advertise of the network.
    pub fn advertisement(&self, host: usize) -> AdvertisedNetwork {
        let segment = &self.hosts[host].desired.segments[&vni()];
        let endpoints = segment.ports.values().map(|port| {
            let addresses = port.addresses.iter().map(ipnet::IpNet::addr).collect();
            (
                port.endpoint.clone(),
                AdvertisedEndpoint { mac: port.mac, addresses, names: BTreeSet::new() },
            )
        });
        let memberships = self.running[host]
            .handle
            .memberships()
            .borrow()
            .get(&vni())
            .cloned()
            .unwrap_or_default();
        AdvertisedNetwork { endpoints: endpoints.collect(), memberships, mtu: None }
    }

    /// Passes each host's advertisement to all others, and waits until all have programmed it.
    pub fn advertise(&mut self) {
        let advertisements: Vec<AdvertisedNetwork> =
            (0..self.hosts.len()).map(|host| self.advertisement(host)).collect();
        let addresses: Vec<IpAddr> = self.hosts.iter().map(|host| host.address).collect();
        for (position, host) in self.hosts.iter_mut().enumerate() {
            let others = addresses
                .iter()
                .zip(&advertisements)
                .filter(|(address, _)| **address != host.address);
            let remotes: Vec<Remote<'_>> = others
                .map(|(address, network)| Remote {
                    address: *address,
                    advertised: Some(network),
                    in_sync: true,
                })
                .collect();
            let segment = host.segment_mut();
            segment.replication = Arc::new(replication(&remotes));
            let places = remotes.iter().flat_map(|remote| {
                let endpoints = remote.advertised.unwrap().endpoints.values();
                endpoints.map(|endpoint| (endpoint.mac, remote.address))
            });
            segment.remote_macs = places.collect();
            self.running[position].apply(host);
        }
    }

    /// Waits until this holds for the memberships of a host's containers.
    pub fn until(&self, host: usize, what: &str, holds: impl Fn(&Memberships) -> bool) {
        let mut memberships = self.running[host].handle.memberships();
        let found = self.running[host].wait(async {
            let known = memberships
                .wait_for(|all| holds(all.get(&vni()).unwrap_or(&Memberships::default())));
            tokio::time::timeout(PATIENCE, known).await.map(|all| drop(all.unwrap()))
        });
        assert!(found.is_ok(), "{what}: {:?}", self.running[host].handle.memberships().borrow());
    }

    pub fn address(&self, host: usize) -> Ipv4Addr {
        self.hosts[host].container_address(1)
    }

    pub fn receiver(&self, host: usize) -> UdpSocket {
        udp(&self.containers[host], (Ipv4Addr::UNSPECIFIED, PORT))
    }

    /// Sends a datagram from a container of one host and returns the hosts whose segment received
    /// it.
    pub fn reaches(&self, from: &UdpSocket, to: impl Into<SocketAddr>) -> BTreeSet<usize> {
        self.reaches_from(from, from.local_addr().unwrap().ip(), to)
    }

    pub fn reaches_from(
        &self,
        from: &UdpSocket,
        address: IpAddr,
        to: impl Into<SocketAddr>,
    ) -> BTreeSet<usize> {
        let own = (0..self.hosts.len())
            .find(|host| address == self.address(*host) || address == self.link_local(*host))
            .unwrap();
        let text = b"a test datagram";
        self.reached(own, text, || _ = from.send_to(text, to.into()).unwrap())
    }

    /// The hosts whose segment received a frame with this text from a container of another.
    pub fn reached(&self, own: usize, text: &[u8], send: impl FnOnce()) -> BTreeSet<usize> {
        let others = (0..self.hosts.len()).filter(|host| *host != own);
        let captures: Vec<(usize, Capture)> = others
            .map(|host| (host, Capture::open(&self.hosts[host].segment(), "shoutvx0")))
            .collect();
        send();
        // Broadcast goes to all hosts by the same path, so it marks the end.
        let last = b"this is the last";
        self.sender(own).send_to(last, (Ipv4Addr::new(10, 7, 7, 255), 9)).unwrap();
        let has =
            |frame: &[u8], text: &[u8]| frame.windows(text.len()).any(|window| window == text);
        let mut reached = BTreeSet::new();
        for (host, mut capture) in captures {
            loop {
                let frame = capture.receive();
                if has(&frame, text) {
                    reached.insert(host);
                } else if has(&frame, last) {
                    break;
                }
            }
        }
        reached
    }

    /// The link-local address of a host's container.
    pub fn link_local(&self, host: usize) -> Ipv6Addr {
        let [a, b, c, d, e, f] =
            self.hosts[host].desired.segments[&vni()].ports.values().next().unwrap().mac.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    /// The index of the interface of a host's container.
    pub fn interface(&self, host: usize) -> u32 {
        self.containers[host].run(|| nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap()
    }

    /// A socket of a host's container that has joined an IPv6 group.
    pub fn receiver_v6(&self, host: usize, group: Ipv6Addr) -> UdpSocket {
        let receiver = udp(&self.containers[host], (Ipv6Addr::UNSPECIFIED, 0));
        receiver.join_multicast_v6(&group, self.interface(host)).unwrap();
        receiver
    }

    /// The number of MDB entries of a host's VXLAN device.
    pub fn entries(&self, host: usize) -> usize {
        let segment = self.hosts[host].segment();
        let mut route = Route::open(&segment).unwrap();
        let tunnel = route.link("shoutvx0").unwrap().unwrap().index;
        route.tunnel_groups(tunnel, 115).unwrap().len()
    }

    /// The number of FDB entries for groups' MAC addresses in a host's VXLAN device.
    pub fn group_macs(&self, host: usize) -> usize {
        let segment = self.hosts[host].segment();
        let mut route = Route::open(&segment).unwrap();
        let tunnel = route.link("shoutvx0").unwrap().unwrap().index;
        let is_of_groups =
            |pinned: &Pinned| matches!(pinned, Pinned::Tunnel { mac, .. } if mac[0] & 1 != 0);
        route.pinned(tunnel, 0).unwrap().iter().filter(|pinned| is_of_groups(pinned)).count()
    }

    /// The group filter before a host's tunnel.
    pub fn filtering(&self, host: usize) -> Filtering {
        GroupFilter::open(&self.hosts[host].segment()).unwrap().read("shoutvx0").unwrap()
    }

    /// A socket for sending.
    pub fn sender(&self, host: usize) -> UdpSocket {
        udp(&self.containers[host], (self.address(host), 0))
    }
}
