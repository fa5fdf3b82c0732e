//! Listening on the port, with errors that say in one line what to do.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted: the default of `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program has the port.
    #[error(
        "port {} on {} is in use by another program (`ss -ltnp sport = :{}` names it): stop it or \
         choose another port",
        .0.port(), .0.ip(), .0.port()
    )]
    PortInUse(SocketAddr),
    /// No interface of this host has the address.
    #[error("no interface of this host has {address}; its addresses are {}", list(.addresses))]
    NoSuchAddress {
        /// The address that was asked for.
        address: IpAddr,
        /// The host's addresses without loopback and link-local ones.
        addresses: Vec<IpAddr>,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// The address that was asked for.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
}

fn list(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return "none but loopback".to_owned();
    }
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
    try_listen(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::PortInUse(address),
        io::ErrorKind::AddrNotAvailable => {
            BindError::NoSuchAddress { address: address.ip(), addresses: addresses_of_this_host() }
        }
        _ => BindError::Other { address, source },
    })
}

fn try_listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted daemon must not wait for its old connections in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The addresses that a user may have meant.
fn addresses_of_this_host() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let mut addresses: Vec<_> = interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|storage| {
            let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .filter(|address| match address {
            IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
            IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
