//! nf_tables messages (`include/uapi/linux/netfilter/nf_tables.h`): as much as a filter of a few
//! rules takes. Numbers inside are in network byte order.

mod content;

use std::net::IpAddr;

use nix::libc;

use crate::socket::flag;
use crate::wire::Message;

pub(crate) use content::{
    Content, is_about, is_of_elements, parse_count, parse_set_elements, parse_set_keys,
};
#[cfg(test)]
pub(crate) use content::{parse_chain, parse_rule, parse_table};

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
/// `NFT_SET_TIMEOUT | NFT_SET_EVAL`: rules add elements, and they go when nothing refreshes them.
const FLAGS_DYNAMIC: u32 = 0x10 | 0x20;
// How a key is shown: as a number, or as an address of either family.
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
const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;
/// `NFT_REG32_01`: the four octets behind the first four of that.
const REGISTER_SECOND: u32 = 9;
/// `NFT_DYNSET_OP_UPDATE`.
const DYNSET_UPDATE: u32 = 1;
/// `NFT_LIMIT_F_INV`: holds for what is over the limit.
const LIMIT_INVERTED: u32 = 1;
/// `NFT_LOOKUP_F_INV`: holds for what is not in the set.
const LOOKUP_INVERTED: u32 = 1;
/// `NFT_FIB_RESULT_OIF`.
const FIB_RESULT_INTERFACE: u32 = 1;
/// `NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF | NFTA_FIB_F_PRESENT`.
const FIB_BACK_TO_SOURCE: u32 = 1 | 1 << 3 | 1 << 5;
/// Packets that may come at once whatever the rate: as many as a host sends when it starts (ARP,
/// reports, neighbour discovery).
const BURST_MIN: u32 = 10;

/// Which packets a table sees (`include/uapi/linux/netfilter.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// `NFPROTO_INET`: IPv4 and IPv6.
    Inet = 1,
    /// `NFPROTO_BRIDGE`: frames that a bridge handles.
    Bridge = 7,
}

/// A table's name; each family has names of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableName {
    pub(crate) family: Family,
    pub(crate) name: &'static str,
}

/// Where on a packet's way a chain stands. The numbers are the same in `enum nf_inet_hooks` and
/// in `netfilter_bridge.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// A packet has arrived.
    Prerouting = 0,
    /// A packet is for this host itself.
    Input = 1,
    /// A packet passes through.
    Forward = 2,
    /// The host, or the bridge itself, sends a packet.
    Output = 3,
}

/// What a rule looks at (`enum nft_meta_keys`).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meta {
    Protocol = 1,
    InputName = 6,
    InputIndex = 4,
    OutputName = 7,
    /// User of the socket that the packet comes from; a rule ends where there is none.
    SocketUser = 10,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    Family = 15,
    TransportProtocol = 16,
    PacketType = 19,
    /// What kind of device the packet came in by; from Linux 5.1 on.
    InputKind = 26,
}

/// Where a rule looks into the packet (`enum nft_payload_bases`).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Base {
    /// Of Ethernet, with the tag of a VLAN as it is on the wire.
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// How a rule compares (`enum nft_cmp_ops`).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Comparison {
    Equal = 0,
    NotEqual = 1,
    AtMost = 3,
    AtLeast = 5,
}

/// One step of a rule; the rule goes on while comparisons hold.
#[derive(Debug, Clone)]
pub(crate) enum Expression {
    LoadMeta(Meta),
    LoadPayload {
        base: Base,
        offset: u32,
        length: u32,
    },
    /// Loads whether there is a route back to the source by the interface that the packet came
    /// in by: 1 or 0, in one octet (`net/netfilter/nft_fib.c`).
    LoadReversePath,
    Compare(Comparison, Vec<u8>),
    /// Loads two octets of the Ethernet header behind the four that were loaded last.
    LoadSecond {
        offset: u32,
    },
    /// Notes both of these in a set, or that they are still used; goes on if there is room.
    Remember(&'static str),
    /// Keeps these bits of the octet that was loaded last.
    Mask(u8),
    /// Goes on if what was loaded last is in the set.
    In(&'static str),
    /// Goes on if what was loaded last is not in the set.
    NotIn(&'static str),
    /// Goes on if there were more packets a second than this with the key that was loaded last,
    /// which the set keeps apart.
    Exceeds {
        set: &'static str,
        rate: u32,
    },
    /// Goes on if there were not.
    Within {
        set: &'static str,
        rate: u32,
    },
    /// Counts the packets that come this far.
    Count,
    /// Ends the chain: the packet goes on its way.
    Accept,
    Drop,
}

/// A message of this type about a family.
pub(crate) fn message(kind: u16, flags: i32, family: Family) -> Message {
    Message::new(SUBSYSTEM << 8 | kind, flag(flags), &[family as u8, 0, 0, 0])
}

/// Begins (`true`) or ends a batch, which is done whole or not at all.
pub(crate) fn batch_edge(begin: bool) -> Message {
    let kind = if begin { libc::NFNL_MSG_BATCH_BEGIN } else { libc::NFNL_MSG_BATCH_END };
    let [high, low] = SUBSYSTEM.to_be_bytes();
    Message::new(flag(kind), 0, &[0, 0, high, low])
}

/// A message that is about a table and no more.
pub(crate) fn table(kind: u16, flags: i32, table: TableName) -> Message {
    let mut message = message(kind, flags, table.family);
    message.text(TABLE_NAME, table.name);
    message
}

/// Asks for all rules of a table.
pub(crate) fn get_rules(table: TableName) -> Message {
    let mut message = message(GET_RULE, 0, table.family);
    message.text(RULE_TABLE, table.name);
    message
}

/// Makes a chain at a hook; what no rule drops goes on. Chains of a lower priority come first.
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

/// Makes a set of keys of so many octets, to which rules add, and which lose an element after this
/// many milliseconds without use. `id` tells it from others of the same batch.
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

/// Makes a set of IP addresses, empty, of any size; with a number that no other set of the same
/// batch has.
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

/// A message about addresses of a set.
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

/// Asks for all elements of a set.
pub(crate) fn get_set_elements(table: TableName, set: &str) -> Message {
    let mut message = message(GET_SET_ELEMENT, 0, table.family);
    message.text(ELEMENTS_TABLE, table.name);
    message.text(ELEMENTS_SET, set);
    message
}

/// Adds a rule at the end of a chain, with a text to know it by.
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

/// `NLA_F_NESTED`, which nf_tables' validation insists on since kernel 5.2 for strict policies.
const NESTED: u16 = 0x8000;

fn write_expression(message: &mut Message, expression: &Expression) {
    let name = match expression {
        Expression::LoadMeta(_) => "meta",
        Expression::LoadPayload { .. } | Expression::LoadSecond { .. } => "payload",
        Expression::Compare(..) => "cmp",
        Expression::Mask(_) => "bitwise",
        Expression::LoadReversePath => "fib",
        Expression::In(_) | Expression::NotIn(_) => "lookup",
        Expression::Exceeds { .. } | Expression::Within { .. } | Expression::Remember(_) => {
            "dynset"
        }
        Expression::Count => "counter",
        Expression::Accept | Expression::Drop => "immediate",
    };
    message.text(EXPRESSION_NAME, name);
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
            // What comes at once counts as spread over a tenth of a second.
            limit.u32_be(3, (rate / 10).max(BURST_MIN));
            limit.u32_be(4, 0);
            limit.u32_be(5, flags);
        });
    });
}

fn write_verdict(data: &mut Message, verdict: u32) {
    data.u32_be(1, REGISTER_VERDICT);
    data.nest(2 | NESTED, |nested| {
        nested.nest(DATA_VERDICT | NESTED, |nested| nested.u32_be(1, verdict))
    });
}
