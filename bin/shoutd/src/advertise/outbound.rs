//! Sends this host's advertisement to the peers.

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

use super::join_times::joins;
use super::state::Direction;
use super::{Advertiser, route};
use crate::metrics::Exchange;

/// Deadline of one message: longer than the peer waits for its kernel (`APPLY_DEADLINE`), and long
/// enough to open the connection.
const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// How long the loop sleeps if no timer is due.
const IDLE: Duration = Duration::from_secs(3600);

/// A peer's answer to a message, or why there is none.
type Answered = (HostId, Result<Reply, CallError>);

impl Advertiser {
    /// Advertises until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (mut cluster, mut local) = (self.agreement.watch(), self.local.watch());
        let mut local_memberships = self.local_memberships.clone();
        // We advertise nothing before all memberships have been read: peers flood to a host that
        // is silent, and an incomplete advertisement would cost its members packets.
        let is_read = tokio::select! {
            read = local_memberships.wait_until_read() => read.is_ok(),
            () = stop.cancelled() => false,
        };
        if !is_read {
            return;
        }
        self.state().is_advertising = true;
        let mut memberships = local_memberships.memberships;
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

    /// Recomputes the advertisement, the peers that get it, and those that we expect one from.
    fn refresh(&self) {
        let (cluster, local, me) = (self.agreement.cluster(), self.local.get(), self.agreement.me);
        if !cluster.hosts.contains_key(&me) {
            return;
        }
        let memberships = self.local_memberships.memberships.borrow().clone();
        let (mut content, excesses) =
            own_content(&cluster, &local, &memberships, self.plane.underlay());
        let mut state = self.state();
        // Keep the object of an unchanged network: comparing it for each peer is then cheap.
        for (id, network) in &mut content {
            if let Some(known) = state.content.get(id).filter(|known| *known == network) {
                *network = known.clone();
            }
        }
        state.inbound.track(&cluster, expectations(&cluster, me, &content), self.now());
        self.publish_all(&mut state);
        let audience = audience(&cluster, me, &content, &self.heard.borrow());
        let joins = joins(&state.content, &content);
        state.join_times.joined(&joins, &audience, self.now());
        state.outbound.address(&cluster, me, audience, rand::random);
        state.note_excesses(excesses);
        state.content = content;
        self.signal_progress();
    }

    /// Sends the messages that are due.
    fn send(&self, calls: &mut JoinSet<Answered>) {
        let cluster = self.agreement.cluster();
        let messages = self.state().outbound.next(self.now());
        for (host, message) in messages {
            match cluster.hosts.get(&host) {
                Some(known) => {
                    drop(calls.spawn(call(self.peers.clone(), host, known.address, message)));
                }
                None => self.state().outbound.answered(host, None, rand::random(), self.now()),
            }
        }
    }

    fn answered(&self, host: HostId, answer: Result<Reply, CallError>) {
        let cluster = self.agreement.cluster();
        let now = self.now();
        let mut state = self.state();
        let fault = match &answer {
            // Transient, like sending too often: the next message also has later changes.
            Err(CallError::Refused { rejection: Rejection::Busy { .. }, .. }) => None,
            Err(CallError::Refused { rejection, .. }) => {
                Some(format!("it refuses this host's advertisements: {rejection}"))
            }
            _ => None,
        };
        if let Err(error) = &answer {
            debug!(host = cluster.host_name(host), "cannot advertise: {error}");
            // If the peer is down, its own advertisement may be out of date.
            state.inbound.mark_not_in_sync(host);
        }
        if let Some(fault) = fault {
            state.note_fault(host, Direction::Out, fault, &cluster, now);
        }
        self.meters.sent(match &answer {
            Ok(Reply::Has { .. }) => Exchange::Accepted,
            Ok(Reply::WantSnapshot | Reply::Over | Reply::TooOften { .. }) => Exchange::Deferred,
            Err(CallError::Refused { .. }) => Exchange::Refused,
            Err(_) => Exchange::Unanswered,
        });
        if let Ok(Reply::Has { rejections, .. }) = &answer {
            self.note_rejections(&mut state, host, Direction::Out, rejections.clone());
        }
        match answer {
            Err(CallError::Refused { rejection: Rejection::Malformed { .. }, .. }) => {
                state.outbound.refused(host, now);
            }
            answer => state.outbound.answered(host, answer.ok(), rand::random(), now),
        }
        if state.outbound.has_all(host)
            && let Some(took) = state.join_times.acknowledged(host, now)
        {
            self.meters.joined(took);
        }
        self.publish(&mut state, [host]);
        self.signal_progress();
    }

    /// Handles the timers of inbound sessions.
    fn expire(&self) {
        let (mut state, now) = (self.state(), self.now());
        let is_due = state.inbound.wake(state.expired_at).is_some_and(|due| due <= now);
        state.expired_at = now;
        if is_due {
            state.inbound.expire(now);
            self.publish_all(&mut state);
            self.signal_progress();
        }
    }

    /// When the next timer is due.
    fn wake(&self) -> Instant {
        let (state, now) = (self.state(), self.now());
        let times = [state.outbound.wake(), state.inbound.wake(state.expired_at)];
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
