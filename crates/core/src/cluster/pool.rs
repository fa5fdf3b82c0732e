//! A subnet of a network, and its addresses that can be leased.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::HostId;

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The subnet, without host bits.
    pub subnet: IpNet,
    /// The address of the gateway, which is on the segment of every host, unless the network is
    /// internal. No endpoint gets it.
    pub gateway: Option<IpAddr>,
    /// The addresses that the user reserved (`--aux-address`), by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// The part of the subnet from which addresses are chosen (`--ip-range`); the whole subnet if
    /// `None`. An address that a user asks for may lie outside.
    #[serde(default)]
    pub range: Option<IpNet>,
}

impl Pool {
    /// Whether no endpoint may have this address.
    pub fn is_reserved(&self, address: IpAddr) -> bool {
        self.gateway == Some(address)
            || self.auxiliary.values().any(|auxiliary| *auxiliary == address)
            || address == self.subnet.network()
            || matches!(self.subnet, IpNet::V4(subnet) if IpAddr::V4(subnet.broadcast()) == address)
    }

    /// Whether this address may be given to an endpoint that did not ask for one.
    pub fn gives(&self, address: IpAddr) -> bool {
        self.subnet.contains(&address) && self.range.is_none_or(|range| range.contains(&address))
    }

    /// The highest addresses that are neither reserved nor leased. The origin's engine, which does
    /// not know other hosts, allocates from the bottom, so the two meet only when the subnet is
    /// full.
    pub fn highest_free(&self, leases: &BTreeMap<IpAddr, HostId>, count: usize) -> Vec<IpAddr> {
        let (low, high) = self.bounds();
        self.free(leases, (low..=high).rev(), count)
    }

    /// The lowest addresses that are neither reserved nor leased.
    pub fn lowest_free(&self, leases: &BTreeMap<IpAddr, HostId>, count: usize) -> Vec<IpAddr> {
        let (low, high) = self.bounds();
        self.free(leases, low..=high, count)
    }

    fn free(
        &self,
        leases: &BTreeMap<IpAddr, HostId>,
        candidates: impl Iterator<Item = u128>,
        count: usize,
    ) -> Vec<IpAddr> {
        let addresses = candidates.map(|bits| self.address(bits));
        let free = addresses
            .filter(|address| !leases.contains_key(address) && !self.is_reserved(*address));
        free.take(count).collect()
    }

    /// How many addresses there are for endpoints that do not ask for one.
    pub fn size(&self) -> usize {
        let (low, high) = self.bounds();
        // Too many for a usize is more than any limit.
        let all = usize::try_from(high - low).unwrap_or(usize::MAX).saturating_add(1);
        let edges = match self.subnet {
            IpNet::V4(subnet) => vec![IpAddr::V4(subnet.network()), IpAddr::V4(subnet.broadcast())],
            IpNet::V6(subnet) => vec![IpAddr::V6(subnet.network())],
        };
        let reserved: BTreeSet<_> = self.reserved().into_iter().chain(edges).collect();
        all.saturating_sub(reserved.into_iter().filter(|address| self.gives(*address)).count())
    }

    /// The first and the last address of the range, as numbers.
    fn bounds(&self) -> (u128, u128) {
        match self.range.unwrap_or(self.subnet) {
            IpNet::V4(subnet) => {
                (u32::from(subnet.network()).into(), u32::from(subnet.broadcast()).into())
            }
            IpNet::V6(subnet) => ipv6_range(subnet),
        }
    }

    fn address(&self, bits: u128) -> IpAddr {
        match self.subnet {
            // All numbers in an IPv4 range fit.
            IpNet::V4(_) => IpAddr::V4(u32::try_from(bits).unwrap_or(u32::MAX).into()),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(bits)),
        }
    }

    /// All reserved addresses.
    pub fn reserved(&self) -> BTreeSet<IpAddr> {
        self.auxiliary.values().copied().chain(self.gateway).collect()
    }
}

/// The first and last of the leasable addresses of an IPv6 subnet: its lowest 65,536. The top of a
/// subnet is not for hosts: the highest 128 interface identifiers are anycast addresses (RFC 2526).
fn ipv6_range(subnet: Ipv6Net) -> (u128, u128) {
    let low = u128::from(subnet.network());
    (low, u128::from(subnet.broadcast()).min(low + 0xffff))
}

/// Why a subnet cannot be used for a network; `None` if it can.
pub(super) fn unfit(subnet: IpNet) -> Option<&'static str> {
    if subnet != subnet.trunc() {
        return Some("has bits set beyond its prefix");
    }
    match subnet {
        IpNet::V4(subnet) => unfit_ipv4(subnet),
        IpNet::V6(subnet) => unfit_ipv6(subnet),
    }
}

fn unfit_ipv4(subnet: Ipv4Net) -> Option<&'static str> {
    let address = subnet.network();
    if !(8..=30).contains(&subnet.prefix_len()) {
        Some("has a prefix length outside of /8 to /30")
    } else if address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] == 0
        || address.octets()[0] >= 240
    {
        Some("is not usable by hosts (RFC 6890)")
    } else {
        None
    }
}

fn unfit_ipv6(subnet: Ipv6Net) -> Option<&'static str> {
    let address = subnet.network();
    if !(16..=126).contains(&subnet.prefix_len()) {
        Some("has a prefix length outside of /16 to /126")
    } else if address.is_loopback()
        || address.is_multicast()
        || address.is_unspecified()
        || address.is_unicast_link_local()
    {
        Some("is not usable by hosts (RFC 6890)")
    } else {
        None
    }
}
