//! What this host announces to the others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoutd_core::HostId;
use shoutd_core::advertise::{Message, Reply, audience, expectations, own_content};
use shoutd_peer::{CallError, Rejection};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::state::Direction;
use super::{Advertiser, route};

/// How long one announcement may take: longer than the other waits for its kernel. A first one may
/// have to make the connection.
const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// How long the loop sleeps if there is nothing to wake it but events.
const IDLE: Duration = Duration::from_secs(3600);

/// An announcement that was answered, or was not.
type Answered = (HostId, Result<Reply, CallError>);

impl Advertiser {
    /// Announces until it is told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (mut cluster, mut local) = (self.agreement.watch(), self.local.watch());
        let mut listening = self.listening.clone();
        // Until it is known what the containers listen to nothing is said: who is silent is sent
        // everything, which is better than a false "nothing".
        let is_read = tokio::select! {
            is_read = listening.is_read() => is_read.is_ok(),
            () = stop.cancelled() => false,
        };
        if !is_read {
            return;
        }
        self.state().is_speaking = true;
        let mut memberships = listening.memberships;
        let mut underlay = self.plane.watch_underlay();
        let mut calls: JoinSet<Answered> = JoinSet::new();
        let mut has_changed = true;
        loop {
            if has_changed {
                self.refresh();
            }
            self.send(&mut calls);
            has_changed = tokio::select! {
                changed = cluster.changed() => { if changed.is_err() { return; } true }
                changed = local.changed() => { if changed.is_err() { return; } true }
                changed = underlay.changed() => { if changed.is_err() { return; } true }
                changed = memberships.changed() => { if changed.is_err() { return; } true }
                () = self.news.notified() => true,
                Some(answered) = calls.join_next() => {
                    if let Ok((host, answer)) = answered {
                        self.answered(host, answer);
                    }
                    false
                }
                () = sleep_until(self.wake()) => {
                    self.expire();
                    false
                }
                () = stop.cancelled() => return,
            };
        }
    }

    /// Works out anew what this host announces, to whom, and of whom it expects something.
    fn refresh(&self) {
        let (cluster, local, me) = (self.agreement.cluster(), self.local.get(), self.agreement.me);
        if !cluster.hosts.contains_key(&me) {
            return;
        }
        let memberships = self.listening.memberships.borrow().clone();
        let (mut content, excesses) =
            own_content(&cluster, &local, &memberships, self.plane.underlay());
        let mut state = self.state();
        // What has not changed stays the same object, which is cheaper to compare for each peer.
        for (id, network) in &mut content {
            if let Some(known) = state.content.get(id).filter(|known| *known == network) {
                *network = known.clone();
            }
        }
        state.listeners.track(&cluster, expectations(&cluster, me, &content), self.now());
        self.publish_all(&mut state);
        let audience = audience(&cluster, me, &content, &self.heard.borrow());
        state.speakers.address(&cluster, me, audience, rand::random);
        state.note_excesses(excesses);
        state.content = content;
        self.tell_progress();
    }

    /// Sends each peer what there is to send.
    fn send(&self, calls: &mut JoinSet<Answered>) {
        let cluster = self.agreement.cluster();
        let messages = self.state().speakers.next(self.now());
        for (host, message) in messages {
            match cluster.hosts.get(&host) {
                Some(known) => {
                    drop(calls.spawn(call(self.peers.clone(), host, known.address, message)))
                }
                None => self.state().speakers.answered(host, None, rand::random(), self.now()),
            }
        }
    }

    fn answered(&self, host: HostId, answer: Result<Reply, CallError>) {
        let cluster = self.agreement.cluster();
        let now = self.now();
        let mut state = self.state();
        let fault = match &answer {
            // That passes by itself, as does an announcement that comes too often: what changes
            // meanwhile goes along.
            Err(CallError::Refused { rejection: Rejection::Busy { .. }, .. }) => None,
            Err(CallError::Refused { rejection, .. }) => {
                Some(format!("it does not take this host's announcements: {rejection}"))
            }
            _ => None,
        };
        if let Err(error) = &answer {
            debug!(host = cluster.host_name(host), "not announced: {error}");
            // If it is gone, nobody knows what it listens to.
            state.listeners.doubt(host);
        }
        if let Some(fault) = fault {
            state.note_fault(host, Direction::Out, fault, &cluster, now);
        }
        if let Ok(Reply::Has { doubts, .. }) = &answer {
            self.note_doubts(&mut state, host, Direction::Out, doubts.clone());
        }
        match answer {
            Err(CallError::Refused { rejection: Rejection::Malformed { .. }, .. }) => {
                state.speakers.refused(host, now)
            }
            answer => state.speakers.answered(host, answer.ok(), rand::random(), now),
        }
        self.publish(&mut state, [host]);
        self.tell_progress();
    }

    /// Looks at what has changed by time alone.
    fn expire(&self) {
        let (mut state, now) = (self.state(), self.now());
        let is_due = state.listeners.wake(state.expired_at).is_some_and(|due| due <= now);
        state.expired_at = now;
        if is_due {
            state.listeners.expire(now);
            self.publish_all(&mut state);
            self.tell_progress();
        }
    }

    /// When there is something to do by time alone.
    fn wake(&self) -> Instant {
        let (state, now) = (self.state(), self.now());
        let times = [state.speakers.wake(), state.listeners.wake(state.expired_at)];
        let next = times.into_iter().flatten().min().unwrap_or(now + IDLE);
        Instant::from_std(self.begin) + next.max(now)
    }
}

async fn call(
    peers: shoutd_peer::Client,
    host: HostId,
    address: SocketAddr,
    message: Arc<Message>,
) -> Answered {
    (host, peers.call_host(host, address, route::PATH, &*message, CALL_DEADLINE).await)
}
