//! The engine's stream of network events.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use futures::Stream;
use hyper::Method;
use hyper::body::{Body, Incoming};
use serde::Deserialize;
use shoutd_core::id::DockerNetworkId;
use tracing::{debug, warn};

use super::connection::Driver;
use super::error::EngineError;
use super::{EngineClient, QUERY_DEADLINE};

/// `{"type":["network"]}`, percent-encoded.
const FILTERS: &str = "%7B%22type%22%3A%5B%22network%22%5D%7D";

/// Size limit of an event, in bytes. An event has about 400 bytes and a name.
const EVENT_LIMIT: usize = 256 << 10;

/// When the engine emitted an event, by the engine's clock, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventTime(u64);

impl EventTime {
    /// The time `nanoseconds` after the start of 1970 (UTC).
    pub fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }
}

impl fmt::Display for EventTime {
    /// Format of the engine's `since` parameter: seconds with nine fractional digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// What happened to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkAction {
    /// It was created, and can be inspected.
    Create,
    /// It was removed.
    Destroy,
    /// A container was attached to it.
    Connect,
    /// A container was detached from it.
    Disconnect,
}

/// One event of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkEvent {
    /// What happened.
    pub action: NetworkAction,
    /// The network.
    pub network: DockerNetworkId,
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// The container, for [`NetworkAction::Connect`] and [`NetworkAction::Disconnect`].
    pub container: Option<String>,
    /// When it happened. Use it as `since` to resume after the stream broke.
    pub time: EventTime,
}

/// Stream of network events. It ends with one error; subscribe again to continue.
///
/// Events are only hints: the engine drops them for a slow reader, keeps the last 256 of all kinds
/// for `since`, and forgets them when it restarts. So compare with [`EngineClient::networks`] after
/// each subscription, and periodically.
#[derive(Debug)]
pub struct NetworkEvents {
    body: Incoming,
    buffer: BytesMut,
    ended: bool,
    _driver: Driver,
}

impl EngineClient {
    /// Subscribes to network events. The subscription is active when this returns. With `since`,
    /// the stream begins with the events that the engine remembers from that instant on, inclusive.
    ///
    /// The stream has no deadline: hours may pass without an event. If the engine dies, the stream
    /// ends.
    ///
    /// # Errors
    /// The engine cannot be reached, does not answer in time, or refuses.
    pub async fn network_events(
        &self,
        since: Option<EventTime>,
    ) -> Result<NetworkEvents, EngineError> {
        let operation = "subscribing to Docker's network events";
        let since = since.map(|time| format!("&since={time}")).unwrap_or_default();
        let path = format!("/events?filters={FILTERS}{since}");
        let work = async { self.connect(operation).await?.stream(operation, &path).await };
        let (body, driver) =
            tokio::time::timeout(QUERY_DEADLINE, work).await.unwrap_or_else(|_| {
                Err(EngineError::Deadline {
                    operation: operation.to_owned(),
                    deadline: QUERY_DEADLINE,
                })
            })?;
        Ok(NetworkEvents { body, buffer: BytesMut::new(), ended: false, _driver: driver })
    }

    /// Whether the engine remembers that it removed this network. If it does, the driver's part is
    /// done too and no more calls for it follow. `false` proves nothing, see [`NetworkEvents`].
    ///
    /// # Errors
    /// The engine cannot be reached, does not answer in time, or refuses.
    pub async fn has_removed(&self, network: &DockerNetworkId) -> Result<bool, EngineError> {
        let operation = format!("checking whether Docker network {} was removed", network.short());
        // With `until` in the past, the engine sends the events that it remembers and ends the
        // stream.
        let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let until = EventTime(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX));
        let path = format!("/events?filters={FILTERS}&since={}&until={until}", EventTime(1));
        let reply = self.call(&operation, Method::GET, &path, None, QUERY_DEADLINE).await?;
        let events = reply.expect_success(&operation)?;
        let mut events = events.split(|octet| *octet == b'\n').filter_map(parse);
        Ok(events.any(|event| event.action == NetworkAction::Destroy && event.network == *network))
    }
}

impl NetworkEvents {
    /// The next event, if the buffer has a complete line.
    fn take_buffered(&mut self) -> Option<NetworkEvent> {
        while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
            let line = self.buffer.split_to(end + 1);
            if let Some(event) = parse(&line) {
                return Some(event);
            }
        }
        None
    }
}

impl Stream for NetworkEvents {
    type Item = Result<NetworkEvent, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let operation = "reading Docker's network events";
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(event) = self.take_buffered() {
                return Poll::Ready(Some(Ok(event)));
            }
            let end = if self.buffer.len() > EVENT_LIMIT {
                EngineError::malformed(
                    operation,
                    format!("an event is longer than {EVENT_LIMIT} bytes"),
                )
            } else {
                match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            self.buffer.extend_from_slice(&data);
                        }
                        continue;
                    }
                    Some(Err(source)) => {
                        EngineError::Transport { operation: operation.to_owned(), source }
                    }
                    None => EngineError::EventsEnded,
                }
            };
            self.ended = true;
            return Poll::Ready(Some(Err(end)));
        }
    }
}

/// Parses one line of the stream; `None` if it is not an event that we use.
pub(super) fn parse(line: &[u8]) -> Option<NetworkEvent> {
    #[derive(Deserialize)]
    struct EventJson {
        #[serde(rename = "Actor")]
        actor: ActorJson,
        #[serde(rename = "timeNano")]
        time: u64,
    }
    #[derive(Deserialize)]
    struct ActorJson {
        #[serde(rename = "ID")]
        id: DockerNetworkId,
        #[serde(rename = "Attributes")]
        attributes: AttributesJson,
    }
    #[derive(Deserialize)]
    struct AttributesJson {
        #[serde(default)]
        name: String,
        #[serde(rename = "type", default)]
        driver: String,
        container: Option<String>,
    }
    #[derive(Deserialize)]
    struct KindJson {
        #[serde(rename = "Action")]
        action: String,
    }

    if line.trim_ascii().is_empty() {
        return None;
    }
    let action = match serde_json::from_slice::<KindJson>(line).map(|kind| kind.action) {
        Ok(action) => action,
        Err(error) => {
            warn!(%error, "ignored an invalid event from Docker");
            return None;
        }
    };
    let action = match action.as_str() {
        "create" => NetworkAction::Create,
        "destroy" => NetworkAction::Destroy,
        "connect" => NetworkAction::Connect,
        "disconnect" => NetworkAction::Disconnect,
        // `prune`, which names no network, and Swarm's `update` and `remove`.
        other => {
            debug!(action = other, "ignored a network event");
            return None;
        }
    };
    match serde_json::from_slice::<EventJson>(line) {
        Ok(event) => Some(NetworkEvent {
            action,
            network: event.actor.id,
            name: event.actor.attributes.name,
            driver: event.actor.attributes.driver,
            container: event.actor.attributes.container,
            time: EventTime(event.time),
        }),
        Err(error) => {
            warn!(%error, "ignored an incomplete network event from Docker");
            None
        }
    }
}
