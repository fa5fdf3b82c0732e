//! Whom a host lets at its VXLAN port, and at those of the other members.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::DeviceName;
use crate::HostId;
use crate::cluster::Cluster;

/// What the filter of the host's own network namespace enforces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderlayFilter {
    /// This host's underlay address.
    pub address: IpAddr,
    /// The interface that has it.
    pub interface: DeviceName,
    /// TCP ports of agreement, of this host and of all members.
    pub agreement_ports: BTreeSet<u16>,
    /// The other members' underlay addresses: VXLAN from any other source is dropped.
    pub members: BTreeSet<IpAddr>,
}

/// The filter that follows from who belongs to the cluster; none for a host that does not.
///
/// A member is let in as soon as this host knows that it is agreed on, before it has a network.
pub fn underlay_filter(
    cluster: &Cluster,
    me: HostId,
    address: IpAddr,
    interface: DeviceName,
) -> Option<UnderlayFilter> {
    cluster.hosts.get(&me)?;
    let hosts = || cluster.hosts.values().map(|host| host.address);
    Some(UnderlayFilter {
        address,
        interface,
        agreement_ports: hosts().map(|host| host.port()).collect(),
        // What carries this host's own address comes from no other.
        members: hosts().map(|host| host.ip()).filter(|member| *member != address).collect(),
    })
}
