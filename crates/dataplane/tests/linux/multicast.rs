//! Multicast reaches the hosts that listen, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use shoutd_core::announce::{AnnouncedEndpoint, AnnouncedNetwork};
use shoutd_core::multicast::{Memberships, Remote, replication};
use shoutd_core::plane::Tier;
use shoutd_netlink::Namespace;

use crate::support::{Capture, Host, PATIENCE, Running, World, connected, udp, vni};

const PORT: u16 = 5000;

/// Hosts with a reconciler each, that know of each other what they would announce.
struct Cluster {
    running: Vec<Running>,
    hosts: Vec<Host>,
    containers: Vec<Namespace>,
    _world: World,
}

impl Cluster {
    fn start(tiers: &[Tier]) -> Self {
        let (mut world, containers) = connected(u8::try_from(tiers.len()).unwrap());
        let mut hosts: Vec<Host> = world.hosts.drain(..).collect();
        let running = hosts.iter_mut().zip(tiers).map(|(host, tier)| Running::start_with(host, *tier)).collect();
        let mut cluster = Self { running, hosts, containers, _world: world };
        cluster.announce();
        cluster
    }

    /// What a host has of the network.
    fn announced(&self, host: usize) -> AnnouncedNetwork {
        let segment = &self.hosts[host].desired.segments[&vni()];
        let endpoints = segment.ports.values().map(|port| {
            let addresses = port.addresses.iter().map(ipnet::IpNet::addr).collect();
            (port.endpoint.clone(), AnnouncedEndpoint { mac: port.mac, addresses })
        });
        let memberships = self.running[host].handle.memberships().borrow().get(&vni()).cloned().unwrap_or_default();
        AnnouncedNetwork { endpoints: endpoints.collect(), memberships }
    }

    /// Tells all hosts of all others, and waits until each does what it should.
    fn announce(&mut self) {
        let announced: Vec<AnnouncedNetwork> = (0..self.hosts.len()).map(|host| self.announced(host)).collect();
        let addresses: Vec<IpAddr> = self.hosts.iter().map(|host| host.address).collect();
        for (position, host) in self.hosts.iter_mut().enumerate() {
            let others = addresses.iter().zip(&announced).filter(|(address, _)| **address != host.address);
            let remotes: Vec<Remote<'_>> = others
                .map(|(address, network)| Remote { address: *address, announced: Some(network), in_sync: true })
                .collect();
            let segment = host.segment_mut();
            segment.replication = replication(&remotes);
            let places = remotes.iter().flat_map(|remote| {
                let endpoints = remote.announced.unwrap().endpoints.values();
                endpoints.map(|endpoint| (endpoint.mac, remote.address))
            });
            segment.remote_macs = places.collect();
            self.running[position].apply(host);
        }
    }

    /// Waits until what a host's containers listen to is as it should be.
    fn until(&self, host: usize, what: &str, holds: impl Fn(&Memberships) -> bool) {
        let mut memberships = self.running[host].handle.memberships();
        let found = self.running[host].wait(async {
            let holds =
                |all: &shoutd_dataplane::AllMemberships| holds(all.get(&vni()).unwrap_or(&Memberships::default()));
            tokio::time::timeout(PATIENCE, memberships.wait_for(holds)).await.map(|all| drop(all.unwrap()))
        });
        assert!(found.is_ok(), "{what}: {:?}", self.running[host].handle.memberships().borrow());
    }

    fn address(&self, host: usize) -> Ipv4Addr {
        self.hosts[host].container_address(1)
    }

    fn receiver(&self, host: usize) -> UdpSocket {
        udp(&self.containers[host], (Ipv4Addr::UNSPECIFIED, PORT))
    }

    /// Sends a datagram from a container of one host, and returns the hosts to whose segment it came.
    fn reaches(&self, from: &UdpSocket, to: impl Into<SocketAddr>) -> BTreeSet<usize> {
        let to = to.into();
        let mut captures: BTreeMap<usize, Capture> =
            (0..self.hosts.len()).map(|host| (host, Capture::open(&self.hosts[host].segment(), "shoutvx0"))).collect();
        let port = from.local_addr().unwrap().port();
        from.send_to(b"to whom it may concern", to).unwrap();
        // Broadcast goes to all, on the same way: it tells when the other has had its chance.
        from.send_to(b"last", (Ipv4Addr::new(10, 7, 7, 255), 9)).unwrap();
        let own = (0..self.hosts.len()).find(|host| self.is_on(*host, from)).unwrap();
        captures.remove(&own);
        let is_from = |frame: &[u8], text: &[u8]| {
            frame.windows(text.len()).any(|window| window == text) && frame.windows(2).any(|w| w == port.to_be_bytes())
        };
        let mut reached = BTreeSet::new();
        for (host, mut capture) in captures {
            loop {
                let frame = capture.receive();
                if is_from(&frame, b"to whom it may concern") {
                    reached.insert(host);
                } else if is_from(&frame, b"last") {
                    break;
                }
            }
        }
        reached
    }

    fn is_on(&self, host: usize, socket: &UdpSocket) -> bool {
        socket.local_addr().unwrap().ip() == IpAddr::from(self.address(host))
    }

    /// A socket to send from.
    fn sender(&self, host: usize) -> UdpSocket {
        udp(&self.containers[host], (self.address(host), 0))
    }
}

#[test]
fn a_group_goes_to_the_hosts_that_listen() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 3]);
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let receiver = cluster.receiver(1);
    let sender = cluster.sender(0);
    assert_eq!(cluster.reaches(&sender, (group, PORT)), BTreeSet::new());

    receiver.join_multicast_v4(&group, &cluster.address(1)).unwrap();
    cluster.until(1, "the membership", |memberships| memberships.groups.contains_key(&group.into()));
    cluster.announce();
    assert_eq!(cluster.reaches(&sender, (group, PORT)), BTreeSet::from([1]));
    assert_eq!(cluster.reaches(&sender, (Ipv4Addr::new(239, 1, 2, 4), PORT)), BTreeSet::new());
    assert_eq!(cluster.reaches(&sender, (Ipv4Addr::new(224, 0, 0, 251), PORT)), BTreeSet::from([1, 2]));

    receiver.leave_multicast_v4(&group, &cluster.address(1)).unwrap();
    cluster.until(1, "the leave", |memberships| memberships.groups.is_empty());
    cluster.announce();
    assert_eq!(cluster.reaches(&sender, (group, PORT)), BTreeSet::new());
}
