//! What the replicator and the listener know of a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use shoutd_core::Vni;
use shoutd_core::multicast::{Memberships, SourceFilter};
use shoutd_core::plane::{Change, Desired, DeviceName, Forwarding, Vtep};

use crate::kernel::KernelError;
use crate::mdb_pressure::MdbPressure;

/// The forwarding tables of segments, to read and to change.
pub trait ForwardingTables: Send {
    /// Reads those of one segment: what shoutd put there, of every tier.
    fn read(&mut self, vni: Vni) -> Result<Forwarding, KernelError>;

    /// The ports of a segment's bridge, the tunnel included.
    fn ports(&mut self, vni: Vni) -> Result<BTreeSet<DeviceName>, KernelError>;

    /// Makes these changes, and returns which failed, by position. An error is one that keeps all
    /// from being made. What is sent nowhere is sent to `own` under a VNI that nobody has.
    fn change(
        &mut self,
        vni: Vni,
        own: Vtep,
        changes: &[Change],
    ) -> Result<Vec<(usize, KernelError)>, KernelError>;

    /// Lets go of what is open of all segments but these.
    fn retain(&mut self, segments: &BTreeSet<Vni>);
}

/// A change of what the containers of one network listen to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipChange {
    /// It is this, whatever it was before.
    Whole(Vni, Memberships),
    /// The network is not here any more.
    Gone(Vni),
    /// This is wanted of one group; `None` if nothing is.
    Group(Vni, IpAddr, Option<SourceFilter>),
    /// Whether there is a multicast router among them.
    Router(Vni, bool),
}

impl MembershipChange {
    /// Makes the change.
    pub(crate) fn apply(self, all: &mut BTreeMap<Vni, Memberships>) {
        match self {
            Self::Whole(vni, memberships) => {
                all.insert(vni, memberships);
            }
            Self::Gone(vni) => {
                all.remove(&vni);
            }
            Self::Group(vni, group, Some(filter)) => {
                all.entry(vni).or_default().groups.insert(group, filter);
            }
            Self::Group(vni, group, None) => {
                all.entry(vni).or_default().groups.remove(&group);
            }
            Self::Router(vni, router) => all.entry(vni).or_default().router = router,
        }
    }
}

/// The multicast databases of segments' bridges, to follow.
pub trait MembershipSource: Send {
    /// Adds what changed since the last time of what the ports of containers listen to, in this
    /// order. If some of it cannot be read, the rest is added all the same: it is not told again.
    fn update(&mut self, changes: &mut Vec<MembershipChange>) -> Result<(), KernelError>;

    /// Takes in what should be: multicast routers among the containers are told of members on other
    /// hosts.
    fn desire(&mut self, desired: Arc<Desired>);

    /// Where there are too many groups.
    fn mdb_pressures(&self) -> Vec<MdbPressure>;

    /// Waits until something may have changed, `wake` can be read, or the time is over; whichever
    /// comes first.
    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration);
}
