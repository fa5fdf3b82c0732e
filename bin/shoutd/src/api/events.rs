//! The event log: decisions that shoutd makes without the user. They go into the daemon's log and
//! into a persistent file.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use shoutd_cli::read_at_most;
use shoutd_core::events::{Event, EventKind, EventLog};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::clock::now;

/// Name of the file in the data directory.
pub const FILE: &str = "events.json";

/// Size limit of the file, in octets: all events with texts of maximum length and every character
/// escaped.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The events of this host.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    log: Mutex<EventLog>,
    noted: Notify,
    /// Signaled after each event, for those who show them.
    seen: Notify,
}

impl Events {
    /// Reads the events of this data directory. If that fails, starts with an empty log: nothing
    /// depends on the events.
    pub fn open(data_directory: &Path) -> Self {
        let path = data_directory.join(FILE);
        let read = read_at_most(&path, FILE_BYTES_MAX)
            .and_then(|octets| Ok(serde_json::from_slice(&octets)?));
        let mut log: EventLog = read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                warn!("cannot read {}: {error}; starting an empty event log", path.display());
            }
            EventLog::default()
        });
        log.shorten();
        Self { path, log: Mutex::new(log), noted: Notify::new(), seen: Notify::new() }
    }

    /// Records an event.
    pub fn note(&self, kind: EventKind, subject: &str, text: &str) {
        match kind {
            EventKind::NetworkMade
            | EventKind::NetworkRemoved
            | EventKind::NetworkRestored
            | EventKind::ContainerStarted
            | EventKind::EndpointForgotten
            | EventKind::SocketRestored
            | EventKind::KeysRotated => info!("{kind} {subject}: {text}"),
            _ => warn!("{kind} {subject}: {text}"),
        }
        self.log.lock().note(now(), kind, subject, text);
        self.noted.notify_one();
        self.seen.notify_waiters();
    }

    /// Waits for the next event.
    pub async fn next(&self) {
        self.seen.notified().await;
    }

    /// The last `count` events, newest first.
    pub fn newest(&self, count: usize) -> Vec<Event> {
        self.log.lock().events().rev().take(count).cloned().collect()
    }

    /// Writes the file after each change until `stop`, and then once more. [`Self::note`] does not
    /// wait for the disk; events during a write share the next one.
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            let is_last = tokio::select! {
                () = self.noted.notified() => false,
                () = stop.cancelled() => true,
            };
            let log = self.log.lock().clone();
            let path = self.path.clone();
            let written = tokio::task::spawn_blocking(move || write(&path, &log)).await;
            if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
                warn!("cannot write {}: {error}", self.path.display());
            }
            if is_last {
                return;
            }
        }
    }
}

/// Replaces the file atomically.
fn write(path: &Path, log: &EventLog) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(log)?)?;
    file.sync_all()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_persist_and_a_damaged_file_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let events = Events::open(directory.path());
        events.note(EventKind::NetworkKept, "foo", "in use on host2");
        write(&events.path, &events.log.lock()).unwrap();
        let kept = Events::open(directory.path()).newest(5);
        assert_eq!((kept.len(), kept[0].subject.as_str()), (1, "foo"));
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert_eq!(Events::open(directory.path()).newest(5), []);
    }
}
