//! Changes to a segment's forwarding tables, each of a single entry.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Destination, DeviceName};
use crate::MacAddress;
use crate::multicast::SourceGroup;

/// A change to a segment's forwarding tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Add or remove a remote of a group.
    Group {
        /// (S,G) or (\*,G).
        key: SourceGroup,
        /// The remote.
        to: Destination,
        /// Whether it is added.
        add: bool,
    },
    /// Add or remove a remote of all groups with this MAC address.
    GroupMac {
        /// The MAC address.
        mac: MacAddress,
        /// The VTEP.
        remote: IpAddr,
        /// Whether it is added.
        add: bool,
    },
    /// Flood all groups with this MAC address again, in one step and without loss.
    ReleaseGroupMac {
        /// The MAC address.
        mac: MacAddress,
    },
    /// Pass only these groups to the tunnel.
    Filter {
        /// The groups.
        admitted: BTreeSet<IpAddr>,
    },
    /// Pass all groups to the tunnel.
    Unfilter,
    /// While a filter is in place: pass this group to the tunnel, or stop doing so.
    Admit {
        /// The group.
        group: IpAddr,
        /// Whether it is added.
        add: bool,
    },
    /// Pin an endpoint to this VTEP, and remove its pin to another.
    PinRemote {
        /// The endpoint's MAC address.
        mac: MacAddress,
        /// The VTEP.
        remote: IpAddr,
    },
    /// Remove an endpoint's pin to this VTEP.
    UnpinRemote {
        /// The endpoint's MAC address.
        mac: MacAddress,
        /// The VTEP.
        remote: IpAddr,
    },
    /// Pin an endpoint to this port, and remove its pin to another.
    PinPort {
        /// The endpoint's MAC address.
        mac: MacAddress,
        /// The port.
        port: DeviceName,
    },
    /// Remove an endpoint's pin to this port.
    UnpinPort {
        /// The endpoint's MAC address.
        mac: MacAddress,
        /// The port.
        port: DeviceName,
    },
}

impl Change {
    /// Whether it adds something. Otherwise it removes something that is not desired.
    pub fn adds(&self) -> bool {
        match self {
            Self::Group { add, .. } | Self::GroupMac { add, .. } | Self::Admit { add, .. } => *add,
            Self::PinRemote { .. } | Self::PinPort { .. } | Self::Unfilter => true,
            Self::ReleaseGroupMac { .. }
            | Self::UnpinRemote { .. }
            | Self::UnpinPort { .. }
            | Self::Filter { .. } => false,
        }
    }

    /// Whether both changes build the same entry. The kernel changes an entry one remote at a time,
    /// and between two changes some remotes are missing.
    pub fn is_of_same_entry(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Group { key, add, .. }, Self::Group { key: of_other, add: adds, .. }) => {
                key == of_other && add == adds
            }
            (Self::GroupMac { mac, add, .. }, Self::GroupMac { mac: of_other, add: adds, .. }) => {
                mac == of_other && add == adds
            }
            _ => false,
        }
    }
}
