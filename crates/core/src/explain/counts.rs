//! The packets of a group that hosts counted, place by place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AskFacts, AskWhy, Explanation, Station};
use crate::EndpointId;

/// What a user asks: where do the packets to this group come, and where do they stop?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskTrace {
    /// The way; the group is required.
    pub why: AskWhy,
    /// How long to count, in milliseconds; `None` for as long as the probe takes.
    pub milliseconds: Option<u64>,
    /// The datagrams to send from the sender; `None` to count what programs send.
    pub probe: Option<TraceProbe>,
    /// How many packets to keep at each place; 0 to count only.
    #[serde(default)]
    pub kept: usize,
}

/// UDP datagrams that shoutd sends in a container's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceProbe {
    /// Octets of content.
    pub size: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// How many.
    pub count: u16,
}

impl TraceProbe {
    /// The UDP port if the user names none: discard (RFC 863), to which no program listens.
    pub const PORT: u16 = 9;

    /// The time between two datagrams.
    pub const INTERVAL: Duration = Duration::from_millis(10);

    /// How long it takes to send them.
    pub fn duration(&self) -> Duration {
        Self::INTERVAL * self.count.into()
    }
}

/// Asks a host to count the group's packets, and to tell its facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskCounts {
    /// The network and the group.
    pub facts: AskFacts,
    /// Only UDP packets to this port.
    pub port: Option<u16>,
    /// Only packets from this address.
    pub source: Option<IpAddr>,
    /// How long, in milliseconds.
    pub milliseconds: u64,
    /// At these containers only; empty for all.
    pub containers: BTreeSet<EndpointId>,
    /// At the tunnels of the hosts with these VTEPs only; empty for all.
    #[serde(default)]
    pub hosts: BTreeSet<IpAddr>,
    /// The datagrams to send, and the container from which they come.
    pub probe: Option<(EndpointId, TraceProbe)>,
    /// Whether all hosts count before the first of the packets is sent, and after the last one.
    pub is_exact: bool,
    /// How many packets to keep at each place.
    #[serde(default)]
    pub kept: usize,
}

/// The packets that passed a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InOut {
    /// Those that it received.
    pub inbound: u64,
    /// Those that it was to send.
    pub outbound: u64,
}

/// What one host counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// How long, in milliseconds.
    pub milliseconds: u64,
    /// See [`AskCounts::is_exact`].
    pub is_exact: bool,
    /// At its containers.
    pub containers: BTreeMap<EndpointId, ContainerCounts>,
    /// How many containers and other hosts were left out, because the host counts at so many only.
    pub left_out: usize,
    /// At the VXLAN device.
    pub tunnel: InOut,
    /// In VXLAN to and from other hosts, at the underlay's devices, by the hosts' VTEPs. Hosts that
    /// were left out are missing.
    pub underlay: BTreeMap<IpAddr, InOut>,
}

/// What was counted at one container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerCounts {
    /// At its interface on the network.
    pub interface: InOut,
    /// At its port on the bridge, which is inbound what the container sends.
    pub port: InOut,
    /// What it sent by its other interfaces.
    pub elsewhere: u64,
    /// All packets of the group's family that IP delivered in its namespace, also of other groups
    /// and addresses.
    pub delivered: u64,
}

/// Where a host keeps packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptAt {
    /// At a container's interface on the network.
    Interface(EndpointId),
    /// At its other interfaces.
    Elsewhere(EndpointId),
    /// At its port on the bridge.
    Port(EndpointId),
    /// At the VXLAN device.
    Tunnel,
    /// At the underlay's device, in VXLAN to and from the host with this VTEP.
    Underlay(IpAddr),
}

/// A packet that a host kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptPacket {
    /// When it passed, by the host's clock, in nanoseconds since 1970.
    pub at: u64,
    /// Whether the device was to send it; otherwise it received it.
    pub outbound: bool,
    /// Its length in octets, from the IP header on.
    pub length: usize,
    /// The first octets of it, in base64.
    pub octets: String,
}

/// The packets that a host kept at one place, by time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The place.
    pub at: KeptAt,
    /// The packets.
    pub packets: Vec<KeptPacket>,
}

/// The packets that were kept at one place of the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptPlace {
    /// The host and the place, in words.
    pub place: String,
    /// The packets, by time.
    pub packets: Vec<KeptPacket>,
}

/// How many packets passed one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CountedAt {
    /// The station.
    pub station: Station,
    /// The host's name.
    pub host: String,
    /// Where, in words.
    pub place: String,
    /// How many.
    pub packets: u64,
}

/// The way of a group's packets, as it was counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trace {
    /// How long the hosts counted, in milliseconds.
    pub milliseconds: u64,
    /// The findings.
    pub explanation: Explanation,
    /// The counts, in the order of the way.
    pub counts: Vec<CountedAt>,
    /// The packets that were kept, if the user asked for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptPlace>,
}
