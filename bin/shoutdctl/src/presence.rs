//! Whether a daemon runs here although its control socket does not answer, for example because the
//! socket was removed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;
use shoutd_core::view::DATA_DIRECTORY;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

/// The file that a daemon keeps locked while it runs.
const LOCKED_FILE: &str = "agreed.redb";

/// How long the control socket of a running daemon may be missing. The daemon checks it twice a
/// second and makes it again.
const ABSENCE_MAX: Duration = Duration::from_secs(3);

/// Interval between attempts to connect.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The daemon that holds the lock in the default data directory, as the kernel tells.
pub fn daemon() -> Option<Pid> {
    let file = fs::metadata(Path::new(DATA_DIRECTORY).join(LOCKED_FILE)).ok()?;
    let holder = holder(&fs::read_to_string("/proc/locks").ok()?, file.ino())?;
    // A file on another file system may have the same inode number.
    let name = fs::read_to_string(format!("/proc/{holder}/comm")).ok()?;
    (name.trim() == "shoutd").then_some(holder)
}

/// Retries a connection that failed with `error`, as long as a daemon runs.
///
/// # Errors
/// The connection cannot be made. If no daemon runs, this is the last connect error.
pub async fn connect(socket: &Path, error: io::Error) -> io::Result<UnixStream> {
    let deadline = Instant::now() + ABSENCE_MAX;
    let mut error = error;
    while let Some(pid) = daemon() {
        if Instant::now() >= deadline {
            let text = format!(
                "shoutd is running (process {pid}), but nothing answers there; stop it: shoutdctl \
                 stop"
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        sleep(POLL_INTERVAL).await;
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(again) => error = again,
        }
    }
    Err(error)
}

/// The process that holds a lock on the file with this inode, from `/proc/locks` (proc_locks(5)).
fn holder(locks: &str, inode: u64) -> Option<Pid> {
    let inode = inode.to_string();
    locks.lines().find_map(|line| {
        // A process that waits for a lock has an arrow as the second field.
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = fields.as_slice() else { return None };
        let is_file = file.rsplit(':').next() == Some(inode.as_str());
        // A process outside of our PID namespace is shown as 0.
        pid.parse().ok().filter(|pid| is_file && *pid > 0).map(Pid::from_raw)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_its_file() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 fe:00:42 0 EOF\n2: FLOCK  ADVISORY  WRITE 8 \
                     fe:00:41 0 EOF\n3: FLOCK  ADVISORY  WRITE 9 fe:00:42 0 EOF\n3: -> FLOCK  \
                     ADVISORY  WRITE 10 fe:00:42 0 EOF\n4: FLOCK  ADVISORY  WRITE 0 fe:00:43 0 \
                     EOF\nrubbish";
        assert_eq!(holder(locks, 42), Some(Pid::from_raw(9)));
        assert_eq!(holder(locks, 43), None);
        assert_eq!(holder("", 42), None);
    }
}
