//! The filter of a segment's way out: routes packets from the segment's bridge to its uplink, with
//! the uplink's address as their source, and lets only answers come back.
//!
//! It is a table of the IPv4 family in the segment's namespace. Its translation makes the kernel
//! track the connections that are routed there, and no bridged ones: bridged frames do not pass the
//! hooks of this family (`bridge-nf-call-iptables` is off in the namespace).

use crate::error::Error;
use crate::igmp_mld_filter::name_value;
use crate::namespace::Namespace;
use crate::nftables::{
    self, CT_ESTABLISHED, CT_RELATED, ChainKind, Comparison, Content, Expression, Family, Hook,
    Meta, OwnChain, TableName,
};
use crate::socket::{Protocol, Socket};

const TABLE: TableName = TableName { family: Family::Ipv4, name: "shoutd" };
/// Part of every rule, so that we recognize the filter of another version of shoutd. Raise it with
/// every change of the rules.
const VERSION: u32 = 1;
/// `NF_IP_PRI_NAT_SRC`.
const PRIORITY_NAT_SOURCE: i32 = 100;

/// The filter of one namespace's way out.
#[derive(Debug)]
pub struct WayOutFilter {
    socket: Socket,
}

/// The devices between which the filter lets packets pass.
#[derive(Debug, Clone, Copy)]
pub struct WayOut<'a> {
    /// The device of the containers.
    pub inside: &'a str,
    /// The device that leads out.
    pub outside: &'a str,
}

impl WayOutFilter {
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

    /// Installs the filter and replaces an existing one atomically. Tracked connections stay.
    pub fn install(&mut self, way: &WayOut<'_>) -> Result<(), Error> {
        let mut batch = nftables::empty_table(TABLE);
        for (hook, rules) in chains(way) {
            let (kind, name, priority) = match hook {
                Hook::Postrouting => (ChainKind::Nat, "postrouting", PRIORITY_NAT_SOURCE),
                _ => (ChainKind::Filter, "forward", 0),
            };
            batch.push(nftables::new_chain_of(kind, TABLE, name, hook, priority));
            let rules = rules.iter().enumerate();
            batch.extend(rules.map(|(position, rule)| {
                nftables::new_rule(TABLE, name, &userdata(way, position), rule)
            }));
        }
        nftables::commit(&mut self.socket, batch)
            .map_err(|fault| fault.during("install the nf_tables filter of a way out"))
    }

    /// Removes the filter. A missing one is not an error.
    pub fn remove(&mut self) -> Result<(), Error> {
        nftables::delete_table(&mut self.socket, TABLE)
            .map_err(|fault| fault.during("remove the nf_tables filter of a way out"))
    }

    /// Whether the filter is complete: not dormant, every chain at its hook, every rule in its
    /// place, and no other rule.
    pub fn is_whole(&mut self, way: &WayOut<'_>) -> Result<bool, Error> {
        let found = Content::read(&mut self.socket, TABLE)
            .map_err(|fault| fault.during("read the nf_tables filter of a way out"))?;
        let expected = Content::of(chains(way).map(|(hook, rules)| OwnChain {
            name: if hook == Hook::Postrouting { "postrouting" } else { "forward" },
            hook,
            userdata: (0..rules.len()).map(|position| userdata(way, position)).collect(),
        }));
        Ok(found == expected)
    }
}

fn userdata(way: &WayOut<'_>, position: usize) -> String {
    format!("shoutd way out {VERSION} {} {} {position}", way.inside, way.outside)
}

/// The rules of each chain.
fn chains(way: &WayOut<'_>) -> [(Hook, Vec<Vec<Expression>>); 2] {
    let matches = |meta, device: &str| {
        [Expression::LoadMeta(meta), Expression::Compare(Comparison::Equal, name_value(device))]
    };
    let outwards = matches(Meta::InputName, way.inside)
        .into_iter()
        .chain(matches(Meta::OutputName, way.outside))
        .chain([Expression::Accept]);
    let answers = matches(Meta::InputName, way.outside)
        .into_iter()
        .chain(matches(Meta::OutputName, way.inside))
        .chain([
            Expression::LoadConnectionState,
            Expression::Mask((CT_ESTABLISHED | CT_RELATED).to_ne_bytes().to_vec()),
            Expression::Compare(Comparison::NotEqual, vec![0; 4]),
            Expression::Accept,
        ]);
    let masquerade = matches(Meta::OutputName, way.outside).into_iter();
    [
        (Hook::Forward, vec![outwards.collect(), answers.collect(), vec![Expression::Drop]]),
        (Hook::Postrouting, vec![masquerade.chain([Expression::Masquerade]).collect()]),
    ]
}
