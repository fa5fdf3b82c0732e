//! The namespaces of segments and containers, and the bridges whose snooping was restarted. The
//! reconciler creates or finds them, and shares them with the other threads.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::{Mutex, MutexGuard};
use shoutd_core::Vni;
use shoutd_netlink::Namespace;

/// Shared by the threads that work in segments.
#[derive(Debug)]
pub(super) struct Registry {
    segments: Mutex<BTreeMap<Vni, Namespace>>,
    sandboxes: Mutex<Arc<[Namespace]>>,
    /// When snooping was restarted on each bridge on which something had disabled it.
    snooping_restarts: Mutex<BTreeMap<Vni, Instant>>,
    /// Readable after a change that the membership follower has not acknowledged.
    changed: EventFd,
}

impl Registry {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let changed = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Arc::new(Self {
            segments: Mutex::default(),
            sandboxes: Mutex::default(),
            snooping_restarts: Mutex::default(),
            changed,
        }))
    }

    fn segments(&self) -> MutexGuard<'_, BTreeMap<Vni, Namespace>> {
        self.segments.lock()
    }

    /// Records a segment's namespace.
    pub(super) fn insert(&self, vni: Vni, namespace: Namespace) {
        self.segments().insert(vni, namespace);
        self.signal();
    }

    /// Removes the segments for which this returns false.
    pub(super) fn retain(&self, keep: impl Fn(Vni) -> bool) {
        let mut segments = self.segments();
        let before = segments.len();
        segments.retain(|vni, _| keep(*vni));
        if segments.len() != before {
            drop(segments);
            self.snooping_restarts().retain(|vni, _| keep(*vni));
            self.signal();
        }
    }

    pub(super) fn get(&self, vni: Vni) -> Option<Namespace> {
        self.segments().get(&vni).cloned()
    }

    pub(super) fn all(&self) -> BTreeMap<Vni, Namespace> {
        self.segments().clone()
    }

    /// Replaces the containers' namespaces. Earlier ones must not stay open, because an open
    /// namespace keeps its devices alive.
    pub(super) fn set_sandboxes(&self, sandboxes: impl Iterator<Item = Namespace>) {
        *self.sandboxes.lock() = sandboxes.collect();
    }

    pub(super) fn sandboxes(&self) -> Arc<[Namespace]> {
        self.sandboxes.lock().clone()
    }

    fn snooping_restarts(&self) -> MutexGuard<'_, BTreeMap<Vni, Instant>> {
        self.snooping_restarts.lock()
    }

    /// Records that snooping was disabled on a segment's bridge, and was restarted.
    pub(super) fn note_snooping_restart(&self, vni: Vni) {
        self.snooping_restarts().insert(vni, Instant::now());
        self.signal();
    }

    /// Whether the bridge's snooping was restarted within this time.
    pub(super) fn restarted_snooping_within(&self, vni: Vni, time: Duration) -> bool {
        self.snooping_restarts().get(&vni).is_some_and(|at| at.elapsed() < time)
    }

    /// Marks the change as seen. Call it before the segments are read.
    pub(super) fn acknowledge(&self) {
        let _ = self.changed.read();
    }

    fn signal(&self) {
        // It fails only if the counter would overflow, after 2^64 signals.
        let _ = self.changed.write(1);
    }
}

impl AsFd for Registry {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changed.as_fd()
    }
}
