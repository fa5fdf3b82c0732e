//! openraft's storage on a simulated disk, with the same guarantees as the real one unless a bug is
//! put back.

use std::fmt::Debug;
use std::io::{self, Cursor};
use std::ops::RangeBounds;
use std::sync::Arc;

use openraft::entry::RaftPayload;
use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    AnyError, EntryPayload, LogState, OptionalSend, RaftLogReader, RaftSnapshotBuilder,
    StorageIOError,
};
use shoutd_consensus::testing::{
    Answer, Entry, LogId, Logged, Published, Snapshot, SnapshotMeta, StorageError,
    StoredMembership, Types, Vote, disclose, enclose, vote_at_start,
};
use shoutd_core::HostId;
use shoutd_core::cluster::{Cluster, Command, Outcome, Refusal};
use tokio::sync::watch;

use super::Bug;
use super::checks::Checks;
use super::disk::{Change, Disk, DiskFailed};

fn failed(error: DiskFailed) -> StorageError {
    StorageIOError::write_logs(AnyError::new(&error)).into()
}

/// The log and the vote.
#[derive(Debug, Clone)]
pub(crate) struct Log(pub Disk);

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self
            .0
            .read(|contents| contents.log.range(range).map(|(_, entry)| entry.clone()).collect()))
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        Ok(self.0.read(|contents| {
            let last = contents.log.last_key_value().map(|(_, entry)| entry.log_id);
            LogState { last_purged_log_id: contents.purged, last_log_id: last.or(contents.purged) }
        }))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.0.write(Change::Vote(*vote)).await.map_err(failed)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.0.read(|contents| {
            let me = contents.identity.host.get();
            contents.vote.map(|vote| vote_at_start(vote, me))
        }))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.0.write(Change::Committed(committed)).await.map_err(failed)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.0.read(|contents| contents.committed))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        match self.0.write(Change::Append(entries)).await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(io::Error::other(error)));
                Err(failed(error))
            }
        }
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        self.0.write(Change::Truncate(since.index)).await.map_err(failed)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        self.0.purge(upto).await.map_err(failed)
    }
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Machine {
    host: HostId,
    disk: Disk,
    checks: Checks,
    bug: Option<Bug>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    cluster: watch::Sender<Arc<Cluster>>,
    applied: watch::Sender<u64>,
}

fn count(last: Option<LogId>) -> u64 {
    last.map_or(0, |last| last.index + 1)
}

impl Machine {
    pub fn open(host: HostId, disk: Disk, checks: Checks, bug: Option<Bug>) -> (Self, Published) {
        let loaded = disk.read(|contents| contents.snapshot.clone());
        let (meta, cluster) =
            loaded.map_or_else(Default::default, |(meta, data)| (meta, parse(&data)));
        let (cluster, cluster_receiver) = watch::channel(Arc::new(cluster));
        let (applied, applied_receiver) = watch::channel(count(meta.last_log_id));
        let (last_applied, membership) = (meta.last_log_id, meta.last_membership);
        let machine = Self { host, disk, checks, bug, last_applied, membership, cluster, applied };
        // Unused: the simulated log checks the disk itself.
        let (_, snapshots) = watch::channel(meta.last_log_id);
        (machine, Published { cluster: cluster_receiver, applied: applied_receiver, snapshots })
    }

    fn publish(&self, cluster: Arc<Cluster>) {
        self.cluster.send_replace(cluster);
        self.applied.send_replace(count(self.last_applied));
    }

    fn apply_command(&self, cluster: &mut Cluster, command: &Command) -> Result<Outcome, Refusal> {
        if self.bug == Some(Bug::AppliesByTheClock)
            && let Command::CreateNetwork { id, origin, settings } = command
        {
            // A part of the state depends on the host's clock.
            let mut settings = settings.clone();
            settings.internal = self.checks.wall_clock(self.host).as_secs() % 7 == 3;
            return cluster.apply(&Command::CreateNetwork {
                id: id.clone(),
                origin: *origin,
                settings,
            });
        }
        cluster.apply(command)
    }
}

fn parse(data: &[u8]) -> Cluster {
    disclose(serde_json::from_slice(data).unwrap()).unwrap()
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut cluster = Arc::clone(&self.cluster.borrow());
        let mut answers = Vec::new();
        for entry in entries {
            self.last_applied = Some(entry.log_id);
            if let Some(membership) = entry.get_membership() {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
            let answer = Answer(match &entry.payload {
                EntryPayload::Normal(Logged::Known(command)) => {
                    Some(self.apply_command(Arc::make_mut(&mut cluster), command))
                }
                EntryPayload::Normal(Logged::Unknown(unknown)) => panic!("{unknown}"),
                EntryPayload::Blank | EntryPayload::Membership(_) => None,
            });
            cluster = self.checks.applied(self.host, &entry, &answer, cluster);
            answers.push(answer);
        }
        self.publish(cluster);
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let snapshot_id = self.last_applied.map_or_else(|| "empty".to_owned(), |id| id.to_string());
        let (last_log_id, last_membership) = (self.last_applied, self.membership.clone());
        let meta = SnapshotMeta { last_log_id, last_membership, snapshot_id };
        SnapshotBuilder {
            disk: self.disk.clone(),
            meta,
            cluster: Arc::clone(&self.cluster.borrow()),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        // openraft continues while the snapshot is read.
        self.disk.work().await;
        let data = Arc::new(snapshot.into_inner());
        let cluster = Arc::new(parse(&data));
        self.disk.write(Change::Snapshot(meta.clone(), data)).await.map_err(failed)?;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        if let Some(last) = meta.last_log_id {
            self.checks.installed(self.host, last, &cluster);
        }
        self.publish(cluster);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let loaded = self.disk.read(|contents| contents.snapshot.clone());
        Ok(loaded
            .map(|(meta, data)| Snapshot { meta, snapshot: Box::new(Cursor::new(data.to_vec())) }))
    }
}

/// Makes a snapshot of the state at one moment.
pub(crate) struct SnapshotBuilder {
    disk: Disk,
    meta: SnapshotMeta,
    cluster: Arc<Cluster>,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let data = serde_json::to_vec(&enclose(&*self.cluster)).unwrap();
        let (meta, kept) = (self.meta.clone(), Arc::new(data.clone()));
        self.disk.write(Change::Snapshot(meta.clone(), kept)).await.map_err(failed)?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
    }
}
