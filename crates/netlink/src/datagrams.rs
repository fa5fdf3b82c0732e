//! UDP datagrams that are sent from within a namespace.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{BindToDevice, IpMulticastTtl, Ipv6MulticastHops};

use crate::error::{Error, Fault};
use crate::namespace::Namespace;

/// Sends datagrams to a group by one interface, whatever the namespace's routes are.
#[derive(Debug)]
pub struct GroupSender {
    socket: UdpSocket,
    to: SocketAddr,
}

impl GroupSender {
    /// Opens a socket. `interface` is the index and the name of the interface, and `source` the
    /// address of the datagrams; `None` lets the kernel choose it.
    pub fn open(
        namespace: &Namespace,
        interface: (u32, &str),
        source: Option<IpAddr>,
        to: (IpAddr, u16),
        ttl: u8,
    ) -> Result<Self, Error> {
        let (index, name) = interface;
        let any = if to.0.is_ipv4() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        let from = SocketAddr::new(source.unwrap_or(any), 0);
        let to = match to {
            (IpAddr::V6(group), port) => SocketAddrV6::new(group, port, 0, index).into(),
            (group, port) => SocketAddr::new(group, port),
        };
        let open = || {
            let socket = UdpSocket::bind(from)?;
            setsockopt(&socket, BindToDevice, &OsString::from(name))?;
            if to.is_ipv4() {
                setsockopt(&socket, IpMulticastTtl, &ttl)?;
            } else {
                setsockopt(&socket, Ipv6MulticastHops, &ttl.into())?;
            }
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        };
        let socket = namespace.enter(open).and_then(|socket| socket.map_err(Fault::from));
        let socket =
            socket.map_err(|fault| fault.during(format_args!("send to {to} from {name}")))?;
        Ok(Self { socket, to })
    }

    /// Sends one datagram with this content.
    pub fn send(&self, content: &[u8]) -> Result<(), Error> {
        let sent = self.socket.send_to(content, self.to).map_err(Fault::from);
        sent.map(drop).map_err(|fault| fault.during(format_args!("send to {}", self.to)))
    }
}
