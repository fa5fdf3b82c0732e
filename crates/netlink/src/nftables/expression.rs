//! The steps of rules.

use super::{DATA_VALUE, EXPRESSION_DATA, EXPRESSION_NAME, NF_ACCEPT};
use crate::wire::{Message, NESTED};

const DATA_VERDICT: u16 = 2;
const NF_DROP: u32 = 0;
const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;
/// `NFT_REG32_01`: the four octets after the first four of [`REGISTER`].
const REGISTER_SECOND: u32 = 9;
/// `NFT_DYNSET_OP_UPDATE`.
const DYNSET_UPDATE: u32 = 1;
/// `NFT_LIMIT_F_INV`: matches above the limit.
const LIMIT_INVERTED: u32 = 1;
/// `NFT_LOOKUP_F_INV`: matches if the key is not in the set.
const LOOKUP_INVERTED: u32 = 1;
/// `NFT_FIB_RESULT_OIF`.
const FIB_RESULT_INTERFACE: u32 = 1;
/// `NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF | NFTA_FIB_F_PRESENT`.
const FIB_BACK_TO_SOURCE: u32 = 1 | 1 << 3 | 1 << 5;
/// `NFT_CT_STATE`.
const CT_KEY_STATE: u32 = 0;
/// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED)`: packets in both directions have been seen.
pub(crate) const CT_ESTABLISHED: u32 = 1 << 1;
/// `NF_CT_STATE_BIT(IP_CT_RELATED)`: such as an ICMP error about a known connection.
pub(crate) const CT_RELATED: u32 = 1 << 2;
/// Minimum burst whatever the rate: what a host sends when it starts (ARP, reports, neighbour
/// discovery).
const BURST_MIN: u32 = 10;

/// Metadata that a rule can load (`enum nft_meta_keys`).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meta {
    Protocol = 1,
    Mark = 3,
    InputName = 6,
    InputIndex = 4,
    OutputIndex = 5,
    OutputName = 7,
    /// User of the packet's socket. Without a socket the rule does not match.
    SocketUser = 10,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    Family = 15,
    TransportProtocol = 16,
    PacketType = 19,
    /// Kind of the input device; since Linux 5.1.
    InputKind = 26,
}

/// The header of a payload offset (`enum nft_payload_bases`).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Base {
    /// The Ethernet header, with the VLAN tag as it is on the wire.
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// A comparison (`enum nft_cmp_ops`).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Comparison {
    Equal = 0,
    NotEqual = 1,
    AtMost = 3,
    AtLeast = 5,
}

/// One step of a rule. The rule ends at the first step that does not match.
#[derive(Debug, Clone)]
pub(crate) enum Expression {
    LoadMeta(Meta),
    LoadPayload {
        base: Base,
        offset: u32,
        length: u32,
    },
    /// Loads 1 if a route leads back to the source by the input interface, otherwise 0, as one
    /// octet (`net/netfilter/nft_fib.c`). At *input* and *forward* since Linux 5.19.
    LoadReversePath,
    Compare(Comparison, Vec<u8>),
    /// Loads two octets of the Ethernet header into the register behind the four octets that were
    /// loaded last.
    LoadSecond {
        offset: u32,
    },
    /// Adds the two loaded values to a set as one key, or refreshes it; matches unless the set is
    /// full.
    Remember(&'static str),
    /// Masks the octets that were loaded last.
    Mask(Vec<u8>),
    /// Loads the state of the packet's connection: one bit of [`CT_ESTABLISHED`] and its like, in
    /// the host's byte order.
    LoadConnectionState,
    /// Translates the source address to one of the output device.
    Masquerade,
    /// Matches if the last loaded value is in the set.
    In(&'static str),
    /// Matches if the last loaded value is not in the set.
    NotIn(&'static str),
    /// Matches if the last loaded key exceeds this rate, in packets per second. The set keeps the
    /// state of each key.
    Exceeds {
        set: &'static str,
        rate: u32,
    },
    /// Matches while the key is within this rate.
    Within {
        set: &'static str,
        rate: u32,
    },
    /// Counts the packets that get here.
    Count,
    /// Loads this value.
    LoadValue(Vec<u8>),
    /// Sets the packet's mark to the loaded value.
    SetMark,
    /// Sends a clone out of the device whose index is loaded.
    SendCopy,
    /// Ends the table's chain; other tables may still drop the packet.
    Accept,
    Drop,
}

impl Expression {
    /// The kernel's name of this kind of expression.
    fn name(&self) -> &'static str {
        match self {
            Self::LoadMeta(_) | Self::SetMark => "meta",
            Self::LoadPayload { .. } | Self::LoadSecond { .. } => "payload",
            Self::Compare(..) => "cmp",
            Self::Mask(_) => "bitwise",
            Self::LoadConnectionState => "ct",
            Self::Masquerade => "masq",
            Self::LoadReversePath => "fib",
            Self::In(_) | Self::NotIn(_) => "lookup",
            Self::Exceeds { .. } | Self::Within { .. } | Self::Remember(_) => "dynset",
            Self::Count => "counter",
            Self::SendCopy => "dup",
            Self::LoadValue(_) | Self::Accept | Self::Drop => "immediate",
        }
    }
}

pub(super) fn write_expression(message: &mut Message, expression: &Expression) {
    message.text(EXPRESSION_NAME, expression.name());
    message.nest(EXPRESSION_DATA | NESTED, |data| match expression {
        Expression::LoadMeta(key) => {
            data.u32_be(1, REGISTER);
            data.u32_be(2, *key as u32);
        }
        Expression::LoadPayload { base, offset, length } => {
            data.u32_be(1, REGISTER);
            data.u32_be(2, *base as u32);
            data.u32_be(3, *offset);
            data.u32_be(4, *length);
        }
        Expression::LoadSecond { offset } => {
            data.u32_be(1, REGISTER_SECOND);
            data.u32_be(2, Base::Link as u32);
            data.u32_be(3, *offset);
            data.u32_be(4, 2);
        }
        Expression::Remember(set) => {
            data.text(1, set);
            data.u32_be(3, DYNSET_UPDATE);
            data.u32_be(4, REGISTER);
        }
        Expression::Compare(comparison, value) => {
            data.u32_be(1, REGISTER);
            data.u32_be(2, *comparison as u32);
            data.nest(3 | NESTED, |nested| nested.bytes(DATA_VALUE, value));
        }
        Expression::Mask(mask) => {
            data.u32_be(1, REGISTER);
            data.u32_be(2, REGISTER);
            data.u32_be(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
            data.nest(4 | NESTED, |nested| nested.bytes(DATA_VALUE, mask));
            data.nest(5 | NESTED, |nested| nested.bytes(DATA_VALUE, &vec![0; mask.len()]));
        }
        Expression::LoadConnectionState => {
            data.u32_be(1, REGISTER);
            data.u32_be(2, CT_KEY_STATE);
        }
        Expression::LoadReversePath => {
            data.u32_be(1, REGISTER);
            data.u32_be(2, FIB_RESULT_INTERFACE);
            data.u32_be(3, FIB_BACK_TO_SOURCE);
        }
        Expression::In(set) => write_lookup(data, set, 0),
        Expression::NotIn(set) => write_lookup(data, set, LOOKUP_INVERTED),
        Expression::Exceeds { set, rate } => write_limit(data, set, *rate, LIMIT_INVERTED),
        Expression::Within { set, rate } => write_limit(data, set, *rate, 0),
        Expression::Count | Expression::Masquerade => {}
        Expression::LoadValue(value) => {
            data.u32_be(1, REGISTER);
            data.nest(2 | NESTED, |nested| nested.bytes(DATA_VALUE, value));
        }
        Expression::SetMark => {
            data.u32_be(2, Meta::Mark as u32);
            data.u32_be(3, REGISTER);
        }
        Expression::SendCopy => data.u32_be(2, REGISTER),
        Expression::Accept => write_verdict(data, NF_ACCEPT),
        Expression::Drop => write_verdict(data, NF_DROP),
    });
}

fn write_lookup(data: &mut Message, set: &str, flags: u32) {
    data.text(1, set);
    data.u32_be(2, REGISTER);
    data.u32_be(5, flags);
}

fn write_limit(data: &mut Message, set: &str, rate: u32, flags: u32) {
    data.text(1, set);
    data.u32_be(3, DYNSET_UPDATE);
    data.u32_be(4, REGISTER);
    data.nest(7 | NESTED, |limit| {
        limit.text(EXPRESSION_NAME, "limit");
        limit.nest(EXPRESSION_DATA | NESTED, |limit| {
            limit.bytes(1, &u64::from(rate).to_be_bytes());
            limit.bytes(2, &1_u64.to_be_bytes());
            // The burst is what the rate allows in a tenth of a second.
            limit.u32_be(3, (rate / 10).max(BURST_MIN));
            limit.u32_be(4, 0);
            limit.u32_be(5, flags);
        });
    });
}

fn write_verdict(data: &mut Message, verdict: u32) {
    data.u32_be(1, REGISTER_VERDICT);
    data.nest(2 | NESTED, |nested| {
        nested.nest(DATA_VERDICT | NESTED, |nested| nested.u32_be(1, verdict));
    });
}
