//! Errors of the files, as one line for the user.

use std::io;
use std::path::{Path, PathBuf};

use redb::{DatabaseError, StorageError};

/// What to do when this data directory is unusable, as the end of a sentence. The cluster keeps a
/// host's address for it until it is removed.
pub fn remedy(directory: &Path) -> String {
    format!(
        "restore a copy of {0}, or let this host join again: type shoutdctl remove with its name \
         on another host, remove {0} here, and start it with its address, --peer-addresses and a \
         token; if its cluster has no other host, remove {0} and begin a new cluster: restore a \
         backup with shoutdctl restore, or start this host with its address alone, and create its \
         networks again",
        directory.display()
    )
}

/// Why a file of the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be made or written.
    #[error("data directory {} cannot be used: {source}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process has the file open.
    #[error("another shoutd is running with this data directory ({})", .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error(
        "{} is damaged: {reason}; {}",
        .path.display(),
        remedy(.path.parent().unwrap_or(.path))
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A later version of shoutd wrote the file.
    #[error(
        "{} was written by a newer shoutd (format {found}, this one knows {known}): upgrade shoutd",
        .path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format this build knows.
        known: u32,
    },
    /// A version of shoutd wrote the file that is older than any release.
    #[error(
        "{} was written by a shoutd from before the first release (format {found}, this one knows \
         {known}): {}",
        .path.display(),
        remedy(.path.parent().unwrap_or(.path))
    )]
    OlderFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The oldest format this build knows.
        known: u32,
    },
    /// The disk is full or read-only.
    #[error("{}: {source}: free space on the disk, or make it writable", .path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", .path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This host has applied other entries than its cluster.
    #[error(
        "this host's agreed state differs from its cluster's: its data directory was rolled back \
         to an earlier state, or started where the other hosts could not be reached; {}",
        remedy(.directory)
    )]
    Fork {
        /// The data directory.
        directory: PathBuf,
    },
    /// The store was closed.
    #[error("{} is closed", .path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    pub(crate) fn from_open(path: &Path, error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                Self::InUse { path: path.parent().unwrap_or(path).to_owned() }
            }
            DatabaseError::Storage(StorageError::Io(source))
                if may_be_written_again(source.kind()) =>
            {
                Self::Unwritable { path: path.to_owned(), source }
            }
            DatabaseError::Storage(StorageError::Io(source)) if is_not_damage(source.kind()) => {
                Self::Failed { path: path.to_owned(), source: source.into() }
            }
            // All other errors mean that the file is not a database, or is damaged.
            other => Self::Damaged { path: path.to_owned(), reason: other.to_string() },
        }
    }

    pub(crate) fn from_use(path: &Path, error: redb::Error) -> Self {
        match error {
            redb::Error::Corrupted(reason) => Self::Damaged { path: path.to_owned(), reason },
            redb::Error::Io(source) if may_be_written_again(source.kind()) => {
                Self::Unwritable { path: path.to_owned(), source }
            }
            other => Self::Failed { path: path.to_owned(), source: other.into() },
        }
    }
}

/// redb reports a truncated file or a wrong magic number as one of these two.
fn is_not_damage(kind: io::ErrorKind) -> bool {
    !matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Errors that pass without any loss. After any other disk error its contents are unknown.
fn may_be_written_again(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
    )
}
