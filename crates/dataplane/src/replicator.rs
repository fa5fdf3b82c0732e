//! The thread that programs replication and pins from advertisements. It is separate from the
//! reconciler, which makes the devices, because it must be fast: a program that joins a group waits
//! for it.
//!
//! The replicator diffs the new desired state against what it last programmed, so a change costs
//! only its own size. It reads the kernel's tables again periodically, when a device was recreated,
//! and after a failure.
//!
//! It makes the additions in all segments first and then publishes that, because a caller may wait
//! for them. The removals follow. A newer desired state preempts a long list of changes, and the
//! new round continues from there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::{Mutex, MutexGuard};
use shoutd_core::Vni;
use shoutd_core::plane::{Change, Desired, DeviceName, Segment, Tier, Vtep};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::backoff::{RETRY_FIRST, RETRY_LAST};
use crate::forwarding::ForwardingTables;
use crate::forwarding_failure::ForwardingFailure;
use crate::generation::Generation;
use crate::kernel_error::KernelError;
use crate::round::{ReplicatorRound, RoundObserver};
use crate::table_cache::{CachedTables, TableCache};

/// How old a table cache may be before the tables are read again.
const AGE_MAX: Duration = Duration::from_secs(10);
/// Batch size: changes made before we check for a newer desired state. A batch is rounded up to an
/// entry boundary.
const CHANGES_AT_ONCE: usize = 256;

/// Counts the reconciler's changes of devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Revision(u64);

/// The result of the last round.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    pub(crate) generation: Generation,
    pub(crate) revision: Revision,
    /// Whether the removals are done as well. The additions are done in any case, except for the
    /// failures.
    pub(crate) is_complete: bool,
    pub(crate) failures: Arc<[ForwardingFailure]>,
}

/// The input of the thread.
#[derive(Debug, Default)]
struct Inbox {
    desired: Option<(Generation, Arc<Desired>)>,
    revision: Revision,
    /// Segments whose devices were made or deleted since the last round.
    touched: BTreeSet<Vni>,
    stopped: bool,
}

/// The inbox of the thread, shared with its callers.
#[derive(Debug)]
pub(crate) struct Post {
    inbox: Mutex<Inbox>,
    wake: EventFd,
}

impl Post {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock()
    }

    pub(crate) fn apply(&self, generation: Generation, desired: Arc<Desired>) {
        let mut inbox = self.inbox();
        // Concurrent callers may get here in the other order.
        if inbox.desired.as_ref().is_none_or(|(last, _)| *last < generation) {
            inbox.desired = Some((generation, desired));
        }
        drop(inbox);
        self.signal();
    }

    /// Whether there is a newer desired state than this.
    fn is_news(&self, generation: Generation) -> bool {
        self.inbox().desired.as_ref().is_some_and(|(newest, _)| *newest != generation)
    }

    /// Notes that the reconciler changed devices in these segments.
    pub(crate) fn touch(&self, segments: BTreeSet<Vni>) -> Revision {
        let mut inbox = self.inbox();
        if segments.is_empty() {
            return inbox.revision;
        }
        inbox.touched.extend(segments);
        inbox.revision.0 += 1;
        let revision = inbox.revision;
        drop(inbox);
        self.signal();
        revision
    }

    pub(crate) fn stop(&self) {
        self.inbox().stopped = true;
        self.signal();
    }

    fn signal(&self) {
        // It fails only if the counter would overflow, after 2^64 signals.
        let _ = self.wake.write(1);
    }
}

/// The changes to one segment's tables.
struct Work {
    vni: Vni,
    own: Vtep,
    /// The tables before the changes.
    known: TableCache,
    /// Whether entries that are not desired stay: retained ones, or those of a graceful restart.
    keeps: bool,
    /// In the order of [`Forwarding::changes_to`].
    changes: Vec<Change>,
    /// How many were made or tried.
    made: usize,
    failures: Vec<ForwardingFailure>,
}

impl Work {
    fn additions(&self) -> usize {
        self.changes.partition_point(Change::adds)
    }

    fn all(&self) -> usize {
        self.changes.len()
    }

    /// End of the next batch: at most `CHANGES_AT_ONCE`, rounded up to an entry boundary. A newer
    /// desired state may preempt us between batches, and must not find an entry with only some of
    /// its remotes.
    fn cut(&self, until: usize) -> usize {
        let end = until.min(self.made + CHANGES_AT_ONCE);
        (end..until)
            .find(|&position| match self.changes.get(position - 1..=position) {
                Some([last, next]) => !next.is_of_same_entry(last),
                _ => true,
            })
            .unwrap_or(until)
    }

    /// Makes the next batch of changes, up to this position.
    fn proceed(&mut self, tables: &mut dyn ForwardingTables, until: usize) {
        let end = self.cut(until);
        let changes = self.changes.get(self.made..end).unwrap_or_default();
        let failure =
            |change, error| ForwardingFailure { vni: self.vni, change, error: Arc::new(error) };
        match tables.change(self.vni, self.own, changes) {
            Ok(failed) => self.failures.extend(
                failed
                    .into_iter()
                    .map(|(position, error)| failure(changes.get(position).cloned(), error)),
            ),
            // The tables cannot be changed at all, so this round does not try the rest.
            Err(error) => {
                self.failures.push(failure(None, error));
                self.changes.truncate(end);
            }
        }
        self.made = end;
    }

    /// The tables after the changes; `None` if any change failed.
    fn known(self, wanted: &Arc<Desired>, tier: Tier) -> Option<TableCache> {
        if !self.failures.is_empty() {
            return None;
        }
        let there = match self.changes.get(..self.made) {
            Some(made) if made.len() == self.changes.len() && !self.keeps => {
                CachedTables::Wanted(wanted.clone())
            }
            Some(made) if !made.is_empty() => self.known.there.changed(self.vni, made, tier),
            _ => self.known.there,
        };
        Some(TableCache { there, ..self.known })
    }
}

struct Replicator {
    tables: Box<dyn ForwardingTables>,
    tier: Tier,
    post: Arc<Post>,
    status: watch::Sender<Status>,
    known: BTreeMap<Vni, TableCache>,
    complaints: Vec<String>,
    observer: Arc<dyn RoundObserver>,
}

/// Starts the thread.
pub(crate) fn spawn(
    tables: Box<dyn ForwardingTables>,
    tier: Tier,
    observer: Arc<dyn RoundObserver>,
) -> io::Result<(Arc<Post>, watch::Receiver<Status>)> {
    let mut replicator = Replicator::new(tables, tier, observer)?;
    let (post, status) = (replicator.post.clone(), replicator.status.subscribe());
    thread::Builder::new().name("replicator".to_owned()).spawn(move || replicator.run())?;
    Ok((post, status))
}

impl Replicator {
    fn new(
        tables: Box<dyn ForwardingTables>,
        tier: Tier,
        observer: Arc<dyn RoundObserver>,
    ) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let post = Arc::new(Post { inbox: Mutex::default(), wake });
        let status = watch::Sender::new(Status::default());
        let (known, complaints) = (BTreeMap::new(), Vec::new());
        Ok(Self { tables, tier, post, status, known, complaints, observer })
    }

    fn run(&mut self) {
        let mut retry = RETRY_FIRST;
        loop {
            // We clear the event before we read the inbox, so that a later change wakes us again.
            let _ = self.post.wake.read();
            let (wanted, revision) = {
                let mut inbox = self.post.inbox();
                if inbox.stopped {
                    return;
                }
                for vni in std::mem::take(&mut inbox.touched) {
                    self.known.remove(&vni);
                }
                (inbox.desired.clone(), inbox.revision)
            };
            let mut pause = AGE_MAX;
            if let Some((generation, desired)) = wanted
                && let Some(failures) = self.round(generation, revision, &desired)
            {
                if failures.is_empty() {
                    retry = RETRY_FIRST;
                } else {
                    pause = retry;
                    retry = (retry * 2).min(RETRY_LAST);
                }
                self.complain(&failures);
                self.publish(generation, revision, true, failures);
            }
            let mut waiting = [PollFd::new(self.post.wake.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut waiting, PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX));
        }
    }

    /// Programs the tables of all segments: first the additions everywhere, then the removals.
    /// Returns the failures; `None` if a newer desired state preempted the round.
    fn round(
        &mut self,
        generation: Generation,
        revision: Revision,
        desired: &Arc<Desired>,
    ) -> Option<Vec<ForwardingFailure>> {
        let begin = Instant::now();
        let there: BTreeSet<Vni> = desired.segments.keys().copied().collect();
        self.known.retain(|vni, _| there.contains(vni));
        self.tables.retain(&there);
        let (mut works, mut failures) = (Vec::new(), Vec::new());
        for (&vni, segment) in &desired.segments {
            match self.work(vni, segment) {
                Ok(work) => works.push(work),
                Err(error) => {
                    failures.push(ForwardingFailure { vni, change: None, error: Arc::new(error) });
                }
            }
        }
        let mut is_done = self.proceed(generation, &mut works, Work::additions);
        if is_done && works.iter().any(|work| work.made < work.all()) {
            let failed =
                works.iter().flat_map(|work| &work.failures).chain(&failures).cloned().collect();
            self.publish(generation, revision, false, failed);
            is_done = self.proceed(generation, &mut works, Work::all);
        }
        let mut made = 0;
        for work in works {
            made += work.made.saturating_sub(work.failures.len());
            failures.extend(work.failures.iter().cloned());
            let vni = work.vni;
            self.known.extend(work.known(desired, self.tier).map(|known| (vni, known)));
        }
        let (took, failed) = (begin.elapsed(), failures.len());
        self.observer.replicated(&ReplicatorRound { took, made, failed });
        is_done.then_some(failures)
    }

    /// Computes the changes to one segment's tables.
    fn work(&mut self, vni: Vni, segment: &Segment) -> Result<Work, KernelError> {
        let known = self.known.remove(&vni).filter(|known| known.read_at.elapsed() < AGE_MAX);
        let known = match known {
            Some(known) => known,
            None => self.read(vni)?,
        };
        let (mut changes, keeps) = known.there.changes_to(vni, segment, self.tier);
        changes.retain(|change| is_possible(change, &known.ports));
        if !changes.is_empty() {
            debug!(%vni, changes = changes.len(), "changing replication and pins");
        }
        Ok(Work { vni, own: segment.vtep, known, keeps, changes, made: 0, failures: Vec::new() })
    }

    /// Makes the changes of each segment up to a position. Returns false if a newer desired state
    /// preempted it. At least one batch is made in any case, so repeated preemption still makes
    /// progress.
    fn proceed(
        &mut self,
        generation: Generation,
        works: &mut [Work],
        until: fn(&Work) -> usize,
    ) -> bool {
        let mut has_begun = false;
        for work in works {
            while work.made < until(work) {
                if has_begun && self.post.is_news(generation) {
                    return false;
                }
                work.proceed(&mut *self.tables, until(work));
                has_begun = true;
            }
        }
        true
    }

    /// Reads a segment's tables.
    fn read(&mut self, vni: Vni) -> Result<TableCache, KernelError> {
        let read_at = Instant::now();
        let there = CachedTables::Tables(self.tables.read(vni)?);
        Ok(TableCache { there, ports: self.tables.ports(vni)?, read_at })
    }

    fn complain(&mut self, failures: &[ForwardingFailure]) {
        let complaints: Vec<String> = failures
            .iter()
            .filter(|failure| !failure.is_early())
            .map(ToString::to_string)
            .collect();
        if complaints != self.complaints {
            complaints.iter().for_each(|complaint| warn!("{complaint}; trying again"));
            self.complaints = complaints;
        }
    }

    fn publish(
        &self,
        generation: Generation,
        revision: Revision,
        is_complete: bool,
        failures: Vec<ForwardingFailure>,
    ) {
        self.status.send_replace(Status {
            generation,
            revision,
            is_complete,
            failures: failures.into(),
        });
    }
}

/// Whether the port of a change exists. If it is missing, the reconciler has yet to create it, or
/// its container is gone.
fn is_possible(change: &Change, ports: &BTreeSet<DeviceName>) -> bool {
    match change {
        Change::PinPort { port, .. } | Change::UnpinPort { port, .. } => ports.contains(port),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
