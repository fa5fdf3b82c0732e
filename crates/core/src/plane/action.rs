//! The reconciler's steps. Each is small enough that a crash between any two leaves a state that
//! the next observation understands.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

use super::{DeviceName, EncryptedUnderlay, Port, UnderlayFilter, Vtep};
use crate::{NetworkId, Vni};

/// A network namespace other than a segment's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The host's own, where Docker looks for the interface that it moves into a container.
    Host,
    /// A container's, by the path of its namespace file.
    Sandbox(PathBuf),
}

/// A step for the kernel. It is idempotent: if its result already exists, the next observation
/// shows this and no such step is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Install the underlay filter as a whole, and replace what is there of it.
    InstallUnderlayFilter {
        /// What it enforces.
        filter: UnderlayFilter,
    },
    /// Remove the underlay filter.
    RemoveUnderlayFilter,
    /// Create what is missing of the encrypted underlay, and set all attributes of the WireGuard
    /// device. Peers that stay the same keep their sessions.
    SetEncryptedUnderlay {
        /// What it should be.
        wanted: EncryptedUnderlay,
    },
    /// Delete the WireGuard device and its namespace.
    DeleteEncryptedUnderlay,
    /// Create the namespace `shout-<vni>`.
    CreateSegment {
        /// Its VNI.
        vni: Vni,
    },
    /// Delete the namespace's devices that have an owner tag, then the namespace.
    DeleteSegment {
        /// Its VNI.
        vni: Vni,
    },
    /// Create the bridge, with its owner tag and down.
    CreateBridge {
        /// The segment.
        vni: Vni,
        /// Goes into the owner tag.
        network: NetworkId,
    },
    /// Set all attributes of the bridge that can be changed while it is up, and bring it up.
    TuneBridge {
        /// The segment.
        vni: Vni,
        /// In octets.
        mtu: u16,
    },
    /// Install the IGMP/MLD filter as a whole, and replace what is there of it.
    InstallIgmpMldFilter {
        /// The segment.
        vni: Vni,
        /// Multicast and broadcast packets per second that each local endpoint may send.
        max_rate: Option<u32>,
        /// The gateways to protect.
        gateways: BTreeSet<IpAddr>,
    },
    /// Set the bridge's addresses to these, and have it route if there are any. Other addresses are
    /// removed, except for link-local ones.
    TuneGateways {
        /// The segment.
        vni: Vni,
        /// The gateways, with the prefix lengths of their subnets.
        addresses: BTreeSet<IpNet>,
    },
    /// Install the filter of the segment's way out as a whole, and replace what is there of it.
    InstallWayOutFilter {
        /// The segment.
        vni: Vni,
    },
    /// Create the uplink's veth pair, with its owner tag, down.
    CreateUplink {
        /// The segment.
        vni: Vni,
        /// Goes into the owner tag.
        network: NetworkId,
    },
    /// Set all attributes of the uplink's two ends and the segment's default route, attach it to
    /// the way-out bridge and bring it up.
    TuneUplink {
        /// The segment.
        vni: Vni,
        /// The only address of the end in the segment.
        address: Ipv4Net,
        /// The gateway of the default route: the way-out bridge.
        router: Ipv4Addr,
        /// In octets.
        mtu: u16,
    },
    /// Delete the uplink.
    DeleteUplink {
        /// The segment.
        vni: Vni,
    },
    /// Create the VXLAN device, with its owner tag, down and not in the bridge.
    CreateTunnel {
        /// The segment.
        vni: Vni,
        /// Goes into the owner tag.
        network: NetworkId,
        /// The address and port from which it sends.
        vtep: Vtep,
    },
    /// Delete the VXLAN device, because an attribute differs that is set only at its creation.
    DeleteTunnel {
        /// The segment.
        vni: Vni,
    },
    /// Set all attributes of the VXLAN device that can be changed, add it to the bridge and bring
    /// it up.
    TuneTunnel {
        /// The segment.
        vni: Vni,
        /// In octets.
        mtu: u16,
        /// Whether MAC addresses are learned from the frames that it receives.
        learning: bool,
    },
    /// Add a flood entry: send broadcast, unknown unicast and multicast to this host too.
    AddFlood {
        /// The segment.
        vni: Vni,
        /// The host's VTEP.
        remote: IpAddr,
    },
    /// Remove a flood entry.
    RemoveFlood {
        /// The segment.
        vni: Vni,
        /// The host's VTEP.
        remote: IpAddr,
    },
    /// Create an endpoint's veth pair with one end in the bridge, up, and the other in `place`. In
    /// a sandbox, also set addresses and routes and bring it up, as Docker would.
    CreatePort {
        /// The segment.
        vni: Vni,
        /// The endpoint.
        port: Port,
        /// In octets, for both ends.
        mtu: u16,
        /// Whether MAC addresses are learned from the frames that the container sends.
        learning: bool,
        /// The namespace of the container's end.
        place: Place,
    },
    /// Set all attributes of the bridge's end that can be changed, add it to the bridge and bring
    /// it up.
    TunePort {
        /// The segment.
        vni: Vni,
        /// The end in the segment.
        name: DeviceName,
        /// In octets.
        mtu: u16,
        /// Whether MAC addresses are learned from the frames that the container sends.
        learning: bool,
    },
    /// Skip duplicate address detection for the IPv6 link-local address of the container's end, and
    /// for later ones: its MAC address is unique in the network.
    EndDuplicateDetection {
        /// The segment.
        vni: Vni,
        /// The end in the segment.
        port: DeviceName,
        /// The namespace of the container's end.
        sandbox: PathBuf,
        /// Its name there.
        name: DeviceName,
    },
    /// Set MTU, MAC address, addresses and multicast route of the container's end, which is up in
    /// its sandbox.
    TuneContainerEnd {
        /// The segment.
        vni: Vni,
        /// What it should be.
        port: Port,
        /// In octets.
        mtu: u16,
        /// The namespace of the container's end.
        sandbox: PathBuf,
        /// Its name there.
        name: DeviceName,
    },
    /// Remove learned addresses from the FDBs; if there are many, only some.
    ForgetLearned {
        /// The segment.
        vni: Vni,
    },
    /// Delete a veth pair by its end in the segment.
    DeletePort {
        /// The segment.
        vni: Vni,
        /// The end in the segment.
        name: DeviceName,
    },
}

impl Action {
    /// The segment to which it applies, if any.
    pub fn vni(&self) -> Option<Vni> {
        match self {
            Self::InstallUnderlayFilter { .. }
            | Self::RemoveUnderlayFilter
            | Self::SetEncryptedUnderlay { .. }
            | Self::DeleteEncryptedUnderlay => None,
            Self::CreateSegment { vni }
            | Self::DeleteSegment { vni }
            | Self::CreateBridge { vni, .. }
            | Self::TuneBridge { vni, .. }
            | Self::InstallIgmpMldFilter { vni, .. }
            | Self::TuneGateways { vni, .. }
            | Self::InstallWayOutFilter { vni }
            | Self::CreateUplink { vni, .. }
            | Self::TuneUplink { vni, .. }
            | Self::DeleteUplink { vni }
            | Self::CreateTunnel { vni, .. }
            | Self::DeleteTunnel { vni }
            | Self::TuneTunnel { vni, .. }
            | Self::AddFlood { vni, .. }
            | Self::RemoveFlood { vni, .. }
            | Self::CreatePort { vni, .. }
            | Self::TunePort { vni, .. }
            | Self::EndDuplicateDetection { vni, .. }
            | Self::TuneContainerEnd { vni, .. }
            | Self::ForgetLearned { vni }
            | Self::DeletePort { vni, .. } => Some(*vni),
        }
    }

    /// Whether it is about the way out of a segment only: if it fails, containers still reach each
    /// other.
    pub fn is_of_way_out(&self) -> bool {
        matches!(
            self,
            Self::TuneGateways { .. }
                | Self::InstallWayOutFilter { .. }
                | Self::CreateUplink { .. }
                | Self::TuneUplink { .. }
                | Self::DeleteUplink { .. }
        )
    }
}
