//! Queries to the members behind a bridge, as a multicast router sends them: IGMPv3 (RFC 3376,
//! section 4.1) and MLDv2 (RFC 3810, section 5.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::error::Error;
use crate::namespace::Namespace;
use crate::packet::{self, PacketSocket};

const ETHERTYPE_VLAN: u16 = 0x8100;
/// Source of our IGMP queries, as of a bridge without an address (`br_ip4_multicast_alloc_query`).
/// It does not take part in querier election (RFC 4541, section 2.1.1).
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// Destination of general queries: all systems.
const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Maximum response time of a query for one group, in tenths of a second.
const SOON: u8 = 10;
/// The longest response time that is encoded as it is (RFC 3376, section 4.1.1).
const LATEST: u8 = 127;

/// Sends queries out of devices in one network namespace.
#[derive(Debug)]
pub struct GroupQuerier {
    socket: PacketSocket,
}

impl GroupQuerier {
    /// Opens a socket in this namespace.
    pub fn open(namespace: &Namespace) -> Result<Self, Error> {
        let socket =
            PacketSocket::open(namespace).map_err(|fault| fault.during("open a packet socket"))?;
        Ok(Self { socket })
    }

    /// Sends a query for a group to the ports of a bridge. The bridge treats it as a router's
    /// query: if a port does not report EXCLUDE mode within two seconds, the bridge forwards only
    /// the sources that the port has reported.
    pub fn query_group(&self, bridge: u32, group: IpAddr) -> Result<(), Error> {
        let query = match group {
            IpAddr::V4(group) => igmp_query(group, group, SOON),
            IpAddr::V6(group) => mld_query(group, group, SOON),
        };
        self.socket
            .send(bridge, &query)
            .map_err(|fault| fault.during(format_args!("query group {group}")))
    }

    /// Sends general queries, of IGMP and MLD, out of a device, tagged with a VLAN or untagged. The
    /// maximum response time `within` is limited to 12.7 s. A query sent out of a bridge's port
    /// bypasses the bridge.
    pub fn send_general_queries(
        &self,
        device: u32,
        vlan: Option<u16>,
        within: Duration,
    ) -> Result<(), Error> {
        let within = u8::try_from(within.as_millis() / 100).unwrap_or(LATEST).clamp(1, LATEST);
        let queries = [
            igmp_query(Ipv4Addr::UNSPECIFIED, ALL_SYSTEMS, within),
            mld_query(Ipv6Addr::UNSPECIFIED, ALL_NODES, within),
        ];
        let sent = queries
            .into_iter()
            .try_for_each(|query| self.socket.send(device, &tagged(query, vlan)));
        sent.map_err(|fault| fault.during(format_args!("send general queries on device {device}")))
    }
}

/// Adds a VLAN tag (IEEE 802.1Q), if there is one.
fn tagged(mut frame: Vec<u8>, vlan: Option<u16>) -> Vec<u8> {
    if let Some(vlan) = vlan {
        let [[a, b], [c, d]] = [ETHERTYPE_VLAN, vlan].map(u16::to_be_bytes);
        // After both addresses.
        frame.splice(12..12, [a, b, c, d]);
    }
    frame
}

/// A query for a group (unspecified in a general query), with a maximum response time in tenths of
/// a second.
fn igmp_query(group: Ipv4Addr, to: Ipv4Addr, within: u8) -> Vec<u8> {
    let [a, b, c, d] = group.octets();
    // Robustness 2, query interval 125 s.
    packet::igmp(NOBODY, to, vec![0x11, within, 0, 0, a, b, c, d, 2, 125, 0, 0])
}

/// The same for MLD, whose response time is in milliseconds.
fn mld_query(group: Ipv6Addr, to: Ipv6Addr, within: u8) -> Vec<u8> {
    let [high, low] = (u16::from(within) * 100).to_be_bytes();
    packet::mld(
        to,
        [&[130, 0, 0, 0, high, low, 0, 0], &group.octets()[..], &[2, 125, 0, 0]].concat(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{ICMPV6, checksum};

    /// The checksummed octets: both addresses, the rest of the pseudo-header (RFC 8200, section
    /// 8.1), and the message.
    fn summed_of_mld(query: &[u8]) -> Vec<u8> {
        [&query[22..54], &[0, 0, 0, 28, 0, 0, 0, ICMPV6], &query[62..]].concat()
    }

    #[test]
    fn a_query_passes_the_kernels_checks() {
        let group = Ipv4Addr::new(239, 129, 1, 2);
        let query = igmp_query(group, group, SOON);
        assert_eq!((query.len(), &query[..6]), (50, &[1, 0, 0x5e, 1, 1, 2][..]));
        // The checksum over data that includes its checksum is zero.
        assert_eq!((checksum(&query[14..38]), checksum(&query[38..])), ([0, 0], [0, 0]));

        let group = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0x0102, 0x0304);
        let query = mld_query(group, group, SOON);
        assert_eq!((query.len(), &query[..6]), (90, &[0x33, 0x33, 1, 2, 3, 4][..]));
        assert_eq!(
            (checksum(&summed_of_mld(&query)), &query[66..68]),
            ([0, 0], &1000_u16.to_be_bytes()[..])
        );
    }

    #[test]
    fn a_query_gets_a_vlan_tag() {
        let query = igmp_query(Ipv4Addr::UNSPECIFIED, ALL_SYSTEMS, 100);
        let inside = tagged(query.clone(), Some(0x123));
        assert_eq!(
            (&inside[..12], &inside[12..16], &inside[16..]),
            (&query[..12], &[0x81, 0, 1, 0x23][..], &query[12..])
        );
        assert_eq!(tagged(query.clone(), None), query);
    }

    #[test]
    fn a_general_query_has_no_group_and_goes_to_all_systems() {
        let query = igmp_query(Ipv4Addr::UNSPECIFIED, ALL_SYSTEMS, 100);
        assert_eq!(
            (&query[..6], &query[30..34], &query[42..46]),
            (&[1, 0, 0x5e, 0, 0, 1][..], &[224, 0, 0, 1][..], &[0; 4][..])
        );
        assert_eq!((checksum(&query[14..38]), checksum(&query[38..])), ([0, 0], [0, 0]));

        let query = mld_query(Ipv6Addr::UNSPECIFIED, ALL_NODES, 100);
        assert_eq!(
            (&query[..6], &query[38..54], &query[70..86]),
            (&[0x33, 0x33, 0, 0, 0, 1][..], &ALL_NODES.octets()[..], &[0; 16][..])
        );
        assert_eq!(
            (checksum(&summed_of_mld(&query)), &query[66..68]),
            ([0, 0], &10_000_u16.to_be_bytes()[..])
        );
    }
}
