//! The log file of a daemon that `shoutdctl start` runs in the background.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A log larger than this, in octets, is rotated at the next start. One rotated log is kept.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// The daemon's log.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    /// Length of the log before this start.
    start: u64,
}

impl Log {
    /// Opens the log, and rotates one that is too large.
    ///
    /// # Errors
    /// The file cannot be opened or renamed.
    pub fn open(path: &Path) -> Result<Self> {
        Self::try_open(path).with_context(|| format!("cannot open the log file {}", path.display()))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle, for the daemon's output.
    ///
    /// # Errors
    /// There are no file descriptors left.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    fn try_open(path: &Path) -> io::Result<Self> {
        if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
            fs::rename(path, path.with_extension("log.1"))?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
        let start = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, start })
    }

    /// The line in which the daemon logged why it ended.
    pub fn last_error(&self) -> Option<String> {
        let mut file = File::open(&self.path).ok()?;
        file.seek(SeekFrom::Start(self.start)).ok()?;
        let mut text = String::new();
        file.take(1 << 20).read_to_string(&mut text).ok()?;
        text.lines().rev().find_map(error_in)
    }
}

/// Why the daemon ended, if this is the line of its log that says so.
fn error_in(line: &str) -> Option<String> {
    if let Some(text) = line.strip_prefix("shoutd: ") {
        return Some(text.to_owned());
    }
    let object: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_end = object["target"] == "shoutd" && object["level"] == "ERROR";
    object["fields"]["message"].as_str().filter(|_| is_end).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_found_in_either_format_of_the_log() {
        let json = r#"{"level":"ERROR","fields":{"message":"no room"},"target":"shoutd"}"#;
        assert_eq!(error_in(json).as_deref(), Some("no room"));
        assert_eq!(error_in("shoutd: no room").as_deref(), Some("no room"));
        for other in ["INFO shoutd: no room", &json.replace("ERROR", "INFO"), "{}", ""] {
            assert_eq!(error_in(other), None, "{other}");
        }
    }
}
