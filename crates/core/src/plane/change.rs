//! What can be changed of a segment's forwarding tables, one thing at a time.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Destination, DeviceName};
use crate::MacAddress;
use crate::multicast::SourceGroup;

/// One change of a segment's forwarding tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A group is (or no longer is) sent there.
    Group {
        /// Which packets.
        key: SourceGroup,
        /// Where to.
        to: Destination,
        /// Whether it is to be so.
        add: bool,
    },
    /// All groups with this MAC address are (or no longer are) sent there.
    GroupMac {
        /// The address.
        mac: MacAddress,
        /// The VTEP.
        remote: IpAddr,
        /// Whether it is to be so.
        add: bool,
    },
    /// All groups with this MAC address are sent to every host again, in one step: nobody misses
    /// any meanwhile.
    ReleaseGroupMac {
        /// The address.
        mac: MacAddress,
    },
    /// From now on these groups pass to the tunnel, and no others.
    Filter {
        /// The groups.
        admitted: BTreeSet<IpAddr>,
    },
    /// From now on all pass.
    Unfilter,
    /// Where not all groups pass, this one does, or does no longer.
    Admit {
        /// The group.
        group: IpAddr,
        /// Whether it is to be so.
        add: bool,
    },
    /// An endpoint is behind the tunnel, at this VTEP; no longer at another.
    PinRemote {
        /// Its address.
        mac: MacAddress,
        /// The VTEP.
        remote: IpAddr,
    },
    /// An endpoint is no longer at this VTEP.
    UnpinRemote {
        /// Its address.
        mac: MacAddress,
        /// The VTEP.
        remote: IpAddr,
    },
    /// An endpoint is behind this port; no longer behind another.
    PinPort {
        /// Its address.
        mac: MacAddress,
        /// The port.
        port: DeviceName,
    },
    /// An endpoint is no longer behind this port.
    UnpinPort {
        /// Its address.
        mac: MacAddress,
        /// The port.
        port: DeviceName,
    },
}

impl Change {
    /// Whether it makes something be there; if not, it takes away what is there and not wanted.
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

    /// Whether it makes the same entry as this other, which the kernel does one host after the
    /// other: what is between the two is short of hosts.
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
