//! What nf_tables drops in a namespace, as far as it is counted: rules with a counter, as
//! `iptables-nft` makes them, and base chains with one whose policy is to drop.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::libc;

use crate::error::{Error, Fault};
use crate::namespace::Namespace;
use crate::nftables::{
    CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, COUNTER_PACKETS, EXPRESSION_DATA, EXPRESSION_NAME,
    GET_CHAIN, GET_RULE, HEADER, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, SUBSYSTEM,
};
use crate::socket::{Protocol, Socket};
use crate::wire::{Attribute, Attributes, Frame, Message};

const CHAIN_COUNTERS: u16 = 8;
const RULE_HANDLE: u16 = 3;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
/// `NF_DROP` of `linux/netfilter.h`.
const NF_DROP: u32 = 0;

/// A rule or a chain that drops packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dropper {
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The number of the rule; `None` for the chain's policy.
    pub rule: Option<u64>,
}

/// How many packets each of them has dropped, in all families; empty if there is no nf_tables.
pub fn dropped(namespace: &Namespace) -> Result<BTreeMap<Dropper, u64>, Error> {
    match try_dropped(namespace) {
        // The kernel has no nf_tables, or the namespace no tables.
        Err(fault)
            if matches!(
                fault.errno(),
                Some(Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::ENOENT | Errno::EINVAL)
            ) =>
        {
            Ok(BTreeMap::new())
        }
        found => found.map_err(|fault| fault.during("read what netfilter drops")),
    }
}

fn try_dropped(namespace: &Namespace) -> Result<BTreeMap<Dropper, u64>, Fault> {
    let mut socket = Socket::open(Protocol::Netfilter, namespace)?;
    let rules = socket.dump(&request(GET_RULE), rule)?;
    let policies = socket.dump(&request(GET_CHAIN), policy)?;
    Ok(rules.into_iter().chain(policies).collect())
}

/// Asks for all families (`NFPROTO_UNSPEC`).
fn request(kind: u16) -> Message {
    let unspecified = u8::try_from(libc::AF_UNSPEC).unwrap_or_default();
    Message::new(SUBSYSTEM << 8 | kind, 0, &[unspecified, 0, 0, 0])
}

fn rule(frame: &Frame<'_>) -> Option<(Dropper, u64)> {
    let attributes = || frame.attributes(HEADER);
    let (mut counted, mut drops) = (None, false);
    for element in attributes().find(RULE_EXPRESSIONS)?.nested() {
        let expression = || element.nested();
        let name = expression().find(EXPRESSION_NAME)?.text();
        let Some(data) = expression().find(EXPRESSION_DATA) else { continue };
        match name.as_str() {
            "counter" => counted = data.nested().find(COUNTER_PACKETS).and_then(Attribute::u64_be),
            "immediate" => drops |= verdict(data.nested()) == Some(NF_DROP),
            "reject" => drops = true,
            _ => {}
        }
    }
    let dropper = Dropper {
        table: attributes().find(RULE_TABLE)?.text(),
        chain: attributes().find(RULE_CHAIN)?.text(),
        rule: attributes().find(RULE_HANDLE).and_then(Attribute::u64_be),
    };
    counted.filter(|_| drops).map(|packets| (dropper, packets))
}

/// The verdict of an `immediate` expression.
fn verdict(data: Attributes<'_>) -> Option<u32> {
    data.find(IMMEDIATE_DATA)?.nested().find(DATA_VERDICT)?.nested().find(VERDICT_CODE)?.u32_be()
}

fn policy(frame: &Frame<'_>) -> Option<(Dropper, u64)> {
    let attributes = || frame.attributes(HEADER);
    let policy = attributes().find(CHAIN_POLICY).and_then(Attribute::u32_be);
    let counters = attributes().find(CHAIN_COUNTERS).filter(|_| policy == Some(NF_DROP))?;
    let dropper = Dropper {
        table: attributes().find(CHAIN_TABLE)?.text(),
        chain: attributes().find(CHAIN_NAME)?.text(),
        rule: None,
    };
    Some((dropper, counters.nested().find(COUNTER_PACKETS)?.u64_be()?))
}
