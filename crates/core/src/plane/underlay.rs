//! The underlay filter: who may send to the VXLAN and agreement ports of this host and of the other
//! members.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::DeviceName;
use crate::HostId;
use crate::cluster::Cluster;

/// What the underlay filter enforces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderlayFilter {
    /// This host's underlay address.
    pub address: IpAddr,
    /// The interface with this address.
    pub interface: DeviceName,
    /// The TCP ports on which the members, this host included, listen to each other. The filter
    /// keeps containers off them.
    pub agreement_ports: BTreeSet<u16>,
    /// The other members' underlay addresses. VXLAN from any other source is dropped.
    pub members: BTreeSet<IpAddr>,
}

/// The underlay filter for the cluster's members; `None` for a host that is not a member.
///
/// A member is admitted as soon as this host knows that its membership is agreed, even before it
/// has a network.
pub fn underlay_filter(
    cluster: &Cluster,
    me: HostId,
    address: IpAddr,
    interface: DeviceName,
) -> Option<UnderlayFilter> {
    cluster.hosts.get(&me)?;
    let members = cluster.hosts.values().map(|host| host.address.ip());
    Some(UnderlayFilter {
        address,
        interface,
        agreement_ports: cluster.hosts.values().map(|host| host.address.port()).collect(),
        // Without this host's own address: a packet from outside with that source is forged.
        members: members.filter(|member| *member != address).collect(),
    })
}
