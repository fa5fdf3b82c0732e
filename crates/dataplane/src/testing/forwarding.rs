//! Replication, pins and memberships in memory for tests, with injected faults.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::{Mutex, MutexGuard};
use shoutd_core::Vni;
use shoutd_core::multicast::Memberships;
use shoutd_core::plane::{Change, Desired, DeviceName, Forwarding, Vtep};

use crate::forwarding::{ForwardingTables, MembershipChange, MembershipSource};
use crate::kernel_error::KernelError;
use crate::mdb_pressure::MdbPressure;

/// The state, for tests to read and to change. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FakeForwarding {
    content: Arc<Mutex<Content>>,
}

/// See [`FakeForwarding`].
#[derive(Debug, Default)]
pub struct Content {
    /// The tables of each segment.
    pub tables: BTreeMap<Vni, Forwarding>,
    /// The results of the next changes, in order: true fails. Later ones succeed.
    pub faults: VecDeque<bool>,
    /// How many times tables were read in full.
    pub reads: usize,
    /// How many changes were made.
    pub changes: usize,
    /// The memberships of containers.
    pub memberships: BTreeMap<Vni, Memberships>,
    /// Whether there is another network whose memberships cannot be read.
    pub memberships_unreadable: bool,
}

impl FakeForwarding {
    /// The state.
    pub fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock()
    }
}

impl ForwardingTables for FakeForwarding {
    fn read(&mut self, vni: Vni) -> Result<Forwarding, KernelError> {
        let mut content = self.content();
        content.reads += 1;
        Ok(content.tables.entry(vni).or_default().clone())
    }

    fn ports(&mut self, _vni: Vni) -> Result<BTreeSet<DeviceName>, KernelError> {
        Ok(BTreeSet::from([DeviceName::tunnel()]))
    }

    fn change(
        &mut self,
        vni: Vni,
        _own: Vtep,
        changes: &[Change],
    ) -> Result<Vec<(usize, KernelError)>, KernelError> {
        let mut content = self.content();
        let mut failures = Vec::new();
        for (position, change) in changes.iter().enumerate() {
            if content.faults.pop_front() == Some(true) {
                failures.push((position, KernelError::Injected("change")));
            } else {
                content.changes += 1;
                content.tables.entry(vni).or_default().apply(change);
            }
        }
        Ok(failures)
    }

    fn retain(&mut self, _segments: &BTreeSet<Vni>) {}
}

impl MembershipSource for FakeForwarding {
    fn update(&mut self, changes: &mut Vec<MembershipChange>) -> Result<(), KernelError> {
        let content = self.content();
        for (vni, memberships) in &content.memberships {
            changes.push(MembershipChange::Whole(*vni, memberships.clone()));
        }
        if content.memberships_unreadable {
            Err(KernelError::Injected("memberships"))
        } else {
            Ok(())
        }
    }

    fn desire(&mut self, _desired: Arc<Desired>) {}

    fn mdb_pressures(&self) -> Vec<MdbPressure> {
        Vec::new()
    }

    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(wake, PollFlags::POLLIN)], timeout);
    }
}
