//! Messages of other hosts about agreement.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use shoutd_peer::{Caller, Rejection};
use tokio::time::Instant;

use crate::consensus::Inner;
use crate::raft::{Types, Vote};
use crate::status::ConsensusStatus;
use crate::wire::{self, Join, Joined, Propose, Proposed};

type Answer<T> = Result<Json<T>, Rejection>;

/// The longest time that a caller can give a request; see `shoutd_peer::limits::REQUEST_DEADLINE`.
const WITHIN_MAX: Duration = Duration::from_secs(25);

pub(crate) fn router(inner: Arc<Inner>) -> Router {
    Router::new()
        .route(wire::APPEND, post(append))
        .route(wire::VOTE, post(vote))
        .route(wire::SNAPSHOT, post(snapshot))
        .route(wire::PROPOSE, post(propose))
        .route(wire::JOIN, post(join))
        .route(wire::STATUS, post(status))
        .with_state(inner)
}

/// Checks that openraft's message is from the host that it says, for this one, and of this host's cluster.
///
/// The sender need not be in the membership that this host knows: that may be older than the sender's, and a host which must
/// not vote for a newcomer would keep the cluster without a leader. A host that belongs to no cluster yet takes the messages of
/// the first that addresses it by its id, which is random and known only to those it asked to join; from then on it takes
/// those of no other.
async fn check(inner: &Inner, caller: &Caller, vote: &Vote) -> Result<(), Rejection> {
    let malformed = |reason: &str| Err(Rejection::Malformed { reason: reason.to_owned() });
    let Some(cluster) = caller.cluster.filter(|_| caller.names_this_host) else {
        return malformed("a message of consensus must name the host and the cluster that it is for");
    };
    if vote.leader_id().voted_for() != Some(caller.host.get()) {
        return malformed("a message of consensus must come from the host whose term it is");
    }
    match inner.belong_to(cluster, false).await {
        Ok(has) if has == cluster => Ok(()),
        Ok(has) => Err(Rejection::OtherCluster { has, caller: cluster }),
        Err(error) => Err(Rejection::Failed { reason: error.to_string() }),
    }
}

fn stopped(error: impl std::fmt::Display) -> Rejection {
    Rejection::Failed { reason: format!("consensus does not run here: {error}") }
}

async fn append(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Json(rpc): Json<AppendEntriesRequest<Types>>,
) -> Answer<AppendEntriesResponse<u64>> {
    check(&inner, &caller, &rpc.vote).await?;
    let answer = inner.raft.append_entries(rpc).await.map_err(stopped)?;
    if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
        inner.hear_leader(caller.host);
    }
    Ok(Json(answer))
}

async fn vote(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Json(rpc): Json<VoteRequest<u64>>,
) -> Answer<VoteResponse<u64>> {
    check(&inner, &caller, &rpc.vote).await?;
    inner.contacts.heard(caller.host);
    inner.raft.vote(rpc).await.map(Json).map_err(stopped)
}

async fn snapshot(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Json(rpc): Json<InstallSnapshotRequest<Types>>,
) -> Answer<Result<InstallSnapshotResponse<u64>, InstallSnapshotError>> {
    check(&inner, &caller, &rpc.vote).await?;
    inner.hear_leader(caller.host);
    match inner.raft.install_snapshot(rpc).await {
        Ok(answer) => Ok(Json(Ok(answer))),
        Err(RaftError::APIError(error)) => Ok(Json(Err(error))),
        Err(RaftError::Fatal(error)) => Err(stopped(error)),
    }
}

fn until(within: u64) -> Instant {
    Instant::now() + Duration::from_millis(within).min(WITHIN_MAX)
}

async fn propose(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<Propose>,
) -> Answer<Proposed> {
    if caller.cluster.is_none() {
        return Err(Rejection::Malformed { reason: "a command must come from a host of the cluster".to_owned() });
    }
    Ok(Json(inner.write_for(caller.host, request.command, until(request.within)).await))
}

async fn join(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<Join>,
) -> Json<Joined> {
    let until = until(request.within);
    Json(inner.admit(caller.host, request, until).await)
}

async fn status(State(inner): State<Arc<Inner>>) -> Json<ConsensusStatus> {
    Json(inner.status())
}
