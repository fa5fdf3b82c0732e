//! nf_tables messages (`include/uapi/linux/netfilter/nf_tables.h`), as far as our filters need
//! them. Numbers inside are in network byte order.

mod content;
mod expression;
mod transaction;

use std::net::IpAddr;

pub(crate) use content::{
    Content, OwnChain, is_about, is_of_elements, parse_count, parse_set_elements, parse_set_keys,
};
#[cfg(test)]
pub(crate) use content::{parse_chain, parse_rule, parse_table};
use expression::write_expression;
pub(crate) use expression::{Base, CT_ESTABLISHED, CT_RELATED, Comparison, Expression, Meta};
use nix::libc;
pub(crate) use transaction::{commit, delete_table, empty_table};

use crate::socket::flag;
use crate::wire::{Message, NESTED};

/// Octets of `struct nfgenmsg`.
pub(crate) const HEADER: usize = 4;
/// `NFNL_SUBSYS_NFTABLES`.
pub(crate) const SUBSYSTEM: u16 = 10;

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
pub(crate) const CHAIN_TABLE: u16 = 1;
pub(crate) const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
pub(crate) const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEVICE: u16 = 3;
pub(crate) const RULE_TABLE: u16 = 1;
pub(crate) const RULE_CHAIN: u16 = 2;
pub(crate) const RULE_EXPRESSIONS: u16 = 4;
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
pub(crate) const EXPRESSION_NAME: u16 = 1;
pub(crate) const EXPRESSION_DATA: u16 = 2;
pub(crate) const COUNTER_PACKETS: u16 = 2;
const DATA_VALUE: u16 = 1;

const NF_ACCEPT: u32 = 1;
/// `NF_NETDEV_EGRESS`; in a device's family hooks have numbers of their own.
const HOOK_EGRESS: u32 = 1;

/// Which packets a table sees (`include/uapi/linux/netfilter.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// `NFPROTO_INET`: IPv4 and IPv6.
    Inet = 1,
    /// `NFPROTO_IPV4`.
    Ipv4 = 2,
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
    /// Forwarded or sent, after routing.
    Postrouting = 4,
}

/// What a chain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChainKind {
    /// It accepts and drops.
    Filter,
    /// It sees the first packet of each connection, and translates addresses.
    Nat,
}

impl ChainKind {
    /// The kernel's name of this kind.
    fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
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

/// Creates a filter chain at a hook; its policy is to accept. Chains of lower priority come first.
pub(crate) fn new_chain(table: TableName, name: &str, hook: Hook, priority: i32) -> Message {
    new_chain_of(ChainKind::Filter, table, name, hook, priority)
}

/// Creates a chain at a hook; its policy is to accept. Chains of lower priority come first.
pub(crate) fn new_chain_of(
    kind: ChainKind,
    table: TableName,
    name: &str,
    hook: Hook,
    priority: i32,
) -> Message {
    let mut message = message(NEW_CHAIN, libc::NLM_F_CREATE, table.family);
    message.text(CHAIN_TABLE, table.name);
    message.text(CHAIN_NAME, name);
    message.nest(CHAIN_HOOK, |nested| {
        nested.u32_be(HOOK_NUMBER, hook as u32);
        nested.u32_be(HOOK_PRIORITY, priority.cast_unsigned());
    });
    message.u32_be(CHAIN_POLICY, NF_ACCEPT);
    message.text(CHAIN_TYPE, kind.name());
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
