//! `RequestPool` and `RequestAddress` of the IPAM driver.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::cluster::{Cluster, Network};
use crate::{HostId, NetworkId};

/// How many free subnets we try, because some may have been granted a moment ago.
const TRIES_MAX: u64 = 300;

/// A subnet, and the part of it to choose addresses from.
pub type PoolRange = (IpNet, IpNet);

/// How the driver answers `RequestAddress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressAnswer {
    /// At once, with this address: the gateway's, or one that no endpoint may have.
    Grant(IpNet),
    /// With an address that it leases from this network.
    Lease(NetworkId),
    /// With an error: no network has the subnet.
    NoNetwork,
}

/// An address that is not in its subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("address {address} is not in subnet {subnet}")]
pub struct InvalidAddress {
    /// The address.
    pub address: IpAddr,
    /// The subnet.
    pub subnet: IpNet,
}

/// A subnet that is free on every host, and that overlaps none of the `taken` ones, which the
/// cluster does not know yet. Each host starts its search at a different subnet, so that concurrent
/// choices differ.
pub fn choose_subnet(cluster: &Cluster, me: HostId, taken: &BTreeSet<IpNet>) -> Option<Ipv4Net> {
    let turns = (0..TRIES_MAX).map(|turn| me.get().wrapping_add(turn));
    let mut free = turns.filter_map(|turn| cluster.free_subnet(turn));
    free.find(|subnet| {
        let subnet = IpNet::V4(*subnet);
        !taken.iter().any(|taken| taken.contains(&subnet) || subnet.contains(taken))
    })
}

/// How to answer a request for an address of `subnet`: `address`, or any one.
///
/// # Errors
/// The requested address is not in the subnet.
pub fn answer_address(
    cluster: &Cluster,
    subnet: IpNet,
    address: Option<IpAddr>,
    is_for_gateway: bool,
) -> Result<AddressAnswer, InvalidAddress> {
    let network = cluster.network_with_subnet(subnet);
    if is_for_gateway {
        let agreed = network
            .and_then(|(_, network)| network.pool_of(subnet.addr()))
            .and_then(|pool| pool.gateway);
        let gateway = address.or(agreed).unwrap_or_else(|| first_of(subnet));
        return with_prefix(gateway, subnet).map(AddressAnswer::Grant);
    }
    match (network, address) {
        // An auxiliary address of a network that is about to be created, or of a known one.
        (None, Some(auxiliary)) => with_prefix(auxiliary, subnet).map(AddressAnswer::Grant),
        (Some((_, network)), Some(address)) if is_auxiliary(network, address) => {
            with_prefix(address, subnet).map(AddressAnswer::Grant)
        }
        (None, None) => Ok(AddressAnswer::NoNetwork),
        (Some((id, _)), _) => Ok(AddressAnswer::Lease(id.clone())),
    }
}

/// Where to look for any address, in this order: the requested subnet and then, if that is full,
/// the network's other subnets of the same family. Docker tries the next subnet itself only with
/// its own IPAM.
pub fn pools_to_try(
    cluster: &Cluster,
    network: &NetworkId,
    requested: PoolRange,
) -> Vec<PoolRange> {
    let (subnet, _) = requested;
    let known = cluster.networks.get(network);
    let pools = known.map(|known| known.settings.pools.as_slice()).unwrap_or_default();
    let others = pools
        .iter()
        .filter(|pool| pool.subnet != subnet)
        .filter(|pool| pool.subnet.addr().is_ipv4() == subnet.addr().is_ipv4())
        .map(|pool| (pool.subnet, pool.range.unwrap_or(pool.subnet)));
    std::iter::once(requested).chain(others).collect()
}

/// An address with the prefix length of its subnet.
///
/// # Errors
/// It is not in the subnet.
pub fn with_prefix(address: IpAddr, subnet: IpNet) -> Result<IpNet, InvalidAddress> {
    let within =
        subnet.contains(&address).then(|| IpNet::new(address, subnet.prefix_len()).ok()).flatten();
    within.ok_or(InvalidAddress { address, subnet })
}

fn is_auxiliary(network: &Network, address: IpAddr) -> bool {
    network
        .pool_of(address)
        .is_some_and(|pool| pool.auxiliary.values().any(|auxiliary| *auxiliary == address))
}

/// The address after the subnet's own. It lies outside of a subnet that has one address only.
fn first_of(subnet: IpNet) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(network) => IpAddr::V4(u32::from(network).saturating_add(1).into()),
        IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from(u128::from(network).saturating_add(1))),
    }
}
