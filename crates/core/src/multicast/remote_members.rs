//! Members on other hosts, for multicast routers among this host's containers.
//!
//! IGMP and MLD stay on their host, so a router does not receive the reports of members on other
//! hosts. We report them in their place (see [`super::Reports`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::{SourceFilter, is_link_local};
use crate::advertise::AdvertisedNetwork;
use crate::limits::REPORTED_GROUPS_MAX;

/// What the peers advertise of one network. It is cheap to copy and to compare. The methods compute
/// their results on demand, because few networks have a router.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteMembers(Arc<[Arc<AdvertisedNetwork>]>);

impl RemoteMembers {
    /// From the advertisements of these peers.
    pub fn new(advertised: impl Iterator<Item = Arc<AdvertisedNetwork>>) -> Self {
        Self(advertised.collect())
    }

    /// Whether both share the same data. Then their results are equal too.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The union of the peers' memberships in groups that a router forwards. Link-local groups are
    /// not forwarded (RFC 3376, section 6; RFC 3810, section 7). For a silent peer, its last
    /// advertisement counts until it is withdrawn. At most [`REPORTED_GROUPS_MAX`] groups.
    pub fn members(&self) -> BTreeMap<IpAddr, SourceFilter> {
        let mut members: BTreeMap<IpAddr, SourceFilter> = BTreeMap::new();
        for (group, filter) in self.0.iter().flat_map(|network| &network.memberships.groups) {
            let is_empty = matches!(filter, SourceFilter::Include(sources) if sources.is_empty());
            if is_empty || !group.is_multicast() || is_link_local(*group) {
                continue;
            }
            if let Some(known) = members.get_mut(group) {
                known.widen(filter);
            } else if members.len() < REPORTED_GROUPS_MAX {
                members.insert(*group, filter.clone());
            }
        }
        members
    }

    /// The source address for IGMP reports to a port with these addresses. Some routers, such as
    /// igmpproxy, select the interface of a report by its source address. So it is the lowest
    /// address of a remote container in one of the port's subnets. If there is none, it is 0.0.0.0,
    /// which every router must accept (RFC 3376, section 4.2.13).
    pub fn address_for<'a>(&self, port: impl Iterator<Item = &'a IpNet> + Clone) -> Ipv4Addr {
        let subnets = port.filter_map(|address| match address {
            IpNet::V4(subnet) => Some(*subnet),
            IpNet::V6(_) => None,
        });
        let endpoints = self.0.iter().flat_map(|network| network.endpoints.values());
        let addresses =
            endpoints.flat_map(|endpoint| &endpoint.addresses).filter_map(
                |address| match address {
                    IpAddr::V4(address) => Some(*address),
                    IpAddr::V6(_) => None,
                },
            );
        let near = addresses.filter(|address| {
            subnets
                .clone()
                .any(|subnet: Ipv4Net| subnet.contains(address) && subnet.addr() != *address)
        });
        near.min().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }
}
