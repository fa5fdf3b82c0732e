//! ICMP echo requests that are sent from within a namespace (RFC 792, RFC 4443).

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::sockopt::BindToDevice;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv,
    send, setsockopt, socket,
};

use crate::error::{Error, Fault};
use crate::namespace::Namespace;
use crate::packet::checksum;

/// Octets of the ICMP header of an echo.
pub const ECHO_HEADER: usize = 8;
/// Octets of the longest answer that is read.
const BUFFER: usize = 1 << 16;
/// Answers read at once.
const ANSWERS_MAX: usize = 256;

/// Types of ICMP messages.
#[derive(Debug, Clone, Copy)]
struct Types {
    request: u8,
    answer: u8,
}

const IPV4: Types = Types { request: 8, answer: 0 };
const IPV6: Types = Types { request: 128, answer: 129 };

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EchoAnswer {
    /// The number of the request.
    pub number: u16,
    /// Its content.
    pub content: Vec<u8>,
}

/// Sends echo requests to one address by one interface, and receives the answers.
#[derive(Debug)]
pub struct EchoSocket {
    fd: OwnedFd,
    to: IpAddr,
    identifier: u16,
}

impl AsFd for EchoSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl EchoSocket {
    /// Opens a socket. `identifier` tells its answers from those of other sockets.
    pub fn open(
        namespace: &Namespace,
        interface: &str,
        to: IpAddr,
        identifier: u16,
    ) -> Result<Self, Error> {
        let open = || {
            let (family, protocol) = match to {
                IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
                IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
            };
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(family, SockType::Raw, flags, protocol)?;
            setsockopt(&fd, BindToDevice, &OsString::from(interface))?;
            // Then the socket gets only what comes from this address.
            connect(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, 0)))?;
            Ok::<_, nix::errno::Errno>(fd)
        };
        let fd = namespace.enter(open).and_then(|fd| Ok(fd.map_err(io::Error::from)?));
        let fd = fd.map_err(|fault| fault.during(format_args!("ping {to} from {interface}")))?;
        Ok(Self { fd, to, identifier })
    }

    fn types(&self) -> Types {
        if self.to.is_ipv4() { IPV4 } else { IPV6 }
    }

    /// Sends a request with this number and content.
    pub fn send(&self, number: u16, content: &[u8]) -> Result<(), Error> {
        let [a, b] = self.identifier.to_be_bytes();
        let [c, d] = number.to_be_bytes();
        let mut message = [&[self.types().request, 0, 0, 0, a, b, c, d], content].concat();
        if self.to.is_ipv4() {
            // For IPv6 the kernel does it (RFC 3542, section 3.1).
            let sum = checksum(&message);
            message.splice(2..4, sum);
        }
        send(self.fd.as_raw_fd(), &message, MsgFlags::MSG_DONTWAIT)
            .map_err(|errno| Fault::from(io::Error::from(errno)))
            .map_err(|fault| fault.during(format_args!("ping {}", self.to)))
            .map(drop)
    }

    /// The answers that came since the last call.
    pub fn answers(&self) -> Vec<EchoAnswer> {
        let mut buffer = vec![0; BUFFER];
        let mut answers = Vec::new();
        for _ in 0..ANSWERS_MAX {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    let packet = buffer.get(..length).unwrap_or_default();
                    answers.extend(self.parse(packet));
                }
                Err(nix::errno::Errno::EINTR) => {}
                // Nothing is left, or an error of an earlier request, which counts as lost.
                Err(_) => break,
            }
        }
        answers
    }

    fn parse(&self, packet: &[u8]) -> Option<EchoAnswer> {
        // Raw sockets of IPv4 receive the IP header, those of IPv6 do not.
        let header = if self.to.is_ipv4() { usize::from(packet.first()? & 0xf) * 4 } else { 0 };
        let message = packet.get(header..)?;
        let [kind, _, _, _, a, b, c, d] = *message.first_chunk::<ECHO_HEADER>()?;
        let is_ours = kind == self.types().answer && u16::from_be_bytes([a, b]) == self.identifier;
        is_ours.then(|| EchoAnswer {
            number: u16::from_be_bytes([c, d]),
            content: message.get(ECHO_HEADER..).unwrap_or_default().to_vec(),
        })
    }
}
