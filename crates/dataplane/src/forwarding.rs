//! The interfaces of the replicator and of the membership follower to a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use shoutd_core::Vni;
use shoutd_core::multicast::{Memberships, SourceFilter};
use shoutd_core::plane::{Change, Desired, DeviceName, Forwarding, Vtep};

use crate::kernel_error::KernelError;
use crate::mdb_pressure::MdbPressure;

/// Replication and pins of segments: MDBs, FDBs and group filters.
pub trait ForwardingTables: Send {
    /// Reads our entries in one segment, of every tier.
    fn read(&mut self, vni: Vni) -> Result<Forwarding, KernelError>;

    /// The ports of a segment's bridge, the tunnel included.
    fn ports(&mut self, vni: Vni) -> Result<BTreeSet<DeviceName>, KernelError>;

    /// Makes these changes and returns the failures by position, or an error if none could be made.
    /// An entry without receivers is sent to `own` with a VNI that no network has.
    fn change(
        &mut self,
        vni: Vni,
        own: Vtep,
        changes: &[Change],
    ) -> Result<Vec<(usize, KernelError)>, KernelError>;

    /// Closes the segments that are not in this set.
    fn retain(&mut self, segments: &BTreeSet<Vni>);
}

/// A change of the memberships of one network's containers on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipChange {
    /// All memberships, replacing earlier ones.
    Whole(Vni, Memberships),
    /// The network is gone from this host.
    Gone(Vni),
    /// The membership of one group; `None` if there are no members.
    Group(Vni, IpAddr, Option<SourceFilter>),
    /// Whether there is a multicast router.
    Router(Vni, bool),
}

impl MembershipChange {
    /// Applies the change.
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

/// The MDBs of segments' bridges, to follow.
pub trait MembershipSource: Send {
    /// Appends the changes since the last call, in order. If some segments cannot be read, the
    /// changes of the others are still appended: they are not returned again.
    fn update(&mut self, changes: &mut Vec<MembershipChange>) -> Result<(), KernelError>;

    /// Hands over the desired state: multicast routers among the containers get reports of members
    /// on other hosts.
    fn desire(&mut self, desired: Arc<Desired>);

    /// The limits of MDB entries that are reached or nearly reached.
    fn mdb_pressures(&self) -> Vec<MdbPressure>;

    /// Waits until memberships may have changed, `wake` is readable, or the time is over.
    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration);
}
