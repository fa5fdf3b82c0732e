//! What the IGMP/MLD filter counts: packets to the tunnel, and packets that it drops. The VXLAN
//! device counts only the copies that it sends.

use nix::errno::Errno;

use crate::error::Error;
use crate::igmp_mld_filter::{
    FORWARD, GUARD, IgmpMldFilter, PACKET_BROADCAST, PACKET_MULTICAST, PACKET_OTHERHOST, RATE,
    TABLE, name_value,
};
use crate::nftables::{self, Comparison, Expression, Meta};

/// How the userdata of the rules begins.
const COUNT: &str = "shoutd count ";
const SPREAD: &str = "shoutd count spread ";
const UNICAST: &str = "shoutd count unicast ";

/// Packets that the filter has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilteredPackets {
    /// Multicast and broadcast from other ports to this one.
    pub spread: u64,
    /// Those of them that the filter dropped after it had counted them.
    pub refused: u64,
    /// Unicast from other ports to this one.
    pub unicast: u64,
    /// Dropped because a port exceeded its limit.
    pub over_rate: u64,
    /// IGMP and MLD that was dropped at this port.
    pub group_management: u64,
}

impl IgmpMldFilter {
    /// What the filter has counted since it was installed; nothing if there is no filter.
    pub fn counts(&mut self) -> Result<FilteredPackets, Error> {
        let request = nftables::get_rules(TABLE);
        let counts = self.socket.dump(&request, |frame| nftables::parse_count(TABLE, frame));
        let counts = match counts {
            Err(fault) if fault.errno() == Some(Errno::ENOENT) => Vec::new(),
            counts => {
                counts.map_err(|fault| fault.during("read the counters of the IGMP/MLD filter"))?
            }
        };
        let mut packets = FilteredPackets::default();
        for (rule, count) in counts {
            let text = std::str::from_utf8(&rule.userdata).unwrap_or_default();
            if rule.chain == FORWARD && !text.starts_with(COUNT) {
                // All that it drops there is multicast or broadcast.
                packets.refused = packets.refused.saturating_add(count);
            }
            let sum = match text {
                text if text.starts_with(SPREAD) => &mut packets.spread,
                text if text.starts_with(UNICAST) => &mut packets.unicast,
                text if text.starts_with(RATE) => &mut packets.over_rate,
                text if text.starts_with(GUARD) => &mut packets.group_management,
                _ => continue,
            };
            *sum = sum.saturating_add(count);
        }
        Ok(packets)
    }
}

/// Counts what other ports send to this one. These rules come first, as the next ones accept most
/// packets. The type is compared first: for most packets that ends both rules.
pub(crate) fn rules(version: u32, port: &str) -> [(String, Vec<Expression>); 2] {
    let kinds = [
        (SPREAD, PACKET_BROADCAST, PACKET_MULTICAST),
        (UNICAST, PACKET_OTHERHOST, PACKET_OTHERHOST),
    ];
    kinds.map(|(text, first, last)| {
        let rule = vec![
            Expression::LoadMeta(Meta::PacketType),
            Expression::Compare(Comparison::AtLeast, vec![first]),
            Expression::Compare(Comparison::AtMost, vec![last]),
            Expression::LoadMeta(Meta::OutputName),
            Expression::Compare(Comparison::Equal, name_value(port)),
            Expression::Count,
        ];
        (format!("{text}{version} {port}"), rule)
    })
}
