//! What the containers of other hosts listen to, for multicast routers among this host's
//! containers.
//!
//! IGMP and MLD stay on their host, so a router hears no report of a member on another one. What is
//! here is reported to it in their place (see [`super::Reports`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::{SourceFilter, is_link_local};
use crate::advertise::AdvertisedNetwork;
use crate::limits::REPORTED_GROUPS_MAX;

/// What the other hosts announced of one network. Cheap to copy and to compare; what follows is
/// worked out on demand, as few networks have a router.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteMembers(Arc<[Arc<AdvertisedNetwork>]>);

impl RemoteMembers {
    /// Of these hosts.
    pub fn new(announced: impl Iterator<Item = Arc<AdvertisedNetwork>>) -> Self {
        Self(announced.collect())
    }

    /// Whether this is the very same as another: then what follows is, too.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What all of them listen to together, of groups that a router forwards: link-local ones it
    /// does not (RFC 3376, section 6; RFC 3810, section 7). A host that is silent counts with what
    /// it announced last, until that is withdrawn. [`REPORTED_GROUPS_MAX`] groups at the most.
    pub fn members(&self) -> BTreeMap<IpAddr, SourceFilter> {
        let mut members: BTreeMap<IpAddr, SourceFilter> = BTreeMap::new();
        for (group, filter) in self.0.iter().flat_map(|network| &network.memberships.groups) {
            let is_of_nobody =
                matches!(filter, SourceFilter::Include(sources) if sources.is_empty());
            if is_of_nobody || !group.is_multicast() || is_link_local(*group) {
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

    /// Where IGMP reports to a port with these addresses come from: some routers tell by that which
    /// of their interfaces a report is for (igmpproxy does), so it is the lowest address on the
    /// same subnet of a container elsewhere. 0.0.0.0 if there is none, which every router has to
    /// accept (RFC 3376, section 4.2.13).
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
        let is_near = |address: &Ipv4Addr| {
            let is_of = |subnet: Ipv4Net| subnet.contains(address) && subnet.addr() != *address;
            subnets.clone().any(is_of)
        };
        addresses.filter(is_near).min().unwrap_or(Ipv4Addr::UNSPECIFIED)
    }
}
