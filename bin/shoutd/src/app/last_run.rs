//! Records this daemon's run in the run directory, so that `shoutdctl` can say why no daemon
//! answers.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use shoutd_cli::read_at_most;
use shoutd_core::last_run::{Ended, LAST_RUN_BYTES_MAX, LAST_RUN_FILE, LastRun, LogPlace};
use tracing::warn;

/// Records that this daemon runs.
pub fn note_start(run_directory: &Path) {
    write(run_directory, None);
}

/// Records that this daemon ends, and why. If another daemon still runs, keeps that one's record.
pub fn note_end(run_directory: &Path, reason: &str) {
    if !is_of_another(run_directory) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let reason = reason.lines().next().unwrap_or_default().to_owned();
        write(run_directory, Some(Ended { at: at.try_into().unwrap_or(u64::MAX), reason }));
    }
}

/// Whether the record is of another daemon that still runs.
fn is_of_another(run_directory: &Path) -> bool {
    let noted = read_at_most(&run_directory.join(LAST_RUN_FILE), LAST_RUN_BYTES_MAX).ok();
    let noted = noted.and_then(|text| serde_json::from_slice::<LastRun>(&text).ok());
    noted.is_some_and(|noted| {
        let name = fs::read_to_string(format!("/proc/{}/comm", noted.pid)).unwrap_or_default();
        noted.ended.is_none() && noted.pid != std::process::id() && name.trim() == "shoutd"
    })
}

/// An error is only logged: the daemon does not need the record.
fn write(run_directory: &Path, ended: Option<Ended>) {
    let run = LastRun { pid: std::process::id(), log: log(), ended };
    let path = run_directory.join(LAST_RUN_FILE);
    let temporary = path.with_extension("new");
    let written = serde_json::to_vec(&run)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(&temporary, text))
        .and_then(|()| fs::rename(&temporary, &path));
    if let Err(error) = written {
        warn!("cannot write {}: {error}", path.display());
    }
}

/// Where standard error goes (systemd.exec(5), `JOURNAL_STREAM`).
fn log() -> LogPlace {
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        return LogPlace::Journal;
    }
    match fs::read_link("/proc/self/fd/2") {
        Ok(path) if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) => {
            LogPlace::File(path)
        }
        _ => LogPlace::Elsewhere,
    }
}
