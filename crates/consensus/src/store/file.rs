//! One redb file: verified when it is opened, reopened after disk errors, used from blocking
//! threads.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

/// Single values by name, as JSON.
pub(crate) const VALUES: TableDefinition<&str, &[u8]> = TableDefinition::new("values");

/// The file format that this build writes, and the only one that it reads. Raised with every change
/// that an older build would misread.
const FORMAT: u32 = 2;
const FORMAT_KEY: &str = "format";

/// redb's cache per file, in bytes. Its default is 1 GiB; agreed state is in memory anyway.
const CACHE_BYTES: usize = 8 << 20;

/// A file larger than this many bytes is compacted when it is opened.
const COMPACT_BYTES: u64 = 16 << 20;

/// The result of an operation on a file, before the path is added.
pub(crate) type Result<T> = std::result::Result<T, redb::Error>;

/// Time between two tries to write to a disk that is full or read-only.
const RETRY: Duration = Duration::from_secs(1);

/// An open file. Clones share it.
#[derive(Clone)]
pub(crate) struct DatabaseFile {
    node: Arc<Node>,
}

struct Node {
    path: PathBuf,
    state: RwLock<State>,
    /// The current fault, if there is one.
    fault: Mutex<Option<String>>,
    /// The permanent fault.
    condemned: OnceLock<String>,
    /// Retries end: the file is being closed.
    closing: AtomicBool,
}

struct State {
    /// Kept besides the database, so that we reopen the same file even if its path was replaced.
    /// `None` once closed: another process can then open the file although clones of this handle
    /// exist.
    file: Option<File>,
    /// `None` after an error: redb refuses all use of a database after one.
    database: Option<Database>,
}

impl std::fmt::Debug for DatabaseFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DatabaseFile").field(&self.node.path).finish()
    }
}

impl DatabaseFile {
    /// Opens the file of this name; makes it if it does not exist. Blocks.
    pub fn open(directory: &Path, name: &str) -> std::result::Result<Self, StoreError> {
        let path = directory.join(name);
        let file = open_or_create(directory, &path)
            .map_err(|source| StoreError::Directory { path: directory.to_owned(), source })?;
        let mut database = open_database(&path, &file)?;
        compact(&path, &file, &mut database);
        let state = RwLock::new(State { file: Some(file), database: Some(database) });
        let (fault, condemned, closing) =
            (Mutex::default(), OnceLock::new(), AtomicBool::new(false));
        let file = Self { node: Arc::new(Node { path, state, fault, condemned, closing }) };
        file.check_format()?;
        Ok(file)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.node.path
    }

    /// Stops waiting for a disk that cannot be written.
    pub fn stop_waiting(&self) {
        self.node.closing.store(true, Ordering::Relaxed);
    }

    /// Closes the file after the operations in progress. Blocks.
    pub fn close(&self) {
        self.stop_waiting();
        *self.node.state.write() = State { file: None, database: None };
    }

    /// Runs an operation on this thread. After a disk error, the next operation reopens the file in
    /// the state before the failed one.
    pub fn run<T>(
        &self,
        operation: impl FnOnce(&Database) -> Result<T>,
    ) -> std::result::Result<T, StoreError> {
        let done = self.ready().and_then(|()| {
            let state = self.node.state.read();
            let database = state.database.as_ref().ok_or_else(|| self.closed())?;
            operation(database).map_err(|error| StoreError::from_use(&self.node.path, error))
        });
        let mut fault = self.node.fault.lock();
        match &done {
            Ok(_) => *fault = None,
            Err(StoreError::Closed { .. }) => {}
            Err(error) => {
                *fault = Some(error.to_string());
                drop(fault);
                self.node.state.write().database = None;
            }
        }
        done
    }

    /// Opens the database again if an error made it unusable.
    fn ready(&self) -> std::result::Result<(), StoreError> {
        if self.node.state.read().database.is_some() {
            return Ok(());
        }
        let mut state = self.node.state.write();
        if state.database.is_none() {
            let file = state.file.as_ref().ok_or_else(|| self.closed())?;
            state.database = Some(open_database(&self.node.path, file)?);
        }
        Ok(())
    }

    fn closed(&self) -> StoreError {
        StoreError::Closed { path: self.node.path.clone() }
    }

    /// The current fault of the file, if there is one.
    pub fn fault(&self) -> Option<String> {
        if let Some(condemned) = self.node.condemned.get() {
            return Some(condemned.clone());
        }
        self.node.fault.lock().clone()
    }

    /// Records a permanent fault. The first one counts: later ones are its consequences.
    pub fn condemn(&self, reason: String) {
        self.node.condemned.get_or_init(|| reason);
    }

    /// Runs an operation on a blocking thread.
    pub async fn spawn<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Database) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        let file = self.clone();
        let ended = tokio::task::spawn_blocking(move || file.run(operation)).await;
        ended.map_err(|error| StoreError::Failed {
            path: self.node.path.clone(),
            source: error.into(),
        })?
    }

    /// As [`Self::spawn`], but retries while the disk is full or read-only, until the file is
    /// closed. The operation must be idempotent.
    pub async fn insist<T: Send + 'static>(
        &self,
        operation: impl Fn(&Database) -> Result<T> + Send + Sync + 'static,
    ) -> std::result::Result<T, StoreError> {
        let operation = Arc::new(operation);
        let mut waited = false;
        loop {
            let once = Arc::clone(&operation);
            match self.spawn(move |database| once(database)).await {
                Err(error @ StoreError::Unwritable { .. })
                    if !self.node.closing.load(Ordering::Relaxed) =>
                {
                    if !waited {
                        let waits = "consensus waits until this host's disk can be written";
                        tracing::error!(%error, "{waits}");
                    }
                    waited = true;
                }
                Err(error) => {
                    if !self.node.closing.load(Ordering::Relaxed) {
                        self.condemn(error.to_string());
                    }
                    return Err(error);
                }
                Ok(done) => {
                    if waited {
                        let path = self.path().display();
                        tracing::info!(%path, "the disk can be written again");
                    }
                    return Ok(done);
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn check_format(&self) -> std::result::Result<(), StoreError> {
        let found: Option<u32> = self.run(|database| {
            // Written only into a new file, so that an existing one can be opened on a full disk.
            match database.begin_read()?.open_table(VALUES) {
                Ok(table) => return read(&table, FORMAT_KEY),
                Err(TableError::TableDoesNotExist(_)) => {}
                Err(error) => return Err(error.into()),
            }
            write_one(database, FORMAT_KEY, &FORMAT)?;
            Ok(Some(FORMAT))
        })?;
        match found {
            Some(found) if found > FORMAT => {
                Err(StoreError::NewerFormat { path: self.node.path.clone(), found, known: FORMAT })
            }
            Some(found) if found < FORMAT => {
                Err(StoreError::OlderFormat { path: self.node.path.clone(), found, known: FORMAT })
            }
            _ => Ok(()),
        }
    }
}

/// Opens the file; makes it and its directory if they do not exist.
fn open_or_create(directory: &Path, path: &Path) -> io::Result<File> {
    // Only root may read agreed state, or impersonate this host.
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if fs::exists(path)? {
        return options.open(path);
    }
    let file = options.create_new(true).mode(0o600).open(path)?;
    // Without this a power failure could lose the file's name, although its contents were written.
    File::open(directory)?.sync_all()?;
    Ok(file)
}

fn open_database(path: &Path, file: &File) -> std::result::Result<Database, StoreError> {
    let mut builder = Database::builder();
    // Verify every page, so that a damaged file is refused as a whole.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    let backend = file
        .try_clone()
        .map_err(DatabaseError::from)
        .and_then(FileBackend::new)
        .map_err(|error| StoreError::from_open(path, error))?;
    // redb may still panic on a file that was crafted to pass its checks.
    match catch_unwind(AssertUnwindSafe(|| builder.create_with_backend(backend))) {
        Ok(opened) => opened.map_err(|error| StoreError::from_open(path, error)),
        Err(_) => Err(StoreError::Damaged {
            path: path.to_owned(),
            reason: "it is not a sound database".to_owned(),
        }),
    }
}

/// Returns the space of deleted data to the file system. redb reuses it, but never shrinks the file
/// by itself.
fn compact(path: &Path, file: &File, database: &mut Database) {
    if file.metadata().is_ok_and(|metadata| metadata.len() > COMPACT_BYTES) {
        // Not an error: the file works without, and on a full disk compaction may be impossible.
        if let Err(error) = database.compact() {
            tracing::debug!(path = %path.display(), %error, "the file could not be compacted");
        }
    }
}

/// Reads one value, if it exists.
pub(crate) fn read<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<T>> {
    table.get(key)?.map(|value| from_json(value.value())).transpose()
}

/// Reads one value in a transaction of its own.
pub(crate) fn read_one<T: DeserializeOwned>(database: &Database, key: &str) -> Result<Option<T>> {
    read(&database.begin_read()?.open_table(VALUES)?, key)
}

/// Writes one value.
pub(crate) fn write<T: Serialize>(
    table: &mut redb::Table<'_, &'static str, &'static [u8]>,
    key: &str,
    value: &T,
) -> Result<()> {
    table.insert(key, to_json(value)?.as_slice())?;
    Ok(())
}

/// Writes one value in a transaction of its own. Durable when this returns.
pub(crate) fn write_one<T: Serialize>(database: &Database, key: &str, value: &T) -> Result<()> {
    let transaction = database.begin_write()?;
    write(&mut transaction.open_table(VALUES)?, key, value)?;
    transaction.commit()?;
    Ok(())
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| redb::Error::Io(io::Error::other(error)))
}

pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| redb::Error::Corrupted(error.to_string()))
}
