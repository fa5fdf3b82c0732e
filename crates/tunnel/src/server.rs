//! The control socket.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use tracing::{debug, warn};
use zeroize::Zeroizing;

use crate::engine::Engine;
use crate::uapi::request::Request;
use crate::uapi::{REQUEST_MAX, answer};

/// How many connections are served at a time. More wait in the kernel.
const CONNECTIONS_MAX: usize = 8;

/// How long a connection may be silent between requests. It is short, as silent connections keep
/// others waiting.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// How long a request may take from its first octet to its end, and its answer to be taken.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// How long the engine may take for a request. A change of thousands of peers takes less than a
/// second.
const ENGINE_DEADLINE: Duration = Duration::from_secs(30);

/// How long a process that may listen on the socket has to accept a connection.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// How long it takes to try again after the system had no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often the socket's file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// The bound socket. Its file is removed when it is dropped, unless a successor has replaced it.
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of its file.
    file: (u64, u64),
}

impl ControlSocket {
    /// Binds the socket with mode 0600, and replaces one that nobody serves. It is bound under a
    /// temporary name and renamed, so it never has another mode.
    pub(crate) async fn bind(path: &Path) -> io::Result<Self> {
        refuse_occupied(path).await?;
        let mut provisional = path.as_os_str().to_owned();
        provisional.push(".new");
        let provisional = PathBuf::from(provisional);
        match std::fs::remove_file(&provisional) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&provisional)?;
        std::fs::set_permissions(&provisional, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&provisional, path)?;
        let file = identity(path)?;
        Ok(Self { listener, path: path.to_owned(), file })
    }

    /// Serves requests, and never ends. Within a local set (`tokio::task::LocalSet`) only. If
    /// something removes the socket's file, it is made again: without it the daemon would neither
    /// reach this process nor be able to start another on the same port.
    pub(crate) async fn serve(&mut self, engine: Rc<Mutex<Engine>>) {
        loop {
            tokio::select! {
                () = self.accept(engine.clone()) => {}
                () = self.await_removal() => match Self::bind(&self.path).await {
                    // The former one has no file that would be removed.
                    Ok(again) => *self = again,
                    // Its directory is missing, too, or a successor has just bound its own.
                    Err(error) => debug!("cannot bind the control socket again: {error}"),
                },
            }
        }
    }

    /// Waits until there is no file at the socket's path.
    async fn await_removal(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let found = identity(&self.path);
            if found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                return;
            }
        }
    }

    async fn accept(&self, engine: Rc<Mutex<Engine>>) {
        let permits = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // The semaphore is never closed.
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!("cannot accept a connection on the control socket: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let engine = engine.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = converse(stream, &engine).await {
                    debug!("a connection on the control socket ended: {error}");
                }
                drop(permit);
            });
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.file) {
            // What cannot be removed is replaced by the next process.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Checks that no process listens at `path`, and that it is no other kind of file.
async fn refuse_occupied(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match timeout(PROBE_DEADLINE, UnixStream::connect(path)).await {
        Ok(Err(error))
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        // A process whose queue is full (EAGAIN), or that hangs, runs too.
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves it")),
    }
}

/// Answers the requests of a connection, until its end or a deadline.
async fn converse(mut stream: UnixStream, engine: &Mutex<Engine>) -> io::Result<()> {
    // It has its full size from the start: one that grows would leave copies of secrets behind.
    let mut buffer = Zeroizing::new(vec![0; REQUEST_MAX]);
    let mut filled = 0;
    loop {
        let Some(length) = read_request(&mut stream, &mut buffer, &mut filled).await? else {
            return Ok(());
        };
        let answer = if length > REQUEST_MAX {
            answer::write_errno(Errno::E2BIG as i32).into()
        } else {
            let octets = buffer.get(..length).unwrap_or_default();
            timeout(ENGINE_DEADLINE, execute(octets, engine))
                .await
                .unwrap_or_else(|_| answer::write_errno(Errno::ETIMEDOUT as i32).into())
        };
        timeout(REQUEST_DEADLINE, stream.write_all(answer.as_bytes())).await??;
        if length > REQUEST_MAX {
            return Ok(());
        }
        buffer.copy_within(length..filled, 0);
        filled -= length;
    }
}

/// Reads a request into `buffer`, which has `filled` octets already. Returns its length with its
/// empty line, more than the buffer's if it does not fit, and nothing at the end of the stream.
async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
    filled: &mut usize,
) -> io::Result<Option<usize>> {
    let mut searched = 0;
    let mut deadline = tokio::time::Instant::now() + IDLE_MAX;
    loop {
        let octets = buffer.get(..*filled).unwrap_or_default();
        if let Some(at) = octets.windows(2).skip(searched).position(|pair| pair == b"\n\n") {
            return Ok(Some(searched + at + 2));
        }
        searched = filled.saturating_sub(1);
        let Some(space) = buffer.get_mut(*filled..).filter(|space| !space.is_empty()) else {
            return Ok(Some(REQUEST_MAX + 1));
        };
        let was_empty = *filled == 0;
        let read = tokio::time::timeout_at(deadline, stream.read(space)).await??;
        if read == 0 {
            return Ok(None);
        }
        *filled += read;
        if was_empty {
            deadline = tokio::time::Instant::now() + REQUEST_DEADLINE;
        }
    }
}

async fn execute(octets: &[u8], engine: &Mutex<Engine>) -> Zeroizing<String> {
    match Request::parse(octets) {
        Ok(Request::Get) => answer::write_get(&engine.lock().await.tell().await),
        Ok(Request::Set(change)) => match engine.lock().await.change(change).await {
            Ok(()) => answer::write_errno(0).into(),
            Err(refusal) => {
                debug!("a change is refused: {refusal}");
                answer::write_errno(refusal.errno as i32).into()
            }
        },
        Err(refusal) => {
            debug!("a request is refused: {refusal}");
            answer::write_errno(refusal.errno as i32).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(mut input: &[u8], size: usize) -> (Vec<usize>, io::Result<()>) {
        let (mut buffer, mut filled, mut lengths) = (vec![0; size], 0, Vec::new());
        loop {
            match read_request(&mut input, &mut buffer, &mut filled).await {
                Ok(Some(length)) if length <= filled => {
                    lengths.push(length);
                    buffer.copy_within(length..filled, 0);
                    filled -= length;
                }
                Ok(Some(length)) => {
                    lengths.push(length);
                    return (lengths, Ok(()));
                }
                Ok(None) => return (lengths, Ok(())),
                Err(error) => return (lengths, Err(error)),
            }
        }
    }

    #[tokio::test]
    async fn requests_are_split_at_empty_lines() {
        let (lengths, end) = read_all(b"get=1\n\nset=1\nx=2\n\nget", 64).await;
        assert_eq!(lengths, [7, 11]);
        assert!(end.is_ok());
    }

    #[tokio::test]
    async fn a_request_that_does_not_fit_is_told() {
        let (lengths, _) = read_all(&[b'a'; 100], 64).await;
        assert_eq!(lengths, [REQUEST_MAX + 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_end_meets_its_deadline() {
        let (mut client, mut server) = tokio::io::duplex(64);
        client.write_all(b"get=1\n").await.unwrap();
        let (mut buffer, mut filled) = ([0; 64], 0);
        let begin = tokio::time::Instant::now();
        let refused = read_request(&mut server, &mut buffer, &mut filled).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() <= IDLE_MAX + REQUEST_DEADLINE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_file_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let socket = ControlSocket::bind(&path).await.unwrap();
        assert!(timeout(2 * LOOK, socket.await_removal()).await.is_err());
        std::fs::remove_file(&path).unwrap();
        socket.await_removal().await;
        // A successor's file is not removed with this one.
        let successor = ControlSocket::bind(&path).await.unwrap();
        drop(socket);
        assert!(path.exists());
        assert!(timeout(2 * LOOK, successor.await_removal()).await.is_err());
    }

    #[tokio::test]
    async fn a_socket_is_private_replaces_a_dead_one_and_respects_a_living_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = ControlSocket::bind(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let refused = ControlSocket::bind(&path).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, b"").unwrap();
        assert!(ControlSocket::bind(&path).await.is_err() && path.exists());
    }
}
