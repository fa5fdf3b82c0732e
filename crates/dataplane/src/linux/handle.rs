//! Open namespaces with the sockets in them, kept from round to round, and what was last read
//! there.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shoutd_core::plane::{ContainerEnd, DeviceName, ObservedSegment};
use shoutd_netlink::{Error, IgmpMldFilter, Monitor, Namespace, NamespaceId, Peer, Route};

/// How old something that was read may be though no event said that it changed. Some changes of
/// devices that are down make no event.
const AGE_MAX: Duration = Duration::from_secs(10);

/// Something that was read in a namespace.
#[derive(Debug)]
pub(super) struct Reading<T> {
    pub(super) content: T,
    /// `None` if it has been tried since to read it anew.
    at: Option<Instant>,
}

impl<T> Reading<T> {
    pub(super) fn new(content: T) -> Self {
        Self { content, at: Some(Instant::now()) }
    }

    /// The same, to be read anew as soon as possible.
    pub(super) fn outdated(self) -> Self {
        Self { at: None, ..self }
    }
}

/// A monitor, and whether it said anything since the namespace was last read.
#[derive(Debug)]
pub(super) struct Watch {
    monitor: Monitor,
    changed: AtomicBool,
}

impl Watch {
    pub(super) fn new(monitor: Monitor) -> Self {
        Self { monitor, changed: AtomicBool::new(true) }
    }

    /// Takes in all events, and says whether one of them is a change.
    pub(super) fn drain(&self) -> bool {
        let changed = self.monitor.drain();
        self.changed.fetch_or(changed, Ordering::Relaxed);
        changed
    }

    /// Whether there was a change since this was last asked. To be asked before reading, so that a
    /// change while reading is kept for next time.
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

/// What a segment holds, but for the other ends of its ports: those are read where they are.
#[derive(Debug)]
pub(super) struct SegmentContent {
    pub(super) observed: ObservedSegment,
    pub(super) peers: Vec<(DeviceName, Peer)>,
}

/// Why a segment could not be read, and until when that is not tried again.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: String,
    pub(super) until: Instant,
}

/// A segment's namespace.
#[derive(Debug)]
pub(super) struct SegmentHandle {
    pub(super) namespace: Namespace,
    pub(super) route: Route,
    pub(super) igmp_mld_filter: IgmpMldFilter,
    pub(super) reading: Option<Reading<SegmentContent>>,
    /// That it could not be read when that was last tried.
    pub(super) failure: Option<Failure>,
    watches: [Watch; 2],
    /// Which namespaces the numbers stand for that this one knows others by. They hold as long as
    /// those are open.
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
            reading: None,
            failure: None,
            numbers: BTreeMap::new(),
            namespace,
        })
    }

    /// Closes what is not needed before the next look: with a thousand networks each descriptor
    /// counts.
    pub(super) fn rest(&mut self) {
        self.route.rest();
        self.igmp_mld_filter.rest();
    }

    pub(super) fn watches(&self) -> impl Iterator<Item = &Watch> {
        self.watches.iter()
    }

    /// Whether it must be read again.
    pub(super) fn is_stale(&mut self) -> bool {
        // Both are asked, whatever the first says.
        let [links, filters] = self.watches.each_ref().map(Watch::take);
        links || filters || is_old(self.reading.as_ref())
    }

    /// Forgets the numbers of all namespaces but these: the others are no longer open.
    pub(super) fn forget_all_but(&mut self, open: &BTreeSet<NamespaceId>) {
        self.numbers.retain(|_, id| open.contains(id));
    }

    /// Which of these namespaces the number stands for.
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

/// A container's namespace. Its sockets keep it alive, so it must not be kept once its path is
/// gone.
#[derive(Debug)]
pub(super) struct SandboxHandle {
    pub(super) namespace: Namespace,
    pub(super) route: Route,
    /// Its veth ends, by their index.
    pub(super) reading: Option<Reading<BTreeMap<u32, ContainerEnd>>>,
    pub(super) watch: Watch,
    /// Which of these are shoutd's, as far as was asked: only their routes are read.
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
