//! An answer of the daemon that does not end: lines of JSON.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoutd_cli::Directories;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{ControlError, GET_TIME_MAX, connect, has_ended, not_running, refusal, silent};

/// Size limit of a line, in octets. The texts of events and problems are much shorter.
const LINE_BYTES_MAX: usize = 1 << 20;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// The lines of one connection. Dropping it closes the connection.
#[derive(Debug)]
pub struct Lines {
    directories: Directories,
    daemon: Option<i32>,
    connection: JoinHandle<()>,
    body: Incoming,
    /// What has come and was not read yet.
    rest: Vec<u8>,
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Asks for lines with a POST request.
///
/// # Errors
/// The daemon does not run, does not begin to answer in time, or refuses.
pub async fn lines<Q: Serialize>(
    directories: &Directories,
    path: &str,
    asked: &Q,
) -> Result<Lines, ControlError> {
    let socket = directories.control_socket();
    let stream = connect(&socket).await?;
    let daemon = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
    let begun = timeout(GET_TIME_MAX, begin(stream, path, asked)).await;
    let (connection, response) = match begun {
        Ok(Ok(begun)) => begun,
        Ok(Err(_)) if has_ended(daemon).await => return Err(not_running(directories)),
        Ok(Err(source)) => return Err(ControlError::Transport { path: socket, source }),
        Err(_) => return Err(late(daemon, GET_TIME_MAX)),
    };
    let is_success = response.status().is_success();
    let (directories, rest) = (directories.clone(), Vec::new());
    let mut lines = Lines { directories, daemon, connection, body: response.into_body(), rest };
    if is_success {
        return Ok(lines);
    }
    let whole = timeout(GET_TIME_MAX, lines.read_to_end());
    whole.await.map_err(|_| late(daemon, GET_TIME_MAX))??;
    Err(refusal(&lines.rest))
}

async fn begin<Q: Serialize>(
    stream: UnixStream,
    path: &str,
    asked: &Q,
) -> Result<(JoinHandle<()>, hyper::Response<Incoming>), Failed> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(async move { drop(connection.await) });
    let body = Full::<Bytes>::from(serde_json::to_vec(asked)?);
    let request = Request::post(path)
        .header(HOST, "shoutd")
        .header(CONTENT_TYPE, "application/json")
        .body(body)?;
    Ok((connection, sender.send_request(request).await?))
}

impl Lines {
    /// The next line. It may be cancelled, and called again.
    ///
    /// # Errors
    /// The daemon has ended, or sends what cannot be read.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<T, ControlError> {
        loop {
            if let Some(end) = self.rest.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|error| self.transport(error));
            }
            if self.rest.len() > LINE_BYTES_MAX {
                return Err(self.transport("it sends a line that is too long"));
            }
            if !self.read().await? {
                return Err(not_running(&self.directories));
            }
        }
    }

    /// Why no line came for `time`.
    pub fn silence(&self, time: Duration) -> String {
        late(self.daemon, time).to_string()
    }

    /// Reads more; false if the answer has ended.
    async fn read(&mut self) -> Result<bool, ControlError> {
        match self.body.frame().await {
            Some(Ok(frame)) => {
                self.rest.extend(frame.into_data().unwrap_or_default());
                Ok(true)
            }
            Some(Err(_)) if has_ended(self.daemon).await => Ok(false),
            Some(Err(error)) => Err(self.transport(error)),
            None => Ok(false),
        }
    }

    async fn read_to_end(&mut self) -> Result<(), ControlError> {
        while self.rest.len() <= LINE_BYTES_MAX && self.read().await? {}
        Ok(())
    }

    fn transport(&self, source: impl Into<Failed>) -> ControlError {
        ControlError::Transport { path: self.directories.control_socket(), source: source.into() }
    }
}

fn late(daemon: Option<i32>, time: Duration) -> ControlError {
    silent(daemon, &format!("does not answer within {} s", time.as_secs()))
}
