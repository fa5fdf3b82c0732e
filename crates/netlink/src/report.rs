//! Reports of group membership to a multicast router: IGMPv1 to v3 (RFC 1112, appendix I; RFC 2236;
//! RFC 3376, section 4.2), MLDv1 and v2 (RFC 2710; RFC 3810, section 5.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::Error;
use crate::namespace::Namespace;
use crate::packet::{self, IPV4_HEADER, IPV6_HEADER, PacketSocket, ROUTER_ALERT};
use crate::query::QueryVersion;

/// Maximum size of a packet: the minimum MTU of IPv6 (RFC 8200, section 5).
const PACKET_MAX: usize = 1280;
/// Octets of a report without its records.
const REPORT: usize = 8;
/// `CHANGE_TO_INCLUDE_MODE` (RFC 3376, section 4.2.12): without sources it is a leave.
const TO_INCLUDE: u8 = 3;
/// Destination of IGMPv3 reports. [`ALL_ROUTERS`] is that of IGMPv2 leaves.
const IGMPV3_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const MLDV2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
const ALL_ROUTERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// A group record of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRecord {
    /// The record type, 1 to 6 (RFC 3376, section 4.2.12).
    pub kind: u8,
    /// The group.
    pub group: IpAddr,
    /// The sources. Those of another address family than the group's are omitted.
    pub sources: Vec<IpAddr>,
}

/// Sends reports out of devices in one network namespace. A report sent out of a bridge's port
/// bypasses the bridge.
#[derive(Debug)]
pub struct Reporter {
    socket: PacketSocket,
}

impl Reporter {
    /// Opens a socket in this namespace.
    pub fn open(namespace: &Namespace) -> Result<Self, Error> {
        let socket =
            PacketSocket::open(namespace).map_err(|fault| fault.during("open a packet socket"))?;
        Ok(Self { socket })
    }

    /// Sends a report to the router at the other end of a device. In versions before the third, a
    /// record becomes a join, or a leave if it is `CHANGE_TO_INCLUDE_MODE` without sources. IGMP
    /// reports have `from` as source.
    pub fn report(
        &self,
        device: u32,
        version: QueryVersion,
        from: Ipv4Addr,
        records: &[GroupRecord],
    ) -> Result<(), Error> {
        let frames = frames(version, from, records);
        let sent = frames.iter().try_for_each(|frame| self.socket.send(device, frame));
        sent.map_err(|fault| fault.during(format_args!("send reports on device {device}")))
    }
}

fn frames(version: QueryVersion, from: Ipv4Addr, records: &[GroupRecord]) -> Vec<Vec<u8>> {
    if version != QueryVersion::Third {
        return records.iter().map(|record| older_report(version, from, record)).collect();
    }
    let mut frames = Vec::new();
    for is_ipv6 in [false, true] {
        let headers = if is_ipv6 { IPV6_HEADER + ROUTER_ALERT.len() } else { IPV4_HEADER };
        let (mut body, mut count) = (Vec::new(), 0_u16);
        for record in records.iter().filter(|record| record.group.is_ipv6() == is_ipv6) {
            let record = written(record);
            if count > 0 && headers + REPORT + body.len() + record.len() > PACKET_MAX {
                frames.push(third_report(is_ipv6, from, count, &std::mem::take(&mut body)));
                count = 0;
            }
            body.extend(record);
            count += 1;
        }
        if count > 0 {
            frames.push(third_report(is_ipv6, from, count, &body));
        }
    }
    frames
}

fn third_report(is_ipv6: bool, from: Ipv4Addr, count: u16, records: &[u8]) -> Vec<u8> {
    let [high, low] = count.to_be_bytes();
    let kind = if is_ipv6 { 143 } else { 0x22 };
    let report = [&[kind, 0, 0, 0, 0, 0, high, low], records].concat();
    if is_ipv6 {
        packet::mld(MLDV2_ROUTERS, report)
    } else {
        packet::igmp(from, IGMPV3_ROUTERS, report)
    }
}

fn older_report(version: QueryVersion, from: Ipv4Addr, record: &GroupRecord) -> Vec<u8> {
    let is_left = record.kind == TO_INCLUDE && record.sources.is_empty();
    match record.group {
        IpAddr::V4(group) => {
            let (kind, to) = match version {
                _ if is_left => (0x17, ALL_ROUTERS),
                QueryVersion::First => (0x12, group),
                _ => (0x16, group),
            };
            packet::igmp(from, to, [&[kind, 0, 0, 0], &group.octets()[..]].concat())
        }
        IpAddr::V6(group) => {
            let (kind, to) = if is_left { (132, ALL_ROUTERS_V6) } else { (131, group) };
            packet::mld(to, [&[kind, 0, 0, 0, 0, 0, 0, 0], &group.octets()[..]].concat())
        }
    }
}

fn written(record: &GroupRecord) -> Vec<u8> {
    let sources: Vec<Vec<u8>> = record
        .sources
        .iter()
        .filter(|source| source.is_ipv6() == record.group.is_ipv6())
        .map(|source| octets(*source))
        .collect();
    let [high, low] = u16::try_from(sources.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[record.kind, 0, high, low], &octets(record.group)[..], &sources.concat()].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{checksum, pseudo_header};

    const FROM: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    fn record(kind: u8, group: &str, sources: &[&str]) -> GroupRecord {
        let sources = sources.iter().map(|source| source.parse().unwrap()).collect();
        GroupRecord { kind, group: group.parse().unwrap(), sources }
    }

    #[test]
    fn an_igmpv3_or_mldv2_report_has_groups_and_sources() {
        let records =
            [record(2, "239.1.1.1", &[]), record(1, "232.1.1.1", &["10.0.0.1", "fd00::1"])];
        let frames = frames(QueryVersion::Third, FROM, &records);
        assert_eq!(frames.len(), 1);
        let frame = &frames[0];
        assert_eq!(
            (&frame[..6], &frame[26..30]),
            (&[1, 0, 0x5e, 0, 0, 22][..], &FROM.octets()[..])
        );
        assert_eq!((checksum(&frame[14..38]), checksum(&frame[38..])), ([0, 0], [0, 0]));
        assert_eq!(
            (frame[38], &frame[42..]),
            (
                0x22,
                &[0, 0, 0, 2, 2, 0, 0, 0, 239, 1, 1, 1, 1, 0, 0, 1, 232, 1, 1, 1, 10, 0, 0, 1][..]
            )
        );

        let frames = super::frames(QueryVersion::Third, FROM, &[record(3, "ff15::1", &[])]);
        assert_eq!(
            (&frames[0][..6], frames[0][62], &frames[0][66..74]),
            (&[0x33, 0x33, 0, 0, 0, 0x16][..], 143, &[0, 0, 0, 1, 3, 0, 0, 0][..])
        );
        let summed =
            [&pseudo_header(&frames[0][22..38], &frames[0][38..54], 28), &frames[0][62..]].concat();
        assert_eq!(checksum(&summed), [0, 0]);
    }

    #[test]
    fn older_versions_send_one_message_per_group() {
        let records =
            [record(2, "239.1.1.1", &[]), record(3, "239.1.1.2", &[]), record(3, "ff15::1", &[])];
        for (version, join) in [(QueryVersion::First, 0x12), (QueryVersion::Second, 0x16)] {
            let sent: Vec<(Vec<u8>, u8)> = frames(version, FROM, &records)
                .iter()
                .map(|frame| (frame[..6].to_vec(), frame[if frame[12] == 8 { 38 } else { 62 }]))
                .collect();
            let expected = [
                (vec![1, 0, 0x5e, 1, 1, 1], join),
                (vec![1, 0, 0x5e, 0, 0, 2], 0x17),
                (vec![0x33, 0x33, 0, 0, 0, 2], 132),
            ];
            assert_eq!(sent, expected, "{version:?}");
        }
    }

    #[test]
    fn a_report_fits_the_minimum_mtu() {
        let sources: Vec<String> = (0..70).map(|number| format!("fd00::{number:x}")).collect();
        let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
        let mut records = vec![record(1, "ff15::1", &sources); 3];
        records.extend(vec![record(2, "239.1.1.1", &[]); 400]);
        let frames = frames(QueryVersion::Third, FROM, &records);
        assert_eq!(
            (frames.iter().map(Vec::len).max() <= Some(14 + PACKET_MAX), frames.len()),
            (true, 6)
        );
    }
}
