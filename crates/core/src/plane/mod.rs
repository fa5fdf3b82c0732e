//! The data plane of one host: desired state, observed state, and the steps between them.
//!
//! Each network in use on this host is a *segment*: a network namespace `shout-<vni>` with the
//! bridge `shoutbr0`, the VXLAN device `shoutvx0` and one veth end (*port*) per local endpoint.
//! [`desired`] derives it from agreed and local state. [`diff`] compares it with the observed state
//! and plans [`Action`]s. Both are pure.

mod action;
mod change;
mod desired;
mod diff;
mod encrypted;
mod forwarding;
mod gateway;
mod learning;
mod observed;
mod options;
mod repairs;
mod tier;
mod underlay;
mod unkept;

use std::fmt;
use std::str::FromStr;

pub use action::{Action, Place};
pub use change::Change;
pub use desired::{
    Desired, MTU_OPTION, Port, ReplicationCache, Segment, Underlay, Vtep, advertised_mtu, desired,
    mtu_excess,
};
pub use diff::diff;
pub use encrypted::{
    Carrier, ENCRYPTED_DEVICE, ENCRYPTED_NAMESPACE, EncryptedPeer, EncryptedUnderlay,
    EncryptionWanted, ObservedEncryption, ObservedPeer, PresharedKeys, encrypted_address,
    refuses_encryption, requests_encryption, vtep_of,
};
pub use forwarding::{Destination, Filter, Forwarding, UNREGISTERED};
pub use gateway::{
    GATEWAY_LINK_LOCAL, GATEWAY_MAC, ObservedUplink, ObservedWayOut, UPLINK, UplinkFar,
    WAY_OUT_BRIDGE, way_out_problem,
};
pub use learning::{Learned, Learning, Suspension};
pub use observed::{
    ContainerEnd, Dropped, Observed, ObservedBridge, ObservedPort, ObservedSegment, ObservedTunnel,
    ObservedUnderlayFilter,
};
pub use options::{
    ALL_MULTICAST, ENCRYPTED_OPTION, INTERFACE_PREFIX, InvalidOption, MAC_MOVES_OPTION,
    MAX_RATE_OPTION, MULTICAST_ROUTE_OPTION, check_options, interface_prefix, multicast_routes,
    resolves_names, resolves_public_names,
};
pub use repairs::{REPAIRS_REMEMBERED, Repairs, Undone};
pub use tier::{Tier, UnknownTier};
pub use underlay::{UnderlayFilter, underlay_filter};
pub use unkept::{Unkept, unkept, unkept_networks};

use encrypted::encryption_wanted;
use serde::{Deserialize, Serialize};

use crate::{EndpointId, InvalidId, NetworkId, Vni};

/// Name of every segment's bridge.
pub const BRIDGE: &str = "shoutbr0";
/// Name of every segment's VXLAN device.
pub const TUNNEL: &str = "shoutvx0";

/// `mcast_igmp_version` of every bridge: IGMPv3 (RFC 3376), for source filters.
pub const IGMP_VERSION: u8 = 3;
/// `mcast_mld_version` of every bridge: MLDv2 (RFC 3810).
pub const MLD_VERSION: u8 = 2;
/// `mcast_membership_interval` of every bridge, in hundredths of a second: how long a membership
/// lasts without a report. It is that of a robustness variable of 4 (RFC 3376, section 8.4),
/// whereas the other-querier-present interval stays that of 2 (section 8.5), 255 s. So when a
/// container that is the querier ends, the bridge takes over and gets reports before a membership
/// expires: even one for which that querier never queried is refreshed within 125 + 255 + 10 s. The
/// kernel's 260 s would be too short.
pub const MEMBERSHIP_INTERVAL: u64 = 51_000;
/// The kernel's default, which we replace. We keep any other value, because a user chose it.
pub const MEMBERSHIP_INTERVAL_OF_KERNEL: u64 = 26_000;
/// The minimum `mcast_hash_max` of every bridge. The kernel requires a power of two. One more group
/// disables snooping, and every IPv6 address of a container joins a group. This suffices for 1000
/// containers with 65 groups each, and uses at most about 20 MB of kernel memory.
pub const GROUPS_MAX: u32 = 65_536;
/// `mcast_router` of the VXLAN device's bridge port: it gets every group, with or without reports
/// from there. The bridge itself has the same value. It then gets every group too (the IGMP/MLD
/// filter drops them there), so that the ports get copies. The original belongs to the socket that
/// sent it, and each device that it passes reports a transmit time stamp to that socket
/// (`SO_TIMESTAMPING`). PTP daemons treat the underlay's second time stamp as a fault
/// (docs/adr/009).
pub const MULTICAST_ROUTER_ALWAYS: u8 = 2;

/// Where the namespaces of networks are, as `ip netns` shows them.
pub const NAMESPACES: &str = "/run/netns";

/// The name, in [`NAMESPACES`], of the namespace of the network with this VNI.
pub fn namespace_name(vni: Vni) -> String {
    format!("shout-{vni}")
}

/// The VNI of a namespace whose name is one of [`namespace_name`].
pub fn namespace_vni(name: &str) -> Option<Vni> {
    let digits = name
        .strip_prefix("shout-")
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().and_then(Vni::new).filter(|vni| namespace_name(*vni) == name)
}

/// The name of a network device: 1 to 15 octets (`IFNAMSIZ` minus the terminating zero), without
/// `/` and white space.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName(String);

impl TryFrom<String> for DeviceName {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.0
    }
}

impl DeviceName {
    /// The end of the endpoint's veth pair in the segment's namespace.
    pub fn port(endpoint: &EndpointId) -> Self {
        Self(format!("shp{}", endpoint.short()))
    }

    /// The container's end while it is in the host's namespace: before Docker moves it into the
    /// container, and after Docker moves it back.
    pub fn container(endpoint: &EndpointId) -> Self {
        Self(format!("shc{}", endpoint.short()))
    }

    /// The end of a segment's uplink in the host's namespace.
    pub fn uplink(vni: Vni) -> Self {
        Self(format!("shg{vni}"))
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
        let is_valid = (1..=15).contains(&text.len())
            && !text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
        if is_valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId::new(text, "a device name (1 to 15 octets)"))
        }
    }
}

/// How an endpoint's interface is named in its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceName {
    /// As the user asked: the endpoint's option `com.docker.network.endpoint.ifname`, from Docker
    /// 28 on.
    Fixed(DeviceName),
    /// This prefix and the first free number, as Docker does it.
    Numbered {
        /// The prefix.
        prefix: String,
    },
}

impl InterfaceName {
    /// A name with this prefix.
    pub fn numbered(prefix: &str) -> Self {
        Self::Numbered { prefix: prefix.to_owned() }
    }

    /// The name for an interface of a container that has interfaces with these names.
    pub fn choose(&self, taken: &[String]) -> String {
        match self {
            Self::Fixed(name) => name.to_string(),
            Self::Numbered { prefix } => {
                let names = (0..=taken.len()).map(|number| format!("{prefix}{number}"));
                let mut free = names.filter(|name| !taken.contains(name));
                free.next().unwrap_or_else(|| prefix.clone())
            }
        }
    }
}

/// The owner tag of the WireGuard device.
const ENCRYPTION_TAG: &str = "shoutd encryption";

/// The mark by which shoutd knows what it created, in a device's `IFLA_IFALIAS`. Nothing without an
/// owner tag is ever deleted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnerTag {
    /// A bridge, a VXLAN device or an end of the uplink of this network.
    Network(NetworkId),
    /// Either end of this endpoint's veth pair.
    Endpoint(EndpointId),
    /// The WireGuard device.
    Encryption,
}

impl fmt::Display for OwnerTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(id) => write!(f, "shoutd network {id}"),
            Self::Endpoint(id) => write!(f, "shoutd endpoint {id}"),
            Self::Encryption => f.write_str(ENCRYPTION_TAG),
        }
    }
}

impl FromStr for OwnerTag {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text == ENCRYPTION_TAG {
            return Ok(Self::Encryption);
        }
        if let Some(id) = text.strip_prefix("shoutd network ") {
            return id.parse().map(Self::Network);
        }
        match text.strip_prefix("shoutd endpoint ") {
            Some(id) => id.parse().map(Self::Endpoint),
            None => Err(InvalidId::new(text, "an owner tag of shoutd")),
        }
    }
}
