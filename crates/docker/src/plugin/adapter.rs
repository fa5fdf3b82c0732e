//! The managed plugin: it forwards the engine's calls to the daemon of its host, over a socket in a
//! directory that is mounted into its container.
//!
//! It has no state and almost no logic, so that a daemon can be upgraded without it: an engine does
//! not replace a plugin whose networks are in use.
//!
//! The calls of a Swarm's leader for a network are answered even without the daemon. If allocation
//! of a network fails, the Swarm does not start tasks on it for five minutes; and while it waits
//! for the answer, it allocates nothing else. When the daemon is back, it finds the Swarm's
//! networks by itself.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;

use super::call::swarm_answer;
use super::error::DriverError;
use super::router::{PluginLimits, read_body, refuse, reply};
use crate::one_line;

/// Pause between attempts to reach a starting daemon.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Limit of the path of a call, in bytes.
const PATH_BYTES_MAX: usize = 200;

/// Limits of a call.
#[derive(Debug, Clone, Copy)]
pub struct AdapterLimits {
    /// Limits of the body and of concurrent calls.
    pub plugin: PluginLimits,
    /// How long to wait for the daemon before a call of the Swarm's leader is answered without it.
    pub leaders_absence: Duration,
    /// How long to wait for the daemon otherwise: long enough for a start, and no longer than an
    /// engine retries calls to a socket plugin.
    pub absence: Duration,
    /// Size limit of an answer, in bytes.
    pub answer_bytes: usize,
}

impl Default for AdapterLimits {
    fn default() -> Self {
        // An engine waits 30 s for a managed plugin. The daemon's own error must come before that.
        let plugin = PluginLimits { call: Duration::from_secs(28), ..PluginLimits::default() };
        let (absence, leaders_absence) = (Duration::from_secs(15), Duration::from_secs(2));
        Self { plugin, leaders_absence, absence, answer_bytes: 1 << 20 }
    }
}

/// The HTTP service that forwards calls to the daemon's socket `daemon`, with the default limits.
pub fn adapter(daemon: PathBuf) -> Router {
    adapter_with_limits(daemon, AdapterLimits::default())
}

/// The HTTP service that forwards calls to the daemon's socket `daemon`.
pub fn adapter_with_limits(daemon: PathBuf, limits: AdapterLimits) -> Router {
    let permits = Semaphore::new(limits.plugin.in_flight);
    Router::new().fallback(answer).with_state(Arc::new(Adapter { daemon, limits, permits }))
}

struct Adapter {
    daemon: PathBuf,
    limits: AdapterLimits,
    permits: Semaphore,
}

async fn answer(State(adapter): State<Arc<Adapter>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if head.method != Method::POST || path.len() > PATH_BYTES_MAX {
        return refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "Docker calls plugins with POST and short paths",
        );
    }
    if let Some(fixed) = swarm_answer(path) {
        return reply(StatusCode::OK, &fixed);
    }
    match adapter.forward(path, body).await {
        Ok((status, answer)) => reply(status, &answer),
        Err(error) => {
            warn!(call = one_line(path, PATH_BYTES_MAX), %error, "cannot forward the call");
            reply(StatusCode::OK, &json!({ "Err": error.message() }))
        }
    }
}

fn failed_call(error: impl Display) -> DriverError {
    DriverError::new(format!("the call to shoutd failed: {error}"))
}

/// The answer to a call of a Swarm's leader if the daemon does not run: a new network keeps its
/// options, and a removal succeeds. `None` for other calls.
fn leaders_answer(path: &str, body: &[u8]) -> Option<Value> {
    match path {
        "/NetworkDriver.AllocateNetwork" => {
            let options = serde_json::from_slice::<Value>(body).ok()?.get("Options").cloned();
            Some(
                json!({ "Options": options.filter(Value::is_object).unwrap_or_else(|| json!({})) }),
            )
        }
        "/NetworkDriver.FreeNetwork" => Some(json!({})),
        _ => None,
    }
}

impl Adapter {
    /// Forwards one call, within its deadline.
    async fn forward(&self, path: &str, body: Body) -> Result<(StatusCode, Value), DriverError> {
        let limits = &self.limits;
        let deadline = Instant::now() + limits.plugin.call;
        let late =
            || DriverError::new(format!("shoutd did not answer within {:?}", limits.plugin.call));
        let work = async {
            let body = read_body(body, &limits.plugin).await?;
            let _permit = self.permits.acquire().await.map_err(|_| late())?;
            let without_daemon = leaders_answer(path, &body);
            let patience =
                if without_daemon.is_some() { limits.leaders_absence } else { limits.absence };
            match (self.connect(patience).await, without_daemon) {
                (Ok(stream), _) => self.exchange(stream, path, body).await,
                (Err(error), Some(answer)) => {
                    warn!(call = path, "answered without the daemon: {error}");
                    Ok((StatusCode::OK, answer))
                }
                (Err(error), None) => Err(error),
            }
        };
        timeout_at(deadline, work).await.unwrap_or_else(|_| Err(late()))
    }

    /// Connects to the daemon, retrying while it starts. Nothing was sent yet, so this is safe.
    async fn connect(&self, patience: Duration) -> Result<UnixStream, DriverError> {
        let until = Instant::now() + patience;
        loop {
            match UnixStream::connect(&self.daemon).await {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() >= until => {
                    return Err(DriverError::new(format!(
                        "shoutd is not running on this host, or has not run since this plugin was \
                         installed ({error}); see \"shoutdctl status\""
                    )));
                }
                Err(_) => sleep(RETRY_PAUSE).await,
            }
        }
    }

    async fn exchange(
        &self,
        stream: UnixStream,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Value), DriverError> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed_call)?;
        let connection = tokio::spawn(connection);
        let request = hyper::Request::post(path).header(HOST, "shoutd").body(Full::new(body));
        let request = request.map_err(failed_call)?;
        let response = sender.send_request(request).await.map_err(failed_call)?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), self.limits.answer_bytes).collect().await;
        connection.abort();
        let answer = answer.map_err(failed_call)?.to_bytes();
        let answer = serde_json::from_slice(&answer).map_err(failed_call)?;
        Ok((status, answer))
    }
}

/// Whether a daemon answers on its socket for managed plugins. We send `GetCapabilities`, which it
/// always answers at once.
pub async fn answers(daemon: &std::path::Path, patience: Duration) -> bool {
    let limits = AdapterLimits { absence: Duration::ZERO, ..AdapterLimits::default() };
    let adapter = Adapter { daemon: daemon.to_owned(), limits, permits: Semaphore::new(1) };
    let answer = adapter.forward("/NetworkDriver.GetCapabilities", Body::empty());
    matches!(timeout(patience, answer).await, Ok(Ok((StatusCode::OK, _))))
}
