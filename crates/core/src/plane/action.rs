//! One step of mending: small enough that a crash between any two leaves something that the next
//! observation understands.

use std::net::IpAddr;
use std::path::PathBuf;

use super::{DeviceName, Port, UnderlayFilter, Vtep};
use crate::{NetworkId, Vni};

/// A network namespace that is not a segment's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The host's own, where Docker looks for the interface it moves into a container.
    Host,
    /// A container's, by the path of its namespace file.
    Sandbox(PathBuf),
}

/// What the kernel is told to do. Each is idempotent in effect: if what it makes is already there,
/// the next observation shows it and nothing is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put the filter of the host's own namespace in place, whole, whatever was there of it.
    InstallUnderlayFilter {
        /// What it enforces.
        filter: UnderlayFilter,
    },
    /// Take it away.
    RemoveUnderlayFilter,
    /// Make the namespace `shout-<vni>`.
    CreateSegment {
        /// Its VNI.
        vni: Vni,
    },
    /// Delete the marked devices of the namespace, then the namespace itself.
    DeleteSegment {
        /// Its VNI.
        vni: Vni,
    },
    /// Make the bridge, marked and down.
    CreateBridge {
        /// The segment.
        vni: Vni,
        /// Goes into the mark.
        network: NetworkId,
    },
    /// Set everything about the bridge that can be set on one that is running, and bring it up.
    TuneBridge {
        /// The segment.
        vni: Vni,
        /// In octets.
        mtu: u16,
    },
    /// Put the filter in place that keeps IGMP and MLD off the tunnel, whole, whatever was there of
    /// it.
    InstallIgmpMldFilter {
        /// The segment.
        vni: Vni,
        /// Multicast and broadcast packets a second that each local endpoint may send.
        max_rate: Option<u32>,
    },
    /// Make the VXLAN device, marked, down and not yet in the bridge.
    CreateTunnel {
        /// The segment.
        vni: Vni,
        /// Goes into the mark.
        network: NetworkId,
        /// Where it sends from.
        vtep: Vtep,
    },
    /// Delete the VXLAN device, because something differs that cannot be changed on one that is
    /// there.
    DeleteTunnel {
        /// The segment.
        vni: Vni,
    },
    /// Set everything about the VXLAN device that can be changed, put it into the bridge and bring
    /// it up.
    TuneTunnel {
        /// The segment.
        vni: Vni,
        /// In octets.
        mtu: u16,
        /// Whether addresses are learnt from what comes out of it.
        learning: bool,
    },
    /// Send broadcast, unknown unicast and multicast to this host too.
    AddFlood {
        /// The segment.
        vni: Vni,
        /// The host's VTEP.
        remote: IpAddr,
    },
    /// No longer do so.
    RemoveFlood {
        /// The segment.
        vni: Vni,
        /// The host's VTEP.
        remote: IpAddr,
    },
    /// Make an endpoint's veth with one end in the bridge, up, and the other in `place`; in a
    /// sandbox also with addresses, route and up, as Docker would have done.
    CreatePort {
        /// The segment.
        vni: Vni,
        /// The endpoint.
        port: Port,
        /// In octets, for both ends.
        mtu: u16,
        /// Whether addresses are learnt from what the container sends.
        learning: bool,
        /// Where the container's end goes.
        place: Place,
    },
    /// Set everything about the bridge's end that can be changed, put it into the bridge and bring
    /// it up.
    TunePort {
        /// The segment.
        vni: Vni,
        /// The end in the segment.
        name: DeviceName,
        /// In octets.
        mtu: u16,
        /// Whether addresses are learnt from what the container sends.
        learning: bool,
    },
    /// Have the IPv6 link-local address of the container's end used at once, and every later one,
    /// without looking for duplicates: nobody else in the cluster has its MAC address.
    EndDuplicateDetection {
        /// The segment.
        vni: Vni,
        /// The end in the segment.
        port: DeviceName,
        /// Where the container's end is.
        sandbox: PathBuf,
        /// Its name there.
        name: DeviceName,
    },
    /// Set MTU, MAC address, addresses and multicast route of the container's end in its sandbox,
    /// which is up.
    TuneContainerEnd {
        /// The segment.
        vni: Vni,
        /// What it should be.
        port: Port,
        /// In octets.
        mtu: u16,
        /// Where it is.
        sandbox: PathBuf,
        /// Its name there.
        name: DeviceName,
    },
    /// Take what was learnt from traffic out of the forwarding tables; some of it, if there is
    /// much.
    ForgetLearned {
        /// The segment.
        vni: Vni,
    },
    /// Delete a veth by its end in the segment.
    DeletePort {
        /// The segment.
        vni: Vni,
        /// The end in the segment.
        name: DeviceName,
    },
}

impl Action {
    /// The segment that it is about, if it is about one.
    pub fn vni(&self) -> Option<Vni> {
        match self {
            Self::InstallUnderlayFilter { .. } | Self::RemoveUnderlayFilter => None,
            Self::CreateSegment { vni }
            | Self::DeleteSegment { vni }
            | Self::CreateBridge { vni, .. }
            | Self::TuneBridge { vni, .. }
            | Self::InstallIgmpMldFilter { vni, .. }
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
}
