//! A simulated network that loses, delays, duplicates and reorders messages, and has partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
use shoutd_consensus::testing::{APPEND, Transport, Vote};
use shoutd_core::{ClusterId, HostId};
use shoutd_peer::{CallError, Caller, Identity, PublicKey, Rejection};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use super::chance::Chance;
use super::checks::Checks;
use super::runtime::{Owner, spawn};

/// The network's faults, in thousandths of messages.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub lost: u64,
    pub duplicated: u64,
    /// Delayed so long that others overtake it.
    pub late: u64,
}

/// The network. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Net(Arc<Mutex<State>>);

struct State {
    hosts: BTreeMap<SocketAddr, Listener>,
    /// Pairs of source and destination whose messages are lost.
    blocked: BTreeSet<(HostId, HostId)>,
    weather: Weather,
    chance: Chance,
    checks: Checks,
    /// Calls that never get an answer. Kept, as dropping them would tell the callers.
    silent: Vec<oneshot::Sender<Reply>>,
    sent: BTreeMap<HostId, Sent>,
}

/// Requests and answers that a host has sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub messages: u64,
    /// Bytes of the bodies.
    pub bytes: u64,
}

impl Sent {
    fn add(&mut self, body: &[u8]) {
        self.messages += 1;
        self.bytes += body.len() as u64;
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("blocked", &self.blocked)
            .field("weather", &self.weather)
            .finish_non_exhaustive()
    }
}

/// A running host.
#[derive(Clone)]
pub(crate) struct Listener {
    pub owner: Owner,
    pub identity: Identity,
    pub router: Router,
}

/// Status and body of an answer.
type Reply = (StatusCode, Vec<u8>);

/// A request in flight.
#[derive(Clone)]
struct Message {
    from: HostId,
    cluster: Option<ClusterId>,
    origin: SocketAddr,
    key: PublicKey,
    to: Option<HostId>,
    address: SocketAddr,
    path: String,
    body: Vec<u8>,
}

/// A host's connection to the network.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub net: Net,
    pub identity: Identity,
    pub address: SocketAddr,
}

impl Transport for Port {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn call<'a>(
        &'a self,
        to: Option<HostId>,
        address: SocketAddr,
        path: &'a str,
        body: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, CallError>> {
        Box::pin(async move {
            let message = Message {
                from: self.identity.host(),
                cluster: self.identity.cluster(),
                origin: self.address,
                key: key_of(self.identity.host()),
                to,
                address,
                path: path.to_owned(),
                body,
            };
            let (sender, receiver) = oneshot::channel();
            self.net.send(message, sender);
            let (status, body) = match timeout(deadline, receiver).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(_)) => {
                    let source = Arc::new(io::Error::from(io::ErrorKind::ConnectionReset));
                    return Err(CallError::Unreachable { address, source });
                }
                Err(_) => return Err(CallError::TimedOut { address, after: deadline }),
            };
            if status.is_success() {
                return Ok(body);
            }
            let rejection = serde_json::from_slice(&body).unwrap_or_else(|_| Rejection::Failed {
                reason: String::from_utf8_lossy(&body).into_owned(),
            });
            Err(CallError::Refused { address, rejection })
        })
    }
}

/// A made-up key: peers are already authenticated here.
fn key_of(host: HostId) -> PublicKey {
    // The header of an Ed25519 key (RFC 8410, section 4).
    let mut spki = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    spki.extend(host.get().to_be_bytes().repeat(4));
    PublicKey::from_spki(&spki).unwrap()
}

impl Net {
    pub fn new(seed: u64, checks: Checks) -> Self {
        Self(Arc::new(Mutex::new(State {
            hosts: BTreeMap::new(),
            blocked: BTreeSet::new(),
            weather: Weather::default(),
            chance: Chance::new(seed, "network"),
            checks,
            silent: Vec::new(),
            sent: BTreeMap::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    pub fn listen(&self, address: SocketAddr, listener: Listener) {
        self.state().hosts.insert(address, listener);
    }

    pub fn close(&self, address: SocketAddr) {
        self.state().hosts.remove(&address);
    }

    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Loses all messages from one host to the other.
    pub fn block(&self, from: HostId, to: HostId) {
        self.state().blocked.insert((from, to));
    }

    /// Ends all blocks.
    pub fn heal(&self) {
        self.state().blocked.clear();
    }

    fn delay(&self) -> Duration {
        let mut state = self.state();
        let late = state.weather.late;
        if state.chance.happens(late) {
            state.chance.millis(20..=1500)
        } else {
            state.chance.millis(0..=5)
        }
    }

    /// A duplicate may arrive long after the caller has given up.
    fn delay_of_duplicate(&self) -> Duration {
        let mut state = self.state();
        if state.chance.happens(500) {
            state.chance.millis(20..=6000)
        } else {
            state.chance.millis(0..=15)
        }
    }

    fn is_lost(&self) -> bool {
        let mut state = self.state();
        let lost = state.weather.lost;
        state.chance.happens(lost)
    }

    /// The messages that each host has sent since the beginning.
    pub fn sent(&self) -> BTreeMap<HostId, Sent> {
        self.state().sent.clone()
    }

    fn send(&self, message: Message, sender: oneshot::Sender<Reply>) {
        let duplicated = {
            let mut state = self.state();
            state.sent.entry(message.from).or_default().add(&message.body);
            let duplicated = state.weather.duplicated;
            state.chance.happens(duplicated)
        };
        if duplicated {
            let delay = self.delay_of_duplicate();
            spawn(0, carry(self.clone(), message.clone(), delay, None));
        }
        spawn(0, carry(self.clone(), message, self.delay(), Some(sender)));
    }

    /// The host that a message reaches.
    fn target(&self, message: &Message) -> Option<Listener> {
        self.state().hosts.get(&message.address).cloned()
    }

    fn passes(&self, from: HostId, to: HostId) -> bool {
        !self.state().blocked.contains(&(from, to)) && !self.is_lost()
    }

    fn silence(&self, sender: Option<oneshot::Sender<Reply>>) {
        self.state().silent.extend(sender);
    }

    /// Records a message that arrives, and the leader that it names.
    fn note(&self, message: &Message, to: HostId) {
        let checks = self.state().checks.clone();
        let size = u64::try_from(message.body.len()).unwrap();
        checks.count(message.from.get() << 8 ^ to.get(), size);
        #[derive(Deserialize)]
        struct Heading {
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            vote: Vote,
        }
        if message.path == APPEND
            && let Ok(Heading { content: Content { vote } }) = serde_json::from_slice(&message.body)
        {
            checks.leads(vote.leader_id.term, message.from.get());
        }
    }
}

/// Delivers a message, and returns the answer.
async fn carry(
    net: Net,
    message: Message,
    delay: Duration,
    sender: Option<oneshot::Sender<Reply>>,
) {
    sleep(delay).await;
    let Some(target) = net.target(&message) else {
        // The connection is refused: the caller notices when the sender is dropped.
        return;
    };
    let (from, to) = (message.from, target.identity.host());
    if !net.passes(from, to) {
        return net.silence(sender);
    }
    net.note(&message, to);
    let (done, answered) = oneshot::channel();
    spawn(target.owner, async move {
        let _ = done.send(answer(target, message).await);
    });
    // The connection breaks if the host crashes now.
    let Ok(reply) = answered.await else { return };
    net.state().sent.entry(to).or_default().add(&reply.1);
    sleep(net.delay()).await;
    if !net.passes(to, from) {
        return net.silence(sender);
    }
    if let Some(sender) = sender {
        let _ = sender.send(reply);
    }
}

async fn answer(target: Listener, message: Message) -> Reply {
    let caller = match check(&target.identity, &message) {
        Ok(caller) => caller,
        Err(rejection) => {
            return (StatusCode::MISDIRECTED_REQUEST, serde_json::to_vec(&rejection).unwrap());
        }
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(&message.path)
        .header(header::CONTENT_TYPE, "application/json")
        .extension(caller)
        .body(Body::from(message.body))
        .unwrap();
    let response = match target.router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let status = response.status();
    (status, axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
}

/// As `shoutd_peer::Server`.
fn check(identity: &Identity, message: &Message) -> Result<Caller, Rejection> {
    if let Some(wanted) = message.to.filter(|wanted| *wanted != identity.host()) {
        return Err(Rejection::OtherHost { is: identity.host(), wanted });
    }
    match (identity.cluster(), message.cluster) {
        (Some(has), Some(caller)) if has != caller => Err(Rejection::OtherCluster { has, caller }),
        _ => Ok(Caller {
            host: message.from,
            key: message.key,
            cluster: message.cluster,
            address: message.origin,
            is_member: true,
            names_this_host: message.to.is_some(),
        }),
    }
}
