//! Which namespace each segment has now, and which containers have, and whose bridge had too many
//! groups: told by the reconciler, which makes and finds them, to the threads beside it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use shoutd_core::Vni;
use shoutd_netlink::Namespace;

/// Shared by the threads that look into segments.
#[derive(Debug)]
pub(super) struct Registry {
    segments: Mutex<BTreeMap<Vni, Namespace>>,
    sandboxes: Mutex<Arc<[Namespace]>>,
    /// When each bridge that had stopped to snoop was made to begin anew.
    begun_anew: Mutex<BTreeMap<Vni, Instant>>,
    /// Readable when there was a change since the listener last asked.
    changed: EventFd,
}

impl Registry {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let changed = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Arc::new(Self {
            segments: Mutex::default(),
            sandboxes: Mutex::default(),
            begun_anew: Mutex::default(),
            changed,
        }))
    }

    fn segments(&self) -> MutexGuard<'_, BTreeMap<Vni, Namespace>> {
        // Nothing that is done under the lock can leave it half changed.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a segment's namespace.
    pub(super) fn insert(&self, vni: Vni, namespace: Namespace) {
        self.segments().insert(vni, namespace);
        self.signal();
    }

    /// Forgets the segments for which this is false.
    pub(super) fn retain(&self, keep: impl Fn(Vni) -> bool) {
        let mut segments = self.segments();
        let before = segments.len();
        segments.retain(|vni, _| keep(*vni));
        if segments.len() != before {
            drop(segments);
            self.begun_anew().retain(|vni, _| keep(*vni));
            self.signal();
        }
    }

    pub(super) fn get(&self, vni: Vni) -> Option<Namespace> {
        self.segments().get(&vni).cloned()
    }

    pub(super) fn all(&self) -> BTreeMap<Vni, Namespace> {
        self.segments().clone()
    }

    /// Notes all containers' namespaces. Earlier ones are not kept: what holds a namespace open
    /// keeps its devices.
    pub(super) fn set_sandboxes(&self, sandboxes: impl Iterator<Item = Namespace>) {
        *self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner) = sandboxes.collect();
    }

    pub(super) fn sandboxes(&self) -> Arc<[Namespace]> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn begun_anew(&self) -> MutexGuard<'_, BTreeMap<Vni, Instant>> {
        self.begun_anew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a segment's bridge had stopped to snoop, and begins anew.
    pub(super) fn note_begun_anew(&self, vni: Vni) {
        self.begun_anew().insert(vni, Instant::now());
        self.signal();
    }

    /// Whether that was so within this time.
    pub(super) fn has_begun_anew_within(&self, vni: Vni, time: Duration) -> bool {
        self.begun_anew().get(&vni).is_some_and(|at| at.elapsed() < time)
    }

    /// Takes note that a change was seen. To be called before the segments are read.
    pub(super) fn acknowledge(&self) {
        let _ = self.changed.read();
    }

    fn signal(&self) {
        // It fails only when it is signalled already, 2^64 times.
        let _ = self.changed.write(1);
    }
}

impl AsFd for Registry {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changed.as_fd()
    }
}
