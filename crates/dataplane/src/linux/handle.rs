//! Open namespaces, their sockets, and their last readings, kept from round to round.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shoutd_core::plane::{ContainerEnd, DeviceName, ObservedSegment};
use shoutd_netlink::{
    Error, IgmpMldFilter, Monitor, Namespace, NamespaceId, Peer, Route, WayOutFilter,
};

/// Maximum age of a reading without an event. Some changes of devices that are down cause no event.
const AGE_MAX: Duration = Duration::from_secs(10);

/// Something read in a namespace.
#[derive(Debug)]
pub(super) struct Reading<T> {
    pub(super) content: T,
    /// `None` if a later attempt to read it again failed.
    at: Option<Instant>,
}

impl<T> Reading<T> {
    pub(super) fn new(content: T) -> Self {
        Self { content, at: Some(Instant::now()) }
    }

    /// The same reading, to be replaced as soon as possible.
    pub(super) fn outdated(self) -> Self {
        Self { at: None, ..self }
    }
}

/// A monitor, and whether it reported a change since the last reading.
#[derive(Debug)]
pub(super) struct Watch {
    monitor: Monitor,
    changed: AtomicBool,
}

impl Watch {
    pub(super) fn new(monitor: Monitor) -> Self {
        Self { monitor, changed: AtomicBool::new(true) }
    }

    /// Processes all events and returns whether any is a change.
    pub(super) fn drain(&self) -> bool {
        let changed = self.monitor.drain();
        self.changed.fetch_or(changed, Ordering::Relaxed);
        changed
    }

    /// Whether there was a change since the last call. Call it before reading, so that a change
    /// during the reading counts for the next one.
    pub(super) fn take(&self) -> bool {
        self.drain();
        self.changed.swap(false, Ordering::Relaxed)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

/// The contents of a segment except the other ends of its ports, which are read in their
/// namespaces.
#[derive(Debug)]
pub(super) struct SegmentContent {
    pub(super) observed: ObservedSegment,
    pub(super) peers: Vec<(DeviceName, Peer)>,
}

/// Why a segment could not be read, and when it may be tried again.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: String,
    pub(super) until: Instant,
}

/// An open segment.
#[derive(Debug)]
pub(super) struct SegmentHandle {
    pub(super) namespace: Namespace,
    pub(super) route: Route,
    pub(super) igmp_mld_filter: IgmpMldFilter,
    pub(super) way_out_filter: WayOutFilter,
    pub(super) reading: Option<Reading<SegmentContent>>,
    /// The failure of the last attempt to read it.
    pub(super) failure: Option<Failure>,
    watches: [Watch; 2],
    /// Other namespaces by the ids that this one has for them (`NETNSA_NSID`). An id is valid while
    /// its namespace is open.
    numbers: BTreeMap<i32, NamespaceId>,
}

impl SegmentHandle {
    pub(super) fn open(namespace: Namespace) -> Result<Self, Error> {
        Ok(Self {
            watches: [
                Watch::new(Monitor::segment(&namespace)?),
                Watch::new(Monitor::filters(&namespace)?),
            ],
            route: Route::open(&namespace)?,
            igmp_mld_filter: IgmpMldFilter::open(&namespace)?,
            way_out_filter: WayOutFilter::open(&namespace)?,
            reading: None,
            failure: None,
            numbers: BTreeMap::new(),
            namespace,
        })
    }

    /// Closes the sockets for requests: with a thousand networks each descriptor counts.
    pub(super) fn rest(&mut self) {
        self.route.rest();
        self.igmp_mld_filter.rest();
        self.way_out_filter.rest();
    }

    pub(super) fn watches(&self) -> impl Iterator<Item = &Watch> {
        self.watches.iter()
    }

    /// Whether it must be read again.
    pub(super) fn is_stale(&mut self) -> bool {
        // Both have side effects, so no short circuit.
        let [links, filters] = self.watches.each_ref().map(Watch::take);
        links || filters || is_old(self.reading.as_ref())
    }

    /// Forgets the ids of all namespaces but these; the others are closed.
    pub(super) fn forget_all_but(&mut self, open: &BTreeSet<NamespaceId>) {
        self.numbers.retain(|_, id| open.contains(id));
    }

    /// The candidate with this namespace id.
    pub(super) fn numbered<'a>(
        &mut self,
        number: i32,
        candidates: impl Iterator<Item = &'a Namespace>,
    ) -> Result<Option<NamespaceId>, Error> {
        if let Some(&id) = self.numbers.get(&number) {
            return Ok(Some(id));
        }
        for candidate in candidates {
            if self.numbers.values().all(|id| *id != candidate.id())
                && let Some(found) = self.route.namespace_number(candidate)?
            {
                self.numbers.insert(found, candidate.id());
            }
        }
        Ok(self.numbers.get(&number).copied())
    }
}

/// An open container namespace. Its sockets keep it alive, so it must be closed once its path is
/// gone.
#[derive(Debug)]
pub(super) struct SandboxHandle {
    pub(super) namespace: Namespace,
    pub(super) route: Route,
    /// Its veth ends by index.
    pub(super) reading: Option<Reading<BTreeMap<u32, ContainerEnd>>>,
    pub(super) watch: Watch,
    /// The indexes of our interfaces, as far as queried. Only their routes are read.
    pub(super) asked: BTreeSet<u32>,
}

impl SandboxHandle {
    pub(super) fn open(namespace: Namespace) -> Result<Self, Error> {
        let watch = Watch::new(Monitor::sandbox(&namespace)?);
        Ok(Self {
            watch,
            route: Route::open(&namespace)?,
            reading: None,
            asked: BTreeSet::new(),
            namespace,
        })
    }

    /// Whether it must be read again.
    pub(super) fn is_stale(&mut self) -> bool {
        self.watch.take() || is_old(self.reading.as_ref())
    }
}

pub(super) fn is_old<T>(reading: Option<&Reading<T>>) -> bool {
    reading.and_then(|reading| reading.at).is_none_or(|at| at.elapsed() > AGE_MAX)
}
