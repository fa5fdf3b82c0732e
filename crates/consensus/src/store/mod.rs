//! What this host keeps on disk: one file for what is agreed, one for what is its own.

mod error;
mod file;
mod local;
mod log;
mod machine;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::{Deserialize, Serialize};
use shoutd_core::{ClusterId, HostId};

pub use error::StoreError;
pub use local::LocalStore;

pub(crate) use file::DatabaseFile;
pub(crate) use log::LogStore;
pub(crate) use machine::{Machine, Published};

/// Name of the file with the log, the vote and the snapshot.
const FILE: &str = "agreed.redb";
const IDENTITY: &str = "identity";
const MISSING: &str = "this host's id is missing";

/// Who this host is, as recorded on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredIdentity {
    /// Its id, drawn when it first started.
    pub host: HostId,
    /// The cluster it belongs to, or has begun to found or join.
    pub cluster: Option<ClusterId>,
    /// Whether this host founded that cluster. Until the cluster is there it must not wait for others.
    #[serde(default)]
    pub founder: bool,
}

/// The agreed state's file: log, vote, snapshot and who this host is.
#[derive(Debug)]
pub struct Store {
    file: DatabaseFile,
    identity: StoredIdentity,
}

impl Store {
    /// Opens the store in this directory, made if it is not there. A new store takes `new_host` for this host's id; one that is
    /// there keeps its own. Blocks for a few milliseconds.
    ///
    /// # Errors
    /// One line for the user; see [`StoreError`].
    pub fn open(directory: &Path, new_host: HostId) -> Result<Self, StoreError> {
        let file = DatabaseFile::open(directory, FILE)?;
        let identity = file.run(|database| {
            if let Some(found) = file::read_one(database, IDENTITY)? {
                return Ok(found);
            }
            let fresh = StoredIdentity { host: new_host, cluster: None, founder: false };
            file::write_one(database, IDENTITY, &fresh)?;
            Ok(fresh)
        })?;
        file.run(log::create_table)?;
        Ok(Self { file, identity })
    }

    /// Who this host is.
    pub fn identity(&self) -> StoredIdentity {
        self.identity
    }

    pub(crate) fn into_file(self) -> DatabaseFile {
        self.file
    }
}

/// Records the cluster that this host belongs to from now on. If it belongs to one already, nothing changes. Returns what is
/// recorded.
pub(crate) async fn record_cluster(
    file: &DatabaseFile,
    cluster: ClusterId,
    founder: bool,
) -> Result<StoredIdentity, StoreError> {
    file.spawn(move |database| {
        let transaction = database.begin_write()?;
        let recorded = {
            let mut table = transaction.open_table(file::VALUES)?;
            let found: Option<StoredIdentity> = file::read(&table, IDENTITY)?;
            let mut identity = found.ok_or_else(|| redb::Error::Corrupted(MISSING.to_owned()))?;
            if identity.cluster.is_none() {
                identity.cluster = Some(cluster);
                identity.founder = founder;
                file::write(&mut table, IDENTITY, &identity)?;
            }
            identity
        };
        transaction.commit()?;
        Ok(recorded)
    })
    .await
}

/// Who this host is, as recorded.
pub(crate) async fn read_identity(file: &DatabaseFile) -> Result<StoredIdentity, StoreError> {
    let missing = || redb::Error::Corrupted(MISSING.to_owned());
    file.spawn(move |database| file::read_one(database, IDENTITY)?.ok_or_else(missing)).await
}
