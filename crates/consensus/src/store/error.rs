//! What can go wrong with the files, in words for the user.

use std::io;
use std::path::{Path, PathBuf};

use redb::{DatabaseError, StorageError};

/// What to do when this data directory is of no use any more, as the end of a sentence. The cluster
/// keeps the address of a host for that host until it is removed.
pub fn remedy(directory: &Path) -> String {
    format!(
        "restore a copy of {0}, or let this host join anew: type shoutdctl remove with its name \
         on another host, remove {0} here, and start it with its address, --peer-addresses and a \
         token",
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
    /// The file is not what was written.
    #[error("{} is damaged: {reason}; {}", .path.display(), remedy(.path.parent().unwrap_or(.path)))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A later version of shoutd wrote the file.
    #[error("{} was written by a newer shoutd (format {found}, this one knows {known}): upgrade shoutd", .path.display())]
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
        "{} was written by a shoutd from before the first release (format {found}, this one knows {known}): {}",
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
    #[error("{}: {source}: make room, or have the disk take writes", .path.display())]
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
    /// What was agreed on here is not what the cluster agreed on.
    #[error(
        "this host has agreed on other things than its cluster: its data directory was set back to an earlier state, or started where \
         the other hosts could not be reached; {}",
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
            // What remains says that the file is not a database, or not the one it was.
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

/// redb reports a file that is too short or has the wrong first bytes as one of these two.
fn is_not_damage(kind: io::ErrorKind) -> bool {
    !matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// What passes without anything being lost. After any other error of a disk nobody knows what is on
/// it.
fn may_be_written_again(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::ReadOnlyFilesystem
    )
}
