//! The store as the Raft node uses it, which a simulation can replace.

use std::path::Path;

use shoutd_core::ClusterId;

use crate::StoreError;
use crate::raft::LogId;
use crate::removal_notice::RemovalNotice;
use crate::store::{self, DatabaseFile, StoredIdentity};

/// The file of agreed state: this host's identity, its faults, and single log entries.
#[derive(Debug)]
pub(crate) enum Record {
    /// On disk.
    File(DatabaseFile),
    /// On a simulated disk.
    #[cfg(feature = "testing")]
    Simulated(std::sync::Arc<dyn crate::testing::Records>),
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
            #[cfg(feature = "testing")]
            Self::Simulated(records) => records.record_cluster(cluster, founder, epoch).await,
        }
    }

    /// This host's identity.
    pub async fn identity(&self) -> Result<StoredIdentity, StoreError> {
        match self {
            Self::File(file) => store::read_identity(file).await,
            #[cfg(feature = "testing")]
            Self::Simulated(records) => Ok(records.identity()),
        }
    }

    /// See [`store::record_removal_notice`].
    pub async fn record_removal_notice(
        &self,
        removal_notice: RemovalNotice,
    ) -> Result<(), StoreError> {
        match self {
            Self::File(file) => store::record_removal_notice(file, removal_notice).await,
            #[cfg(feature = "testing")]
            Self::Simulated(records) => records.record_removal_notice(removal_notice).await,
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(file) => file.path(),
            #[cfg(feature = "testing")]
            Self::Simulated(_) => Path::new("simulated/disk"),
        }
    }

    /// The current fault, if there is one.
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::File(file) => file.fault(),
            #[cfg(feature = "testing")]
            Self::Simulated(records) => records.fault(),
        }
    }

    /// The id of the log entry at this index; `None` if there is no entry, or the disk fails.
    pub async fn log_id_at(&self, index: u64) -> Option<LogId> {
        match self {
            Self::File(file) => store::log_id_at(file, index).await.ok().flatten(),
            #[cfg(feature = "testing")]
            Self::Simulated(records) => records.log_id_at(index),
        }
    }

    /// Records a permanent fault.
    pub fn condemn(&self, reason: String) {
        match self {
            Self::File(file) => file.condemn(reason),
            #[cfg(feature = "testing")]
            Self::Simulated(_) => {}
        }
    }

    /// Stops waiting for a disk that cannot be written.
    pub fn stop_waiting(&self) {
        match self {
            Self::File(file) => file.stop_waiting(),
            #[cfg(feature = "testing")]
            Self::Simulated(_) => {}
        }
    }

    /// Closes it after the operations in progress. Blocks.
    pub fn close(&self) {
        match self {
            Self::File(file) => file.close(),
            #[cfg(feature = "testing")]
            Self::Simulated(_) => {}
        }
    }
}
