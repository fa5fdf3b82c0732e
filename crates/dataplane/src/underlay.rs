//! The host's own interfaces and routes, in the network namespace of the calling thread.

use std::net::IpAddr;

use ipnet::IpNet;
use shoutd_core::cluster::HostRoute;
use shoutd_core::own_address::{AddressChoice, HostAddress, NoAddress};
use shoutd_core::plane::DeviceName;
use shoutd_netlink::{Error, IpRoute, Namespace, Route};

/// The interface with an advertise address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderlayInterface {
    /// Its name.
    pub name: DeviceName,
    /// Its MTU in octets. Larger values, such as loopback's, are clipped.
    pub mtu: u16,
    /// The address with its prefix length.
    pub network: IpNet,
}

/// Why there is no interface with an advertise address.
#[derive(Debug, thiserror::Error)]
pub enum NoInterface {
    /// The host has no such address, or it cannot be used.
    #[error(transparent)]
    Address(#[from] NoAddress),
    /// The kernel did not answer.
    #[error(transparent)]
    Kernel(#[from] Error),
}

/// Finds the interface with the address that `choice` decides on.
///
/// # Errors
/// See [`NoInterface`].
pub fn underlay_interface(choice: &AddressChoice) -> Result<UnderlayInterface, NoInterface> {
    let addresses = host_addresses()?;
    let found = choice.choose(&addresses)?;
    let mtu = u16::try_from(found.mtu).unwrap_or(u16::MAX);
    Ok(UnderlayInterface { name: found.interface.clone(), mtu, network: found.network })
}

/// All addresses of the namespace, in the kernel's order.
fn host_addresses() -> Result<Vec<HostAddress>, Error> {
    let mut route = Route::open(&Namespace::current()?)?;
    let links = route.links()?;
    let addresses = route.addresses()?.into_iter().filter_map(|found| {
        let link = links.iter().find(|link| link.index == found.link)?;
        Some(HostAddress {
            // The kernel allows no other names (net/core/dev.c, `dev_valid_name`).
            interface: link.name.parse().ok()?,
            mtu: link.mtu,
            network: found.net,
            tentative: found.tentative,
            duplicate: found.duplicate,
            secondary: found.secondary,
            deprecated: found.deprecated,
        })
    });
    Ok(addresses.collect())
}

/// The routes of the host's main table, without default routes and those that every host has.
///
/// # Errors
/// The kernel did not answer.
pub fn host_routes() -> Result<Vec<HostRoute>, Error> {
    let mut route = Route::open(&Namespace::current()?)?;
    let links = route.links()?;
    let mut routes = Vec::new();
    for IpRoute { destination, link, connected, .. } in route.routes()? {
        if destination.prefix_len() == 0 || !can_be_advertised(destination.addr()) {
            continue;
        }
        if let Some(link) = links.iter().find(|found| found.index == link) {
            routes.push(HostRoute {
                destination,
                interface: link.name.clone(),
                remote: !connected,
            });
        }
    }
    routes.sort_by(|a, b| (a.destination, &a.interface).cmp(&(b.destination, &b.interface)));
    routes.dedup();
    Ok(routes)
}

/// Whether an address means the same on other hosts: it is not loopback, link-local or multicast.
fn can_be_advertised(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !address.is_multicast() && !is_link_local
}
