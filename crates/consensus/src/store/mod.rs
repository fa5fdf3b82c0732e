//! The files of this host: one for agreed state, one for its own state.

mod alone;
mod error;
mod file;
mod local;
mod log;
mod machine;
#[cfg(test)]
mod tests;

use std::path::Path;

pub(crate) use alone::{contents, stand_alone};
pub use error::{StoreError, remedy};
pub(crate) use file::DatabaseFile;
pub use local::LocalStore;
#[cfg(feature = "testing")]
pub use log::vote_at_start;
pub(crate) use log::{LogStore, log_id_at};
pub(crate) use machine::Machine;
pub use machine::Published;
use serde::{Deserialize, Serialize};
use shoutd_core::{ClusterId, HostId};

use crate::removal_notice::RemovalNotice;

/// The file with the log, the vote and the snapshot.
const FILE: &str = "agreed.redb";

/// The files that [`Store`] and [`LocalStore`] keep in the data directory.
pub const FILES: [&str; 2] = [FILE, local::FILE];
const IDENTITY: &str = "identity";
const REMOVAL_NOTICE: &str = "farewell";

/// This host's identity, as recorded on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredIdentity {
    /// Its id, which follows from its key.
    pub host: HostId,
    /// The cluster that it belongs to, or has begun to found or join.
    pub cluster: Option<ClusterId>,
    /// Whether this host founded that cluster: an interrupted founding must be finished by this
    /// host.
    #[serde(default)]
    pub founder: bool,
    /// The epoch: raised by each recovery and restore. Hosts that were left out have a lower one.
    #[serde(default)]
    pub epoch: u64,
}

/// The file of agreed state: log, vote, snapshot and this host's identity.
#[derive(Debug)]
pub struct Store {
    file: DatabaseFile,
    identity: StoredIdentity,
}

impl Store {
    /// Opens the store in this directory; makes it if it does not exist. A new store records
    /// `new_host` as this host's id; an existing one keeps its own. Blocks for a few milliseconds.
    ///
    /// # Errors
    /// One line for the user; see [`StoreError`].
    pub fn open(directory: &Path, new_host: HostId) -> Result<Self, StoreError> {
        let file = DatabaseFile::open(directory, FILE)?;
        let identity = file.run(|database| {
            if let Some(found) = file::read_one(database, IDENTITY)? {
                return Ok(found);
            }
            let fresh = StoredIdentity { host: new_host, cluster: None, founder: false, epoch: 0 };
            file::write_one(database, IDENTITY, &fresh)?;
            Ok(fresh)
        })?;
        file.run(log::create_table)?;
        Ok(Self { file, identity })
    }

    /// The store in this directory; `None` if it does not exist.
    pub(crate) fn open_existing(directory: &Path) -> Result<Option<DatabaseFile>, StoreError> {
        let path = directory.join(FILE);
        let exists = path
            .try_exists()
            .map_err(|source| StoreError::Directory { path: directory.to_owned(), source })?;
        if !exists {
            return Ok(None);
        }
        let file = DatabaseFile::open(directory, FILE)?;
        file.run(log::create_table)?;
        let is_made = file
            .run(|database| Ok(file::read_one::<StoredIdentity>(database, IDENTITY)?.is_some()))?;
        Ok(is_made.then_some(file))
    }

    /// This host's identity.
    pub fn identity(&self) -> StoredIdentity {
        self.identity
    }

    pub(crate) fn into_file(self) -> DatabaseFile {
        self.file
    }
}

/// Records the cluster that this host belongs to from now on, unless it belongs to one already.
/// Returns the recorded identity.
pub(crate) async fn record_cluster(
    file: &DatabaseFile,
    cluster: ClusterId,
    founder: bool,
    epoch: u64,
) -> Result<StoredIdentity, StoreError> {
    file.spawn(move |database| {
        let transaction = database.begin_write()?;
        let recorded = {
            let mut table = transaction.open_table(file::VALUES)?;
            let found: Option<StoredIdentity> = file::read(&table, IDENTITY)?;
            let mut identity = found.ok_or_else(missing)?;
            if identity.cluster.is_none() {
                identity.cluster = Some(cluster);
                identity.founder = founder;
                identity.epoch = epoch;
                file::write(&mut table, IDENTITY, &identity)?;
            }
            identity
        };
        transaction.commit()?;
        Ok(recorded)
    })
    .await
}

/// This host's recorded identity.
pub(crate) async fn read_identity(file: &DatabaseFile) -> Result<StoredIdentity, StoreError> {
    file.spawn(move |database| file::read_one(database, IDENTITY)?.ok_or_else(missing)).await
}

fn missing() -> redb::Error {
    redb::Error::Corrupted("this host's id is missing".to_owned())
}

/// Records that this host has left its cluster.
pub(crate) async fn record_removal_notice(
    file: &DatabaseFile,
    removal_notice: RemovalNotice,
) -> Result<(), StoreError> {
    file.spawn(move |database| file::write_one(database, REMOVAL_NOTICE, &removal_notice)).await
}

/// Why this host has left its cluster, if it has.
pub(crate) async fn read_removal_notice(
    file: &DatabaseFile,
) -> Result<Option<RemovalNotice>, StoreError> {
    file.spawn(|database| file::read_one(database, REMOVAL_NOTICE)).await
}
