//! Queries from multicast routers at the other end of a bridge's port: IGMP (RFC 2236; RFC 3376,
//! section 4.1) and MLD (RFC 2710; RFC 3810, section 5.1).

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{MsgFlags, recv};

use crate::error::{Error, Fault};
use crate::namespace::Namespace;
use crate::packet::{
    self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMPV6, IPV6_HEADER, ROUTER_ALERT,
};

/// Octets read of a frame. A query's sources beyond them are ignored.
const BUFFER: usize = 2048;
/// Queries read at once, so that a flood of queries cannot occupy the reader. The rest is read
/// later or lost.
const QUERIES_MAX: usize = 256;
/// Receive buffer in octets: about a hundred queries.
const QUEUE: libc::c_int = 128 * 1024;
const IGMP_QUERY: u8 = 0x11;
const MLD_QUERY: u8 = 130;
/// `PACKET_IGNORE_OUTGOING` (include/uapi/linux/if_packet.h, from Linux 4.20 on).
const IGNORE_OUTGOING: libc::c_int = 23;
/// Maximum response time of IGMPv1 queries, which have no such field (RFC 2236, section 4).
const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// The version of a router's query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryVersion {
    /// IGMPv1.
    First,
    /// IGMPv2, MLDv1.
    Second,
    /// IGMPv3, MLDv2.
    Third,
}

/// A received query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedQuery {
    /// Whether it is MLD; otherwise IGMP.
    pub is_ipv6: bool,
    /// The version.
    pub version: QueryVersion,
    /// The queried group; `None` in a general query.
    pub group: Option<IpAddr>,
    /// The queried sources; empty for all.
    pub sources: BTreeSet<IpAddr>,
    /// The maximum response time.
    pub within: Duration,
}

/// The queries that arrive on one device. The kernel does not copy other frames to the socket.
#[derive(Debug)]
pub struct QueryMonitor {
    fd: OwnedFd,
}

impl QueryMonitor {
    /// Starts to receive queries that arrive on the device with this index.
    pub fn open(namespace: &Namespace, device: u32) -> Result<Self, Error> {
        Self::try_open(namespace, device)
            .map_err(|fault| fault.during(format_args!("receive queries on device {device}")))
    }

    fn try_open(namespace: &Namespace, device: u32) -> Result<Self, Fault> {
        let fd = packet::open(namespace)?;
        attach_filter(&fd)?;
        packet::set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &QUEUE)?;
        // If this fails, the filter drops outgoing frames.
        let _ = packet::set(&fd, libc::SOL_PACKET, IGNORE_OUTGOING, &1_i32);
        packet::bind(&fd, device, packet::all_protocols())?;
        Ok(Self { fd })
    }

    /// Reads the queries received since the last call.
    pub fn queries(&self) -> Vec<ReceivedQuery> {
        let mut buffer = [0; BUFFER];
        let mut queries = Vec::new();
        for _ in 0..QUERIES_MAX {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => queries.extend(parse(buffer.get(..length).unwrap_or_default())),
                Err(nix::errno::Errno::EINTR) => {}
                // Nothing is left, or the device is gone or down, which the bridge reports.
                Err(_) => break,
            }
        }
        queries
    }
}

impl AsFd for QueryMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Accepts incoming, untagged queries: IGMP, and MLD whose only extension header is the router
/// alert option.
fn attach_filter(fd: &OwnedFd) -> io::Result<()> {
    // Codes of include/uapi/linux/bpf_common.h: `BPF_LD` with `BPF_B`, `BPF_H` or `BPF_W` and
    // `BPF_ABS` or `BPF_IND`, `BPF_LDX | BPF_B | BPF_MSH`, `BPF_RET | BPF_K`.
    const LOAD_OCTET: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_WORD: u16 = 0x20;
    const LOAD_BEHIND: u16 = 0x50;
    const LOAD_HEADER: u16 = 0xb1;
    const RETURN: u16 = 0x06;
    // `SKF_AD_OFF`, with `SKF_AD_PKTTYPE` and `SKF_AD_VLAN_TAG_PRESENT`
    // (include/uapi/linux/filter.h).
    const KIND: u32 = 0xffff_f000 + 4;
    const HAS_TAG: u32 = 0xffff_f000 + 48;
    const OUTGOING: u32 = 4;
    const ACCEPT: u8 = 18;
    const DROP: u8 = 19;
    let program = [
        step(LOAD_WORD, KIND),
        jump(OUTGOING, 1, DROP, 2),
        step(LOAD_WORD, HAS_TAG),
        jump(0, 3, 4, DROP),
        step(LOAD_HALF, 12),
        jump(u32::from(ETHERTYPE_IPV4), 5, 6, 11),
        step(LOAD_OCTET, 23),
        jump(2, 7, 8, DROP),
        step(LOAD_HEADER, 14),
        step(LOAD_BEHIND, 14),
        jump(u32::from(IGMP_QUERY), 10, ACCEPT, DROP),
        jump(u32::from(ETHERTYPE_IPV6), 11, 12, DROP),
        step(LOAD_OCTET, 20),
        jump(0, 13, 14, DROP),
        step(LOAD_HALF, 54),
        jump(u32::from(ICMPV6) << 8, 15, 16, DROP),
        step(LOAD_OCTET, 62),
        jump(u32::from(MLD_QUERY), 17, ACCEPT, DROP),
        step(RETURN, u32::MAX),
        step(RETURN, 0),
    ];
    packet::attach(fd, &program)
}

fn step(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

/// The instruction at position `at`: continues at `then` if the accumulator is `k`, otherwise at
/// `or`. Both are later positions.
fn jump(k: u32, at: u8, then: u8, or: u8) -> libc::sock_filter {
    // `BPF_JMP | BPF_JEQ | BPF_K`
    const IF: u16 = 0x15;
    libc::sock_filter { code: IF, jt: then - at - 1, jf: or - at - 1, k }
}

/// Parses the query in a frame; `None` unless a member would answer it.
pub(crate) fn parse(frame: &[u8]) -> Option<ReceivedQuery> {
    match u16::from_be_bytes(frame.get(12..ETHERNET)?.try_into().ok()?) {
        ETHERTYPE_IPV4 => igmp(frame.get(ETHERNET..)?),
        ETHERTYPE_IPV6 => mld(frame.get(ETHERNET..)?),
        _ => None,
    }
}

fn igmp(packet: &[u8]) -> Option<ReceivedQuery> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let message = packet.get(header..usize::from(half(packet, 2)?))?;
    if *packet.get(9)? != 2
        || *message.first()? != IGMP_QUERY
        || packet::checksum(message) != [0, 0]
    {
        return None;
    }
    let code = *message.get(1)?;
    // In tenths of a second.
    let (version, within) = match message.len() {
        8 if code == 0 => (QueryVersion::First, FIRST_WITHIN),
        8 => (QueryVersion::Second, Duration::from_millis(u64::from(code) * 100)),
        12.. => (QueryVersion::Third, Duration::from_millis(floating(code.into(), 4) * 100)),
        _ => return None,
    };
    let count = if version == QueryVersion::Third { half(message, 10)? } else { 0 };
    let sources = message.get(12..).unwrap_or_default().chunks(4).take(count.into());
    let sources = sources.filter_map(address).collect();
    query(false, version, address(message.get(4..8)?)?, sources, within)
}

fn mld(packet: &[u8]) -> Option<ReceivedQuery> {
    let end = IPV6_HEADER + usize::from(half(packet, 4)?);
    let message = packet.get(IPV6_HEADER + ROUTER_ALERT.len()..end)?;
    let (from, to) = (packet.get(8..24)?, packet.get(24..40)?);
    let is_behind_options =
        *packet.get(6)? == 0 && packet.get(IPV6_HEADER..IPV6_HEADER + 2)? == [ICMPV6, 0];
    let sum =
        packet::checksum(&[&packet::pseudo_header(from, to, message.len()), message].concat());
    let is_link_local = from.first()? == &0xfe && from.get(1)? & 0xc0 == 0x80;
    if !is_behind_options || !is_link_local || *message.first()? != MLD_QUERY || sum != [0, 0] {
        return None;
    }
    let code = half(message, 4)?;
    let (version, milliseconds) = match message.len() {
        24 => (QueryVersion::Second, code.into()),
        28.. => (QueryVersion::Third, floating(code.into(), 12)),
        _ => return None,
    };
    let count = if version == QueryVersion::Third { half(message, 26)? } else { 0 };
    let sources = message.get(28..).unwrap_or_default().chunks(16).take(count.into());
    let sources = sources.filter_map(address).collect();
    query(
        true,
        version,
        address(message.get(8..24)?)?,
        sources,
        Duration::from_millis(milliseconds),
    )
}

/// The IPv4 or IPv6 address of these octets.
fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(<[u8; 4]>::try_from(octets).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(octets).ok()?.into()),
        _ => None,
    }
}

fn query(
    is_ipv6: bool,
    version: QueryVersion,
    group: IpAddr,
    sources: BTreeSet<IpAddr>,
    within: Duration,
) -> Option<ReceivedQuery> {
    let group =
        if group.is_unspecified() { None } else { Some(Some(group).filter(IpAddr::is_multicast)?) };
    Some(ReceivedQuery { is_ipv6, version, group, sources, within })
}

/// Decodes a maximum response code: the value itself, or, if its first bit is set, a floating-point
/// number with three bits of exponent and `mantissa` bits of mantissa (RFC 3376, section 4.1.1; RFC
/// 3810, section 5.1.3).
fn floating(code: u64, mantissa: u32) -> u64 {
    if code < 1 << (mantissa + 3) {
        return code;
    }
    let exponent = (code >> mantissa) & 7;
    ((code & ((1 << mantissa) - 1)) | 1 << mantissa) << (exponent + 3)
}

fn half(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..offset + 2)?.try_into().ok().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const FROM: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const ALL: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
    const ALL_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

    fn of_igmp(message: &[u8]) -> Option<ReceivedQuery> {
        parse(&packet::igmp(FROM, ALL, message.to_vec()))
    }

    fn of_mld(code: u16, group: Ipv6Addr, rest: &[u8]) -> Option<ReceivedQuery> {
        let [high, low] = code.to_be_bytes();
        parse(&packet::mld(
            ALL_V6,
            [&[130, 0, 0, 0, high, low, 0, 0], &group.octets()[..], rest].concat(),
        ))
    }

    fn asked(query: Option<ReceivedQuery>) -> (QueryVersion, Option<IpAddr>, Vec<IpAddr>, u128) {
        let query = query.unwrap();
        (query.version, query.group, query.sources.into_iter().collect(), query.within.as_millis())
    }

    #[test]
    fn each_version_of_igmp_is_parsed() {
        let group = Some([239, 1, 1, 1].into());
        assert_eq!(
            asked(of_igmp(&[0x11, 0, 0, 0, 0, 0, 0, 0])),
            (QueryVersion::First, None, vec![], 10_000)
        );
        assert_eq!(
            asked(of_igmp(&[0x11, 10, 0, 0, 239, 1, 1, 1])),
            (QueryVersion::Second, group, vec![], 1000)
        );
        let source = vec![IpAddr::from([10, 0, 0, 7])];
        let mut third = [0x11, 100, 0, 0, 239, 1, 1, 1, 2, 125, 0, 1, 10, 0, 0, 7];
        assert_eq!(asked(of_igmp(&third)), (QueryVersion::Third, group, source.clone(), 10_000));
        // More sources counted than present, and a time beyond 12.7 s.
        (third[1], third[11]) = (0x8c, 9);
        assert_eq!(asked(of_igmp(&third)), (QueryVersion::Third, group, source, 22_400));
        assert_eq!(of_igmp(&[0x11, 10, 0, 0, 10, 1, 1, 1]), None);
        assert_eq!(of_igmp(&[0x11, 10, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(of_igmp(&[0x16, 0, 0, 0, 239, 1, 1, 1]), None);
    }

    #[test]
    fn each_version_of_mld_is_parsed() {
        let group: Ipv6Addr = "ff15::1".parse().unwrap();
        let none = Ipv6Addr::UNSPECIFIED;
        assert_eq!(asked(of_mld(10_000, none, &[])), (QueryVersion::Second, None, vec![], 10_000));
        let source: Ipv6Addr = "fd00::7".parse().unwrap();
        let rest = [&[2, 125, 0, 1], &source.octets()[..]].concat();
        let query = asked(of_mld(1000, group, &rest));
        assert_eq!(query, (QueryVersion::Third, Some(group.into()), vec![source.into()], 1000));
        assert_eq!(of_mld(0x8001, none, &[2, 125, 0, 0]).unwrap().within.as_millis(), 0x1001 << 3);
    }

    #[test]
    fn a_query_with_a_wrong_checksum_is_ignored() {
        let mut frame = packet::igmp(FROM, ALL, vec![0x11, 10, 0, 0, 0, 0, 0, 0]);
        assert!(parse(&frame).is_some());
        frame[39] = 11;
        assert_eq!(parse(&frame), None);
    }
}
