//! The daemon's control socket: HTTP/1.1 with JSON over a Unix socket that is root's alone.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, http::request};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoutd_cli::Places;
use shoutd_core::view::Failure;
use tokio::net::UnixStream;

/// How long one answer may take. What is shown comes from memory, and from peers that have a second; what is done waits for agreement, several times at the most.
const DEADLINE: Duration = Duration::from_secs(30);

/// How large one answer may be: 65,536 endpoints of about 400 octets.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No daemon runs here.
    #[error("shoutd does not run on this host (nothing answers at {0}); start it: shoutdctl start <advertise_address>")]
    NotRunning(PathBuf),
    /// Something went wrong on the way.
    #[error("cannot ask shoutd at {path}")]
    Transport {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon said no.
    #[error("{0}")]
    Refused(String),
}

/// Asks the daemon for what is at `path`.
pub async fn get<T: DeserializeOwned>(places: &Places, path: &str) -> Result<T, ControlError> {
    ask(places, Request::get(path), Full::default()).await
}

/// Asks the daemon for a file.
pub async fn get_file(places: &Places, path: &str) -> Result<Bytes, ControlError> {
    ask_raw(places, Request::get(path), Full::default()).await
}

/// Has the daemon do what is at `path`.
pub async fn post<Q: Serialize, T: DeserializeOwned>(
    places: &Places,
    path: &str,
    wanted: &Q,
) -> Result<T, ControlError> {
    let body = serde_json::to_vec(wanted);
    let body = body.map_err(|error| ControlError::Transport { path: places.control_socket(), source: error.into() })?;
    let request = Request::post(path).header(hyper::header::CONTENT_TYPE, "application/json");
    ask(places, request, Full::from(body)).await
}

async fn ask<T: DeserializeOwned>(
    places: &Places,
    request: request::Builder,
    body: Full<Bytes>,
) -> Result<T, ControlError> {
    let body = ask_raw(places, request, body).await?;
    serde_json::from_slice(&body)
        .map_err(|error| ControlError::Transport { path: places.control_socket(), source: error.into() })
}

async fn ask_raw(places: &Places, request: request::Builder, body: Full<Bytes>) -> Result<Bytes, ControlError> {
    let socket = places.control_socket();
    let stream = connect(&socket).await?;
    let transport = |source| ControlError::Transport { path: socket.clone(), source };
    let exchange = tokio::time::timeout(DEADLINE, exchange(stream, request, body));
    let (sound, body) = exchange.await.map_err(|elapsed| transport(elapsed.into()))?.map_err(transport)?;
    if sound {
        return Ok(body);
    }
    let failure: Result<Failure, _> = serde_json::from_slice(&body);
    Err(ControlError::Refused(failure.map_or_else(|_| String::from_utf8_lossy(&body).into_owned(), |f| f.error)))
}

/// The process id of the daemon: of whoever listens on the control socket, as the kernel says.
pub async fn daemon(places: &Places) -> Result<Pid, ControlError> {
    let socket = places.control_socket();
    let stream = connect(&socket).await?;
    let credentials = getsockopt(&stream.as_fd(), PeerCredentials);
    let credentials = credentials.map_err(|errno| ControlError::Transport { path: socket, source: errno.into() })?;
    Ok(Pid::from_raw(credentials.pid()))
}

async fn connect(socket: &PathBuf) -> Result<UnixStream, ControlError> {
    UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NotRunning(socket.clone()),
        _ => ControlError::Transport { path: socket.clone(), source: error.into() },
    })
}

/// One request on a connection of its own; whether the answer was a success, and its body.
async fn exchange(
    stream: UnixStream,
    request: request::Builder,
    body: Full<Bytes>,
) -> Result<(bool, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = request.header(hyper::header::HOST, "shoutd").body(body)?;
    let response = sender.send_request(request).await?;
    let sound = response.status().is_success();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
    connection.abort();
    Ok((sound, body))
}
