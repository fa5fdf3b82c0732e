//! Backups: agreed state in one portable file.
//!
//! The first line is a JSON object that identifies the file and has the SHA-256 of the rest. The
//! rest is agreed state in the form in which hosts send snapshots. It contains no secrets: tokens,
//! approvals and the authority's key are left out.

use std::io::{self, Read, Write};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shoutd_core::cluster::{Admissions, Cluster};
use shoutd_core::{ClusterId, HostId};

use crate::logged::{Versioned, disclose, enclose};
use crate::node::Node;

/// The version of the file format. Raised with every change that an older build would misread.
const FORMAT: u32 = 1;

/// Bytes of a backup, more than the largest cluster needs: another file must not fill the memory.
const BYTES_MAX: u64 = 1 << 30;

/// Bytes of its first line.
const HEADER_BYTES_MAX: usize = 4096;

/// The first line of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSummary {
    /// The version of the file format.
    pub shoutd_backup: u32,
    /// The cluster.
    pub cluster: ClusterId,
    /// The host that made it.
    pub host: HostId,
    /// When it was made, as the time since 1970.
    pub made: Duration,
    /// The number of log entries that it includes.
    pub entries: u64,
    /// The voters.
    pub voters: Vec<HostId>,
    /// The number of networks.
    pub networks: usize,
    /// Bytes after the first line.
    pub bytes: usize,
    /// Their SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// The contents of a backup.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    pub epoch: u64,
    pub cluster: Cluster,
}

impl Versioned for Content {
    fn version(&self) -> u32 {
        self.cluster.version()
    }
}

/// Why a backup cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to back up.
    #[error("this host belongs to no cluster yet: there is nothing to back up")]
    NoCluster,
    /// The file is not a backup.
    #[error("this is not a backup of shoutd: {0}")]
    NoBackup(String),
    /// It was changed or truncated after it was written.
    #[error("the backup is damaged: {0}; use another copy")]
    Damaged(String),
    /// A later version of shoutd wrote it.
    #[error("the backup was made by a newer shoutd ({0}): upgrade shoutd")]
    Newer(String),
    /// Reading or writing failed.
    #[error("the backup cannot be {action}: {source}")]
    Io {
        /// What failed: `read` or `written`.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Writes a backup of agreed state as this host knows it now. `now` is the time since 1970.
/// [`crate::Consensus::status`] tells whether this host is behind the others.
///
/// # Errors
/// See [`BackupError`].
pub(crate) fn write(
    node: &Node,
    writer: &mut dyn Write,
    now: Duration,
) -> Result<BackupSummary, BackupError> {
    // Read before the state, so that the number is not too high for it.
    let entries = *node.published.applied.borrow();
    let mut cluster = (*node.cluster()).clone();
    let id = cluster.id.ok_or(BackupError::NoCluster)?;
    // Tokens and the authority's key are secrets. Besides, a restored host does not have the
    // seal key.
    let removed = std::mem::take(&mut cluster.admissions.removed);
    cluster.admissions = Admissions { removed, ..Admissions::default() };
    let networks = cluster.networks.len();
    let content = Content { epoch: node.participation.epoch(), cluster };
    let body = serde_json::to_vec(&enclose(content)).map_err(|error| writing(error.into()))?;
    let summary = BackupSummary {
        shoutd_backup: FORMAT,
        cluster: id,
        host: node.me(),
        made: now,
        entries,
        voters: node.voters(),
        networks,
        bytes: body.len(),
        sha256: hash(&body),
    };
    let mut header = serde_json::to_vec(&summary).map_err(|error| writing(error.into()))?;
    header.push(b'\n');
    writer
        .write_all(&header)
        .and_then(|()| writer.write_all(&body))
        .and_then(|()| writer.flush())
        .map_err(writing)?;
    Ok(summary)
}

fn writing(source: io::Error) -> BackupError {
    BackupError::Io { action: "written", source }
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut digits, byte| {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Reads a whole backup and checks its integrity.
pub(crate) fn read(reader: &mut dyn Read) -> Result<(BackupSummary, Content), BackupError> {
    let mut bytes = Vec::new();
    reader.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(reading)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(BackupError::NoBackup(format!("it has more than {BYTES_MAX} bytes")));
    }
    let end = bytes.iter().take(HEADER_BYTES_MAX).position(|byte| *byte == b'\n');
    let (header, body) = bytes.split_at(end.ok_or_else(without_header)?);
    let header: Value = serde_json::from_slice(header).map_err(|_| without_header())?;
    match header.get("shoutd_backup").and_then(Value::as_u64) {
        None => return Err(without_header()),
        Some(format) if format > u64::from(FORMAT) => {
            return Err(BackupError::Newer(format!("format {format}, this one knows {FORMAT}")));
        }
        Some(_) => {}
    }
    let summary: BackupSummary = serde_json::from_value(header)
        .map_err(|error| BackupError::Damaged(format!("its first line: {error}")))?;
    let body = body.get(1..).unwrap_or_default();
    if body.len() != summary.bytes {
        return Err(BackupError::Damaged(format!(
            "it has {} bytes after its first line, not {}",
            body.len(),
            summary.bytes
        )));
    }
    if hash(body) != summary.sha256 {
        let reason = "its checksum does not match its contents";
        return Err(BackupError::Damaged(reason.to_owned()));
    }
    let body: Value =
        serde_json::from_slice(body).map_err(|error| BackupError::Damaged(error.to_string()))?;
    let content: Content =
        disclose(body).map_err(|unknown| BackupError::Newer(unknown.to_string()))?;
    if content.cluster.id != Some(summary.cluster) {
        let reason = "it contains the state of another cluster than it names";
        return Err(BackupError::Damaged(reason.to_owned()));
    }
    Ok((summary, content))
}

fn reading(source: io::Error) -> BackupError {
    BackupError::Io { action: "read", source }
}

fn without_header() -> BackupError {
    BackupError::NoBackup("it has no such first line".to_owned())
}
