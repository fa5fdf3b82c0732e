//! openraft's storage of the log and the vote.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader, StorageIOError,
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::watch;

use super::StoreError;
use super::file::{self, DatabaseFile, VALUES, from_json, read, to_json, write, write_one};
use crate::raft::{Entry, LogId, StorageError, Types, Vote};

/// Entries by index, as JSON: they are few, and newer versions can read those of older ones.
pub(super) const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
pub(super) const VOTE: &str = "vote";
pub(super) const COMMITTED: &str = "committed";
pub(super) const PURGED: &str = "purged";

/// Bytes of log entries in one message, unless the first entry alone has more. This keeps messages
/// well below a peer's limit.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Makes the table, so that an empty log is no special case.
pub(super) fn create_table(database: &Database) -> file::Result<()> {
    if database.begin_read()?.open_table(LOG).is_ok() {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    transaction.open_table(LOG)?;
    transaction.commit()?;
    Ok(())
}

/// The id of the entry at this index, if it exists.
pub(crate) async fn log_id_at(
    file: &DatabaseFile,
    index: u64,
) -> Result<Option<LogId>, StoreError> {
    file.spawn(move |database| {
        let entry = database.begin_read()?.open_table(LOG)?.get(index)?;
        entry.map(|entry| Ok(parse_entry(entry.value())?.log_id)).transpose()
    })
    .await
}

/// The log. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    file: DatabaseFile,
    /// Up to where a snapshot is on disk. Without this receiver, purges do not wait.
    snapshots: Option<watch::Receiver<Option<LogId>>>,
    /// The host of this log.
    me: Option<u64>,
}

impl LogStore {
    #[cfg(test)]
    pub fn new(file: DatabaseFile) -> Self {
        Self { file, snapshots: None, me: None }
    }

    /// A log that purges entries only once a snapshot that includes them is on disk.
    pub fn with_snapshots(
        file: DatabaseFile,
        snapshots: watch::Receiver<Option<LogId>>,
        me: u64,
    ) -> Self {
        Self { file, snapshots: Some(snapshots), me: Some(me) }
    }
}

fn reading(error: &StoreError) -> StorageError {
    StorageIOError::read_logs(AnyError::new(error)).into()
}

fn writing(error: &StoreError) -> StorageError {
    StorageIOError::write_logs(AnyError::new(error)).into()
}

pub(super) fn parse_entry(bytes: &[u8]) -> file::Result<Entry> {
    from_json(bytes)
}

/// The entries of a range, up to `bytes_max` bytes together, and at least one.
fn entries(
    database: &Database,
    range: (Bound<u64>, Bound<u64>),
    bytes_max: usize,
) -> file::Result<Vec<Entry>> {
    let table = database.begin_read()?.open_table(LOG)?;
    let (mut entries, mut bytes) = (Vec::new(), 0_usize);
    for item in table.range::<u64>(range)? {
        let (_, value) = item?;
        bytes = bytes.saturating_add(value.value().len());
        if bytes > bytes_max && !entries.is_empty() {
            break;
        }
        entries.push(parse_entry(value.value())?);
    }
    Ok(entries)
}

/// The vote that a host starts with. openraft would let a former leader continue as leader of its
/// term. After a rollback it could then write other entries at the indices of those that it lost,
/// with the same term, which Raft cannot detect. So it must be elected again.
pub fn vote_at_start(vote: Vote, me: u64) -> Vote {
    match vote.leader_id().voted_for() {
        Some(leader) if leader == me => Vote::new(vote.leader_id().term, me),
        _ => vote,
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        self.file
            .insist(move |database| entries(database, range, usize::MAX))
            .await
            .map_err(|error| reading(&error))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let range = (Bound::Included(start), Bound::Excluded(end));
        self.file
            .insist(move |database| entries(database, range, MESSAGE_BYTES_MAX))
            .await
            .map_err(|error| reading(&error))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let state = self.file.insist(|database| {
            let transaction = database.begin_read()?;
            let last_purged_log_id: Option<LogId> = read(&transaction.open_table(VALUES)?, PURGED)?;
            let last: Option<Entry> = match transaction.open_table(LOG)?.last()? {
                Some((_, value)) => Some(from_json(value.value())?),
                None => None,
            };
            let last_log_id = last.map(|entry| entry.log_id).or(last_purged_log_id);
            Ok(LogState { last_purged_log_id, last_log_id })
        });
        state.await.map_err(|error| reading(&error))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let saved = self.file.insist(move |database| write_one(database, VOTE, &vote)).await;
        saved.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let me = self.me;
        let vote = self.file.insist(|database| file::read_one(database, VOTE)).await;
        vote.map(|vote: Option<Vote>| {
            vote.map(|vote| me.map_or(vote, |me| vote_at_start(vote, me)))
        })
        .map_err(|error| StorageIOError::read_vote(AnyError::new(&error)).into())
    }

    /// Stored, so that a restarted host has all committed entries that it knew at once, even
    /// without the other hosts.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let saved =
            self.file.insist(move |database| write_one(database, COMMITTED, &committed)).await;
        saved.map_err(|error| {
            StorageIOError::new(ErrorSubject::Store, ErrorVerb::Write, AnyError::new(&error)).into()
        })
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed =
            self.file.insist(|database| file::read_one::<Option<LogId>>(database, COMMITTED)).await;
        committed.map(Option::flatten).map_err(|error| reading(&error))
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
        let appended = self.file.insist(move |database| {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(LOG)?;
                for entry in &entries {
                    table.insert(entry.log_id.index, to_json(entry)?.as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        });
        match appended.await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(io::Error::other(error.to_string())));
                Err(writing(&error))
            }
        }
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let agreed = self.read_committed().await?;
        if agreed.is_some_and(|agreed| agreed.index >= since.index) {
            // Raft never removes committed entries. This host was rolled back and went on without
            // its cluster.
            let directory = self.file.path().parent().unwrap_or(self.file.path()).to_owned();
            let fork = StoreError::Fork { directory };
            self.file.condemn(fork.to_string());
            return Err(writing(&fork));
        }
        let truncated = self.file.insist(move |database| {
            let transaction = database.begin_write()?;
            transaction.open_table(LOG)?.retain_in(since.index.., |_, _| false)?;
            transaction.commit()?;
            Ok(())
        });
        truncated.await.map_err(|error| writing(&error))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        // openraft purges when it has only begun to install a snapshot. A host that crashed with
        // neither log nor snapshot could not start again.
        if let Some(snapshots) = &mut self.snapshots
            && snapshots.wait_for(|kept| *kept >= Some(upto)).await.is_err()
        {
            return Err(writing(&StoreError::Closed { path: self.file.path().to_owned() }));
        }
        let purged = self.file.insist(move |database| {
            // One transaction: a log without its beginning must have the record of what was purged.
            let transaction = database.begin_write()?;
            write(&mut transaction.open_table(VALUES)?, PURGED, &upto)?;
            transaction.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?;
            transaction.commit()?;
            Ok(())
        });
        purged.await.map_err(|error| writing(&error))
    }
}
