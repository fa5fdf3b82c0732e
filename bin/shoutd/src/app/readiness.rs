//! Notifies the service manager (sd_notify(3)). Units that are ordered after shoutd, such as
//! Docker, wait for `READY`.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Signs of life within the time that the service manager waits for one.
const WATCHDOG_DIVISOR: u32 = 4;

/// Notifies that shoutd serves Docker. Does nothing without a service manager.
pub fn ready() {
    notify("READY=1");
}

/// Notifies that shoutd is about to end.
pub fn stopping() {
    notify("STOPPING=1");
}

/// Tells the service manager that the daemon is alive, if it wants to know (`WatchdogSec=`), until
/// `stop`. It restarts a daemon whose tasks no longer run.
pub async fn keep_alive(stop: CancellationToken) {
    if let Some(limit) = watchdog_limit(|name| std::env::var(name).ok()) {
        let mut ticks = interval(limit / WATCHDOG_DIVISOR);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            notify("WATCHDOG=1");
        }
    }
    stop.cancelled().await;
}

/// How long the service manager waits for a sign of life from this process
/// (sd_watchdog_enabled(3)); `None` if it does not wait.
fn watchdog_limit(variable: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let is_other = |pid: String| pid != std::process::id().to_string();
    if variable("WATCHDOG_PID").is_some_and(is_other) {
        return None;
    }
    let limit = variable("WATCHDOG_USEC")?.parse().ok().map(Duration::from_micros)?;
    (limit >= Duration::from_millis(100)).then_some(limit)
}

fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        warn!("cannot send {state} to the service manager at {}: {error}", socket.display());
    }
}

fn send(socket: &OsString, state: &str) -> io::Result<()> {
    // In an abstract address, `@` stands for the leading null octet.
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let datagrams = UnixDatagram::unbound()?;
    // A manager that does not read must not block the daemon.
    datagrams.set_nonblocking(true)?;
    datagrams.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_are_only_for_the_process_that_is_watched() {
        let limit = |pid: Option<String>, time: Option<&str>| {
            let time = time.map(str::to_owned);
            watchdog_limit(|name| if name == "WATCHDOG_PID" { pid.clone() } else { time.clone() })
        };
        let own = || Some(std::process::id().to_string());
        let wait = Some(Duration::from_secs(30));
        assert_eq!(limit(own(), Some("30000000")), wait);
        assert_eq!(limit(None, Some("30000000")), wait);
        assert_eq!(limit(Some("1".to_owned()), Some("30000000")), None);
        for none in [None, Some(""), Some("0"), Some("x")] {
            assert_eq!(limit(own(), none), None, "{none:?}");
        }
    }

    #[test]
    fn a_service_manager_is_notified_at_either_kind_of_address() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("shoutd-readiness-{}", std::process::id());
        let by_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (manager, socket) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&by_name).unwrap(), OsString::from(format!("@{name}"))),
        ] {
            send(&socket, "READY=1").unwrap();
            let mut received = [0; 16];
            let length = manager.recv(&mut received).unwrap();
            assert_eq!(&received[..length], b"READY=1");
        }
        assert!(send(&directory.path().join("none").into_os_string(), "READY=1").is_err());
    }
}
