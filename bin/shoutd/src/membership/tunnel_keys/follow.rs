//! The host with the higher id of a pair: it takes the keys that the other draws.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use shoutd_core::HostId;
use shoutd_core::tunnel_keys::{Claim, leads, settles};
use shoutd_peer::{Caller, Rejection, RevealedKey};

use super::TunnelKeys;

/// Path at which a leader asks for this host's claim, and offers keys.
pub(super) const PATH: &str = "/v1/tunnel-key";

/// Path at which members ask with which hosts this one has no key of a rotation yet.
pub(super) const BEHIND: &str = "/v1/tunnel-key/behind";

/// What a leader claims, and a key if it offers one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) claim: Claim,
    pub(super) key: Option<RevealedKey>,
}

/// The routes for peers.
pub fn router(keys: Arc<TunnelKeys>) -> Router {
    Router::new().route(PATH, post(answer)).route(BEHIND, post(behind)).with_state(keys)
}

async fn behind(
    State(keys): State<Arc<TunnelKeys>>,
    Json(rotation): Json<u64>,
) -> Json<BTreeSet<HostId>> {
    Json(keys.behind(rotation))
}

async fn answer(
    State(keys): State<Arc<TunnelKeys>>,
    Extension(caller): Extension<Caller>,
    Json(offer): Json<Offer>,
) -> Result<Json<Claim>, Rejection> {
    let failed = |reason: String| Rejection::Failed { reason };
    let (leader, me) = (caller.host, keys.agreement.me);
    if !keys.agreement.cluster().hosts.contains_key(&leader) {
        return Err(failed(format!("host {leader} is not known here yet")));
    }
    if !leads(leader, me) {
        return Err(failed(format!("host {me} has the lower id: it draws the keys of the pair")));
    }
    keys.note_contact(leader);
    let Some(key) = offer.key else {
        let programmed = keys.own_claim(leader).programmed;
        let known = keys.pairs.lock().get(&leader).map(|pair| pair.keys.clone());
        if known.is_some_and(|known| settles(&known, programmed, &offer.claim)) {
            let settled = keys.change(leader, |keys| keys.settled()).await;
            settled.map_err(|error| failed(format!("{error:#}")))?;
        }
        return Ok(Json(keys.own_claim(leader)));
    };
    let key = key.key();
    let key = key.ok_or_else(|| Rejection::Malformed { reason: "this is no key".to_owned() })?;
    let taken = keys.change(leader, move |keys| keys.taking(key, offer.claim.current)).await;
    taken.map_err(|error| failed(format!("{error:#}")))?;
    Ok(Json(keys.programmed(leader).await))
}
