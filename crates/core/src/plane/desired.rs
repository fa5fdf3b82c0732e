//! The desired state of one host's kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::gateway;
use super::options::{interface_prefix, learns, max_rate};
use super::{
    Carrier, DeviceName, EncryptionWanted, GATEWAY_MAC, InterfaceName, UnderlayFilter,
    encryption_wanted,
};
use crate::advertise::{AdvertisedNetwork, PeerStates};
use crate::cluster::{Cluster, Network};
use crate::limits::{MTU_MIN, OVERHEAD_IPV4, OVERHEAD_IPV6, PORT};
use crate::local::{Endpoint, Local};
use crate::multicast::{Remote, RemoteMembers, Replication, replication};
use crate::{EndpointId, HostId, MacAddress, NetworkId, Vni};

/// The desired state of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The underlay filter; `None` on a host that does not belong to a cluster.
    pub underlay_filter: Option<UnderlayFilter>,
    /// The encrypted underlay.
    pub encryption: EncryptionWanted,
    /// Its segments, by VNI.
    pub segments: BTreeMap<Vni, Segment>,
    /// Networks on which this host has endpoints, but which are missing from its agreed state. Its
    /// data directory was rolled back, and it has not received the log entries again yet. Existing
    /// segments of these networks stay unchanged. So do those of encrypted networks as long as this
    /// host has no end of the encrypted underlay.
    pub untold: BTreeSet<NetworkId>,
}

/// A network on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The network.
    pub network: NetworkId,
    /// MTU of the bridge, the VXLAN device and both ends of every veth pair, in octets.
    pub mtu: u16,
    /// This host's VTEP.
    pub vtep: Vtep,
    /// VTEPs of the other hosts that have the network, as agreed or as they advertise.
    pub remotes: BTreeSet<IpAddr>,
    /// The replication of multicast to them. The `Arc` makes an unchanged replication cheap to
    /// detect.
    pub replication: Arc<Replication>,
    /// Members on those hosts, which are reported to multicast routers among this host's
    /// containers.
    pub elsewhere: RemoteMembers,
    /// The MAC addresses of other hosts' endpoints, with the VTEP of their host.
    pub remote_macs: BTreeMap<MacAddress, IpAddr>,
    /// Whether MAC addresses that are not an endpoint's are learned, and may move.
    pub learning: bool,
    /// Multicast and broadcast packets per second that each local endpoint may send; `None` for no
    /// limit.
    pub max_rate: Option<u32>,
    /// The addresses of its gateways, with the prefix lengths of their subnets; empty if it has no
    /// way out.
    pub gateways: BTreeSet<IpNet>,
    /// The local endpoints.
    pub ports: BTreeMap<DeviceName, Port>,
}

impl Segment {
    /// Whether its containers reach the world by its gateways.
    pub fn has_way_out(&self) -> bool {
        self.gateways.iter().any(|gateway| gateway.addr().is_ipv4())
    }

    /// The gateways' addresses.
    pub fn gateway_addresses(&self) -> BTreeSet<IpAddr> {
        self.gateways.iter().map(IpNet::addr).collect()
    }

    /// A segment without endpoints and remotes, and with default options.
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
            gateways: BTreeSet::new(),
            ports: BTreeMap::new(),
        }
    }

    /// Whether both have the same devices and flood entries. What changes with each membership and
    /// each advertised endpoint is not compared.
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
            gateways,
            ports,
        } = self;
        (network, mtu, vtep, remotes) == (&other.network, &other.mtu, &other.vtep, &other.remotes)
            && (learning, max_rate, ports) == (&other.learning, &other.max_rate, &other.ports)
            && *gateways == other.gateways
    }
}

/// The address and port from which a host sends VXLAN, and at which it receives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vtep {
    /// Underlay address.
    pub address: IpAddr,
    /// UDP port, the same on every host.
    pub port: u16,
    /// Whether the address is in the encrypted underlay.
    pub encrypted: bool,
}

/// A local endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The endpoint; it goes into the owner tag.
    pub endpoint: EndpointId,
    /// The name of the container's end while it is in the host's namespace.
    pub container_name: DeviceName,
    /// MAC address of the container's end.
    pub mac: MacAddress,
    /// Addresses of the container's end.
    pub addresses: BTreeSet<IpNet>,
    /// The multicast prefixes with a connected route on this interface. Each is on only one
    /// interface of a container.
    pub multicast_routes: BTreeSet<Ipv4Net>,
    /// How its interface is named in its container.
    pub name: InterfaceName,
    /// The gateway of the container's default route, if Docker was given one for this endpoint.
    pub default_route: Option<Ipv4Addr>,
    /// The file of the container's namespace once Docker has been given the interface. Before that,
    /// the container's end is in the host's namespace.
    pub sandbox: Option<PathBuf>,
}

/// The underlay as this host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// This host's VTEP.
    pub address: IpAddr,
    /// MTU of the interface with this address, in octets.
    pub mtu: u16,
}

/// The last replication computed for each network. A network without new advertisements costs
/// nothing.
#[derive(Debug, Clone, Default)]
pub struct ReplicationCache {
    networks: BTreeMap<Vni, (Vec<RemoteHost>, Arc<Replication>, RemoteMembers)>,
}

/// Another host that has a network.
#[derive(Debug, Clone)]
struct RemoteHost {
    /// Its VTEP.
    address: IpAddr,
    /// What it advertises of the network.
    advertised: Option<Arc<AdvertisedNetwork>>,
    in_sync: bool,
}

impl RemoteHost {
    /// Whether both are identical, by pointer comparison.
    fn is(&self, other: &Self) -> bool {
        let is_same = match (&self.advertised, &other.advertised) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        is_same && self.address == other.address && self.in_sync == other.in_sync
    }

    fn remote(&self) -> Remote<'_> {
        Remote {
            address: self.address,
            advertised: self.advertised.as_deref(),
            in_sync: self.in_sync,
        }
    }
}

impl ReplicationCache {
    /// The replication and remote members that follow from these advertisements.
    fn follow(&mut self, vni: Vni, others: Vec<RemoteHost>) -> (Arc<Replication>, RemoteMembers) {
        if let Some((known, replication, elsewhere)) = self.networks.get(&vni)
            && known.len() == others.len()
            && known.iter().zip(&others).all(|(known, other)| known.is(other))
        {
            return (replication.clone(), elsewhere.clone());
        }
        let remotes: Vec<Remote<'_>> = others.iter().map(RemoteHost::remote).collect();
        let replication = Arc::new(replication(&remotes));
        let elsewhere =
            RemoteMembers::new(others.iter().filter_map(|other| other.advertised.clone()));
        self.networks.insert(vni, (others, replication.clone(), elsewhere.clone()));
        (replication, elsewhere)
    }
}

/// The `-o` option with a network's MTU in octets. The name is that of Docker's own drivers.
pub const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// The segments that the kernel of host `me` should have: one for each network on which it has
/// endpoints. A host without endpoints on a network has no devices for it, and is not a remote of
/// the others. The caller adds the [`underlay_filter`](super::underlay_filter).
pub fn desired(
    cluster: &Cluster,
    local: &Local,
    me: HostId,
    underlay: Underlay,
    peers: &PeerStates,
    cache: &mut ReplicationCache,
) -> Desired {
    let (mut segments, mut untold) = (BTreeMap::new(), BTreeSet::new());
    for (id, endpoint) in &local.endpoints {
        let Some(network) = cluster.networks.get(&endpoint.network) else {
            untold.insert(endpoint.network.clone());
            continue;
        };
        let Some(carrier) = Carrier::of(cluster, network.encrypted, me, underlay) else {
            untold.insert(endpoint.network.clone());
            continue;
        };
        let segment = segments.entry(network.vni).or_insert_with(|| {
            let others = others(cluster, (&endpoint.network, network), me, carrier, peers);
            let address = carrier.underlay().address;
            let vtep = Vtep { address, port: PORT, encrypted: network.encrypted };
            let mtu = mtu(network, underlay, &others);
            segment_without_ports((&endpoint.network, network), (vtep, mtu), others, cache)
        });
        // An endpoint that moved here may still be advertised by another host.
        segment.remote_macs.remove(&endpoint.mac);
        segment.ports.insert(DeviceName::port(id), port(id, endpoint, network));
    }
    cache.networks.retain(|vni, _| segments.contains_key(vni));
    let encryption = encryption_wanted(cluster, me, underlay);
    Desired { underlay_filter: None, encryption, segments, untold }
}

/// The segment of a network, without its ports.
fn segment_without_ports(
    (id, network): (&NetworkId, &Network),
    (vtep, mtu): (Vtep, u16),
    others: Vec<RemoteHost>,
    cache: &mut ReplicationCache,
) -> Segment {
    let options = &network.settings.options;
    let remotes = others.iter().map(|other| other.address).collect();
    let remote_macs = remote_macs(&others);
    let (replication, elsewhere) = cache.follow(network.vni, others);
    Segment {
        remotes,
        remote_macs,
        replication,
        elsewhere,
        learning: learns(options),
        max_rate: max_rate(options),
        gateways: gateway::gateways(network),
        ..Segment::empty(id.clone(), mtu, vtep)
    }
}

/// The MTU of a network, in octets: that of its option, or the least that the underlays of all its
/// hosts allow. VTEPs do not fragment (RFC 7348, section 4.3): a host silently drops frames that
/// exceed the MTU of its VXLAN device.
fn mtu(network: &Network, underlay: Underlay, others: &[RemoteHost]) -> u16 {
    let advertised = others.iter().filter_map(|other| other.advertised.as_ref()?.mtu);
    mtu_option(network).unwrap_or_else(|| advertised.fold(max_mtu(network, underlay), u16::min))
}

fn mtu_option(network: &Network) -> Option<u16> {
    network.settings.options.get(MTU_OPTION).and_then(|text| text.parse().ok())
}

/// The largest MTU that an underlay allows for a network, in octets.
fn max_mtu(network: &Network, underlay: Underlay) -> u16 {
    let underlay = if network.encrypted { underlay.encrypted() } else { underlay };
    let overhead = if underlay.address.is_ipv4() { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 };
    underlay.mtu.saturating_sub(overhead).max(MTU_MIN)
}

/// The MTU that a host with this underlay advertises for a network.
pub fn advertised_mtu(network: &Network, underlay: Underlay) -> Option<u16> {
    mtu_option(network).is_none().then(|| max_mtu(network, underlay))
}

/// The MTU of a network's option and the one that the underlay allows, if the latter is less.
/// Larger packets are lost.
pub fn mtu_excess(network: &Network, underlay: Underlay) -> Option<(u16, u16)> {
    let available = max_mtu(network, underlay);
    mtu_option(network).filter(|wanted| *wanted > available).map(|wanted| (wanted, available))
}

/// The other hosts that have the network, as agreed or as they advertise, and can be reached.
fn others(
    cluster: &Cluster,
    (id, network): (&NetworkId, &Network),
    me: HostId,
    carrier: Carrier,
    peers: &PeerStates,
) -> Vec<RemoteHost> {
    let others = cluster.hosts.keys().filter(|host| **host != me);
    others
        .filter_map(|host| {
            let peer = peers.hosts.get(host);
            let advertised = peer.and_then(|peer| peer.networks.get(id)).cloned();
            let address = carrier.address_of(cluster, *host)?;
            let has_it = network.attached.contains(host) || advertised.is_some();
            let in_sync = peer.is_some_and(|peer| peer.in_sync);
            has_it.then_some(RemoteHost { address, advertised, in_sync })
        })
        .collect()
}

/// The VTEPs of other hosts' endpoints. While an endpoint moves, two hosts may advertise it. It is
/// then not pinned: its frames are flooded until the bridge learns its MAC address.
fn remote_macs(others: &[RemoteHost]) -> BTreeMap<MacAddress, IpAddr> {
    let mut places: BTreeMap<MacAddress, Option<IpAddr>> = BTreeMap::new();
    for RemoteHost { address, advertised, .. } in others {
        let endpoints = advertised.iter().flat_map(|network| network.endpoints.values());
        let pinned =
            endpoints.filter(|endpoint| endpoint.mac.is_unicast() && endpoint.mac != GATEWAY_MAC);
        for endpoint in pinned {
            let place = places.entry(endpoint.mac).or_insert(Some(*address));
            *place = place.filter(|known| known == address);
        }
    }
    places.into_iter().filter_map(|(mac, place)| Some((mac, place?))).collect()
}

fn port(id: &EndpointId, endpoint: &Endpoint, network: &Network) -> Port {
    let numbered = || InterfaceName::numbered(interface_prefix(&network.settings.options));
    Port {
        endpoint: id.clone(),
        container_name: DeviceName::container(id),
        mac: endpoint.mac,
        addresses: endpoint.addresses.clone(),
        multicast_routes: endpoint.multicast_routes.clone(),
        name: endpoint.interface_name.clone().map_or_else(numbered, InterfaceName::Fixed),
        default_route: endpoint.default_route,
        sandbox: endpoint.sandbox.clone(),
    }
}
