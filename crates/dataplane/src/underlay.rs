//! The host's own interfaces and routes, in the network namespace of the calling thread.

use std::net::IpAddr;

use ipnet::IpNet;
use shoutd_core::cluster::HostRoute;
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

/// Why the interface cannot be used or found.
#[derive(Debug, thiserror::Error)]
pub enum NoInterface {
    /// No interface has the address.
    #[error("no interface has the address {address}; this host has {}", list(.available))]
    None {
        /// The address asked for.
        address: IpAddr,
        /// The host's addresses and their interfaces.
        available: Vec<(IpAddr, String)>,
    },
    /// Duplicate address detection is in progress (RFC 4862, section 5.4).
    #[error(
        "the address {address} (interface {name}) is tentative: the kernel still checks whether \
         another host has it (duplicate address detection), which takes a second or two after the \
         interface is up"
    )]
    Tentative {
        /// The address.
        address: IpAddr,
        /// The interface.
        name: String,
    },
    /// Duplicate address detection found a duplicate.
    #[error(
        "another host on the link of interface {name} has the address {address} (duplicate \
         address detection): give this host another one"
    )]
    Duplicate {
        /// The address.
        address: IpAddr,
        /// The interface.
        name: String,
    },
    /// The kernel did not answer.
    #[error(transparent)]
    Kernel(#[from] Error),
}

fn list(available: &[(IpAddr, String)]) -> String {
    let texts: Vec<String> =
        available.iter().map(|(address, name)| format!("{address} ({name})")).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

/// Finds the interface with this address, if the address can be used.
///
/// # Errors
/// See [`NoInterface`].
pub fn underlay_interface(address: IpAddr) -> Result<UnderlayInterface, NoInterface> {
    let mut route = Route::open(&Namespace::current()?)?;
    let links = route.links()?;
    let mut available = Vec::new();
    for found in route.addresses()? {
        let Some(link) = links.iter().find(|link| link.index == found.link) else {
            continue;
        };
        if found.net.addr() == address {
            let name = link.name.clone();
            if found.duplicate {
                return Err(NoInterface::Duplicate { address, name });
            }
            if found.tentative {
                return Err(NoInterface::Tentative { address, name });
            }
            let (mtu, name) = (u16::try_from(link.mtu).unwrap_or(u16::MAX), link.name.parse());
            if let Ok(name) = name {
                return Ok(UnderlayInterface { name, mtu, network: found.net });
            }
        }
        if can_be_advertised(found.net.addr()) {
            available.push((found.net.addr(), link.name.clone()));
        }
    }
    Err(NoInterface::None { address, available })
}

/// The routes of the host's main table, without default routes and those that every host has.
///
/// # Errors
/// The kernel did not answer.
pub fn host_routes() -> Result<Vec<HostRoute>, Error> {
    let mut route = Route::open(&Namespace::current()?)?;
    let links = route.links()?;
    let is_wanted = |route: &IpRoute| {
        route.destination.prefix_len() > 0 && can_be_advertised(route.destination.addr())
    };
    let routes = route.routes()?.into_iter().filter(is_wanted).filter_map(|route| {
        let link = links.iter().find(|link| link.index == route.link)?;
        Some(HostRoute {
            destination: route.destination,
            interface: link.name.clone(),
            remote: !route.connected,
        })
    });
    let mut routes: Vec<HostRoute> = routes.collect();
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
