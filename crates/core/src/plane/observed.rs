//! What the kernel has: read back, never assumed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

use super::{DeviceName, Learned, OwnerTag, Place, UnderlayFilter};
use crate::{MacAddress, NetworkId, Vni};

/// The filter of the host's namespace, and all segments of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The filter in the host's own namespace.
    pub underlay_filter: ObservedUnderlayFilter,
    /// The namespaces that are named as shoutd names them, by the VNI in the name.
    pub segments: BTreeMap<Vni, ObservedSegment>,
    /// Those of the sandboxes asked about whose path is no network namespace (any more).
    pub missing_sandboxes: BTreeSet<PathBuf>,
    /// Those in which it could not be read what there is, and why: of them is shown what was last
    /// read.
    pub unreadable_sandboxes: BTreeMap<PathBuf, String>,
    /// Segments of which it could not be read what there is, and why: they are not among
    /// `segments`, and nothing is done to them.
    pub unreadable_segments: BTreeMap<Vni, String>,
}

/// The filter that keeps strangers off the VXLAN port, as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ObservedUnderlayFilter {
    /// There is none.
    #[default]
    Absent,
    /// It is not as this version of shoutd makes it.
    Broken,
    /// It is whole.
    Whole {
        /// What it enforces.
        filter: UnderlayFilter,
        /// Whether it also drops what containers send with a member's address as a forged source.
        complete: bool,
        /// How many packets it has dropped since it was installed.
        dropped: Dropped,
    },
    /// It cannot be read, and why.
    Unreadable(String),
}

/// How many packets the underlay filter has dropped, by who sent them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Strangers, and containers, to this host.
    pub input: u64,
    /// Containers of this host, to other hosts.
    pub forward: u64,
    /// Processes of this host, to other hosts.
    pub output: u64,
}

impl Dropped {
    /// What was dropped since another count, a sentence for each kind of sender. A count that is
    /// lower than the other began again when the filter was replaced.
    pub fn since(&self, before: &Self) -> Vec<&'static str> {
        let has_grown = |count: u64, before: u64| count > before || (count < before && count > 0);
        let senders = [
            (
                has_grown(self.input, before.input),
                "VXLAN from an address that is no other host's of the cluster, or agreement \
                 traffic from a container, was dropped; if it was a host's, something between the \
                 hosts changes addresses (NAT)",
            ),
            (
                has_grown(self.forward, before.forward),
                "a container, or a machine behind this host, sent to other hosts' VXLAN or \
                 agreement port: dropped",
            ),
            (
                has_grown(self.output, before.output),
                "a process of this host sent to other hosts' VXLAN port: dropped",
            ),
        ];
        senders.into_iter().filter_map(|(has_grown, text)| has_grown.then_some(text)).collect()
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

    /// What it enforces, if it is whole.
    pub fn enforced(&self) -> Option<&UnderlayFilter> {
        match self {
            Self::Whole { filter, .. } => Some(filter),
            _ => None,
        }
    }

    /// What it does not do, in a line.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Whole { complete: false, .. } => Some(
                "this kernel cannot tell by which kind of device a packet came in (Linux 5.13 \
                 can): a container that may send raw packets can put frames into networks it is \
                 not on"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

impl Observed {
    /// Of each sandbox and each segment that cannot be read, a line that says so.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let line = |(vni, error): (&Vni, &String)| {
            format!(
                "cannot read what the network with VNI {vni} has in the kernel, so nothing is \
                 changed there: {error}"
            )
        };
        self.sandbox_problems().chain(self.unreadable_segments.iter().map(line))
    }

    fn sandbox_problems(&self) -> impl Iterator<Item = String> {
        let line = |(path, error): (&PathBuf, &String)| {
            format!(
                "cannot look into the container at {}, whose interface stays as it was last seen: \
                 {error}",
                path.display()
            )
        };
        self.unreadable_sandboxes.iter().map(line)
    }
}

/// One namespace `shout-<vni>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedSegment {
    /// Its bridge, if shoutd made a device of that name.
    pub bridge: Option<ObservedBridge>,
    /// Its VXLAN device, if shoutd made a device of that name.
    pub tunnel: Option<ObservedTunnel>,
    /// Whether the filter is whole that keeps IGMP and MLD off the tunnel.
    pub igmp_mld_filter: bool,
    /// What it lets each endpoint send of multicast and broadcast, in packets a second.
    pub max_rate: Option<u32>,
    /// Hosts that get broadcast, unknown unicast and what is not narrowed: the all-zero FDB entries
    /// of the VXLAN device.
    pub flood: BTreeSet<IpAddr>,
    /// What was learnt from traffic.
    pub learned: Learned,
    /// The other devices that shoutd made.
    pub ports: BTreeMap<DeviceName, ObservedPort>,
    /// Devices, beside those that every namespace has, that shoutd did not make: never touched, and
    /// a reason to keep the namespace.
    pub foreign: BTreeSet<DeviceName>,
}

impl ObservedSegment {
    /// Whether there is something of shoutd in it, or nothing at all.
    pub fn is_ours(&self) -> bool {
        let is_used = self.bridge.is_some()
            || self.tunnel.is_some()
            || self.igmp_mld_filter
            || !self.ports.is_empty();
        is_used || self.foreign.is_empty()
    }

    /// The network it was made for, by the mark on its bridge or VXLAN device.
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
    /// Its alias, if that is a mark of shoutd; `None` if it is half made.
    pub mark: Option<OwnerTag>,
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
    /// `mcast_hash_max`: more groups than this switch snooping off.
    pub groups_max: u32,
    /// `mcast_router`: 2 is "given all multicast", by which the bridge sends copies on.
    pub multicast_router: u8,
    /// `mcast_membership_interval`, in hundredths of a second.
    pub membership_interval: u64,
    /// MAC addresses that it learns, 0 for any number; `None` where the kernel has no limit to set.
    pub learned_max: Option<u32>,
    /// Whether it has the IPv6 link-local address without which it sends no MLD queries; true where
    /// the kernel has no IPv6.
    pub link_local: bool,
}

/// A VXLAN device as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedTunnel {
    /// Its alias, if that is a mark of shoutd; `None` if it is half made.
    pub mark: Option<OwnerTag>,
    /// VNI; `None` if the device is not VXLAN at all.
    pub vni: Option<Vni>,
    /// Source address of what it sends.
    pub local: Option<IpAddr>,
    /// UDP port it sends to and receives on.
    pub port: u16,
    /// Whether it learns where MAC addresses are from what arrives.
    pub learning: bool,
    /// Whether the bridge does so.
    pub port_learning: bool,
    /// Its MTU in octets.
    pub mtu: u16,
    /// Whether it is up.
    pub up: bool,
    /// Whether the segment's bridge is its master.
    pub enslaved: bool,
    /// Bridge port setting `mcast_router`: 2 is "always a router port".
    pub multicast_router: u8,
}

/// A veth end in the segment's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPort {
    /// Its alias, if that is a mark of shoutd; `None` if it is half made.
    pub mark: Option<OwnerTag>,
    /// Its MTU in octets.
    pub mtu: u16,
    /// Whether it is up.
    pub up: bool,
    /// Whether the segment's bridge is its master.
    pub enslaved: bool,
    /// Whether the bridge learns addresses from what comes in by it.
    pub learning: bool,
    /// Entries of the multicast database it may have; `None` where the kernel does not count them.
    pub groups_max: Option<u32>,
    /// The other end, where it was looked for and found: in the host's namespace and in the
    /// sandboxes that local state names.
    pub container_end: Option<ContainerEnd>,
}

/// The end of a veth that is the container's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEnd {
    /// Where it is.
    pub place: Place,
    /// Its name there.
    pub name: DeviceName,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Its MTU in octets.
    pub mtu: u16,
    /// Whether it is up.
    pub up: bool,
    /// Its addresses: also those that somebody else gave it, or the kernel by itself.
    pub addresses: BTreeSet<IpNet>,
    /// Whether duplicates are being looked for of its IPv6 link-local address, which cannot be used
    /// meanwhile, or would be of the next one.
    pub detects_duplicates: bool,
    /// The destinations of the connected routes of IPv4 multicast that lead out of it.
    pub multicast_routes: BTreeSet<Ipv4Net>,
}
