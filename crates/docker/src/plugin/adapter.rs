//! What a managed plugin does: it hands the engine's calls on to the daemon of its host, over a
//! socket in a directory that both see.
//!
//! It knows nothing and decides next to nothing, so that it need not be exchanged when the daemon
//! is: an engine does not let go of a plugin whose networks are in use.
//!
//! A Swarm's leader, of its networks, is answered even if there is no daemon: to one that is
//! refused a network, the Swarm gives no task of it for five minutes, and it allocates nothing else
//! while it waits. A daemon that is back sees by itself which networks the Swarm has.

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
use super::driver::DriverError;
use super::router::{PluginLimits, read_body, refuse, reply};
use crate::one_line;

/// The pause between two attempts to reach a daemon that is being started.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Longest path of a call that is handed on, in bytes.
const PATH_BYTES_MAX: usize = 200;

/// What one call may take.
#[derive(Debug, Clone, Copy)]
pub struct AdapterLimits {
    /// A call's body, and how many calls are handed on at a time.
    pub plugin: PluginLimits,
    /// How long a daemon may be away before a leader's call is answered without it.
    pub leaders_absence: Duration,
    /// How long a daemon may be away otherwise: as long as it takes to start, and no longer than an
    /// engine repeats calls to a plugin on a socket.
    pub absence: Duration,
    /// Most bytes of an answer.
    pub answer_bytes: usize,
}

impl Default for AdapterLimits {
    fn default() -> Self {
        // An engine waits 30 s for a managed plugin, and the daemon is to have the last word
        // before.
        let plugin = PluginLimits { call: Duration::from_secs(28), ..PluginLimits::default() };
        let (absence, leaders_absence) = (Duration::from_secs(15), Duration::from_secs(2));
        Self { plugin, leaders_absence, absence, answer_bytes: 1 << 20 }
    }
}

/// The HTTP service that hands calls on to the daemon that listens on `daemon`, with the usual
/// limits.
pub fn adapter(daemon: PathBuf) -> Router {
    adapter_with_limits(daemon, AdapterLimits::default())
}

/// The HTTP service that hands calls on to the daemon that listens on `daemon`.
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
            "Docker plugins are called by POST, and by short names",
        );
    }
    if let Some(fixed) = swarm_answer(path) {
        return reply(StatusCode::OK, &fixed);
    }
    match adapter.hand_on(path, body).await {
        Ok((status, answer)) => reply(status, &answer),
        Err(error) => {
            warn!(call = one_line(path, PATH_BYTES_MAX), %error, "cannot hand the call on");
            reply(StatusCode::OK, &json!({ "Err": error.message() }))
        }
    }
}

/// What a Swarm's leader is answered if there is no daemon, of the calls that it makes: a network
/// keeps its options, and goes without resistance.
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
    /// One call with its deadlines.
    async fn hand_on(&self, path: &str, body: Body) -> Result<(StatusCode, Value), DriverError> {
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
                    warn!(call = path, "answered without it: {error}");
                    Ok((StatusCode::OK, answer))
                }
                (Err(error), None) => Err(error),
            }
        };
        timeout_at(deadline, work).await.unwrap_or_else(|_| Err(late()))
    }

    /// Nothing has been said yet: to wait for a daemon that is being started does no harm.
    async fn connect(&self, patience: Duration) -> Result<UnixStream, DriverError> {
        let until = Instant::now() + patience;
        loop {
            match UnixStream::connect(&self.daemon).await {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() >= until => {
                    return Err(DriverError::new(format!(
                        "shoutd does not run on this host, or has never run since this plugin was \
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
        let broken = |error: &dyn std::fmt::Display| {
            DriverError::new(format!("shoutd broke the call off: {error}"))
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        let driving = tokio::spawn(connection);
        let request = hyper::Request::post(path).header(HOST, "shoutd").body(Full::new(body));
        let request = request.map_err(|error| broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), self.limits.answer_bytes).collect().await;
        driving.abort();
        let answer = answer.map_err(|error| broken(&error))?.to_bytes();
        let answer = serde_json::from_slice(&answer).map_err(|error| broken(&error))?;
        Ok((status, answer))
    }
}

/// Whether a daemon answers on its socket for managed plugins: it is asked what it always answers
/// at once.
pub async fn answers(daemon: &std::path::Path, patience: Duration) -> bool {
    let limits = AdapterLimits { absence: Duration::ZERO, ..AdapterLimits::default() };
    let adapter = Adapter { daemon: daemon.to_owned(), limits, permits: Semaphore::new(1) };
    let asked = adapter.hand_on("/NetworkDriver.GetCapabilities", Body::empty());
    matches!(timeout(patience, asked).await, Ok(Ok((StatusCode::OK, _))))
}
