//! Asking the members of a group behind a bridge what they want of it, as a multicast router does: a group-specific query of IGMPv3 (RFC 3376, section 4.1).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socket};

use crate::error::{Error, Fault};
use crate::namespace::Namespace;

const ETHERTYPE_IPV4: u16 = 0x0800;
/// Where it comes from: an address that a bridge without one of its own uses as well (`br_ip4_multicast_alloc_query`).
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x71];
/// Octets of the IPv4 header, with the router alert option (RFC 2113).
const HEADER: usize = 24;
/// Octets of a query that names no sources.
const QUERY: usize = 12;

/// Sends such queries out of one bridge. The bridge takes them for those of a router: whoever does not answer within two seconds that it wants all sources, is served from those alone that it has named.
#[derive(Debug)]
pub struct Questioner {
    fd: OwnedFd,
}

impl Questioner {
    /// For the bridge with this index.
    pub fn open(namespace: &Namespace, bridge: u32) -> Result<Self, Error> {
        let attempt = || -> Result<Self, Fault> {
            let open =
                || socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None);
            // Without a protocol it receives nothing.
            let fd = namespace.enter(move || open().map_err(std::io::Error::from))??;
            bind_to(&fd, bridge)?;
            Ok(Self { fd })
        };
        attempt().map_err(|fault| fault.during(format_args!("open a packet socket on bridge {bridge}")))
    }

    /// Asks who wants this group, and from whom.
    pub fn ask(&self, group: Ipv4Addr) -> Result<(), Error> {
        let sent = send(self.fd.as_raw_fd(), &query(group), MsgFlags::empty());
        sent.map(drop)
            .map_err(|errno| Fault::from(std::io::Error::from(errno)).during(format_args!("ask who wants {group}")))
    }
}

fn bind_to(fd: &OwnedFd, device: u32) -> Result<(), Fault> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: 0,
        sll_ifindex: i32::try_from(device).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
    // SAFETY: `fd` is open, and the pointer is to an address of that length, which outlives the call.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

fn query(group: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = group.octets();
    // To be answered within a second; asked by one whose robustness is 2 and whose interval is 125 s.
    let mut igmp = [0x11, 10, 0, 0, a, b, c, d, 2, 125, 0, 0];
    let sum = checksum(&igmp);
    igmp[2..4].copy_from_slice(&sum);
    let [high, low] = u16::try_from(HEADER + QUERY).unwrap_or_default().to_be_bytes();
    let mut header = [0x46, 0xc0, high, low, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, a, b, c, d, 0x94, 4, 0, 0];
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    let to = [1, 0, 0x5e, b & 0x7f, c, d];
    [&to[..], &SOURCE_MAC, &ETHERTYPE_IPV4.to_be_bytes(), &header, &igmp].concat()
}

/// The checksum of the Internet protocols (RFC 1071), of an even number of octets.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.as_chunks::<2>().0.iter().map(|word| u64::from(u16::from_be_bytes(*word)));
    let mut sum = words.sum::<u64>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or_default()).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_as_the_kernel_checks_it() {
        let query = query(Ipv4Addr::new(239, 129, 1, 2));
        assert_eq!((query.len(), &query[..6]), (50, &[1, 0, 0x5e, 1, 1, 2][..]));
        // What carries its checksum has that of zero.
        assert_eq!((checksum(&query[14..38]), checksum(&query[38..])), ([0, 0], [0, 0]));
    }
}
