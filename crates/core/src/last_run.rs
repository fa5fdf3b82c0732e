//! What the daemon leaves on disk for users who find it stopped: its process id, where its log is,
//! and why it ended.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Name of the file in the run directory.
pub const LAST_RUN_FILE: &str = "daemon.json";

/// Maximum size that is read of this file, in octets. A reason is one line.
pub const LAST_RUN_BYTES_MAX: u64 = 64 << 10;

/// The last daemon of this host since boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// Its process id.
    pub pid: u32,
    /// Where its log is.
    pub log: LogPlace,
    /// When and why it ended; `None` while it runs, and if it was killed.
    pub ended: Option<Ended>,
}

/// Where a daemon's log is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "path")]
pub enum LogPlace {
    /// A file.
    File(PathBuf),
    /// systemd's journal.
    Journal,
    /// The standard error of the process that started it.
    Elsewhere,
}

/// The end of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Why, in one line.
    pub reason: String,
}

impl LastRun {
    /// What happened to the daemon, in one line. `when` formats a time, and `is_alive` says whether
    /// its process exists.
    pub fn describe(&self, when: impl Fn(u64) -> String, is_alive: bool) -> String {
        let what = match &self.ended {
            Some(ended) => format!("it ended at {}: {}", when(ended.at), ended.reason),
            None if is_alive => format!("process {} runs, but its socket is gone", self.pid),
            None => {
                format!("process {} ended without giving a reason, probably killed", self.pid)
            }
        };
        match &self.log {
            LogPlace::File(path) => format!("{what}; its log is {}", path.display()),
            LogPlace::Journal => format!("{what}; its log: journalctl --unit=shoutd"),
            LogPlace::Elsewhere => what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(at: u64) -> String {
        format!("T{at}")
    }

    #[test]
    fn the_line_says_why_it_ended_and_where_its_log_is() {
        let ended = Some(Ended { at: 7, reason: "agreed.redb is damaged".to_owned() });
        let run = LastRun { pid: 9, log: LogPlace::File("/var/log/shoutd.log".into()), ended };
        assert_eq!(
            run.describe(when, false),
            "it ended at T7: agreed.redb is damaged; its log is /var/log/shoutd.log"
        );
        let killed = LastRun { ended: None, log: LogPlace::Journal, ..run };
        let line = killed.describe(when, false);
        assert!(line.contains("killed") && line.contains("journalctl --unit=shoutd"), "{line}");
        assert!(killed.describe(when, true).contains("process 9 runs"));
    }
}
