//! What the kernel of one host should have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::options::{learns, max_rate};
use super::{DeviceName, UnderlayFilter};
use crate::advertise::{AdvertisedNetwork, PeerStates};
use crate::cluster::{Cluster, Network};
use crate::limits::{MTU_MIN, OVERHEAD_IPV4, OVERHEAD_IPV6, PORT};
use crate::local::{Endpoint, Local};
use crate::multicast::{Remote, RemoteMembers, Replication, replication};
use crate::{EndpointId, HostId, MacAddress, NetworkId, Vni};

/// All that this host should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The filter in the host's own namespace; none on a host that belongs to no cluster.
    pub underlay_filter: Option<UnderlayFilter>,
    /// Its segments, by VNI.
    pub segments: BTreeMap<Vni, Segment>,
}

/// One network on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The network.
    pub network: NetworkId,
    /// MTU of bridge, VXLAN device and both ends of every veth, in octets.
    pub mtu: u16,
    /// This host's end of the tunnel.
    pub vtep: Vtep,
    /// VTEPs of the other hosts that have the network, as agreed or as they say themselves.
    pub remotes: BTreeSet<IpAddr>,
    /// To which of them multicast is sent. Shared, so that it can be seen at once that it is the
    /// same as before.
    pub replication: Arc<Replication>,
    /// What containers of those hosts listen to, to be reported to multicast routers among this
    /// host's.
    pub elsewhere: RemoteMembers,
    /// The other hosts' endpoints, by the VTEP of the host they are on.
    pub remote_macs: BTreeMap<MacAddress, IpAddr>,
    /// Whether MAC addresses that are no endpoint's are learnt, and may move.
    pub learning: bool,
    /// Multicast and broadcast packets a second that each local endpoint may send; `None` for any
    /// number.
    pub max_rate: Option<u32>,
    /// The local endpoints.
    pub ports: BTreeMap<DeviceName, Port>,
}

impl Segment {
    /// One without endpoints and other hosts, with the options' defaults.
    pub fn empty(network: NetworkId, mtu: u16, vtep: Vtep) -> Self {
        Self {
            network,
            mtu,
            vtep,
            remotes: BTreeSet::new(),
            replication: Arc::default(),
            elsewhere: RemoteMembers::default(),
            remote_macs: BTreeMap::new(),
            learning: true,
            max_rate: None,
            ports: BTreeMap::new(),
        }
    }

    /// Whether another wants the same devices, with the same flood entries: all but what changes
    /// with each group that is joined, and each endpoint that is announced.
    pub fn has_devices_of(&self, other: &Self) -> bool {
        let Self {
            network,
            mtu,
            vtep,
            remotes,
            replication: _,
            elsewhere: _,
            remote_macs: _,
            learning,
            max_rate,
            ports,
        } = self;
        (network, mtu, vtep, remotes) == (&other.network, &other.mtu, &other.vtep, &other.remotes)
            && (learning, max_rate, ports) == (&other.learning, &other.max_rate, &other.ports)
    }
}

/// Where a host sends VXLAN from, and receives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vtep {
    /// Underlay address.
    pub address: IpAddr,
    /// UDP port, the same on every host.
    pub port: u16,
}

/// One local endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The endpoint; it goes into the mark.
    pub endpoint: EndpointId,
    /// Name of the container's end while it is in the host's namespace.
    pub container_name: DeviceName,
    /// MAC address of the container's end.
    pub mac: MacAddress,
    /// Addresses of the container's end.
    pub addresses: BTreeSet<IpNet>,
    /// The destinations of the connected routes of multicast that belong on it: each is on one
    /// interface of a container only.
    pub multicast_routes: BTreeSet<Ipv4Net>,
    /// The container's namespace file, once Docker has been given the interface; before that the
    /// container's end is in the host's namespace.
    pub sandbox: Option<PathBuf>,
}

/// The underlay as this host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// This host's VTEP.
    pub address: IpAddr,
    /// MTU of the interface that has the address, in octets.
    pub mtu: u16,
}

/// To whom multicast is sent, as it was last worked out for each network: a network of which
/// nothing else was announced costs nothing.
#[derive(Debug, Clone, Default)]
pub struct ReplicationCache {
    networks: BTreeMap<Vni, (Vec<Announcement>, Arc<Replication>, RemoteMembers)>,
}

/// Of one other host that has a network: its VTEP, what it announced, and whether that is what it
/// has now.
type Announcement = (IpAddr, Option<Arc<AdvertisedNetwork>>, bool);

impl ReplicationCache {
    /// What follows from these announcements.
    fn follow(&mut self, vni: Vni, others: Vec<Announcement>) -> (Arc<Replication>, RemoteMembers) {
        let is_same = |known: &[Announcement]| {
            known.len() == others.len() && known.iter().zip(&others).all(are_same)
        };
        if let Some((_, replication, elsewhere)) =
            self.networks.get(&vni).filter(|(known, ..)| is_same(known))
        {
            return (replication.clone(), elsewhere.clone());
        }
        let remotes: Vec<Remote<'_>> = others.iter().map(remote).collect();
        let replication = Arc::new(replication(&remotes));
        let elsewhere =
            RemoteMembers::new(others.iter().filter_map(|(_, announced, _)| announced.clone()));
        self.networks.insert(vni, (others, replication.clone(), elsewhere.clone()));
        (replication, elsewhere)
    }
}

/// Whether these are the very same, as far as can be seen at a glance.
fn are_same(((address, announced, in_sync), other): (&Announcement, &Announcement)) -> bool {
    let is_same = match (announced, &other.1) {
        (Some(announced), Some(other)) => Arc::ptr_eq(announced, other),
        (announced, other) => announced.is_none() && other.is_none(),
    };
    is_same && *address == other.0 && *in_sync == other.2
}

fn remote((address, announced, in_sync): &Announcement) -> Remote<'_> {
    Remote { address: *address, announced: announced.as_deref(), in_sync: *in_sync }
}

/// `-o` option with the MTU of a network, in octets, as Docker's own drivers call it.
pub const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// The segments that the kernel of host `me` should have: one for each network that it has
/// endpoints on. A host without endpoints on a network has no devices for it and is no remote of
/// the others. [`underlay_filter`](super::underlay_filter) is the rest.
pub fn desired(
    cluster: &Cluster,
    local: &Local,
    me: HostId,
    underlay: Underlay,
    heard: &PeerStates,
    worked: &mut ReplicationCache,
) -> Desired {
    let mut segments = BTreeMap::new();
    for (id, endpoint) in &local.endpoints {
        let Some(network) = cluster.networks.get(&endpoint.network) else {
            continue;
        };
        let segment = segments.entry(network.vni).or_insert_with(|| {
            let others = others(cluster, (&endpoint.network, network), me, underlay, heard);
            segment_without_ports((&endpoint.network, network), underlay, others, worked)
        });
        // An endpoint that came here from another host may still be announced there.
        segment.remote_macs.remove(&endpoint.mac);
        segment.ports.insert(DeviceName::port(id), port(id, endpoint));
    }
    worked.networks.retain(|vni, _| segments.contains_key(vni));
    Desired { underlay_filter: None, segments }
}

/// A network's segment but for its ports.
fn segment_without_ports(
    (id, network): (&NetworkId, &Network),
    underlay: Underlay,
    others: Vec<Announcement>,
    worked: &mut ReplicationCache,
) -> Segment {
    let options = &network.settings.options;
    let vtep = Vtep { address: underlay.address, port: PORT };
    let mtu = mtu(network, underlay, &others);
    let remotes = others.iter().map(|(address, ..)| *address).collect();
    let remote_macs = remote_macs(&others);
    let (replication, elsewhere) = worked.follow(network.vni, others);
    Segment {
        remotes,
        remote_macs,
        replication,
        elsewhere,
        learning: learns(options),
        max_rate: max_rate(options),
        ..Segment::empty(id.clone(), mtu, vtep)
    }
}

/// MTU of a network, in octets: what its option says; or the least that the underlays of all hosts
/// that have it leave, as what is larger than a host's own VXLAN device takes is dropped there, and
/// nobody is told (RFC 7348, section 4.3: VTEPs do not fragment).
fn mtu(network: &Network, underlay: Underlay, others: &[Announcement]) -> u16 {
    let announced = others.iter().filter_map(|(_, announced, _)| announced.as_ref()?.mtu);
    mtu_option(network).unwrap_or_else(|| announced.fold(room(underlay), u16::min))
}

fn mtu_option(network: &Network) -> Option<u16> {
    network.settings.options.get(MTU_OPTION).and_then(|text| text.parse().ok())
}

/// The largest MTU that an underlay leaves to networks, in octets.
fn room(underlay: Underlay) -> u16 {
    let overhead = if underlay.address.is_ipv4() { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 };
    underlay.mtu.saturating_sub(overhead).max(MTU_MIN)
}

/// What a host with this underlay tells the others of the MTU that a network can have.
pub fn announced_mtu(network: &Network, underlay: Underlay) -> Option<u16> {
    mtu_option(network).is_none().then(|| room(underlay))
}

/// The MTU that a network's option asks for, and what the underlay leaves, if that is less: larger
/// packets are lost.
pub fn mtu_excess(network: &Network, underlay: Underlay) -> Option<(u16, u16)> {
    let room = room(underlay);
    mtu_option(network).filter(|wanted| *wanted > room).map(|wanted| (wanted, room))
}

/// The other hosts that have the network, as agreed or as they say themselves. One of the other
/// address family than ours cannot be sent to.
fn others(
    cluster: &Cluster,
    (id, network): (&NetworkId, &Network),
    me: HostId,
    underlay: Underlay,
    heard: &PeerStates,
) -> Vec<Announcement> {
    let others = cluster.hosts.iter().filter(|(host, _)| **host != me);
    others
        .filter_map(|(host, record)| {
            let said = heard.hosts.get(host);
            let announced = said.and_then(|said| said.networks.get(id)).cloned();
            let address = record.address.ip();
            let is_reachable =
                address.is_ipv4() == underlay.address.is_ipv4() && address != underlay.address;
            let has_it = network.attached.contains(host) || announced.is_some();
            let in_sync = said.is_some_and(|said| said.in_sync);
            (is_reachable && has_it).then_some((address, announced, in_sync))
        })
        .collect()
}

/// Where the other hosts' endpoints are. One that two hosts announce, as while it moves, is learnt
/// from its own traffic meanwhile.
fn remote_macs(others: &[Announcement]) -> BTreeMap<MacAddress, IpAddr> {
    let mut places: BTreeMap<MacAddress, Option<IpAddr>> = BTreeMap::new();
    for (address, announced, _) in others {
        let endpoints = announced.iter().flat_map(|network| network.endpoints.values());
        for endpoint in endpoints.filter(|endpoint| endpoint.mac.is_unicast()) {
            let place = places.entry(endpoint.mac).or_insert(Some(*address));
            *place = place.filter(|known| known == address);
        }
    }
    places.into_iter().filter_map(|(mac, place)| Some((mac, place?))).collect()
}

fn port(id: &EndpointId, endpoint: &Endpoint) -> Port {
    Port {
        endpoint: id.clone(),
        container_name: DeviceName::container(id),
        mac: endpoint.mac,
        addresses: endpoint.addresses.clone(),
        multicast_routes: endpoint.multicast_routes.clone(),
        sandbox: endpoint.sandbox.clone(),
    }
}
