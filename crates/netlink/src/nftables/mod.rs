//! nf_tables messages (`include/uapi/linux/netfilter/nf_tables.h`), as far as our filters need
//! them. Numbers inside are in network byte order.

mod content;

use std::net::IpAddr;

pub(crate) use content::{
    Content, OwnChain, is_about, is_of_elements, parse_count, parse_set_elements, parse_set_keys,
};
#[cfg(test)]
pub(crate) use content::{parse_chain, parse_rule, parse_table};
use nix::libc;

use crate::socket::flag;
use crate::wire::Message;

/// Octets of `struct nfgenmsg`.
const HEADER: usize = 4;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;

// `enum nf_tables_msg_types`.
pub(crate) const NEW_TABLE: u16 = 0;
pub(crate) const GET_TABLE: u16 = 1;
pub(crate) const DELETE_TABLE: u16 = 2;
pub(crate) const NEW_CHAIN: u16 = 3;
pub(crate) const GET_CHAIN: u16 = 4;
pub(crate) const NEW_RULE: u16 = 6;
pub(crate) const GET_RULE: u16 = 7;
const NEW_SET: u16 = 9;
pub(crate) const NEW_SET_ELEMENT: u16 = 12;
const GET_SET_ELEMENT: u16 = 13;
pub(crate) const DELETE_SET_ELEMENT: u16 = 14;
const NEW_GENERATION: u16 = 15;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEVICE: u16 = 3;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const SET_TIMEOUT: u16 = 11;
const DESCRIPTION_SIZE: u16 = 1;
/// `NFT_SET_TIMEOUT | NFT_SET_EVAL`: rules add elements, which time out unless refreshed.
const FLAGS_DYNAMIC: u32 = 0x10 | 0x20;
// How nft shows a key: as a number, or as an address of either family.
const KEY_TYPE_INTEGER: u32 = 4;
const KEY_TYPE_IPV4: u32 = 7;
const KEY_TYPE_IPV6: u32 = 8;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_PACKETS: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// `NF_NETDEV_EGRESS`; in a device's family hooks have numbers of their own.
const HOOK_EGRESS: u32 = 1;
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
/// Minimum burst whatever the rate: what a host sends when it starts (ARP, reports, neighbour
/// discovery).
const BURST_MIN: u32 = 10;

/// Which packets a table sees (`include/uapi/linux/netfilter.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// `NFPROTO_INET`: IPv4 and IPv6.
    Inet = 1,
    /// `NFPROTO_NETDEV`: frames that come or go by a device.
    Device = 5,
    /// `NFPROTO_BRIDGE`: frames that a bridge handles.
    Bridge = 7,
}

/// A table's name, which is unique within its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableName {
    pub(crate) family: Family,
    pub(crate) name: &'static str,
}

/// The hook of a chain. The numbers are the same in `enum nf_inet_hooks` and in
/// `netfilter_bridge.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// On arrival.
    Prerouting = 0,
    /// To this host itself.
    Input = 1,
    /// Forwarded.
    Forward = 2,
    /// Sent by the host, or by the bridge itself.
    Output = 3,
}

/// Metadata that a rule can load (`enum nft_meta_keys`).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meta {
    Protocol = 1,
    Mark = 3,
    InputName = 6,
    InputIndex = 4,
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
    /// Masks the octet that was loaded last.
    Mask(u8),
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
            Self::LoadReversePath => "fib",
            Self::In(_) | Self::NotIn(_) => "lookup",
            Self::Exceeds { .. } | Self::Within { .. } | Self::Remember(_) => "dynset",
            Self::Count => "counter",
            Self::SendCopy => "dup",
            Self::LoadValue(_) | Self::Accept | Self::Drop => "immediate",
        }
    }
}

/// An nf_tables message for a family.
pub(crate) fn message(kind: u16, flags: i32, family: Family) -> Message {
    Message::new(SUBSYSTEM << 8 | kind, flag(flags), &[family as u8, 0, 0, 0])
}

/// Begins (`true`) or ends a batch, which is atomic.
pub(crate) fn batch_edge(begin: bool) -> Message {
    let kind = if begin { libc::NFNL_MSG_BATCH_BEGIN } else { libc::NFNL_MSG_BATCH_END };
    let [high, low] = SUBSYSTEM.to_be_bytes();
    Message::new(flag(kind), 0, &[0, 0, high, low])
}

/// A message that has only a table's name.
pub(crate) fn table(kind: u16, flags: i32, table: TableName) -> Message {
    let mut message = message(kind, flags, table.family);
    message.text(TABLE_NAME, table.name);
    message
}

/// Requests all rules of a table.
pub(crate) fn get_rules(table: TableName) -> Message {
    let mut message = message(GET_RULE, 0, table.family);
    message.text(RULE_TABLE, table.name);
    message
}

/// Creates a chain at a hook; its policy is to accept. Chains of lower priority come first.
pub(crate) fn new_chain(table: TableName, name: &str, hook: Hook, priority: i32) -> Message {
    let mut message = message(NEW_CHAIN, libc::NLM_F_CREATE, table.family);
    message.text(CHAIN_TABLE, table.name);
    message.text(CHAIN_NAME, name);
    message.nest(CHAIN_HOOK, |nested| {
        nested.u32_be(HOOK_NUMBER, hook as u32);
        nested.u32_be(HOOK_PRIORITY, priority.cast_unsigned());
    });
    message.u32_be(CHAIN_POLICY, NF_ACCEPT);
    message.text(CHAIN_TYPE, "filter");
    message
}

/// Creates a chain at the egress hook of a device. Its policy is to accept.
pub(crate) fn new_egress_chain(table: TableName, name: &str, device: &str) -> Message {
    let mut message = message(NEW_CHAIN, libc::NLM_F_CREATE, table.family);
    message.text(CHAIN_TABLE, table.name);
    message.text(CHAIN_NAME, name);
    message.nest(CHAIN_HOOK, |nested| {
        nested.u32_be(HOOK_NUMBER, HOOK_EGRESS);
        nested.u32_be(HOOK_PRIORITY, 0);
        nested.text(HOOK_DEVICE, device);
    });
    message.u32_be(CHAIN_POLICY, NF_ACCEPT);
    message.text(CHAIN_TYPE, "filter");
    message
}

/// Creates a set to which rules add keys of `key_octets` octets. An element is removed after
/// `timeout` milliseconds without use. `id` is unique in its batch.
pub(crate) fn new_set(
    table: TableName,
    (name, id): (&str, u32),
    key_octets: u32,
    size: u32,
    timeout: u64,
) -> Message {
    let mut message = message(NEW_SET, libc::NLM_F_CREATE, table.family);
    message.text(SET_TABLE, table.name);
    message.text(SET_NAME, name);
    message.u32_be(SET_FLAGS, FLAGS_DYNAMIC);
    message.u32_be(SET_KEY_TYPE, KEY_TYPE_INTEGER);
    message.u32_be(SET_KEY_LENGTH, key_octets);
    message
        .nest(SET_DESCRIPTION | NESTED, |description| description.u32_be(DESCRIPTION_SIZE, size));
    message.u32_be(SET_ID, id);
    message.bytes(SET_TIMEOUT, &timeout.to_be_bytes());
    message
}

/// Creates an empty set of IP addresses without a limit. `number` is unique in its batch.
pub(crate) fn new_address_set(table: TableName, name: &str, number: u32, ipv6: bool) -> Message {
    let (kind, length) = if ipv6 { (KEY_TYPE_IPV6, 16) } else { (KEY_TYPE_IPV4, 4) };
    let mut message = message(NEW_SET, libc::NLM_F_CREATE, table.family);
    message.text(SET_TABLE, table.name);
    message.text(SET_NAME, name);
    message.u32_be(SET_FLAGS, 0);
    message.u32_be(SET_KEY_TYPE, kind);
    message.u32_be(SET_KEY_LENGTH, length);
    message.u32_be(SET_ID, number);
    message
}

/// A message about addresses in a set.
pub(crate) fn set_elements(
    kind: u16,
    flags: i32,
    table: TableName,
    set: &str,
    addresses: impl Iterator<Item = IpAddr>,
) -> Message {
    let mut message = message(kind, flags, table.family);
    message.text(ELEMENTS_TABLE, table.name);
    message.text(ELEMENTS_SET, set);
    message.nest(ELEMENTS_LIST | NESTED, |list| {
        for address in addresses {
            list.nest(LIST_ELEMENT | NESTED, |element| {
                element.nest(ELEMENT_KEY | NESTED, |key| key.ip(DATA_VALUE, address));
            });
        }
    });
    message
}

/// Requests all elements of a set.
pub(crate) fn get_set_elements(table: TableName, set: &str) -> Message {
    let mut message = message(GET_SET_ELEMENT, 0, table.family);
    message.text(ELEMENTS_TABLE, table.name);
    message.text(ELEMENTS_SET, set);
    message
}

/// Appends a rule to a chain. `userdata` identifies it later.
pub(crate) fn new_rule(
    table: TableName,
    chain: &str,
    userdata: &str,
    expressions: &[Expression],
) -> Message {
    let mut message = message(NEW_RULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, table.family);
    message.text(RULE_TABLE, table.name);
    message.text(RULE_CHAIN, chain);
    message.nest(RULE_EXPRESSIONS | NESTED, |list| {
        for expression in expressions {
            list.nest(LIST_ELEMENT | NESTED, |element| write_expression(element, expression));
        }
    });
    message.bytes(RULE_USERDATA, userdata.as_bytes());
    message
}

/// `NLA_F_NESTED`, as libmnl sets it. nf_tables reads nested attributes without it too
/// (`nla_parse_nested_deprecated`).
const NESTED: u16 = 0x8000;

fn write_expression(message: &mut Message, expression: &Expression) {
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
            data.u32_be(3, 1);
            data.nest(4 | NESTED, |nested| nested.u8(DATA_VALUE, *mask));
            data.nest(5 | NESTED, |nested| nested.u8(DATA_VALUE, 0));
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
        Expression::Count => {}
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
