//! Client of the daemon's control socket: HTTP/1.1 with JSON over a Unix socket that only root can
//! use.

mod lines;

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, http::request};
use hyper_util::rt::TokioIo;
pub use lines::lines;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoutd_cli::{Directories, read_at_most};
use shoutd_core::last_run::{LAST_RUN_BYTES_MAX, LAST_RUN_FILE, LastRun};
use shoutd_core::view::Failure;
use tokio::net::UnixStream;

use crate::moment::when;
use crate::presence;
use crate::waiting::Waiting;

/// Deadline of a GET request. The daemon answers from memory, and asks peers with a deadline of one
/// second.
const GET_TIME_MAX: Duration = Duration::from_secs(10);

/// Deadline of a POST request, which may have to wait for the Raft leader several times.
const POST_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a killed daemon may take to be gone after its sockets are closed.
const ENDING_TIME_MAX: Duration = Duration::from_secs(1);

/// How often we look whether it is gone.
const ENDING_POLL: Duration = Duration::from_millis(10);

/// Size limit of an answer: 65,536 endpoints of about 400 octets.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No daemon runs here.
    #[error(
        "shoutd is not running on this host (nothing answers at {}){}",
        .socket.display(),
        remedy(.last)
    )]
    NotRunning {
        /// The control socket.
        socket: PathBuf,
        /// How the last daemon ended, in one line, if one ran since the host booted.
        last: Option<String>,
    },
    /// The connection or the exchange failed.
    #[error("cannot talk to shoutd at {path}")]
    Transport {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon did not answer in time.
    #[error("{0}")]
    Silent(String),
    /// The daemon refused the request.
    #[error("{0}")]
    Refused(String),
}

fn remedy(last: &Option<String>) -> String {
    match last {
        Some(last) => format!(": {last}; start it: shoutdctl start"),
        None => "; start it: shoutdctl start <advertise_address>".to_owned(),
    }
}

/// The error that no daemon runs here, with how the last one ended.
pub fn not_running(directories: &Directories) -> ControlError {
    ControlError::NotRunning {
        socket: directories.control_socket(),
        last: last_run(&directories.run_dir),
    }
}

/// How the last daemon of this host ended, in one line.
fn last_run(directory: &Path) -> Option<String> {
    let text = read_at_most(&directory.join(LAST_RUN_FILE), LAST_RUN_BYTES_MAX).ok()?;
    let last: LastRun = serde_json::from_slice(&text).ok()?;
    let name = std::fs::read_to_string(format!("/proc/{}/comm", last.pid)).unwrap_or_default();
    let text = last.describe(when, name.trim() == "shoutd");
    Some(text.replace(|c: char| c.is_control(), " "))
}

/// Sends a GET request and decodes the JSON answer.
pub async fn get<T: DeserializeOwned>(
    directories: &Directories,
    path: &str,
) -> Result<T, ControlError> {
    ask(directories, Request::get(path), Full::default()).await
}

/// Sends a GET request and returns the body of the answer.
pub async fn get_file(directories: &Directories, path: &str) -> Result<Bytes, ControlError> {
    ask_raw(directories, Request::get(path), Full::default()).await
}

/// Sends a POST request with a JSON body and decodes the JSON answer.
pub async fn post<Q: Serialize, T: DeserializeOwned>(
    directories: &Directories,
    path: &str,
    wanted: &Q,
) -> Result<T, ControlError> {
    let body = serde_json::to_vec(wanted);
    let body = body.map_err(|error| ControlError::Transport {
        path: directories.control_socket(),
        source: error.into(),
    })?;
    let request = Request::post(path).header(hyper::header::CONTENT_TYPE, "application/json");
    ask(directories, request, Full::from(body)).await
}

async fn ask<T: DeserializeOwned>(
    directories: &Directories,
    request: request::Builder,
    body: Full<Bytes>,
) -> Result<T, ControlError> {
    let body = ask_raw(directories, request, body).await?;
    serde_json::from_slice(&body).map_err(|error| ControlError::Transport {
        path: directories.control_socket(),
        source: error.into(),
    })
}

async fn ask_raw(
    directories: &Directories,
    request: request::Builder,
    body: Full<Bytes>,
) -> Result<Bytes, ControlError> {
    let socket = directories.control_socket();
    let stream = connect(&socket).await?;
    let daemon = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
    let is_get = request.method_ref() == Some(&Method::GET);
    let deadline = if is_get { GET_TIME_MAX } else { POST_TIME_MAX };
    let exchange = tokio::time::timeout(deadline, exchange(stream, request, body));
    let (is_success, body) = match Waiting::begin("shoutd works on it").during(exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) if has_ended(daemon).await => return Err(not_running(directories)),
        Ok(Err(source)) => {
            return Err(ControlError::Transport { path: socket.to_owned(), source });
        }
        Err(_) => {
            let fault = format!("does not answer within {} s", deadline.as_secs());
            return Err(silent(daemon, &fault));
        }
    };
    if is_success {
        return Ok(body);
    }
    Err(refusal(&body))
}

/// The error that the daemon sent.
fn refusal(body: &[u8]) -> ControlError {
    let failure: Result<Failure, _> = serde_json::from_slice(body);
    ControlError::Refused(
        failure.map_or_else(|_| String::from_utf8_lossy(body).into_owned(), |f| f.error),
    )
}

/// The process id of the daemon: the peer of the control socket (`SO_PEERCRED`).
pub async fn daemon(directories: &Directories) -> Result<Pid, ControlError> {
    let socket = directories.control_socket();
    let stream = connect(&socket).await?;
    let credentials = getsockopt(&stream.as_fd(), PeerCredentials);
    let credentials = credentials
        .map_err(|errno| ControlError::Transport { path: socket, source: errno.into() })?;
    Ok(Pid::from_raw(credentials.pid()))
}

/// Explains why a daemon does not answer, as far as its process state tells.
fn silent(daemon: Option<i32>, what: &str) -> ControlError {
    let process = daemon.map_or_else(|| "it".to_owned(), |pid| format!("process {pid}"));
    let state = daemon.and_then(|pid| process_state(Pid::from_raw(pid)));
    let remedy = match (state, daemon) {
        (Some('T' | 't'), Some(pid)) => {
            format!(
                "{process} was stopped by a signal or a debugger; continue it: kill -CONT {pid}"
            )
        }
        _ => format!(
            "{process} hangs, or this host is very busy; try again, or restart it: shoutdctl \
             stop, shoutdctl start"
        ),
    };
    ControlError::Silent(format!("shoutd {what}: {remedy}"))
}

/// Whether the daemon has ended. The kernel closes a killed process's sockets before it is gone.
async fn has_ended(daemon: Option<i32>) -> bool {
    let Some(pid) = daemon.map(Pid::from_raw) else { return false };
    let deadline = Instant::now() + ENDING_TIME_MAX;
    loop {
        if matches!(process_state(pid), None | Some('Z' | 'X')) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(ENDING_POLL).await;
    }
}

/// The state of a process (proc_pid_stat(5)); `None` if it does not exist.
pub fn process_state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
}

/// Connects. If a daemon runs, its socket may be missing for a moment; then we wait for it.
async fn try_connect(socket: &Path) -> io::Result<UnixStream> {
    match UnixStream::connect(socket).await {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            presence::connect(socket, error).await
        }
        connected => connected,
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, ControlError> {
    let connected = tokio::time::timeout(GET_TIME_MAX, try_connect(socket)).await;
    let connected = connected.map_err(|_| silent(None, "does not accept connections"))?;
    connected.map_err(|error| match error.kind() {
        // The accept queue is full.
        io::ErrorKind::WouldBlock => silent(None, "does not accept connections"),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NotRunning {
            socket: socket.to_owned(),
            last: socket.parent().and_then(last_run),
        },
        _ => ControlError::Transport { path: socket.to_owned(), source: error.into() },
    })
}

/// Sends one request on its own connection. Returns whether the status is a success, and the body.
async fn exchange(
    stream: UnixStream,
    request: request::Builder,
    body: Full<Bytes>,
) -> Result<(bool, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = request.header(hyper::header::HOST, "shoutd").body(body)?;
    let response = sender.send_request(request).await?;
    let is_success = response.status().is_success();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
    connection.abort();
    Ok((is_success, body))
}
