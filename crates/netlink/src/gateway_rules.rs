//! The rules of the [`IgmpMldFilter`](crate::IgmpMldFilter) about the gateways of a segment. Every
//! host has them with the same addresses and the same MAC address (an anycast gateway), so nothing
//! of them may cross the tunnel, and no container may claim to be one.
//!
//! A gateway can be taken over in a container's tables by ARP (RFC 826), by neighbour and router
//! advertisements (RFC 4861), and by redirects that seem to come from it (RFC 792, RFC 4443). The
//! kernel accepts these also in frames with VLAN tag 0 (IEEE 802.1Q, priority tagging). nf_tables
//! sees through one such tag; frames with a second tag below it are dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::igmp_mld_filter::{
    ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, PACKET_HOST, icmpv6, name_value, network_octet,
};
use crate::link::Mac;
use crate::nftables::{Base, Comparison, Expression, Hook, Meta};

/// Protocol 1 of IPv4 (RFC 792).
const ICMP: u8 = 1;
/// Types of a frame with a VLAN tag: IEEE 802.1Q and 802.1ad.
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
// Offsets in an ARP packet for IPv4 over Ethernet (RFC 826).
const ARP_SENDER: u32 = 14;
const ARP_TARGET: u32 = 24;
// Offsets of source addresses (RFC 791, RFC 8200), and of the target of neighbour discovery.
const IPV4_SOURCE: u32 = 12;
const IPV6_SOURCE: u32 = 8;
const ND_TARGET: u32 = 8;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// The gateways of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateways {
    /// The MAC address of all of them, which is that of the bridge.
    pub mac: Mac,
    /// Their addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// A rule, with the userdata that identifies it.
type NamedRule = (String, Vec<Expression>);

impl Gateways {
    /// The rules of one chain. `port` is the tunnel.
    pub(crate) fn rules(&self, version: u32, hook: Hook, port: &str) -> Vec<NamedRule> {
        let addresses = self.addresses.iter().flat_map(|address| {
            let rules = match hook {
                Hook::Prerouting => arriving(*address, port),
                Hook::Forward => vec![asking(*address, at(Meta::OutputName, port))],
                Hook::Input => vec![accepting(asked(*address))],
                _ => Vec::new(),
            };
            rules.into_iter().map(move |rule| (Some(*address), rule))
        });
        let general = match hook {
            Hook::Prerouting => general(self.mac),
            Hook::Input => vec![accepting(packet_type(PACKET_HOST))],
            _ => Vec::new(),
        };
        let rules = general.into_iter().map(|rule| (None, rule)).chain(addresses);
        let rules = rules
            .enumerate()
            .map(|(position, (address, rule))| (self.userdata(version, position, address), rule));
        rules.collect()
    }

    fn userdata(&self, version: u32, position: usize, address: Option<IpAddr>) -> String {
        let mac: String = self.mac.iter().map(|octet| format!("{octet:02x}")).collect();
        let address = address.map(|address| format!(" {address}")).unwrap_or_default();
        format!("shoutd gateway {version} {position} {mac}{address}")
    }

    /// The gateways of a filter whose rules have this userdata; `None` if it has none.
    pub(crate) fn parse<'a>(userdata: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut found: BTreeMap<Mac, BTreeSet<IpAddr>> = BTreeMap::new();
        for text in userdata.filter_map(|userdata| std::str::from_utf8(userdata).ok()) {
            let mut words =
                text.strip_prefix("shoutd gateway ").into_iter().flat_map(str::split_whitespace);
            let Some(mac) = words.nth(2).and_then(parse_mac) else { continue };
            found
                .entry(mac)
                .or_default()
                .extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
        }
        found.pop_first().map(|(mac, addresses)| Self { mac, addresses })
    }
}

fn parse_mac(text: &str) -> Option<Mac> {
    let number = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 12)?;
    let [_, _, mac @ ..] = number.to_be_bytes();
    Some(mac)
}

/// Drops frames that come in on any port with the gateways' MAC address as their source, and those
/// in which nf_tables cannot see ARP.
fn general(mac: Mac) -> Vec<Vec<Expression>> {
    let source = vec![
        Expression::LoadPayload { base: Base::Link, offset: 6, length: 6 },
        Expression::Compare(Comparison::Equal, mac.to_vec()),
        Expression::Drop,
    ];
    let nested = ETHERTYPES_VLAN.map(|ethertype| {
        [
            protocol(ethertype),
            vec![
                // The outer tag; its number are the lower twelve bits.
                Expression::LoadPayload { base: Base::Link, offset: 14, length: 2 },
                Expression::Mask(vec![0x0f, 0xff]),
                Expression::Compare(Comparison::Equal, vec![0, 0]),
                Expression::Drop,
            ],
        ]
        .concat()
    });
    std::iter::once(source).chain(nested).collect()
}

/// Drops what comes in and claims to be from this gateway, or asks for it from another host.
fn arriving(address: IpAddr, port: &str) -> Vec<Vec<Expression>> {
    let claims = match address {
        IpAddr::V4(_) => vec![
            [protocol(ETHERTYPE_ARP), network(ARP_SENDER, address)].concat(),
            [network_octet(ETHERTYPE_IPV4, 9, ICMP), network(IPV4_SOURCE, address)].concat(),
        ],
        IpAddr::V6(_) => vec![
            [protocol(ETHERTYPE_IPV6), network(IPV6_SOURCE, address)].concat(),
            neighbour(NEIGHBOUR_ADVERTISEMENT, address),
        ],
    };
    let claims = claims.into_iter().map(|claim| [claim, vec![Expression::Drop]].concat());
    claims.chain([asking(address, at(Meta::InputName, port))]).collect()
}

/// Drops what asks for this gateway, at the tunnel.
fn asking(address: IpAddr, at_tunnel: Vec<Expression>) -> Vec<Expression> {
    [at_tunnel, asked(address), vec![Expression::Count, Expression::Drop]].concat()
}

/// Matches what asks for this gateway.
fn asked(address: IpAddr) -> Vec<Expression> {
    match address {
        IpAddr::V4(_) => [protocol(ETHERTYPE_ARP), network(ARP_TARGET, address)].concat(),
        IpAddr::V6(_) => neighbour(NEIGHBOUR_SOLICITATION, address),
    }
}

fn accepting(condition: Vec<Expression>) -> Vec<Expression> {
    [condition, vec![Expression::Accept]].concat()
}

/// Matches neighbour discovery of a type about this address.
fn neighbour(kind: u8, address: IpAddr) -> Vec<Expression> {
    let target = vec![
        Expression::LoadPayload { base: Base::Transport, offset: ND_TARGET, length: 16 },
        Expression::Compare(Comparison::Equal, octets(address)),
    ];
    [icmpv6(&(kind..=kind)), target].concat()
}

fn packet_type(kind: u8) -> Vec<Expression> {
    vec![Expression::LoadMeta(Meta::PacketType), Expression::Compare(Comparison::Equal, vec![kind])]
}

fn protocol(ethertype: u16) -> Vec<Expression> {
    vec![
        Expression::LoadMeta(Meta::Protocol),
        Expression::Compare(Comparison::Equal, ethertype.to_be_bytes().to_vec()),
    ]
}

/// Matches this address in the network header.
fn network(offset: u32, address: IpAddr) -> Vec<Expression> {
    let value = octets(address);
    let length = u32::try_from(value.len()).unwrap_or_default();
    vec![
        Expression::LoadPayload { base: Base::Network, offset, length },
        Expression::Compare(Comparison::Equal, value),
    ]
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn at(interface: Meta, port: &str) -> Vec<Expression> {
    vec![Expression::LoadMeta(interface), Expression::Compare(Comparison::Equal, name_value(port))]
}
