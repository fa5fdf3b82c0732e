//! The observed state of the kernel. It is always read back, never assumed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

use super::{
    DeviceName, Learned, ObservedEncryption, ObservedUplink, ObservedWayOut, OwnerTag, Place,
    UnderlayFilter,
};
use crate::{MacAddress, NetworkId, Vni};

/// The underlay filter and all segments of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The underlay filter.
    pub underlay_filter: ObservedUnderlayFilter,
    /// The encrypted underlay, if there is one.
    pub encryption: Option<ObservedEncryption>,
    /// The way-out bridge, if it exists and has an IPv4 address.
    pub way_out: Option<ObservedWayOut>,
    /// The namespaces whose names are those of segments, by the VNI in the name.
    pub segments: BTreeMap<Vni, ObservedSegment>,
    /// The queried sandboxes whose path is not, or no longer, a network namespace.
    pub missing_sandboxes: BTreeSet<PathBuf>,
    /// The sandboxes that cannot be read, with the reason. For these we report the state that was
    /// read last.
    pub unreadable_sandboxes: BTreeMap<PathBuf, String>,
    /// The segments that cannot be read, with the reason. They are not in `segments`, and we do not
    /// change them.
    pub unreadable_segments: BTreeMap<Vni, String>,
}

/// The underlay filter, as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ObservedUnderlayFilter {
    /// There is no filter.
    #[default]
    Absent,
    /// The filter is not as this version of shoutd installs it.
    Broken,
    /// The filter is intact.
    Whole {
        /// What it enforces.
        filter: UnderlayFilter,
        /// Whether it also drops packets of containers with a forged member's address.
        complete: bool,
        /// How many packets it has dropped since it was installed.
        dropped: Dropped,
    },
    /// The filter cannot be read, with the reason.
    Unreadable(String),
}

/// How many packets the underlay filter has dropped, by origin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// From other machines and from containers, to this host.
    pub input: u64,
    /// From containers of this host, to other hosts.
    pub forward: u64,
    /// From processes of this host, to other hosts.
    pub output: u64,
}

/// Whether packets were counted since `before`. A lower count started again from zero.
fn has_grown(count: u64, before: u64) -> bool {
    count > before || (count < before && count > 0)
}

impl Dropped {
    /// What was dropped since the counts of `before`, one sentence per origin. A count below that
    /// of `before` started again when the filter was replaced.
    pub fn since(&self, before: &Self) -> Vec<&'static str> {
        let origins = [
            (
                has_grown(self.input, before.input),
                "dropped VXLAN packets from an address outside of the cluster, or cluster traffic \
                 from a container; if a host of the cluster sent them, NAT between the hosts \
                 changes their source address",
            ),
            (
                has_grown(self.forward, before.forward),
                "dropped packets from a container, or from a machine behind this host, to the \
                 VXLAN or cluster port of other hosts",
            ),
            (
                has_grown(self.output, before.output),
                "dropped packets from a process on this host to the VXLAN port of other hosts",
            ),
        ];
        origins.into_iter().filter_map(|(has_grown, text)| has_grown.then_some(text)).collect()
    }
}

impl ObservedUnderlayFilter {
    /// How many packets it has dropped.
    pub fn dropped(&self) -> Dropped {
        match self {
            Self::Whole { dropped, .. } => *dropped,
            _ => Dropped::default(),
        }
    }

    /// What the filter enforces, if it is intact.
    pub fn enforced(&self) -> Option<&UnderlayFilter> {
        match self {
            Self::Whole { filter, .. } => Some(filter),
            _ => None,
        }
    }

    /// What it cannot enforce, as a problem text.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Whole { complete: false, .. } => Some(
                "this kernel's nftables cannot look up the way back to a packet's source (it needs \
                 Linux 5.19): a container that may send raw packets can inject frames into \
                 networks that it is not attached to"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

impl Observed {
    /// A problem text for each sandbox and each segment that cannot be read.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let lines = self.unreadable_segments.iter().map(|(vni, error)| {
            format!(
                "cannot read the kernel state of the network with VNI {vni}, so nothing is \
                 changed there: {error}"
            )
        });
        self.sandbox_problems().chain(lines)
    }

    fn sandbox_problems(&self) -> impl Iterator<Item = String> {
        self.unreadable_sandboxes.iter().map(|(path, error)| {
            format!(
                "cannot read the network namespace {} of a container, so its interface is not \
                 changed: {error}",
                path.display()
            )
        })
    }
}

/// A namespace `shout-<vni>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedSegment {
    /// The bridge, if shoutd created a device with its name.
    pub bridge: Option<ObservedBridge>,
    /// The VXLAN device, if shoutd created a device with its name.
    pub tunnel: Option<ObservedTunnel>,
    /// Whether the IGMP/MLD filter is intact.
    pub igmp_mld_filter: bool,
    /// Multicast and broadcast packets per second that the filter lets each endpoint send.
    pub max_rate: Option<u32>,
    /// The gateways that the filter protects.
    pub gateways: BTreeSet<IpAddr>,
    /// Whether the filter of the way out is intact.
    pub way_out_filter: bool,
    /// The uplink, if shoutd created a device with its name.
    pub uplink: Option<ObservedUplink>,
    /// The flood entries: the VTEPs in the all-zero FDB entry of the VXLAN device.
    pub flood: BTreeSet<IpAddr>,
    /// The learned MAC addresses.
    pub learned: Learned,
    /// The other devices that shoutd created.
    pub ports: BTreeMap<DeviceName, ObservedPort>,
    /// Devices that shoutd did not create, except those of every namespace. We never touch them,
    /// and keep their namespace.
    pub foreign: BTreeSet<DeviceName>,
}

impl ObservedSegment {
    /// Whether it contains something of shoutd, or nothing at all.
    pub fn is_ours(&self) -> bool {
        let is_used = self.bridge.is_some()
            || self.tunnel.is_some()
            || self.igmp_mld_filter
            || self.way_out_filter
            || self.uplink.is_some()
            || !self.ports.is_empty();
        is_used || self.foreign.is_empty()
    }

    /// The network for which it was created, by the owner tag of its bridge or VXLAN device.
    pub fn network(&self) -> Option<&NetworkId> {
        let marks = [self.bridge.as_ref().map(|b| &b.mark), self.tunnel.as_ref().map(|t| &t.mark)];
        marks.into_iter().flatten().find_map(|mark| match mark {
            Some(OwnerTag::Network(id)) => Some(id),
            _ => None,
        })
    }
}

/// A bridge as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedBridge {
    /// The owner tag in its alias; `None` if it is incomplete.
    pub mark: Option<OwnerTag>,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Its addresses, without IPv6 link-local ones.
    pub addresses: BTreeSet<IpNet>,
    /// Whether the kernel routes IPv4 packets that come in by it.
    pub forwards: bool,
    /// Its MTU in octets.
    pub mtu: u16,
    /// Whether it is up.
    pub up: bool,
    /// `mcast_snooping`.
    pub snooping: bool,
    /// `mcast_querier`.
    pub querier: bool,
    /// `mcast_igmp_version`: 2 or 3.
    pub igmp_version: u8,
    /// `mcast_mld_version`: 1 or 2.
    pub mld_version: u8,
    /// `mcast_hash_max`: with more groups, the bridge disables snooping.
    pub groups_max: u32,
    /// `mcast_router`: 2 means that the bridge gets all multicast, so that ports get copies.
    pub multicast_router: u8,
    /// `mcast_membership_interval`, in hundredths of a second.
    pub membership_interval: u64,
    /// The limit for learned MAC addresses, 0 for none; `None` if the kernel cannot limit them.
    pub learned_max: Option<u32>,
    /// Whether it has [`GATEWAY_LINK_LOCAL`](super::GATEWAY_LINK_LOCAL), which it needs to send MLD
    /// queries, and no other link-local address; true if the kernel has no IPv6.
    pub link_local: bool,
}

/// A VXLAN device as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedTunnel {
    /// The owner tag in its alias; `None` if it is incomplete.
    pub mark: Option<OwnerTag>,
    /// VNI; `None` if it is not a VXLAN device.
    pub vni: Option<Vni>,
    /// Source address of the packets that it sends.
    pub local: Option<IpAddr>,
    /// UDP port it sends to and receives on.
    pub port: u16,
    /// Whether it learns MAC addresses from received frames.
    pub learning: bool,
    /// Whether the bridge learns from them.
    pub port_learning: bool,
    /// Its MTU in octets.
    pub mtu: u16,
    /// Whether it is up.
    pub up: bool,
    /// Whether the segment's bridge is its master.
    pub enslaved: bool,
    /// Bridge port setting `mcast_router`: 2 means that it always is a router port.
    pub multicast_router: u8,
}

/// A veth end in the segment's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPort {
    /// The owner tag in its alias; `None` if it is incomplete.
    pub mark: Option<OwnerTag>,
    /// Its MTU in octets.
    pub mtu: u16,
    /// Whether it is up.
    pub up: bool,
    /// Whether the segment's bridge is its master.
    pub enslaved: bool,
    /// Whether the bridge learns MAC addresses from the frames that it receives by this port.
    pub learning: bool,
    /// The limit for its MDB entries; `None` if the kernel does not count them.
    pub groups_max: Option<u32>,
    /// The container's end, if it was found in the host's namespace or in a sandbox of local state.
    pub container_end: Option<ContainerEnd>,
}

/// The end of a veth pair that is the container's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEnd {
    /// Its namespace.
    pub place: Place,
    /// Its name there.
    pub name: DeviceName,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Its MTU in octets.
    pub mtu: u16,
    /// Whether it is up.
    pub up: bool,
    /// All its addresses, including those that we did not set.
    pub addresses: BTreeSet<IpNet>,
    /// Whether duplicate address detection runs for its IPv6 link-local address, which cannot be
    /// used until then, or would run for the next one.
    pub detects_duplicates: bool,
    /// The IPv4 multicast prefixes with a connected route on it.
    pub multicast_routes: BTreeSet<Ipv4Net>,
}
