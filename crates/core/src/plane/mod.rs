//! The data plane of one host: what the kernel should have, what it has, and what to do about the
//! difference.
//!
//! Each network in use on this host is a *segment*: a network namespace `shout-<vni>` that holds
//! the bridge `shoutbr0`, the VXLAN device `shoutvx0` and one veth end (*port*) per local endpoint.
//! [`desired`] derives all of it from agreed and local state; [`diff`] compares with what was
//! observed and plans [`Action`]s. Both are pure.

mod action;
mod change;
mod desired;
mod diff;
mod forwarding;
mod learning;
mod observed;
mod options;
mod tier;
mod underlay;
mod unkept;

use std::fmt;
use std::str::FromStr;

pub use action::{Action, Place};
pub use change::Change;
pub use desired::{
    Desired, MTU_OPTION, Port, ReplicationCache, Segment, Underlay, Vtep, announced_mtu, desired,
    mtu_excess,
};
pub use diff::diff;
pub use forwarding::{Destination, Filter, Forwarding, UNREGISTERED};
pub use learning::{Learned, Learning, Suspension};
pub use observed::{
    ContainerEnd, Dropped, Observed, ObservedBridge, ObservedPort, ObservedSegment, ObservedTunnel,
    ObservedUnderlayFilter,
};
pub use options::{
    ALL_MULTICAST, InvalidOption, MAC_MOVES_OPTION, MAX_RATE_OPTION, MULTICAST_ROUTE_OPTION,
    check_options, multicast_routes, resolves_names, resolves_public_names,
};
pub use tier::{Tier, UnknownTier};
pub use underlay::{UnderlayFilter, underlay_filter};
pub use unkept::{Unkept, unkept, unkept_networks};

use crate::{EndpointId, InvalidId, NetworkId, Vni};

/// Name of every segment's bridge.
pub const BRIDGE: &str = "shoutbr0";
/// Name of every segment's VXLAN device.
pub const TUNNEL: &str = "shoutvx0";
/// What Docker names the interface inside the container: this, and a number.
pub const CONTAINER_PREFIX: &str = "shout";

/// `mcast_igmp_version` of every bridge: RFC 3376, so that source filters are kept.
pub const IGMP_VERSION: u8 = 3;
/// `mcast_mld_version` of every bridge: RFC 3810.
pub const MLD_VERSION: u8 = 2;
/// How long a bridge takes a port for a member that does not confirm it, in hundredths of a second
/// (`mcast_membership_interval`): as by a robustness variable of 4 (RFC 3376, section 8.4), while
/// the time after which another querier is given up stays that of 2 (section 8.5), 255 s. So if a
/// router in a container ends, which had asked in the bridge's stead, the bridge has asked anew,
/// and all have answered, long before the first membership is over: even one that this router never
/// asked for is confirmed within 125 + 255 + 10 s. With the kernel's 260 s it would come too late.
pub const MEMBERSHIP_INTERVAL: u64 = 51_000;
/// The kernel's own, which is changed; a time that somebody else chose is not.
pub const MEMBERSHIP_INTERVAL_OF_KERNEL: u64 = 26_000;
/// The least `mcast_hash_max` of every bridge, a power of two as the kernel wants it. One group
/// more switches snooping off, and every IPv6 address of a container joins a group; this is enough
/// for 1000 containers with 65 groups each, and no more than some 20 MB of kernel memory.
pub const GROUPS_MAX: u32 = 65_536;
/// `mcast_router` of the VXLAN device's bridge port: gets every group, whether or not a report came
/// from there. The same of the bridge itself: it is given every group, which the guard drops there,
/// so that what goes on is a copy. The original still belongs to the socket that sent it, to which
/// each device that it passes tells when it was sent (`SO_TIMESTAMPING`): PTP daemons take the
/// underlay's second time stamp for a fault.
pub const MULTICAST_ROUTER_ALWAYS: u8 = 2;

/// Name of the namespace of the network with this VNI, under `/run/netns`.
pub fn namespace_name(vni: Vni) -> String {
    format!("shout-{vni}")
}

/// The VNI of a namespace that is named as [`namespace_name`] names them.
pub fn namespace_vni(name: &str) -> Option<Vni> {
    let digits = name
        .strip_prefix("shout-")
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().and_then(Vni::new).filter(|vni| namespace_name(*vni) == name)
}

/// The name of a network device: 1 to 15 octets (`IFNAMSIZ` less its zero), without `/` or white
/// space.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName(String);

impl DeviceName {
    /// The end of the endpoint's veth that stays in the segment's namespace.
    pub fn port(endpoint: &EndpointId) -> Self {
        Self(format!("shp{}", endpoint.short()))
    }

    /// The end that the container gets, while it is in the host's namespace: before Docker takes it
    /// and after Docker gives it back.
    pub fn container(endpoint: &EndpointId) -> Self {
        Self(format!("shc{}", endpoint.short()))
    }

    /// The VXLAN device of a segment.
    pub fn tunnel() -> Self {
        Self(TUNNEL.to_owned())
    }

    /// The name as the kernel has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DeviceName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let sound = (1..=15).contains(&text.len())
            && !text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId::new(text, "a device name (1 to 15 octets)"))
        }
    }
}

/// What shoutd writes into a device's `IFLA_IFALIAS`: its mark. Nothing without one is ever
/// deleted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnerTag {
    /// A bridge or a VXLAN device of this network.
    Network(NetworkId),
    /// Either end of the veth of this endpoint.
    Endpoint(EndpointId),
}

impl fmt::Display for OwnerTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(id) => write!(f, "shoutd network {id}"),
            Self::Endpoint(id) => write!(f, "shoutd endpoint {id}"),
        }
    }
}

impl FromStr for OwnerTag {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if let Some(id) = text.strip_prefix("shoutd network ") {
            return id.parse().map(Self::Network);
        }
        match text.strip_prefix("shoutd endpoint ") {
            Some(id) => id.parse().map(Self::Endpoint),
            None => Err(InvalidId::new(text, "a mark of shoutd")),
        }
    }
}
