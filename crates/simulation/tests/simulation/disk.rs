//! A simulated disk: slow, failing, and losing unsynced writes in a crash.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use shoutd_consensus::testing::{Entry, LogId, Records, RemovalNotice, SnapshotMeta, Vote};
use shoutd_consensus::{StoreError, StoredIdentity};
use shoutd_core::local::Local;
use shoutd_core::{ClusterId, HostId};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep, sleep_until};

use super::Bug;
use super::chance::Chance;

/// The change of one transaction.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Vote(Vote),
    Committed(Option<LogId>),
    Append(Vec<Entry>),
    Truncate(u64),
    Purge(LogId),
    Snapshot(SnapshotMeta, Arc<Vec<u8>>),
    Identity(StoredIdentity),
    RemovalNotice(RemovalNotice),
    Local(Arc<Local>),
}

/// The contents of a disk.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub log: BTreeMap<u64, Entry>,
    pub snapshot: Option<(SnapshotMeta, Arc<Vec<u8>>)>,
    pub identity: StoredIdentity,
    pub removal_notice: Option<RemovalNotice>,
    pub local: Arc<Local>,
}

impl Contents {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Vote(vote) => self.vote = Some(vote),
            Change::Committed(committed) => self.committed = committed,
            Change::Append(entries) => {
                self.log.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
            }
            Change::Truncate(since) => drop(self.log.split_off(&since)),
            Change::Purge(upto) => {
                self.log = self.log.split_off(&(upto.index + 1));
                self.purged = Some(upto);
            }
            // As in the real store, a newer snapshot stays.
            Change::Snapshot(meta, data) => {
                if self
                    .snapshot
                    .as_ref()
                    .is_none_or(|(kept, _)| kept.last_log_id <= meta.last_log_id)
                {
                    self.snapshot = Some((meta, data));
                }
            }
            Change::Identity(identity) => self.identity = identity,
            Change::RemovalNotice(removal_notice) => self.removal_notice = Some(removal_notice),
            Change::Local(local) => self.local = local,
        }
    }
}

/// Time between two checks whether a snapshot is on disk.
const SNAPSHOT_LOOK: Duration = Duration::from_millis(2);

/// A write failed.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the disk failed")]
pub(crate) struct DiskFailed;

impl From<DiskFailed> for StoreError {
    fn from(error: DiskFailed) -> Self {
        Self::Failed { path: "simulated/disk".into(), source: error.into() }
    }
}

/// Power failures per thousand writes.
const ACCIDENT_IN_WRITE: u64 = 1;

/// Power failures per thousand received snapshots.
const ACCIDENT_IN_WORK: u64 = 100;

/// One host's disk. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
    /// Serializes transactions.
    turn: Arc<tokio::sync::Mutex<()>>,
    bug: Option<Bug>,
    host: HostId,
    /// Reports a power failure of this host.
    accidents: UnboundedSender<HostId>,
}

#[derive(Debug)]
struct State {
    /// The contents that readers see.
    current: Contents,
    /// The contents after a crash.
    durable: Contents,
    /// Changes with the time at which they become durable.
    unsynced: VecDeque<(Instant, Change)>,
    chance: Chance,
    slow: bool,
    failing: bool,
    /// Whether a write failed since the host started.
    broken: bool,
}

impl State {
    fn sync(&mut self) {
        let now = Instant::now();
        while self.unsynced.front().is_some_and(|(due, _)| *due <= now) {
            self.sync_one();
        }
    }

    fn sync_one(&mut self) {
        if let Some((_, change)) = self.unsynced.pop_front() {
            self.durable.apply(change);
        }
    }
}

impl Disk {
    pub fn new(
        host: HostId,
        seed: u64,
        bug: Option<Bug>,
        accidents: UnboundedSender<HostId>,
    ) -> Self {
        let contents = Contents {
            vote: None,
            committed: None,
            purged: None,
            log: BTreeMap::new(),
            snapshot: None,
            identity: StoredIdentity { host, cluster: None, founder: false, epoch: 0 },
            removal_notice: None,
            local: Arc::default(),
        };
        let state = State {
            current: contents.clone(),
            durable: contents,
            unsynced: VecDeque::new(),
            chance: Chance::new(seed, &format!("disk of {host}")),
            slow: false,
            failing: false,
            broken: false,
        };
        Self { state: Arc::new(Mutex::new(state)), turn: Arc::default(), bug, host, accidents }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Reads the current contents.
    pub fn read<T>(&self, read: impl FnOnce(&Contents) -> T) -> T {
        read(&self.state().current)
    }

    /// Writes a change, which is durable when this returns.
    pub async fn write(&self, change: Change) -> Result<(), DiskFailed> {
        let _turn = self.turn.lock().await;
        self.write_next(change).await
    }

    async fn write_next(&self, change: Change) -> Result<(), DiskFailed> {
        let due = {
            let mut state = self.state();
            let time =
                if state.slow { state.chance.millis(30..=700) } else { state.chance.millis(0..=4) };
            let forgotten = self.bug == Some(Bug::ForgetsVote) && matches!(change, Change::Vote(_));
            let due = Instant::now() + time;
            if state.chance.happens(ACCIDENT_IN_WRITE) {
                let _ = self.accidents.send(self.host);
            }
            if !forgotten {
                state.unsynced.push_back((due, change.clone()));
            }
            due
        };
        if self.bug != Some(Bug::AcknowledgesBeforeFsync) {
            sleep_until(due).await;
        }
        let mut state = self.state();
        if state.failing {
            state.broken = true;
            // A failed write may still reach the disk.
            if state.chance.happens(500) {
                state.unsynced.pop_back();
            }
            return Err(DiskFailed);
        }
        state.sync();
        state.current.apply(change);
        Ok(())
    }

    /// Takes the time of an operation larger than a write.
    pub async fn work(&self) {
        let (time, accident) = {
            let mut state = self.state();
            let time = if state.slow {
                state.chance.millis(100..=1000)
            } else {
                state.chance.millis(0..=100)
            };
            (time, state.chance.happens(ACCIDENT_IN_WORK))
        };
        sleep(time).await;
        if accident {
            let _ = self.accidents.send(self.host);
        }
    }

    /// Purges log entries, as the real store once a snapshot that includes them is on disk:
    /// openraft purges as soon as it has begun to install a snapshot.
    pub async fn purge(&self, upto: LogId) -> Result<(), DiskFailed> {
        if self.bug != Some(Bug::PurgesBeforeTheSnapshot) {
            while self.read(|contents| {
                contents.snapshot.as_ref().is_none_or(|(meta, _)| meta.last_log_id < Some(upto))
            }) {
                if self.state().broken {
                    return Err(DiskFailed);
                }
                sleep(SNAPSHOT_LOOK).await;
            }
        }
        self.write(Change::Purge(upto)).await
    }

    /// A power failure: of the unsynced writes a prefix may have reached the disk.
    pub fn crash(&mut self) {
        self.turn = Arc::default();
        let mut state = self.state();
        state.sync();
        let lucky = state.unsynced.len() + 1;
        for _ in 0..state.chance.below(lucky) {
            state.sync_one();
        }
        state.unsynced.clear();
        state.broken = false;
        state.current = state.durable.clone();
    }

    pub fn set_slow(&self, slow: bool) {
        self.state().slow = slow;
    }

    pub fn set_failing(&self, failing: bool) {
        self.state().failing = failing;
    }
}

impl Records for Disk {
    fn identity(&self) -> StoredIdentity {
        self.read(|contents| contents.identity)
    }

    fn removal_notice(&self) -> Option<RemovalNotice> {
        self.read(|contents| contents.removal_notice.clone())
    }

    fn record_cluster(
        &self,
        cluster: ClusterId,
        founder: bool,
        epoch: u64,
    ) -> BoxFuture<'_, Result<StoredIdentity, StoreError>> {
        Box::pin(async move {
            let _turn = self.turn.lock().await;
            let mut identity = self.identity();
            if identity.cluster.is_none() {
                identity.cluster = Some(cluster);
                identity.founder = founder;
                identity.epoch = epoch;
                self.write_next(Change::Identity(identity)).await?;
            }
            Ok(identity)
        })
    }

    fn record_removal_notice(
        &self,
        notice: RemovalNotice,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { Ok(self.write(Change::RemovalNotice(notice)).await?) })
    }

    fn fault(&self) -> Option<String> {
        self.state().failing.then(|| DiskFailed.to_string())
    }

    fn log_id_at(&self, index: u64) -> Option<LogId> {
        self.read(|contents| contents.log.get(&index).map(|entry| entry.log_id))
    }
}
