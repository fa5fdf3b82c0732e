//! What the other hosts announce to this one.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};
use shoutd_core::advertise::{InboundSession, Incarnation, Message, Reply};
use shoutd_core::{HostId, NetworkId};
use shoutd_peer::{Caller, Rejection};

use super::Advertiser;
use super::state::Direction;

/// Where peers announce.
pub const PATH: &str = "/v1/announce";

/// How long an answer waits for the kernel. It takes milliseconds; a kernel that does not do what
/// it should is not the sender's matter.
const APPLY_DEADLINE: Duration = Duration::from_millis(500);

/// What peers ask.
pub fn router(advertiser: Arc<Advertiser>) -> Router {
    Router::new().route(PATH, post(hear)).with_state(advertiser)
}

/// Answers when the kernel has what was announced, so that the sender knows that it is heard.
async fn hear(
    State(advertiser): State<Arc<Advertiser>>,
    Extension(caller): Extension<Caller>,
    Json(message): Json<Message>,
) -> Result<Json<Reply>, Rejection> {
    let (reply, changed) = advertiser.hear(caller.host, &message)?;
    advertiser.plane.settle_networks(&changed, APPLY_DEADLINE).await;
    Ok(Json(reply))
}

impl Advertiser {
    /// Takes a message. Returns the networks of which this host knows something else now.
    fn hear(&self, host: HostId, message: &Message) -> Result<(Reply, Vec<NetworkId>), Rejection> {
        let cluster = self.agreement.cluster();
        if !cluster.hosts.contains_key(&host) {
            let reason =
                "this host does not know yet that the caller belongs to the cluster".to_owned();
            return Err(Rejection::Busy { reason });
        }
        let now = self.now();
        let mut state = self.state();
        let incarnation =
            |listener: &InboundSession| listener.position().map(|(incarnation, _)| incarnation);
        let before = state.listeners.heard_host(host, now).unwrap_or_default();
        let run: Option<Incarnation> = state.listeners.get(host).and_then(incarnation);
        let reply = state.listeners.hear(host, message, now);
        let after = state.listeners.heard_host(host, now).unwrap_or_default();
        let is_new_run = state.listeners.get(host).and_then(incarnation) != run;
        let is_news = is_new_run || state.speakers.is_failing(host);
        state.speakers.heard_from(host, is_new_run, now);
        let fault = match &reply {
            Ok(_) if state.listeners.get(host).is_some_and(InboundSession::is_impatient) => Some(
                "it announces more often than it may, and does not wait when it is told to"
                    .to_owned(),
            ),
            Ok(_) => None,
            Err(unsound) => Some(format!("its announcement is not taken: {unsound}")),
        };
        if let Some(fault) = fault {
            state.note_fault(host, Direction::In, fault, &cluster, now);
        }
        self.publish(&mut state, [host]);
        self.tell_progress();
        // What was published just now is doubted from a later time on than the message came at.
        let doubted = state.beliefs.doubts(host, &cluster, self.now());
        drop(state);
        // Who has a network is told of ours.
        if is_news || !before.networks.keys().eq(after.networks.keys()) {
            self.news.notify_one();
        }
        let reply =
            match reply.map_err(|unsound| Rejection::Malformed { reason: unsound.to_string() })? {
                Reply::Has { sequence, .. } => Reply::Has { sequence, doubts: doubted },
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
