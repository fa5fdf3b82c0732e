//! What the hosts tell about the way of a group's packets on one network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Counts, Kept};
use crate::multicast::{SourceFilter, group_mac, is_link_local};
use crate::plane::{Destination, Forwarding};
use crate::tunnel::Carriage;
use crate::{EndpointId, NetworkId};

/// Asks a host for its facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskFacts {
    /// The network.
    pub network: NetworkId,
    /// The group.
    pub group: IpAddr,
}

/// The facts of one host that has the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Its containers on the network.
    pub containers: Vec<ContainerFacts>,
    /// Its segment, or why it cannot be read.
    pub segment: Option<Result<SegmentFacts, String>>,
    /// What it knows of the other hosts that have the network, by their VTEPs.
    pub peers: BTreeMap<IpAddr, PeerFacts>,
    /// Whether the tunnel from each of these hosts to this one carries, by their VTEPs.
    #[serde(default)]
    pub tunnels: BTreeMap<IpAddr, Carriage>,
    /// Its end of the encrypted networks, if the network is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionFacts>,
    /// The problems in its status.
    pub problems: Vec<String>,
    /// The group's packets that it counted, if it was asked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// Why it did not count or send the probe, though it was asked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncounted: Option<String>,
    /// The packets that it kept, if it was asked to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
}

/// A host's end of the encrypted networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptionFacts {
    /// The UDP port at which its WireGuard receives.
    pub port: u16,
    /// Why it does not encrypt, if so.
    pub failure: Option<String>,
}

/// What a host knows of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFacts {
    /// Whether it is in sync with the other host's advertisement.
    pub in_sync: bool,
    /// The source filter of the other host's members of the group, as it was advertised.
    pub filter: Option<SourceFilter>,
}

/// A container on the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// The container's name, or the short id of its endpoint.
    pub name: String,
    /// Its endpoint.
    pub endpoint: EndpointId,
    /// Its addresses on the network.
    pub addresses: Vec<IpAddr>,
    /// Whether Docker has paused it; `None` if the engine did not answer.
    pub paused: Option<bool>,
    /// Its port on the bridge.
    pub port: Option<PortFacts>,
    /// What its network namespace has, or why that cannot be read.
    pub inside: Result<InsideFacts, String>,
}

/// A container's port on the segment's bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFacts {
    /// Whether it is up.
    pub up: bool,
    /// The source filter of the group in the bridge's MDB; `None` if the port is not a member.
    pub filter: Option<SourceFilter>,
    /// Whether there is a multicast router behind it, which gets every group.
    pub router: bool,
}

/// What a container's network namespace has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsideFacts {
    /// Its interface on the network; `None` if it has none.
    pub interface: Option<InterfaceFacts>,
    /// The interface by which its routes send to the group; `None` if no route does.
    pub route: Option<String>,
    /// The interface by which it sends to each address of the network's other containers, if not
    /// that of the network.
    pub detours: BTreeMap<IpAddr, String>,
    /// The interfaces on which it has joined the group.
    pub joined: BTreeSet<String>,
    /// The other groups that it has joined on the network's interface, without those that every
    /// host joins.
    pub other_groups: BTreeSet<IpAddr>,
    /// The UDP sockets that can receive the group's packets: bound to it, or to any address.
    pub sockets: Vec<SocketFacts>,
    /// The UDP sockets that may send to the group: connected to it, or to no address.
    #[serde(default)]
    pub senders: Vec<SendingSocket>,
    /// What its netfilter dropped while the host collected its facts, whichever packets it were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netfilter_now: Option<NetfilterDrops>,
}

/// Packets that a rule or the policy of a chain dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetfilterDrops {
    /// The table and the chain.
    pub place: String,
    /// How many.
    pub packets: u64,
}

/// A UDP socket of a container that may send to the group, as far as it can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendingSocket {
    /// Its local address and port.
    pub local: SocketAddr,
    /// Whether it is connected to the group, and so certainly is a sender.
    pub is_connected: bool,
    /// Its TTL or hop limit for multicast.
    pub ttl: u8,
    /// The name of the interface that the program selected, or its address if no interface has it;
    /// `None` if the routes decide.
    pub interface: Option<String>,
}

/// A container's interface on the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceFacts {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Whether the kernel drops packets from a source to which it would not send by this interface
    /// (`rp_filter` 1, RFC 3704).
    pub strict_reverse_path: bool,
}

/// A UDP socket of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFacts {
    /// Its local address and port.
    pub local: SocketAddr,
    /// The datagrams that it has dropped, mostly because its receive buffer was full.
    pub drops: u64,
    /// How many of them were dropped while the host collected its facts.
    pub drops_now: u64,
}

/// The segment of the network on one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentFacts {
    /// Whether the bridge exists and is up.
    pub bridge: bool,
    /// Whether it forwards multicast only to members (`mcast_snooping`).
    pub snooping: bool,
    /// Whether the VXLAN device exists and is up.
    pub tunnel: bool,
    /// Where the VXLAN device sends the group's packets.
    pub sends_to: SendsTo,
    /// How many packets of containers the limit of the network's option `shoutd.max-rate` dropped
    /// while the host collected its facts.
    #[serde(default)]
    pub over_rate_now: u64,
    /// What something else on the host removes again and again, and how many times it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<(String, usize)>,
}

/// The VTEPs to which a VXLAN device sends the packets of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendsTo {
    /// For the sources that have entries of their own.
    pub by_source: BTreeMap<IpAddr, BTreeSet<IpAddr>>,
    /// For all other sources.
    pub others: BTreeSet<IpAddr>,
}

impl SendsTo {
    /// What these tables do with the group's packets, as the kernel looks them up: the VXLAN MDB
    /// if it has any entry (`vxlan_mdb_entry_skb_get`), then the FDB entry of the group's MAC
    /// address, then the flood entries. `flood` are the latter.
    pub fn read(tables: &Forwarding, flood: &BTreeSet<IpAddr>, group: IpAddr) -> Self {
        let mac = || tables.group_macs.get(&group_mac(group)).unwrap_or(flood).clone();
        if !tables.filter.passes(group) {
            return Self::default();
        }
        if is_link_local(group) || tables.groups.is_empty() {
            return Self { by_source: BTreeMap::new(), others: mac() };
        }
        let entry = |key| tables.groups.get(&key).map(hosts);
        let by_source = tables.groups.iter().filter(|((_, found), _)| *found == group);
        let by_source =
            by_source.filter_map(|((source, _), to)| Some(((*source)?, hosts(to)))).collect();
        let any: IpAddr = if group.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let others = entry((None, group)).or_else(|| entry((None, any)));
        Self { by_source, others: others.unwrap_or_else(mac) }
    }

    /// The VTEPs for packets of this source, or of one without entries of its own.
    pub fn of(&self, source: Option<IpAddr>) -> &BTreeSet<IpAddr> {
        source.and_then(|source| self.by_source.get(&source)).unwrap_or(&self.others)
    }
}

fn hosts(to: &BTreeSet<Destination>) -> BTreeSet<IpAddr> {
    to.iter()
        .filter_map(|to| match to {
            Destination::Host(remote) => Some(*remote),
            Destination::Nowhere => None,
        })
        .collect()
}
