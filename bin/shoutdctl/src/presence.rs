//! Whether a daemon runs here though nobody answers on its control socket: somebody may have
//! removed that.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;
use shoutd_core::view::DATA_DIRECTORY;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

/// The file that a daemon has locked for as long as it runs.
const LOCKED_FILE: &str = "agreed.redb";

/// How long the control socket of a daemon that runs may be away: it looks for it twice a second.
const ABSENCE_MAX: Duration = Duration::from_secs(3);

/// How often it is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The daemon that works with the usual data directory, by the kernel's word.
pub fn daemon() -> Option<Pid> {
    let file = fs::metadata(Path::new(DATA_DIRECTORY).join(LOCKED_FILE)).ok()?;
    let holder = holder(&fs::read_to_string("/proc/locks").ok()?, file.ino())?;
    // Another file system may have a file of that number.
    let name = fs::read_to_string(format!("/proc/{holder}/comm")).ok()?;
    (name.trim() == "shoutd").then_some(holder)
}

/// Connects to the socket of a daemon, which did not succeed. If a daemon runs, its socket is
/// waited for.
///
/// # Errors
/// Why it cannot be connected to: `error` if no daemon runs.
pub async fn connect(socket: &Path, error: io::Error) -> io::Result<UnixStream> {
    let deadline = Instant::now() + ABSENCE_MAX;
    let mut error = error;
    while let Some(pid) = daemon() {
        if Instant::now() >= deadline {
            let text = format!(
                "shoutd runs here (process {pid}), but nothing answers there; stop it: shoutdctl \
                 stop"
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        sleep(LOOK_AGAIN).await;
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(again) => error = again,
        }
    }
    Err(error)
}

/// Who has locked the file with this inode, by the text of `/proc/locks` (proc_locks(5)).
fn holder(locks: &str, inode: u64) -> Option<Pid> {
    let inode = inode.to_string();
    locks.lines().find_map(|line| {
        // Those that wait for a lock have an arrow in the second place.
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = fields.as_slice() else { return None };
        let is_file = file.rsplit(':').next() == Some(inode.as_str());
        // Of a process that cannot be seen from here it says 0.
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
