//! Notifies the service manager (sd_notify(3)). Units that are ordered after shoutd, such as
//! Docker, wait for `READY`.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

/// Notifies that shoutd serves Docker. Does nothing without a service manager.
pub fn ready() {
    notify("READY=1");
}

/// Notifies that shoutd is about to end.
pub fn stopping() {
    notify("STOPPING=1");
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
