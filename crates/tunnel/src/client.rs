//! A client of the process, or of any program that serves the same protocol.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;
use shoutd_netlink::wireguard::{Change, Device};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::uapi::request::{GET, write_set};
use crate::uapi::{ANSWER_MAX, Refusal, answer};

/// How much of an answer is read at a time, in octets.
const CHUNK: usize = 64 << 10;

/// Why the process cannot be asked or told something.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It cannot be reached, or the connection broke. It does not run if the cause is "connection
    /// refused" or "not found".
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What failed.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// It did not answer in time.
    #[error("{} did not answer within {deadline:?}", path.display())]
    Late {
        /// The socket.
        path: PathBuf,
        /// The deadline.
        deadline: Duration,
    },
    /// It refused a request: `ENOKEY` without a private key, `ENOSPC` at a limit, `EINVAL` for
    /// what it does not understand. Earlier requests of the same change stay in effect.
    #[error("the WireGuard process refused a request: {0}")]
    Refused(Errno),
    /// An answer, or a change, cannot be expressed in the protocol.
    #[error("{0}")]
    Protocol(String),
}

impl From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> Self {
        Self::Protocol(refusal.to_string())
    }
}

/// A connection. The process ends one that is silent for some seconds: connect for each purpose.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    deadline: Duration,
}

impl Client {
    /// Connects to the socket. This and every request must be done within `deadline` each.
    ///
    /// # Errors
    /// The process does not run, or accepts no connection in time.
    pub async fn connect(path: &Path, deadline: Duration) -> Result<Self, ClientError> {
        match timeout(deadline, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => Ok(Self { stream, path: path.to_owned(), deadline }),
            Ok(Err(cause)) => {
                Err(ClientError::Io { action: "connect to", path: path.to_owned(), cause })
            }
            Err(_) => Err(ClientError::Late { path: path.to_owned(), deadline }),
        }
    }

    /// The process that serves the socket (`SO_PEERCRED`, unix(7)), such as to end it.
    ///
    /// # Errors
    /// The system does not know it.
    pub fn process(&self) -> Result<Pid, ClientError> {
        let credentials = self.stream.peer_cred().map_err(self.io("ask who serves"))?;
        let process = credentials.pid().ok_or(io::ErrorKind::NotFound.into());
        process.map(Pid::from_raw).map_err(self.io("ask who serves"))
    }

    /// What the device has. The protocol has neither its index nor its name: they are 0 and empty.
    ///
    /// # Errors
    /// The process does not answer in time, or not as the protocol says.
    pub async fn get(&mut self) -> Result<Device, ClientError> {
        self.exchange(GET).await
    }

    /// Changes the device, with several requests if there are many peers. The private key, the port
    /// and `replaces_peers` go first. After an error, a part of the change may hold; the whole can
    /// be sent again.
    ///
    /// # Errors
    /// The process does not answer in time, or refuses the change.
    pub async fn set(&mut self, change: &Change) -> Result<(), ClientError> {
        for request in write_set(change)? {
            self.exchange(&request).await?;
        }
        Ok(())
    }

    async fn exchange(&mut self, request: &str) -> Result<Device, ClientError> {
        let (path, deadline) = (self.path.clone(), self.deadline);
        let answer = timeout(deadline, self.send_and_receive(request)).await;
        let answer = answer.map_err(|_| ClientError::Late { path, deadline })??;
        answer::parse(&answer)?.map_err(ClientError::Refused)
    }

    async fn send_and_receive(&mut self, request: &str) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let sent = self.stream.write_all(request.as_bytes()).await;
        sent.map_err(self.io("send to"))?;
        let mut answer = Zeroizing::new(Vec::new());
        let mut chunk = Zeroizing::new(vec![0; CHUNK]);
        while !answer.ends_with(b"\n\n") {
            let read = self.stream.read(&mut chunk).await.map_err(self.io("receive from"))?;
            let octets = chunk.get(..read).unwrap_or_default();
            if octets.is_empty() {
                let cause = io::ErrorKind::UnexpectedEof.into();
                return Err(self.io("receive from")(cause));
            }
            if answer.len() + octets.len() > ANSWER_MAX {
                return Err(Refusal::new("answer", "it is too long").into());
            }
            append(&mut answer, octets);
        }
        Ok(answer)
    }

    fn io(&self, action: &'static str) -> impl FnOnce(io::Error) -> ClientError + use<> {
        let path = self.path.clone();
        move |cause| ClientError::Io { action, path, cause }
    }
}

/// Appends octets. When the buffer grows, the former one is wiped.
fn append(buffer: &mut Zeroizing<Vec<u8>>, octets: &[u8]) {
    if buffer.capacity() - buffer.len() < octets.len() {
        let capacity = (buffer.len() + octets.len()) * 2;
        let mut grown = Zeroizing::new(Vec::with_capacity(capacity));
        grown.extend_from_slice(buffer);
        *buffer = grown;
    }
    buffer.extend_from_slice(octets);
}
