//! Backups: agreed state in a file that can be read anywhere.
//!
//! The first line is a JSON object that says what the file is, and has the SHA-256 of the rest,
//! which is agreed state in the form in which hosts send it to one another. There is no secret in
//! it: what lets hosts in is left out.

use std::io::{self, Read, Write};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shoutd_core::cluster::{Admissions, Cluster};
use shoutd_core::{ClusterId, HostId};

use crate::Consensus;
use crate::logged::{disclose, enclose};

/// The form of the file. It goes up with every change that an older build would misread.
const FORMAT: u32 = 1;

/// Octets of a backup, more than the largest cluster has: what is no backup must not fill the
/// memory.
const BYTES_MAX: u64 = 1 << 30;

/// Octets of its first line.
const HEADER_BYTES_MAX: usize = 4096;

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSummary {
    /// The form of the file.
    pub shoutd_backup: u32,
    /// The cluster.
    pub cluster: ClusterId,
    /// The host that made it.
    pub host: HostId,
    /// When, as the time since 1970.
    pub made: Duration,
    /// How many entries of the log it includes.
    pub entries: u64,
    /// The hosts that had a vote.
    pub voters: Vec<HostId>,
    /// How many networks there were.
    pub networks: usize,
    /// Octets after the first line.
    pub bytes: usize,
    /// The SHA-256 of these, in hexadecimal digits.
    pub sha256: String,
}

/// What a backup has.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    pub epoch: u64,
    pub cluster: Cluster,
}

/// Why a backup cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to back up.
    #[error("this host belongs to no cluster yet: there is nothing to back up")]
    NoCluster,
    /// The file is something else.
    #[error("this is no backup of shoutd: {0}")]
    NoBackup(String),
    /// It is not what was written.
    #[error("the backup is damaged: {0}; use another copy")]
    Damaged(String),
    /// A later version of shoutd wrote it.
    #[error("the backup was made by a newer shoutd ({0}): upgrade shoutd")]
    Newer(String),
    /// Reading or writing failed.
    #[error("the backup cannot be {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Consensus {
    /// Writes a backup of agreed state as this host knows it at this moment. `now` is the time
    /// since 1970. Whether others know of later changes, [`Consensus::status`] tells.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn backup(
        &self,
        writer: &mut dyn Write,
        now: Duration,
    ) -> Result<BackupSummary, BackupError> {
        let node = &self.node;
        // First, so that the number is not higher than what is in the state.
        let entries = *node.published.applied.borrow();
        let mut cluster = (*node.cluster()).clone();
        let id = cluster.id.ok_or(BackupError::NoCluster)?;
        // Tokens and the authority's key are secrets. And whoever restores does not have the key
        // that the latter is sealed with.
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
}

fn writing(source: io::Error) -> BackupError {
    BackupError::Io { action: "written", source }
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut digits, byte| {
        // Writing to a string does not fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Reads a whole backup, and checks that it is what was written.
pub(crate) fn read(reader: &mut dyn Read) -> Result<(BackupSummary, Content), BackupError> {
    let mut bytes = Vec::new();
    let reading = |source| BackupError::Io { action: "read", source };
    reader.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(reading)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(BackupError::NoBackup(format!("it has more than {BYTES_MAX} bytes")));
    }
    let no_backup = |reason: &str| BackupError::NoBackup(reason.to_owned());
    let end = bytes.iter().take(HEADER_BYTES_MAX).position(|byte| *byte == b'\n');
    let (header, body) =
        bytes.split_at(end.ok_or_else(|| no_backup("its first line does not say so"))?);
    let header: Value =
        serde_json::from_slice(header).map_err(|_| no_backup("its first line does not say so"))?;
    match header.get("shoutd_backup").and_then(Value::as_u64) {
        None => return Err(no_backup("its first line does not say so")),
        Some(format) if format > u64::from(FORMAT) => {
            return Err(BackupError::Newer(format!("format {format}, this one knows {FORMAT}")));
        }
        Some(_) => {}
    }
    let damaged = |reason: String| BackupError::Damaged(reason);
    let summary: BackupSummary = serde_json::from_value(header)
        .map_err(|error| damaged(format!("its first line: {error}")))?;
    let body = body.get(1..).unwrap_or_default();
    if body.len() != summary.bytes {
        return Err(damaged(format!(
            "it has {} bytes after its first line, not {}",
            body.len(),
            summary.bytes
        )));
    }
    if hash(body) != summary.sha256 {
        return Err(damaged("its checksum is not that of its contents".to_owned()));
    }
    let body: Value = serde_json::from_slice(body).map_err(|error| damaged(error.to_string()))?;
    let content: Content =
        disclose(body).map_err(|unknown| BackupError::Newer(unknown.to_string()))?;
    if content.cluster.id != Some(summary.cluster) {
        return Err(damaged("it has the state of another cluster than it says".to_owned()));
    }
    Ok((summary, content))
}
