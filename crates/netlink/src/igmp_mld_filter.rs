//! The IGMP/MLD filter: keeps IGMP and MLD off one bridge port, the tunnel. It can also limit the
//! rate of multicast and broadcast received on each of the other ports, and protect the segment's
//! gateways ([`Gateways`]). It limits the queries that the bridge sends to each port.
//!
//! It is a table of the bridge family: a port's own egress hook exists only since Linux 5.16. The
//! rules name the port, so the filter can be installed before the port exists, and outlives it. It
//! filters in three chains:
//!
//! * *forward* drops what goes from other ports to this one.
//! * *output* drops what the bridge itself sends to this port: its queries, which pass neither
//!   forward nor postrouting (`br_multicast_send_query`), and what the gateways send. At the other
//!   ports it drops queries above [`QUERY_RATE`].
//! * *prerouting* drops what arrives at this port, from another host that lacks its filter, before
//!   the bridge takes it for a membership.
//!
//! A fourth chain, *input*, drops the frames that the bridge passes up to itself, except those to
//! its gateways and probes. The bridge is configured to receive all multicast, so these frames are
//! copies.
//!
//! It counts what goes to the tunnel, because the VXLAN device counts only the copies that it
//! sends, and it counts what it drops.

use std::collections::BTreeSet;
use std::iter;

use nix::errno::Errno;

use crate::error::Error;
use crate::filter_counts;
use crate::gateway_rules::Gateways;
use crate::namespace::Namespace;
use crate::nftables::{
    self, Base, Comparison, Content, Expression, Family, Hook, Meta, OwnChain, TableName,
};
use crate::probe_socket::ETHERTYPE_PROBE;
use crate::socket::{Protocol, Socket};

pub(crate) const TABLE: TableName = TableName { family: Family::Bridge, name: "shoutd" };
/// Part of every rule, so that we recognize the filter of another version of shoutd. Raise it with
/// every change of the rules.
const VERSION: u32 = 10;
/// The set with the rate limit of each port.
const SENDERS: &str = "senders";
/// The same for ARP, neighbour discovery, IGMP and MLD.
const FINDERS: &str = "finders";
/// Packets per second of such messages that each port may send in addition to its rate limit: as
/// many as a host needs that talks to a hundred others.
const FINDING_RATE: u32 = 100;
/// The set with the rate limit of the queries to each port.
const QUERIED: &str = "queried";
/// Queries per second that the bridge may send to each port; up to a tenth of that at one instant.
///
/// A bridge answers each record of a report that leaves a group with a query (`br_multicast_toin`),
/// so it sends thousands at one instant when a container leaves thousands of groups. They would
/// fill the processor's queue (`net.core.netdev_max_backlog`, 1000 packets), which all networks
/// share, and other containers' packets would be dropped. A query that is dropped here is missed
/// only by a second host behind the port, whose membership may end until the next general query.
const QUERY_RATE: u32 = 1000;
/// Ports of one bridge (`BR_MAX_PORTS`, plus some removed ones that have not timed out).
const SENDERS_MAX: u32 = 4096;
/// Milliseconds until a silent port is removed from the set. Its limit has fully recovered long
/// before.
const SENDERS_TIMEOUT: u64 = 60_000;
/// The set of VLANs from which IGMP or MLD came in, by port.
const VLANS: &str = "vlans";
/// The maximum number of VLANs of all ports together: all that four ports can have.
const VLANS_MAX: u32 = 16_384;
/// Milliseconds until a silent VLAN is removed: longer than a membership lasts (510 s).
const VLANS_TIMEOUT: u64 = 900_000;
/// How the userdata of rules begins that are about IGMP and MLD.
pub(crate) const GUARD: &str = "shoutd guard ";
/// The same for the rule of the rate limit.
pub(crate) const RATE: &str = "shoutd rate ";
/// The type of a frame with a VLAN tag (IEEE 802.1Q).
const ETHERTYPE_VLAN: u16 = 0x8100;
/// `IFNAMSIZ`: names are compared over this length, including the zeros.
const NAME_OCTETS: usize = 16;

// The kernel's classification of a frame by its destination (include/uapi/linux/if_packet.h).
/// To the bridge itself, if it has the frame's destination as its address.
pub(crate) const PACKET_HOST: u8 = 0;
pub(crate) const PACKET_BROADCAST: u8 = 1;
pub(crate) const PACKET_MULTICAST: u8 = 2;
/// To an address other than the port's own, as all unicast that a bridge forwards.
pub(crate) const PACKET_OTHERHOST: u8 = 3;

pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Protocol 2 of IPv4 (RFC 1112, 2236, 3376).
const IGMP: u8 = 2;

/// Protocol 6 of IPv4, and next header of IPv6.
const TCP: u8 = 6;
/// Protocol 17 of IPv4, and next header of IPv6.
const UDP: u8 = 17;
/// Next header 0 of IPv6 (RFC 8200, section 4.3). The kernel looks for MLD only after such a header
/// (`ipv6_mc_check_mld`).
const HOP_BY_HOP: u8 = 0;
/// Next header 51 of IPv6 (RFC 4302).
const AUTHENTICATION: u8 = 51;
/// Next header 58 of IPv6 (RFC 4443).
const ICMPV6: u8 = 58;
/// The ICMPv6 type of an MLD query (RFC 2710).
const MLD_QUERY: std::ops::RangeInclusive<u8> = 130..=130;
/// ICMPv6 types of MLD: query, version 1 report and done (RFC 2710), version 2 report (RFC 3810).
const MLD_TYPES: [std::ops::RangeInclusive<u8>; 2] = [130..=132, 143..=143];

/// ICMPv6 types that an IPv6 host cannot do without: MLD as above, and neighbour discovery (RFC
/// 4861, 133 to 136).
const FINDING_TYPES: [std::ops::RangeInclusive<u8>; 2] = [130..=136, 143..=143];

/// The chain of what goes from port to port.
pub(crate) const FORWARD: &str = "forward";

/// A chain of the filter. `interface` says whether it matches the input or the output port.
struct PortChain {
    hook: Hook,
    name: &'static str,
    interface: Meta,
}

const CHAINS: [PortChain; 4] = [
    PortChain { hook: Hook::Forward, name: FORWARD, interface: Meta::OutputName },
    PortChain { hook: Hook::Output, name: "output", interface: Meta::OutputName },
    PortChain { hook: Hook::Prerouting, name: "prerouting", interface: Meta::InputName },
    PortChain { hook: Hook::Input, name: "input", interface: Meta::InputName },
];

/// The IGMP/MLD filter of one namespace.
#[derive(Debug)]
pub struct IgmpMldFilter {
    pub(crate) socket: Socket,
}

impl IgmpMldFilter {
    /// Opens a socket to nf_tables in this namespace.
    pub fn open(namespace: &Namespace) -> Result<Self, Error> {
        let socket = Socket::open(Protocol::Netfilter, namespace)
            .map_err(|fault| fault.during("open an nf_tables socket"))?;
        Ok(Self { socket })
    }

    /// Closes its socket until the next request.
    pub fn rest(&mut self) {
        self.socket.rest();
    }

    /// Installs the filter at this port and replaces an existing one atomically.
    pub fn install(&mut self, port: &str, wanted: &SegmentRules) -> Result<(), Error> {
        let mut batch = nftables::empty_table(TABLE);
        batch.push(nftables::new_set(TABLE, (VLANS, 3), 8, VLANS_MAX, VLANS_TIMEOUT));
        batch.push(nftables::new_set(TABLE, (QUERIED, 4), 4, SENDERS_MAX, SENDERS_TIMEOUT));
        if wanted.max_rate.is_some() {
            for set in [(SENDERS, 1), (FINDERS, 2)] {
                batch.push(nftables::new_set(TABLE, set, 4, SENDERS_MAX, SENDERS_TIMEOUT));
            }
        }
        for PortChain { hook, name: chain, interface } in CHAINS {
            batch.push(nftables::new_chain(TABLE, chain, hook, 0));
            let rules = chain_rules(hook, interface, port, wanted);
            batch.extend(
                rules.iter().map(|(name, rule)| nftables::new_rule(TABLE, chain, name, rule)),
            );
        }
        nftables::commit(&mut self.socket, batch).map_err(|fault| {
            fault.during(format_args!("install the nf_tables IGMP/MLD filter at {port}"))
        })
    }

    /// Removes the filter. A missing one is not an error.
    pub fn remove(&mut self) -> Result<(), Error> {
        nftables::delete_table(&mut self.socket, TABLE)
            .map_err(|fault| fault.during("remove the nf_tables IGMP/MLD filter"))
    }

    /// The settings of the filter at this port if it is complete: not dormant, every chain at its
    /// hook, every rule in its place, and no other rule.
    pub fn is_whole(&mut self, port: &str) -> Result<Option<SegmentRules>, Error> {
        let found = Content::read(&mut self.socket, TABLE);
        let found = found.map_err(|fault| fault.during("read the nf_tables IGMP/MLD filter"))?;
        let userdata = || found.rules.iter().map(|rule| rule.userdata.as_slice());
        let max_rate = userdata().find_map(rate_of);
        let installed = SegmentRules { max_rate, gateways: Gateways::parse(userdata()) };
        Ok((found == expected(port, &installed)).then_some(installed))
    }

    /// The VLANs with members, or with members some minutes ago, each with the index of its port.
    /// Empty if there is no filter.
    pub fn vlans(&mut self) -> Result<BTreeSet<(u32, u16)>, Error> {
        let request = nftables::get_set_elements(TABLE, VLANS);
        let keys = match self.socket.dump(&request, |frame| nftables::parse_set_keys(TABLE, frame))
        {
            Err(fault) if fault.errno() == Some(Errno::ENOENT) => return Ok(BTreeSet::new()),
            keys => keys.map_err(|fault| fault.during("read the VLANs with members of groups"))?,
        };
        let vlans = keys.into_iter().flatten().map(|[a, b, c, d, high, low, ..]| {
            // The tag also holds a priority.
            (u32::from_ne_bytes([a, b, c, d]), u16::from_be_bytes([high, low]) & 0x0fff)
        });
        Ok(vlans.collect())
    }
}

/// What the filter of a segment enforces besides IGMP and MLD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentRules {
    /// Packets of multicast and broadcast per second that each other port may send; `None` for no
    /// limit.
    pub max_rate: Option<u32>,
    /// The gateways of the segment, if it has any.
    pub gateways: Option<Gateways>,
}

fn expected(port: &str, installed: &SegmentRules) -> Content {
    Content::of(CHAINS.map(|PortChain { hook, name, interface }| {
        let rules = chain_rules(hook, interface, port, installed).into_iter();
        OwnChain { name, hook, userdata: rules.map(|(userdata, _)| userdata).collect() }
    }))
}

fn userdata(port: &str, position: usize) -> String {
    format!("{GUARD}{VERSION} {port} {position}")
}

fn rate_userdata(rate: u32) -> String {
    format!("{RATE}{VERSION} {rate}")
}

fn rate_of(userdata: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(userdata).ok()?;
    text.strip_prefix(RATE)?.split_once(' ')?.1.parse().ok()
}

/// The rules of one chain, each with its userdata.
fn chain_rules(
    hook: Hook,
    interface: Meta,
    port: &str,
    wanted: &SegmentRules,
) -> Vec<(String, Vec<Expression>)> {
    let gateways = wanted.gateways.as_ref();
    let gateways = gateways.map(|gateways| gateways.rules(VERSION, hook, port)).unwrap_or_default();
    match hook {
        // The bridge needs only the frames that the gateways' rules accept, and probes, which it
        // passes up at the VXLAN device. No earlier hook can drop the others.
        Hook::Input => {
            let probes = [
                Expression::LoadMeta(Meta::Protocol),
                Expression::Compare(Comparison::Equal, ETHERTYPE_PROBE.to_be_bytes().to_vec()),
                Expression::Accept,
            ];
            let probes = (format!("shoutd probes {VERSION}"), probes.to_vec());
            let rest = (format!("shoutd input {VERSION}"), vec![Expression::Drop]);
            return gateways.into_iter().chain([probes, rest]).collect();
        }
        Hook::Output => {
            let at_port = [
                Expression::LoadMeta(interface),
                Expression::Compare(Comparison::Equal, name_value(port)),
                Expression::Drop,
            ];
            let rules = iter::once(at_port.to_vec()).chain(query_rules()).enumerate();
            return rules.map(|(position, rule)| (userdata(port, position), rule)).collect();
        }
        _ => {}
    }
    let mut gateways = gateways.into_iter();
    let rate = wanted.max_rate.filter(|_| hook == Hook::Prerouting);
    // The rate rules come before the IGMP/MLD rules, which accept UDP and so end the chain.
    let finding = rate.map(|_| finding_rules(port)).unwrap_or_default().into_iter().enumerate();
    let finding =
        finding.map(|(position, rule)| (format!("shoutd finding {VERSION} {position}"), rule));
    let has_rate = rate.is_some();
    let counts = if hook == Hook::Forward {
        Vec::from(filter_counts::rules(VERSION, port))
    } else {
        Vec::new()
    };
    let rate = rate.map(|rate| (rate_userdata(rate), rate_rule(port, rate)));
    let igmp_mld_filter = rules(interface, port).into_iter().enumerate();
    let mut igmp_mld_filter: Vec<_> =
        igmp_mld_filter.map(|(position, rule)| (userdata(port, position), rule)).collect();
    let vlans = if hook == Hook::Prerouting { vlan_rules(port) } else { Vec::new() };
    let vlans = vlans.into_iter().enumerate();
    let vlans = vlans.map(|(position, rule)| (format!("shoutd vlan {VERSION} {position}"), rule));
    // Without a rate limit the VLAN rules come last, because most packets have been accepted by
    // then. With one they come first, because `finding` accepts IGMP and MLD.
    if has_rate {
        gateways.chain(vlans).chain(finding).chain(rate).chain(igmp_mld_filter).collect()
    } else {
        let cheap = if hook == Hook::Prerouting { CHEAP_GATEWAY_RULES } else { 0 };
        let first: Vec<_> = gateways.by_ref().take(cheap).collect();
        igmp_mld_filter.splice(IRRELEVANT_TO_GATEWAYS..IRRELEVANT_TO_GATEWAYS, gateways);
        counts.into_iter().chain(first).chain(igmp_mld_filter).chain(vlans).collect()
    }
}

/// Drops queries of the bridge to any port above [`QUERY_RATE`].
fn query_rules() -> [Vec<Expression>; 2] {
    // The bridge sends no other IGMP.
    [igmp(), icmpv6(&MLD_QUERY)].map(|kind| {
        let exceeds = [
            Expression::LoadMeta(Meta::OutputIndex),
            Expression::Exceeds { set: QUERIED, rate: QUERY_RATE },
            Expression::Drop,
        ];
        kind.into_iter().chain(exceeds).collect()
    })
}

/// Records the VLANs in which IGMP and MLD come in on any port but this one. A bridge without VLAN
/// filtering ignores tags and takes these reports for memberships, but sends its queries untagged
/// (`br_multicast_alloc_query`), so members in a VLAN do not answer them.
fn vlan_rules(port: &str) -> Vec<Vec<Expression>> {
    let tagged = [
        Expression::LoadPayload { base: Base::Link, offset: 12, length: 2 },
        Expression::Compare(Comparison::Equal, ETHERTYPE_VLAN.to_be_bytes().to_vec()),
        Expression::LoadMeta(Meta::InputName),
        Expression::Compare(Comparison::NotEqual, name_value(port)),
    ];
    let remember = [
        Expression::LoadMeta(Meta::InputIndex),
        Expression::LoadSecond { offset: 14 },
        Expression::Remember(VLANS),
    ];
    let kinds = iter::once(igmp()).chain(MLD_TYPES.map(|types| icmpv6(&types)));
    kinds
        .map(|kind| tagged.iter().cloned().chain(kind).chain(remember.iter().cloned()).collect())
        .collect()
}

/// Multicast and broadcast received on any port but this one.
fn is_spread(port: &str) -> Vec<Expression> {
    vec![
        Expression::LoadMeta(Meta::PacketType),
        Expression::Compare(Comparison::AtLeast, vec![PACKET_BROADCAST]),
        Expression::Compare(Comparison::AtMost, vec![PACKET_MULTICAST]),
        Expression::LoadMeta(Meta::InputName),
        Expression::Compare(Comparison::NotEqual, name_value(port)),
    ]
}

/// Accepts ARP, neighbour discovery, IGMP and MLD from a port whose data exceeds the limit. Without
/// them its neighbour entries and memberships would expire, and it would lose unicast and what it
/// receives. Beyond [`FINDING_RATE`] they count as data.
fn finding_rules(port: &str) -> Vec<Vec<Expression>> {
    let arp = vec![
        Expression::LoadMeta(Meta::Protocol),
        Expression::Compare(Comparison::Equal, ETHERTYPE_ARP.to_be_bytes().to_vec()),
    ];
    let kinds = [arp, igmp()].into_iter().chain(FINDING_TYPES.map(|types| icmpv6(&types)));
    let within = [
        Expression::LoadMeta(Meta::InputIndex),
        Expression::Within { set: FINDERS, rate: FINDING_RATE },
        Expression::Accept,
    ];
    kinds
        .map(|kind| is_spread(port).into_iter().chain(kind).chain(within.clone()).collect())
        .collect()
}

/// Drops multicast and broadcast above the rate from any port but this one.
fn rate_rule(port: &str, rate: u32) -> Vec<Expression> {
    let exceeds = [
        Expression::LoadMeta(Meta::InputIndex),
        Expression::Exceeds { set: SENDERS, rate },
        Expression::Count,
        Expression::Drop,
    ];
    is_spread(port).into_iter().chain(exceeds).collect()
}

/// A device's name as rules compare it.
pub(crate) fn name_value(port: &str) -> Vec<u8> {
    let mut name = port.as_bytes().to_vec();
    name.resize(NAME_OCTETS, 0);
    name
}

/// How many of the gateways' rules at *prerouting* precede [`harmless`]: the one about source MAC
/// addresses.
const CHEAP_GATEWAY_RULES: usize = 1;
/// How many rules of [`harmless`] precede the gateways' other rules: those that accept UDP and TCP.
/// No UDP or TCP packet can change a container's entry for its gateway.
const IRRELEVANT_TO_GATEWAYS: usize = 2;

/// Accepts what no bridge takes for IGMP or MLD, before the more expensive rules. The rules are a
/// tenth of what a packet costs from container to container. UDP comes first, as most multicast is
/// UDP. nf_tables finds UDP and TCP as a bridge does, so no IGMP or MLD passes as one of them.
fn harmless() -> [Vec<Expression>; 3] {
    // Bridges look for IGMP and MLD in multicast frames only (`br_handle_frame_finish`).
    let kinds = [
        (Meta::TransportProtocol, UDP),
        (Meta::TransportProtocol, TCP),
        (Meta::PacketType, PACKET_OTHERHOST),
    ];
    kinds.map(|(meta, value)| {
        vec![
            Expression::LoadMeta(meta),
            Expression::Compare(Comparison::Equal, vec![value]),
            Expression::Accept,
        ]
    })
}

/// The IGMP/MLD rules of one chain.
fn rules(interface: Meta, port: &str) -> Vec<Vec<Expression>> {
    let mut dropped = vec![igmp()];
    dropped.extend(MLD_TYPES.map(|types| icmpv6(&types)));
    dropped.push(hidden_mld());
    let mut rules = Vec::from(harmless());
    rules.extend(dropped.into_iter().map(|conditions| {
        let at_port = [
            Expression::LoadMeta(interface),
            Expression::Compare(Comparison::Equal, name_value(port)),
        ];
        let counted = [Expression::Count, Expression::Drop];
        at_port.into_iter().chain(conditions).chain(counted).collect()
    }));
    rules
}

/// Matches an Ethernet type and one octet of the network header.
pub(crate) fn network_octet(ethertype: u16, offset: u32, value: u8) -> Vec<Expression> {
    vec![
        Expression::LoadMeta(Meta::Protocol),
        Expression::Compare(Comparison::Equal, ethertype.to_be_bytes().to_vec()),
        Expression::LoadPayload { base: Base::Network, offset, length: 1 },
        Expression::Compare(Comparison::Equal, vec![value]),
    ]
}

fn igmp() -> Vec<Expression> {
    network_octet(ETHERTYPE_IPV4, 9, IGMP)
}

pub(crate) fn icmpv6(types: &std::ops::RangeInclusive<u8>) -> Vec<Expression> {
    vec![
        // The kernel skips extension headers of any length to find the transport header.
        Expression::LoadMeta(Meta::TransportProtocol),
        Expression::Compare(Comparison::Equal, vec![ICMPV6]),
        Expression::LoadPayload { base: Base::Transport, offset: 0, length: 1 },
        Expression::Compare(Comparison::AtLeast, vec![*types.start()]),
        Expression::Compare(Comparison::AtMost, vec![*types.end()]),
    ]
}

/// What may be MLD behind an authentication header: bridges skip such a header
/// (`ipv6_skip_exthdr`), nf_tables stops there (`nft_set_pktinfo_ipv6_validate`). OSPF with
/// authentication (RFC 4552) has no hop-by-hop header before it.
fn hidden_mld() -> Vec<Expression> {
    let mut conditions = network_octet(ETHERTYPE_IPV6, 6, HOP_BY_HOP);
    conditions.extend([
        Expression::LoadMeta(Meta::TransportProtocol),
        Expression::Compare(Comparison::Equal, vec![AUTHENTICATION]),
    ]);
    conditions
}
