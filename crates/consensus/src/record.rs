//! Where this host keeps who it is.

use std::path::Path;

use shoutd_core::ClusterId;

use crate::StoreError;
use crate::raft::LogId;
use crate::removal_notice::RemovalNotice;
use crate::store::{self, DatabaseFile, StoredIdentity};

/// The file of agreed state, as far as it says who this host is.
#[derive(Debug)]
pub(crate) enum Record {
    /// On disk.
    File(DatabaseFile),
    /// On a simulated disk.
    #[cfg(test)]
    Simulated(crate::simulation::Disk),
}

impl Record {
    /// See [`store::record_cluster`].
    pub async fn record_cluster(
        &self,
        cluster: ClusterId,
        founder: bool,
        epoch: u64,
    ) -> Result<StoredIdentity, StoreError> {
        match self {
            Self::File(file) => store::record_cluster(file, cluster, founder, epoch).await,
            #[cfg(test)]
            Self::Simulated(disk) => {
                disk.record_cluster(cluster, founder, epoch).await.map_err(StoreError::from)
            }
        }
    }

    /// Who this host is.
    pub async fn identity(&self) -> Result<StoredIdentity, StoreError> {
        match self {
            Self::File(file) => store::read_identity(file).await,
            #[cfg(test)]
            Self::Simulated(disk) => Ok(disk.read(|contents| contents.identity)),
        }
    }

    /// See [`store::record_farewell`].
    pub async fn record_farewell(&self, removal_notice: RemovalNotice) -> Result<(), StoreError> {
        match self {
            Self::File(file) => store::record_farewell(file, removal_notice).await,
            #[cfg(test)]
            Self::Simulated(disk) => {
                disk.record_farewell(removal_notice).await.map_err(StoreError::from)
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(file) => file.path(),
            #[cfg(test)]
            Self::Simulated(_) => Path::new("simulated/disk"),
        }
    }

    /// What is wrong with it now, if anything is.
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::File(file) => file.fault(),
            #[cfg(test)]
            Self::Simulated(disk) => disk.fault(),
        }
    }

    /// The id of the log entry at this index; `None` if it is not there, or the disk fails.
    pub async fn log_id_at(&self, index: u64) -> Option<LogId> {
        match self {
            Self::File(file) => store::log_id_at(file, index).await.ok().flatten(),
            #[cfg(test)]
            Self::Simulated(disk) => {
                disk.read(|contents| contents.log.get(&index).map(|entry| entry.log_id))
            }
        }
    }

    /// Records what is wrong for good.
    pub fn condemn(&self, reason: String) {
        match self {
            Self::File(file) => file.condemn(reason),
            #[cfg(test)]
            Self::Simulated(_) => {}
        }
    }

    /// Stops waiting for a disk that takes no writes.
    pub fn stop_waiting(&self) {
        match self {
            Self::File(file) => file.stop_waiting(),
            #[cfg(test)]
            Self::Simulated(_) => {}
        }
    }

    /// Closes it, after the operations under way. Blocks.
    pub fn close(&self) {
        match self {
            Self::File(file) => file.close(),
            #[cfg(test)]
            Self::Simulated(_) => {}
        }
    }
}
