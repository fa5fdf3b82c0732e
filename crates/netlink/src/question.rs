//! Asking the members of a group behind a bridge what they want of it, as a multicast router does: a group-specific query of IGMPv3 (RFC 3376, section 4.1) or MLDv2 (RFC 3810, section 5.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socket};

use crate::error::{Error, Fault};
use crate::namespace::Namespace;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x71];
/// Where a query of MLD comes from, which must be a link-local address. That of IGMP comes from 0.0.0.0, as those of a bridge without an address (`br_ip4_multicast_alloc_query`).
const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x71);
/// Octets of the IPv4 header, with the router alert option (RFC 2113).
const IGMP_HEADER: usize = 24;
/// Octets of a query of IGMP that names no sources.
const IGMP_QUERY: usize = 12;
/// Octets of a query of MLD that names no sources.
const MLD_QUERY: usize = 28;
/// The hop-by-hop header with the router alert option (RFC 2711), before ICMPv6.
const ROUTER_ALERT: [u8; 8] = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];
const ICMPV6: u8 = 58;

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
    pub fn ask(&self, group: IpAddr) -> Result<(), Error> {
        let query = match group {
            IpAddr::V4(group) => igmp_query(group),
            IpAddr::V6(group) => mld_query(group),
        };
        let sent = send(self.fd.as_raw_fd(), &query, MsgFlags::empty());
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

fn igmp_query(group: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = group.octets();
    // To be answered within a second; asked by one whose robustness is 2 and whose interval is 125 s.
    let mut igmp = [0x11, 10, 0, 0, a, b, c, d, 2, 125, 0, 0];
    let sum = checksum(&igmp);
    igmp[2..4].copy_from_slice(&sum);
    let [high, low] = u16::try_from(IGMP_HEADER + IGMP_QUERY).unwrap_or_default().to_be_bytes();
    let mut header = [0x46, 0xc0, high, low, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, a, b, c, d, 0x94, 4, 0, 0];
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    let to = [1, 0, 0x5e, b & 0x7f, c, d];
    [&to[..], &SOURCE_MAC, &ETHERTYPE_IPV4.to_be_bytes(), &header, &igmp].concat()
}

fn mld_query(group: Ipv6Addr) -> Vec<u8> {
    let to = group.octets();
    // The same times; the first is in milliseconds.
    let mut mld = [&[130, 0, 0, 0, 0x03, 0xe8, 0, 0], &to[..], &[2, 125, 0, 0]].concat();
    let sum = checksum(&[&SOURCE.octets()[..], &to, &[0, 0, 0, 28, 0, 0, 0, ICMPV6], &mld].concat());
    mld.splice(2..4, sum);
    let [high, low] = u16::try_from(ROUTER_ALERT.len() + MLD_QUERY).unwrap_or_default().to_be_bytes();
    let header = [0x60, 0, 0, 0, high, low, 0, 1];
    let [.., a, b, c, d] = to;
    let link = [&[0x33, 0x33, a, b, c, d], &SOURCE_MAC[..], &ETHERTYPE_IPV6.to_be_bytes()].concat();
    [&link[..], &header, &SOURCE.octets(), &to, &ROUTER_ALERT, &mld].concat()
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
        let query = igmp_query(Ipv4Addr::new(239, 129, 1, 2));
        assert_eq!((query.len(), &query[..6]), (50, &[1, 0, 0x5e, 1, 1, 2][..]));
        // What carries its checksum has that of zero.
        assert_eq!((checksum(&query[14..38]), checksum(&query[38..])), ([0, 0], [0, 0]));

        let query = mld_query(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0x0102, 0x0304));
        assert_eq!((query.len(), &query[..6]), (90, &[0x33, 0x33, 1, 2, 3, 4][..]));
        // Both addresses, and what stands for the rest of the header (RFC 8200, section 8.1).
        let summed = [&query[22..54], &[0, 0, 0, 28, 0, 0, 0, ICMPV6], &query[62..]].concat();
        assert_eq!(checksum(&summed), [0, 0]);
    }
}
