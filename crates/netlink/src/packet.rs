//! IGMP and MLD messages as whole Ethernet frames, and the packet sockets that send them. A frame
//! sent out of a bridge's port bypasses the bridge.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::Fault;
use crate::namespace::Namespace;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Octets of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// Octets of the IPv4 header, with the router alert option (RFC 2113).
pub(crate) const IPV4_HEADER: usize = 24;
/// Octets of the IPv6 header.
pub(crate) const IPV6_HEADER: usize = 40;
/// The hop-by-hop options header with the router alert option (RFC 2711), before ICMPv6.
pub(crate) const ROUTER_ALERT: [u8; 8] = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];
pub(crate) const ICMPV6: u8 = 58;
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x71];
/// Source of our MLD messages, which must be link-local. It is the highest one: of several queriers
/// the one with the lowest address continues (RFC 3810, section 7.6.2), and a container that is a
/// router must not stop querying because of us.
pub(crate) const MLD_SOURCE: Ipv6Addr =
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0xffff, 0xffff, 0xffff, 0xffff);

/// Sends frames out of devices in one network namespace.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    pub(crate) fn open(namespace: &Namespace) -> Result<Self, Fault> {
        Ok(Self { fd: open(namespace)? })
    }

    pub(crate) fn send(&self, device: u32, frame: &[u8]) -> Result<(), Fault> {
        // The kernel takes the protocol from the frame.
        let address = address(device, 0);
        let fd = self.fd.as_raw_fd();
        // SAFETY: `fd` is open. Both pointers are to values of the given lengths, which outlive the
        // call.
        let sent = unsafe {
            libc::sendto(
                fd,
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                address_length(),
            )
        };
        if sent < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
    }
}

/// A packet socket in this namespace. Without a protocol it receives nothing.
pub(crate) fn open(namespace: &Namespace) -> Result<OwnedFd, Fault> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = namespace.enter(|| socket(AddressFamily::Packet, SockType::Raw, flags, None))?;
    Ok(fd.map_err(io::Error::from)?)
}

/// The same, but its packets begin with the IP header.
pub(crate) fn open_cooked(namespace: &Namespace) -> Result<OwnedFd, Fault> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = namespace.enter(|| socket(AddressFamily::Packet, SockType::Datagram, flags, None))?;
    Ok(fd.map_err(io::Error::from)?)
}

/// `ETH_P_ALL` in network byte order. Only sockets for all protocols see outbound packets
/// (`dev_queue_xmit_nit`), and packets before a bridge takes them.
pub(crate) fn all_protocols() -> u16 {
    u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be()
}

/// Binds a packet socket to a device; an index of 0 stands for all devices. The protocol is in
/// network byte order.
pub(crate) fn bind(fd: &OwnedFd, device: u32, protocol: u16) -> Result<(), Fault> {
    let address = address(device, protocol);
    // SAFETY: the pointer is to an address of this length, which outlives the call.
    let bound =
        unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), address_length()) };
    if bound < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}

/// Sets an option of a socket.
pub(crate) fn set<T>(
    fd: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default();
    // SAFETY: the pointer is to a value of this length, which outlives the call.
    let set = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const *value).cast(), length)
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the socket receive only packets that this classic BPF program accepts.
pub(crate) fn attach(fd: &OwnedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or_default(),
        // The kernel only reads it.
        filter: program.as_ptr().cast_mut(),
    };
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

/// The address of a device, with a protocol in network byte order.
fn address(device: u32, protocol: u16) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: protocol,
        sll_ifindex: i32::try_from(device).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

fn address_length() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default()
}

/// An IGMP message in a frame. The checksum is filled in.
pub(crate) fn igmp(from: Ipv4Addr, to: Ipv4Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&message);
    message.splice(2..4, sum);
    let [high, low] = u16::try_from(IPV4_HEADER + message.len()).unwrap_or_default().to_be_bytes();
    let [_, b, c, d] = to.octets();
    let start = [0x46, 0xc0, high, low, 0, 0, 0, 0, 1, 2, 0, 0];
    let mut header = [&start[..], &from.octets(), &to.octets(), &[0x94, 4, 0, 0]].concat();
    let sum = checksum(&header);
    header.splice(10..12, sum);
    [
        &[1, 0, 0x5e, b & 0x7f, c, d][..],
        &SOURCE_MAC,
        &ETHERTYPE_IPV4.to_be_bytes(),
        &header,
        &message,
    ]
    .concat()
}

/// An MLD message from [`MLD_SOURCE`] in a frame. The checksum is filled in.
pub(crate) fn mld(to: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let to = to.octets();
    let sum = checksum(
        &[&pseudo_header(&MLD_SOURCE.octets(), &to, message.len()), &message[..]].concat(),
    );
    message.splice(2..4, sum);
    let [high, low] =
        u16::try_from(ROUTER_ALERT.len() + message.len()).unwrap_or_default().to_be_bytes();
    let header = [0x60, 0, 0, 0, high, low, 0, 1];
    let [.., a, b, c, d] = to;
    let link = [&[0x33, 0x33, a, b, c, d], &SOURCE_MAC[..], &ETHERTYPE_IPV6.to_be_bytes()].concat();
    [&link[..], &header, &MLD_SOURCE.octets(), &to, &ROUTER_ALERT, &message].concat()
}

/// The pseudo-header of the ICMPv6 checksum (RFC 8200, section 8.1).
pub(crate) fn pseudo_header(from: &[u8], to: &[u8], length: usize) -> Vec<u8> {
    [from, to, &u32::try_from(length).unwrap_or_default().to_be_bytes(), &[0, 0, 0, ICMPV6]]
        .concat()
}

/// The Internet checksum (RFC 1071). An odd last octet is padded with a zero.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let (words, last) = bytes.as_chunks::<2>();
    let words = words.iter().map(|word| u64::from(u16::from_be_bytes(*word)));
    let mut sum = words.sum::<u64>() + last.first().map_or(0, |octet| u64::from(*octet) << 8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or_default()).to_be_bytes()
}
