//! Receives the peers' advertisements.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};
use shoutd_core::advertise::{InboundSession, Incarnation, Message, Reply};
use shoutd_core::{HostId, NetworkId};
use shoutd_peer::{Caller, Rejection};

use super::Advertiser;
use super::state::Direction;
use crate::metrics::Exchange;

/// Path to which peers post their advertisements.
pub const PATH: &str = "/v1/announce";

/// How long an answer waits for the kernel, which takes milliseconds. If the kernel cannot be
/// programmed, the sender can do nothing about it, so we answer anyway.
const APPLY_DEADLINE: Duration = Duration::from_millis(500);

/// The routes for peers.
pub fn router(advertiser: Arc<Advertiser>) -> Router {
    Router::new().route(PATH, post(receive)).with_state(advertiser)
}

/// Answers once the kernel is programmed, so that the sender knows that its members are reached.
async fn receive(
    State(advertiser): State<Arc<Advertiser>>,
    Extension(caller): Extension<Caller>,
    Json(message): Json<Message>,
) -> Result<Json<Reply>, Rejection> {
    let received = advertiser.receive(caller.host, &message);
    advertiser.meters.received(match &received {
        Ok((Reply::Has { .. }, _)) => Exchange::Accepted,
        Ok(_) | Err(Rejection::Busy { .. }) => Exchange::Deferred,
        Err(_) => Exchange::Refused,
    });
    let (reply, changed) = received?;
    let begin = Instant::now();
    advertiser.plane.settle_networks(&changed, APPLY_DEADLINE).await;
    if !changed.is_empty() {
        advertiser.meters.applied(begin.elapsed());
    }
    Ok(Json(reply))
}

/// The incarnation whose messages a session receives.
fn incarnation(session: &InboundSession) -> Option<Incarnation> {
    session.position().map(|(incarnation, _)| incarnation)
}

impl Advertiser {
    /// Processes a message. Returns the networks whose advertisement changed.
    fn receive(
        &self,
        host: HostId,
        message: &Message,
    ) -> Result<(Reply, Vec<NetworkId>), Rejection> {
        let cluster = self.agreement.cluster();
        if !cluster.hosts.contains_key(&host) {
            let reason = "this host does not know yet that the caller is a member of the cluster";
            return Err(Rejection::Busy { reason: reason.to_owned() });
        }
        let now = self.now();
        let mut state = self.state();
        let before = state.inbound.peer_state(host, now).unwrap_or_default();
        let run = state.inbound.get(host).and_then(incarnation);
        let reply = state.inbound.receive(host, message, now);
        let after = state.inbound.peer_state(host, now).unwrap_or_default();
        let is_new_run = state.inbound.get(host).and_then(incarnation) != run;
        let is_news = is_new_run || state.outbound.is_failing(host);
        state.outbound.received_from(host, is_new_run, now);
        let fault = match &reply {
            Ok(_) if state.inbound.get(host).is_some_and(InboundSession::ignores_wait) => {
                Some("it exceeds the rate limit for advertisements and ignores pushback".to_owned())
            }
            Ok(_) => None,
            Err(invalid) => Some(format!("its advertisement is invalid: {invalid}")),
        };
        if let Some(fault) = fault {
            state.note_fault(host, Direction::In, fault, &cluster, now);
        }
        self.publish(&mut state, [host]);
        self.signal_progress();
        // Not `now`: `publish` validated the claims at a later time.
        let rejections = state.validation.rejections(host, &cluster, self.now());
        drop(state);
        // A peer that now shares a network, or restarted, needs our advertisement.
        if is_news || !before.networks.keys().eq(after.networks.keys()) {
            self.news.notify_one();
        }
        let reply =
            match reply.map_err(|invalid| Rejection::Malformed { reason: invalid.to_string() })? {
                Reply::Has { sequence, .. } => Reply::Has { sequence, rejections },
                other => other,
            };
        let ids = before
            .networks
            .keys()
            .chain(after.networks.keys().filter(|id| !before.networks.contains_key(*id)));
        let changed =
            ids.filter(|id| before.networks.get(*id) != after.networks.get(*id)).cloned().collect();
        Ok((reply, changed))
    }
}
