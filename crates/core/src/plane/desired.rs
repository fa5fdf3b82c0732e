//! What the kernel of one host should have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::DeviceName;
use crate::cluster::{Cluster, Network};
use crate::limits::{MTU_MIN, OVERHEAD_IPV4, OVERHEAD_IPV6, PORT};
use crate::local::{Endpoint, Local};
use crate::{EndpointId, HostId, MacAddress, NetworkId, Vni};

/// All segments this host should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// By VNI.
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
    /// VTEPs of the other hosts that have the network.
    pub remotes: BTreeSet<IpAddr>,
    /// The local endpoints.
    pub ports: BTreeMap<DeviceName, Port>,
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
    /// Whether the connected route 224.0.0.0/4 belongs on it: only on the first shoutd network of a container.
    pub multicast_route: bool,
    /// The container's namespace file, once Docker has been given the interface; before that the container's end is in the
    /// host's namespace.
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

/// `-o` option with the MTU of a network, in octets, as Docker's own drivers call it.
pub const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// What the kernel of host `me` should have: a segment for each network that it has endpoints on. A host without endpoints on a network has
/// no devices for it and is no remote of the others.
pub fn desired(cluster: &Cluster, local: &Local, me: HostId, underlay: Underlay) -> Desired {
    let mut segments = BTreeMap::new();
    for (id, endpoint) in &local.endpoints {
        let Some(network) = cluster.networks.get(&endpoint.network) else {
            continue;
        };
        let segment = segments.entry(network.vni).or_insert_with(|| Segment {
            network: endpoint.network.clone(),
            mtu: mtu(network, underlay),
            vtep: Vtep { address: underlay.address, port: PORT },
            remotes: remotes(cluster, network, me, underlay),
            ports: BTreeMap::new(),
        });
        segment.ports.insert(DeviceName::port(id), port(id, endpoint));
    }
    Desired { segments }
}

/// MTU of a network on this host, in octets: what its option says, or what the underlay leaves.
fn mtu(network: &Network, underlay: Underlay) -> u16 {
    let overhead = if underlay.address.is_ipv4() { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 };
    let wanted = network.settings.options.get(MTU_OPTION).and_then(|text| text.parse().ok());
    wanted.unwrap_or_else(|| underlay.mtu.saturating_sub(overhead).max(MTU_MIN))
}

/// VTEPs of the other hosts that have the network. One of the other address family than ours cannot be sent to.
fn remotes(cluster: &Cluster, network: &Network, me: HostId, underlay: Underlay) -> BTreeSet<IpAddr> {
    let others = network.attached.iter().filter(|host| **host != me);
    let addresses = others.filter_map(|host| cluster.hosts.get(host)).map(|host| host.address.ip());
    addresses
        .filter(|address| address.is_ipv4() == underlay.address.is_ipv4() && *address != underlay.address)
        .collect()
}

fn port(id: &EndpointId, endpoint: &Endpoint) -> Port {
    Port {
        endpoint: id.clone(),
        container_name: DeviceName::container(id),
        mac: endpoint.mac,
        addresses: endpoint.addresses.clone(),
        multicast_route: endpoint.multicast_route,
        sandbox: endpoint.sandbox.clone(),
    }
}
