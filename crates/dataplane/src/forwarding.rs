//! What the replicator and the listener know of a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use shoutd_core::Vni;
use shoutd_core::multicast::Memberships;
use shoutd_core::plane::{Change, DeviceName, Forwarding, Vtep};

use crate::kernel::KernelError;

/// The forwarding tables of segments, to read and to change.
pub trait ForwardingTables: Send {
    /// Reads those of one segment: what shoutd put there, of every tier.
    fn read(&mut self, vni: Vni) -> Result<Forwarding, KernelError>;

    /// The ports of a segment's bridge, the tunnel included.
    fn ports(&mut self, vni: Vni) -> Result<BTreeSet<DeviceName>, KernelError>;

    /// Makes these changes, and returns which failed, by position. An error is one that keeps all from being made. What is sent nowhere is sent to `own` under a VNI that nobody
    /// has.
    fn change(&mut self, vni: Vni, own: Vtep, changes: &[Change]) -> Result<Vec<(usize, KernelError)>, KernelError>;

    /// Lets go of what is open of all segments but these.
    fn retain(&mut self, segments: &BTreeSet<Vni>);
}

/// The multicast databases of segments' bridges, to follow.
pub trait MembershipSource: Send {
    /// Brings what the ports of containers listen to up to date, and returns whether it changed.
    fn update(&mut self, memberships: &mut BTreeMap<Vni, Memberships>) -> Result<bool, KernelError>;

    /// Ports that have so many groups that no more are let in.
    fn full_ports(&self) -> Vec<(Vni, DeviceName)>;

    /// Waits until something may have changed, `wake` can be read, or the time is over; whichever comes first.
    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration);
}
