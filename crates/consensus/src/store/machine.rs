//! The Raft state machine: agreed state, its snapshots, and the channels that publish it.

use std::io::{self, Cursor};
use std::sync::Arc;

use openraft::entry::RaftPayload;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use redb::{Database, ReadableDatabase};
use shoutd_core::cluster::Cluster;
use tokio::sync::watch;

use super::StoreError;
use super::file::{self, DatabaseFile, VALUES, from_json, read, to_json, write};
use crate::logged::{Logged, disclose, enclose};
use crate::raft::{
    Answer, Entry, LogId, Snapshot, SnapshotMeta, StorageError, StoredMembership, Types,
};

pub(super) const SNAPSHOT_META: &str = "snapshot-meta";
pub(super) const SNAPSHOT: &str = "snapshot";

/// The receivers of the state machine's channels.
#[derive(Debug, Clone)]
pub struct Published {
    /// The state after the last entry.
    pub cluster: watch::Receiver<Arc<Cluster>>,
    /// The number of applied entries: the index of the last plus one. Changes after `cluster` does.
    pub applied: watch::Receiver<u64>,
    /// The last entry of the newest snapshot on disk.
    pub snapshots: watch::Receiver<Option<LogId>>,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Machine {
    file: DatabaseFile,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    cluster: watch::Sender<Arc<Cluster>>,
    applied: watch::Sender<u64>,
    snapshots: watch::Sender<Option<LogId>>,
}

impl Machine {
    /// Loads the last snapshot. openraft then applies the later entries.
    pub async fn open(file: DatabaseFile) -> Result<(Self, Published), StoreError> {
        let loaded = file
            .insist(|database| {
                load(database)?.map(|(meta, data)| Ok((meta, parse(&data)?))).transpose()
            })
            .await?;
        let (meta, cluster) = loaded.unwrap_or_default();
        let (cluster, cluster_receiver) = watch::channel(Arc::new(cluster));
        let (applied, applied_receiver) = watch::channel(count(meta.last_log_id));
        let (snapshots, snapshots_receiver) = watch::channel(meta.last_log_id);
        let (last_applied, membership) = (meta.last_log_id, meta.last_membership);
        let machine = Self { file, last_applied, membership, cluster, applied, snapshots };
        let (cluster, applied, snapshots) =
            (cluster_receiver, applied_receiver, snapshots_receiver);
        Ok((machine, Published { cluster, applied, snapshots }))
    }

    fn publish(&self, cluster: Arc<Cluster>) {
        self.cluster.send_replace(cluster);
        self.applied.send_replace(count(self.last_applied));
    }

    fn meta(&self) -> SnapshotMeta {
        // Snapshots with the same last entry are equal, so its id serves as theirs.
        let snapshot_id = self.last_applied.map_or_else(|| "empty".to_owned(), |id| id.to_string());
        SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.membership.clone(),
            snapshot_id,
        }
    }
}

fn count(last: Option<LogId>) -> u64 {
    last.map_or(0, |last| last.index + 1)
}

/// State as it is stored and sent, with the version of its format.
pub(super) fn to_data(cluster: &Cluster) -> file::Result<Vec<u8>> {
    to_json(&enclose(cluster))
}

pub(super) fn parse(data: &[u8]) -> file::Result<Cluster> {
    disclose(from_json(data)?)
        .map_err(|unknown| redb::Error::Io(io::Error::other(unknown.to_string())))
}

pub(super) fn load(database: &Database) -> file::Result<Option<(SnapshotMeta, Vec<u8>)>> {
    let table = database.begin_read()?.open_table(VALUES)?;
    let (meta, data) = (read(&table, SNAPSHOT_META)?, table.get(SNAPSHOT)?);
    Ok(meta.zip(data).map(|(meta, data)| (meta, data.value().to_vec())))
}

/// Stores a snapshot, unless the stored one is newer: a snapshot that was begun before a newer one
/// was received must not replace it, as the log entries after it are purged.
fn keep(database: &Database, meta: &SnapshotMeta, data: &[u8]) -> file::Result<()> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(VALUES)?;
        let kept: Option<SnapshotMeta> = read(&table, SNAPSHOT_META)?;
        if kept.is_none_or(|kept| kept.last_log_id <= meta.last_log_id) {
            write(&mut table, SNAPSHOT_META, meta)?;
            table.insert(SNAPSHOT, data)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Publishes up to where a snapshot is on disk. A late, older one changes nothing.
fn raise(snapshots: &watch::Sender<Option<LogId>>, last: Option<LogId>) {
    snapshots.send_if_modified(|kept| {
        let is_newer = *kept < last;
        *kept = last.max(*kept);
        is_newer
    });
}

fn reading(error: &StoreError) -> StorageError {
    StorageIOError::read_snapshot(None, AnyError::new(error)).into()
}

fn writing(meta: &SnapshotMeta, error: &StoreError) -> StorageError {
    StorageIOError::write_snapshot(Some(meta.signature()), AnyError::new(error)).into()
}

/// Makes a snapshot of the state at one moment.
pub(crate) struct SnapshotBuilder {
    file: DatabaseFile,
    meta: SnapshotMeta,
    cluster: Arc<Cluster>,
    snapshots: watch::Sender<Option<LogId>>,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (meta, cluster) = (self.meta.clone(), Arc::clone(&self.cluster));
        let built = self.file.insist(move |database| {
            let data = to_data(&cluster)?;
            keep(database, &meta, &data)?;
            Ok(data)
        });
        let data = built.await.map_err(|error| writing(&self.meta, &error))?;
        raise(&self.snapshots, self.meta.last_log_id);
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(data)) })
    }
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
            if let Some(membership) = entry.get_membership() {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
            answers.push(Answer(match entry.payload {
                EntryPayload::Normal(Logged::Known(command)) => {
                    Some(Arc::make_mut(&mut cluster).apply(&command))
                }
                EntryPayload::Normal(Logged::Unknown(unknown)) => {
                    self.publish(cluster);
                    self.file.condemn(unknown.to_string());
                    let error = AnyError::error(unknown);
                    return Err(StorageIOError::apply(entry.log_id, error).into());
                }
                EntryPayload::Blank | EntryPayload::Membership(_) => None,
            }));
            self.last_applied = Some(entry.log_id);
        }
        self.publish(cluster);
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let (cluster, snapshots) = (Arc::clone(&self.cluster.borrow()), self.snapshots.clone());
        SnapshotBuilder { file: self.file.clone(), meta: self.meta(), cluster, snapshots }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let kept_meta = meta.clone();
        let installed = self.file.insist(move |database| {
            // Parse before storing: a snapshot that this build does not understand must not replace
            // one that it does.
            let cluster = parse(snapshot.get_ref())?;
            keep(database, &kept_meta, snapshot.get_ref())?;
            Ok(cluster)
        });
        let cluster = installed.await.map_err(|error| writing(meta, &error))?;
        raise(&self.snapshots, meta.last_log_id);
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish(Arc::new(cluster));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let loaded = self.file.insist(load).await.map_err(|error| reading(&error))?;
        Ok(loaded.map(|(meta, data)| Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }))
    }
}
