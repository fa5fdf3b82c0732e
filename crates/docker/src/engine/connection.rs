//! One HTTP/1.1 connection to the engine: version negotiation, one bounded exchange, or one stream.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::error::EngineError;

/// Size limit of an answer, in bytes. A thousand networks with labels have less than 1 MiB.
const ANSWER_LIMIT: usize = 16 << 20;

/// A version of the Docker Engine API, such as 1.41.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    major: u16,
    minor: u16,
}

impl ApiVersion {
    /// The oldest version that shoutd supports: Docker 20.10.
    pub const OLDEST: Self = Self { major: 1, minor: 41 };

    /// The newest version that shoutd requests: Docker 28.3, because 29.0 changed the shape of
    /// answers. Docker 29 accepts it (29.0 requires at least 1.44, 29.3 at least 1.40). It has
    /// `EnableIPv4` (1.48), which a mirror of an IPv6-only network needs.
    const NEWEST: Self = Self { major: 1, minor: 51 };
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ApiVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.trim().split_once('.').and_then(|(major, minor)| {
            Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
        });
        parsed.ok_or_else(|| format!("{:?} is not an API version", crate::one_line(text, 40)))
    }
}

/// Body of a request.
#[derive(Debug)]
pub(super) struct Content {
    kind: &'static str,
    bytes: Bytes,
}

impl Content {
    pub(super) fn json(bytes: Vec<u8>) -> Self {
        Self { kind: "application/json", bytes: bytes.into() }
    }

    pub(super) fn tar(bytes: Vec<u8>) -> Self {
        Self { kind: "application/x-tar", bytes: bytes.into() }
    }
}

/// The answer to a call.
#[derive(Debug)]
pub(super) struct Reply {
    /// The API version of the call.
    pub(super) api_version: ApiVersion,
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Reply {
    /// The body, if the status is a success.
    pub(super) fn expect_success(self, operation: &str) -> Result<Bytes, EngineError> {
        if self.status.is_success() { Ok(self.body) } else { Err(self.into_error(operation)) }
    }

    /// The engine's error message: `{"message":"…"}`, or else the raw body.
    pub(super) fn message(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Refusal {
            message: String,
        }
        match serde_json::from_slice::<Refusal>(&self.body) {
            Ok(refusal) => refusal.message,
            Err(_) => String::from_utf8_lossy(&self.body).into_owned(),
        }
    }

    pub(super) fn into_error(self, operation: &str) -> EngineError {
        EngineError::refused(operation, self.status, &self.message())
    }
}

/// Aborts the task that drives a connection when dropped.
#[derive(Debug)]
pub(super) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection with its negotiated API version.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
    version: ApiVersion,
}

impl Connection {
    /// Connects to `socket` and negotiates the API version. The caller sets the deadline.
    pub(super) async fn open(socket: &Path, operation: &str) -> Result<Self, EngineError> {
        let stream = UnixStream::connect(socket).await.map_err(|source| EngineError::Connect {
            operation: operation.to_owned(),
            socket: socket.to_owned(),
            source,
        })?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|source| EngineError::Transport { operation: operation.to_owned(), source })?;
        let driver = Driver(tokio::spawn(async move {
            // The request on this connection returns the same error.
            let _ = connection.await;
        }));
        let mut connection = Self { sender, driver, version: ApiVersion::OLDEST };
        connection.version = connection.negotiate(operation).await?;
        Ok(connection)
    }

    /// The newest version that both sides support. We use `/_ping` because it is cheap; `/version`
    /// makes the engine start programs.
    async fn negotiate(&mut self, operation: &str) -> Result<ApiVersion, EngineError> {
        let response = self.send(operation, Method::GET, "/_ping", None).await?;
        let header = response
            .headers()
            .get("api-version")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let reply = self.read(operation, response).await?;
        if !reply.status.is_success() {
            return Err(reply.into_error(operation));
        }
        let header = header
            .ok_or_else(|| EngineError::malformed(operation, "/_ping has no Api-Version header"))?;
        let newest: ApiVersion =
            header.parse().map_err(|reason: String| EngineError::malformed(operation, reason))?;
        if newest < ApiVersion::OLDEST {
            return Err(EngineError::TooOld { found: newest });
        }
        Ok(newest.min(ApiVersion::NEWEST))
    }

    /// Sends one request to `/v<version><path>` and reads the whole answer.
    pub(super) async fn exchange(
        &mut self,
        operation: &str,
        method: Method,
        path: &str,
        body: Option<Content>,
    ) -> Result<Reply, EngineError> {
        let target = format!("/v{}{path}", self.version);
        let response = self.send(operation, method, &target, body).await?;
        self.read(operation, response).await
    }

    /// Sends a GET request and returns the body as a stream. The connection closes when the
    /// returned driver is dropped.
    pub(super) async fn stream(
        mut self,
        operation: &str,
        path: &str,
    ) -> Result<(Incoming, Driver), EngineError> {
        let target = format!("/v{}{path}", self.version);
        let response = self.send(operation, Method::GET, &target, None).await?;
        if !response.status().is_success() {
            return Err(self.read(operation, response).await?.into_error(operation));
        }
        Ok((response.into_body(), self.driver))
    }

    async fn send(
        &mut self,
        operation: &str,
        method: Method,
        target: &str,
        body: Option<Content>,
    ) -> Result<Response<Incoming>, EngineError> {
        let mut request = Request::builder().method(method).uri(target).header(HOST, "docker");
        if let Some(content) = &body {
            request = request.header(CONTENT_TYPE, content.kind);
        }
        let request = request
            .body(Full::new(body.map(|content| content.bytes).unwrap_or_default()))
            .map_err(|error| {
                EngineError::malformed(operation, format!("request target {target:?}: {error}"))
            })?;
        let sent = match self.sender.ready().await {
            Ok(()) => self.sender.send_request(request).await,
            Err(source) => Err(source),
        };
        sent.map_err(|source| EngineError::Transport { operation: operation.to_owned(), source })
    }

    async fn read(
        &self,
        operation: &str,
        response: Response<Incoming>,
    ) -> Result<Reply, EngineError> {
        let status = response.status();
        let body = match Limited::new(response.into_body(), ANSWER_LIMIT).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(EngineError::malformed(
                    operation,
                    format!("it is longer than {ANSWER_LIMIT} bytes"),
                ));
            }
            Err(error) => {
                return Err(match error.downcast::<hyper::Error>() {
                    Ok(source) => {
                        EngineError::Transport { operation: operation.to_owned(), source: *source }
                    }
                    Err(other) => EngineError::malformed(operation, other),
                });
            }
        };
        Ok(Reply { api_version: self.version, status, body })
    }
}
