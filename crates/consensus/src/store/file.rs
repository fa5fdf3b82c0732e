//! One database file: opened with care, used from blocking threads, closed on demand.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

/// Single values by name, as JSON.
pub(crate) const VALUES: TableDefinition<&str, &[u8]> = TableDefinition::new("values");

/// The format of the files that this build writes. It goes up with every change that an older build would misread.
const FORMAT: u32 = 1;
const FORMAT_KEY: &str = "format";

/// Octets of a file that are kept in memory. redb's default is a gibibyte; agreed state is in memory anyway.
const CACHE_BYTES: usize = 8 << 20;

/// What an operation on a file returns before its path is added.
pub(crate) type Result<T> = std::result::Result<T, redb::Error>;

/// An open file. Clones are the same file.
#[derive(Clone)]
pub(crate) struct DatabaseFile {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    /// `None` once it is closed, so that it can be opened again though somebody still holds a clone.
    database: RwLock<Option<Database>>,
    /// The first thing that went wrong: all that follows does because of it.
    fault: OnceLock<String>,
}

impl std::fmt::Debug for DatabaseFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DatabaseFile").field(&self.inner.path).finish()
    }
}

impl DatabaseFile {
    /// Opens the file of this name, made if it is not there. Blocks.
    pub fn open(directory: &Path, name: &str) -> std::result::Result<Self, StoreError> {
        let unusable = |source| StoreError::Directory { path: directory.to_owned(), source };
        // Only root may read what the cluster agreed on, or pretend to be this host.
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        let path = directory.join(name);
        if !fs::exists(&path).map_err(unusable)? {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(unusable)?;
            // Without this the file's name could be lost with the power, though its contents were written.
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(unusable)?;
        }
        let database = open_database(&path)?;
        let file =
            Self { inner: Arc::new(Inner { path, database: RwLock::new(Some(database)), fault: OnceLock::new() }) };
        file.check_format()?;
        Ok(file)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Closes the file, after the operations under way. Blocks.
    pub fn close(&self) {
        self.inner.database.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Runs an operation on this thread.
    pub fn run<T>(&self, operation: impl FnOnce(&Database) -> Result<T>) -> std::result::Result<T, StoreError> {
        let database = self.inner.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(|| StoreError::Closed { path: self.inner.path.clone() })?;
        operation(database).map_err(|error| {
            let error = StoreError::from_use(&self.inner.path, error);
            self.inner.fault.get_or_init(|| error.to_string());
            error
        })
    }

    /// What went wrong first, if anything did.
    pub fn fault(&self) -> Option<&str> {
        self.inner.fault.get().map(String::as_str)
    }

    /// Runs an operation on a thread where it may block.
    pub async fn spawn<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Database) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        let file = self.clone();
        let failed =
            |error: tokio::task::JoinError| StoreError::Failed { path: self.inner.path.clone(), source: error.into() };
        tokio::task::spawn_blocking(move || file.run(operation)).await.map_err(failed)?
    }

    fn check_format(&self) -> std::result::Result<(), StoreError> {
        let found: Option<u32> = self.run(|database| {
            let transaction = database.begin_write()?;
            let found = read(&transaction.open_table(VALUES)?, FORMAT_KEY)?;
            if found.is_none() {
                write(&mut transaction.open_table(VALUES)?, FORMAT_KEY, &FORMAT)?;
            }
            transaction.commit()?;
            Ok(found)
        })?;
        match found {
            Some(found) if found > FORMAT => {
                Err(StoreError::NewerFormat { path: self.inner.path.clone(), found, known: FORMAT })
            }
            _ => Ok(()),
        }
    }
}

fn open_database(path: &Path) -> std::result::Result<Database, StoreError> {
    let mut builder = Database::builder();
    // Every page is verified, so that a damaged file is refused instead of half understood.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    // redb may still panic on a file that was made to deceive it.
    match catch_unwind(AssertUnwindSafe(|| builder.create(path))) {
        Ok(opened) => opened.map_err(|error| StoreError::from_open(path, error)),
        Err(_) => Err(StoreError::Damaged { path: path.to_owned(), reason: "it is not a sound database".to_owned() }),
    }
}

/// One value, if it is there.
pub(crate) fn read<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<T>> {
    table.get(key)?.map(|value| from_json(value.value())).transpose()
}

/// One value in a transaction of its own.
pub(crate) fn read_one<T: DeserializeOwned>(database: &Database, key: &str) -> Result<Option<T>> {
    read(&database.begin_read()?.open_table(VALUES)?, key)
}

/// Puts one value.
pub(crate) fn write<T: Serialize>(
    table: &mut redb::Table<'_, &'static str, &'static [u8]>,
    key: &str,
    value: &T,
) -> Result<()> {
    table.insert(key, to_json(value)?.as_slice())?;
    Ok(())
}

/// Puts one value in a transaction of its own. It is on disk when this returns.
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
