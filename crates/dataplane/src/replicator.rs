//! The thread that keeps segments' forwarding tables as announcements want them. It stands beside the reconciler, which makes the devices, because it must be quick: a host that joins a group
//! waits for it.
//!
//! Once there was what was wanted, it compares what is wanted now with that, so that a change costs what has changed; what there really is, it reads anew every so often, when a device
//! was made anew, and when anything failed. Many changes are left for newer ones, which may be of somebody who waits, and gone on with from where they were left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use shoutd_core::Vni;
use shoutd_core::plane::{Change, Desired, DeviceName, Forwarding, Segment, Tier};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::backoff::{RETRY_FIRST, RETRY_LAST};
use crate::forwarding::ForwardingTables;
use crate::kernel::KernelError;
use crate::reconciler::Generation;

/// How old what is known of a segment may be before it is read anew.
const AGE_MAX: Duration = Duration::from_secs(10);
/// Changes made before it is looked whether something newer is wanted.
const CHANGES_AT_ONCE: usize = 256;

/// A change of a forwarding table that was not made.
#[derive(Debug, Clone)]
pub struct ForwardingFailure {
    /// The segment.
    pub vni: Vni,
    /// The change; `None` if not even what there is could be read.
    pub change: Option<Change>,
    /// Why.
    pub error: Arc<KernelError>,
}

impl fmt::Display for ForwardingFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "network with VNI {}, setting up where packets go: {}", self.vni, self.error)
    }
}

impl ForwardingFailure {
    /// Whether it fails only for want of a device, which the reconciler is about to make, or says itself why it cannot.
    pub(crate) fn is_early(&self) -> bool {
        matches!(*self.error, KernelError::NoDevice { .. } | KernelError::NoNamespace { .. })
    }
}

/// How often the reconciler changed something; later ones compare greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Revision(u64);

/// What the last round came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    pub(crate) generation: Generation,
    pub(crate) revision: Revision,
    pub(crate) failures: Arc<[ForwardingFailure]>,
}

/// What is handed to the thread.
#[derive(Debug, Default)]
struct Inbox {
    desired: Option<(Generation, Arc<Desired>)>,
    revision: Revision,
    /// Segments in which devices were made or deleted since the last round.
    touched: BTreeSet<Vni>,
    stopped: bool,
}

/// Speaks to the thread.
#[derive(Debug)]
pub(crate) struct Post {
    inbox: Mutex<Inbox>,
    wake: EventFd,
}

impl Post {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // Nothing that is done under the lock can leave it half changed.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn apply(&self, generation: Generation, desired: Arc<Desired>) {
        let mut inbox = self.inbox();
        // Two that apply at the same time may come here in the other order.
        if inbox.desired.as_ref().is_none_or(|(last, _)| *last < generation) {
            inbox.desired = Some((generation, desired));
        }
        drop(inbox);
        self.signal();
    }

    /// Whether another than this is the newest desired state.
    fn is_news(&self, generation: Generation) -> bool {
        self.inbox().desired.as_ref().is_some_and(|(newest, _)| *newest != generation)
    }

    /// Says that the reconciler changed devices in these segments.
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
        // It fails only when it is signalled already, 2^64 times.
        let _ = self.wake.write(1);
    }
}

/// What is known of one segment.
#[derive(Debug)]
struct Known {
    there: There,
    ports: BTreeSet<DeviceName>,
    read_at: Instant,
}

/// What a segment's tables hold.
#[derive(Debug)]
enum There {
    /// All that this wants of it.
    Wanted(Arc<Desired>),
    /// This, as it was read or as changes that were left for newer ones have made it.
    Tables(Forwarding),
}

impl There {
    /// What to do so that there is what is wanted.
    fn changes_to(&self, vni: Vni, wanted: &Segment, tier: Tier) -> Vec<Change> {
        match self {
            Self::Wanted(before) => match before.segments.get(&vni) {
                Some(before) => Forwarding::changes_between(before, wanted, tier),
                None => Forwarding::default().changes_to(&Forwarding::wanted(wanted, tier)),
            },
            Self::Tables(tables) => tables.changes_to(&Forwarding::wanted_beside(tables, wanted, tier)),
        }
    }

    /// What there is after these changes.
    fn changed(self, vni: Vni, changes: &[Change], tier: Tier) -> Self {
        let mut tables = match self {
            Self::Wanted(before) => {
                before.segments.get(&vni).map(|before| Forwarding::wanted(before, tier)).unwrap_or_default()
            }
            Self::Tables(tables) => tables,
        };
        changes.iter().for_each(|change| tables.apply(change));
        Self::Tables(tables)
    }
}

struct Replicator {
    tables: Box<dyn ForwardingTables>,
    tier: Tier,
    post: Arc<Post>,
    status: watch::Sender<Status>,
    known: BTreeMap<Vni, Known>,
    complaints: Vec<String>,
}

/// Starts the thread.
pub(crate) fn spawn(tables: Box<dyn ForwardingTables>, tier: Tier) -> io::Result<(Arc<Post>, watch::Receiver<Status>)> {
    let mut replicator = Replicator::new(tables, tier)?;
    let (post, status) = (replicator.post.clone(), replicator.status.subscribe());
    thread::Builder::new().name("replicator".to_owned()).spawn(move || replicator.run())?;
    Ok((post, status))
}

impl Replicator {
    fn new(tables: Box<dyn ForwardingTables>, tier: Tier) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let post = Arc::new(Post { inbox: Mutex::default(), wake });
        let status = watch::Sender::new(Status::default());
        Ok(Self { tables, tier, post, status, known: BTreeMap::new(), complaints: Vec::new() })
    }

    fn run(&mut self) {
        let mut retry = RETRY_FIRST;
        loop {
            // Before the inbox is read, so that what comes after that wakes it again.
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
                && let Some(failures) = self.round(generation, &desired)
            {
                if failures.is_empty() {
                    retry = RETRY_FIRST;
                } else {
                    pause = retry;
                    retry = (retry * 2).min(RETRY_LAST);
                }
                self.publish(generation, revision, failures);
            }
            let mut waiting = [PollFd::new(self.post.wake.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut waiting, PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX));
        }
    }

    /// Makes all segments' tables what they should be. Returns what failed; `None` if something newer was wanted before it was done.
    fn round(&mut self, generation: Generation, desired: &Arc<Desired>) -> Option<Vec<ForwardingFailure>> {
        let there: BTreeSet<Vni> = desired.segments.keys().copied().collect();
        self.known.retain(|vni, _| there.contains(vni));
        self.tables.retain(&there);
        let mut failures = Vec::new();
        for (&vni, segment) in &desired.segments {
            match self.segment(generation, vni, desired, segment) {
                Ok(Some(failed)) => failures.extend(failed),
                Ok(None) => return None,
                Err(error) => failures.push(ForwardingFailure { vni, change: None, error: Arc::new(error) }),
            }
        }
        Some(failures)
    }

    /// Makes one segment's tables what they should be. Returns what failed; `None` if something newer was wanted before it was done.
    fn segment(
        &mut self,
        generation: Generation,
        vni: Vni,
        desired: &Arc<Desired>,
        segment: &Segment,
    ) -> Result<Option<Vec<ForwardingFailure>>, KernelError> {
        // Unless all goes well, it is read anew next time; also while what is there may stay beside what is wanted.
        let provisional = segment.replication.provisional;
        let known = self.known.remove(&vni).filter(|known| !provisional && known.read_at.elapsed() < AGE_MAX);
        let Known { there, ports, read_at } = match known {
            Some(known) => known,
            None => self.read(vni)?,
        };
        let mut changes = there.changes_to(vni, segment, self.tier);
        changes.retain(|change| is_possible(change, &ports));
        if !changes.is_empty() {
            debug!(%vni, changes = changes.len(), "forwarding tables change");
        }
        let mut failures = Vec::new();
        for (number, some) in changes.chunks(CHANGES_AT_ONCE).enumerate() {
            if number > 0 && self.post.is_news(generation) {
                if failures.is_empty() {
                    let made = changes.get(..number * CHANGES_AT_ONCE).unwrap_or_default();
                    let there = there.changed(vni, made, self.tier);
                    self.known.insert(vni, Known { there, ports, read_at });
                }
                return Ok(None);
            }
            let failed = self.tables.change(vni, segment.vtep, some)?;
            failures.extend(failed.into_iter().map(|(position, error)| ForwardingFailure {
                vni,
                change: some.get(position).cloned(),
                error: Arc::new(error),
            }));
        }
        if failures.is_empty() && !provisional {
            self.known.insert(vni, Known { there: There::Wanted(desired.clone()), ports, read_at });
        }
        Ok(Some(failures))
    }

    /// Reads what a segment has.
    fn read(&mut self, vni: Vni) -> Result<Known, KernelError> {
        let read_at = Instant::now();
        let there = There::Tables(self.tables.read(vni)?);
        Ok(Known { there, ports: self.tables.ports(vni)?, read_at })
    }

    fn publish(&mut self, generation: Generation, revision: Revision, failures: Vec<ForwardingFailure>) {
        let complaints: Vec<String> =
            failures.iter().filter(|failure| !failure.is_early()).map(ToString::to_string).collect();
        if complaints != self.complaints {
            complaints.iter().for_each(|complaint| warn!("{complaint}; trying again"));
            self.complaints = complaints;
        }
        self.status.send_replace(Status { generation, revision, failures: failures.into() });
    }
}

/// Whether the port that a change is about is there. Those that are not come by the reconciler's hand, or belong to containers that are gone.
fn is_possible(change: &Change, ports: &BTreeSet<DeviceName>) -> bool {
    match change {
        Change::PinPort { port, .. } | Change::UnpinPort { port, .. } => ports.contains(port),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use shoutd_core::multicast::Replication;
    use shoutd_core::plane::Vtep;

    use super::*;
    use crate::fake_forwarding::FakeForwarding;

    /// A network of which these groups go to one other host.
    fn desired(vni: Vni, groups: impl Iterator<Item = u32>) -> Arc<Desired> {
        let remote = |last| IpAddr::from(Ipv4Addr::new(192, 0, 2, last));
        let group = |number| (None, Ipv4Addr::from(0xef01_0000 + number).into());
        let segment = Segment {
            network: "a".repeat(64).parse().unwrap(),
            mtu: 1450,
            vtep: Vtep { address: remote(1), port: 7789 },
            remotes: BTreeSet::from([remote(2)]),
            replication: Replication {
                groups: groups.map(|number| (group(number), BTreeSet::from([remote(2)]))).collect(),
                unregistered: BTreeSet::new(),
                provisional: false,
                beyond: 0,
            },
            remote_macs: BTreeMap::new(),
            learning: true,
            max_rate: None,
            ports: BTreeMap::new(),
        };
        Arc::new(Desired { segments: BTreeMap::from([(vni, segment)]) })
    }

    /// How often tables were read whole, and how many changes were made.
    fn counted(fake: &FakeForwarding) -> (usize, usize) {
        let content = fake.content();
        (content.reads, content.changes)
    }

    #[test]
    fn many_changes_are_left_for_newer_ones_and_gone_on_with_without_reading_anew() {
        let (fake, vni) = (FakeForwarding::default(), Vni::new(7).unwrap());
        let mut replicator = Replicator::new(Box::new(fake.clone()), Tier::VxlanMdb).unwrap();
        let [all, none, one] = [desired(vni, 0..2000), desired(vni, 0..0), desired(vni, 5000..5001)];
        assert!(replicator.round(Generation(0), &all).is_some());
        let (reads, changes) = counted(&fake);
        // All groups are withdrawn; before that is done, one is joined.
        replicator.post.apply(Generation(1), one.clone());
        assert!(replicator.round(Generation(0), &none).is_none(), "it did not look for news");
        assert_eq!(counted(&fake), (reads, changes + CHANGES_AT_ONCE));
        assert!(replicator.round(Generation(1), &one).is_some());
        assert_eq!(counted(&fake), (reads, changes + 2001));
        assert_eq!(fake.content().tables[&vni], Forwarding::wanted(&one.segments[&vni], Tier::VxlanMdb));
    }
}
