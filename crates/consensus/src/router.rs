//! Handlers for messages of other hosts.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use shoutd_peer::{Caller, Rejection};
use tokio::time::Instant;

use crate::node::Node;
use crate::raft::{LogId, Types, Vote};
use crate::removal_notice::RemovalNotice;
use crate::wire::{self, Answer, Join, Joined, Message, Progress, Propose, Proposed, StatusAnswer};
use crate::{
    STATE_VERSION, admission, duplicate_identity, fork, pre_vote, propose, rollback_check,
};

type Reply<T> = Result<Json<Answer<T>>, Rejection>;

/// The longest deadline that a caller can set; see `shoutd_peer::limits::REQUEST_DEADLINE`.
const WITHIN_MAX: Duration = Duration::from_secs(25);

pub(crate) fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route(wire::APPEND, post(append))
        .route(wire::VOTE, post(vote))
        .route(wire::SNAPSHOT, post(snapshot))
        .route(wire::PROPOSE, post(propose))
        .route(wire::JOIN, post(join))
        .route(wire::STATUS, post(status))
        .with_state(node)
}

/// Opens a message. From a member we learn its address, and what progress it knows of this host.
async fn open<T>(node: &Node, caller: &Caller, message: Message<T>) -> (u64, T) {
    if caller.cluster.is_some() {
        if let Some(sender) = message.sender {
            node.peer_health.learn(caller.host, sender.address);
            duplicate_identity::note_copy(node, caller, sender);
        }
        if message.epoch == node.participation.epoch() && caller.host != node.me() {
            rollback_check::check_rollback(node, message.recalled).await;
        }
    }
    (message.epoch, message.content)
}

/// The progress of a host that has this vote and this log entry on its disk.
fn progress(vote: &Vote, last: Option<LogId>) -> Progress {
    Progress { term: vote.leader_id().term, index: last.map_or(0, |last| last.index) }
}

/// Checks that openraft's message is from the host whose term it names, for this host, and from
/// this host's cluster.
///
/// The sender need not be in the Raft membership that this host knows: the sender's may be newer,
/// and a host that refused to vote for a newcomer could leave the cluster without a leader. A host
/// that belongs to no cluster accepts the cluster of the first sender that addresses it by its id.
/// Only the hosts that it asked to join know this id, a hash of its public key. From then on it
/// accepts no other cluster.
async fn check(
    node: &Node,
    caller: &Caller,
    epoch: u64,
    vote: &Vote,
) -> Result<Option<RemovalNotice>, Rejection> {
    let Some(cluster) = caller.cluster.filter(|_| caller.names_this_host) else {
        return Err(malformed("a Raft message must name the host and the cluster that it is for"));
    };
    if vote.leader_id().voted_for() != Some(caller.host.get()) {
        return Err(malformed("a Raft message must come from the host whose term it is"));
    }
    match node.belong_to(cluster, false, epoch).await {
        Ok(has) if has == cluster => removal_notice(node, caller, epoch),
        Ok(has) => Err(Rejection::OtherCluster { has, caller: cluster }),
        Err(error) => Err(Rejection::Failed { reason: error.to_string() }),
    }
}

fn malformed(reason: &str) -> Rejection {
    Rejection::Malformed { reason: reason.to_owned() }
}

/// The notice for a caller that has left the cluster. If the caller has a later epoch, this host is
/// the one that left.
fn removal_notice(
    node: &Node,
    caller: &Caller,
    epoch: u64,
) -> Result<Option<RemovalNotice>, Rejection> {
    let removal_notice = node.removal_notice_for(caller.host);
    if removal_notice.is_some() || caller.cluster.is_none() {
        return Ok(removal_notice);
    }
    match epoch.cmp(&node.participation.epoch()) {
        Ordering::Less => Ok(Some(RemovalNotice::Recovered)),
        Ordering::Equal => Ok(None),
        Ordering::Greater => {
            node.participation.leave(RemovalNotice::Recovered);
            Err(stopped("the cluster was recovered without this host"))
        }
    }
}

/// Whether the entries follow one another and `prev_log_id` without a gap, in a log that this
/// leader can have.
///
/// openraft does not check this. But a host that was deposed and does not know it yet reads the
/// entries it sends from a log that may be changing: its last message may have a gap, where entries
/// were purged after a snapshot, or contain entries of its successor. A receiver that does not know
/// the successor would append them, and its log would differ from all others.
fn is_of_one_log(rpc: &AppendEntriesRequest<Types>) -> bool {
    let mut index = rpc.prev_log_id.map_or(0, |before| before.index.saturating_add(1));
    let mut term = rpc.prev_log_id.map_or(0, |before| before.leader_id.term);
    rpc.entries.iter().all(|entry| {
        let id = entry.log_id;
        let follows = id.index == index
            && id.leader_id.term >= term
            && id.leader_id.term <= rpc.vote.leader_id().term;
        (index, term) = (index.saturating_add(1), id.leader_id.term);
        follows
    })
}

fn stopped(error: impl std::fmt::Display) -> Rejection {
    Rejection::Failed { reason: format!("consensus does not run on this host: {error}") }
}

async fn append(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Json(message): Json<Message<AppendEntriesRequest<Types>>>,
) -> Reply<AppendEntriesResponse<u64>> {
    let (epoch, rpc) = open(&node, &caller, message).await;
    if let Some(removal_notice) = check(&node, &caller, epoch, &rpc.vote).await? {
        return Ok(Json(Err(removal_notice)));
    }
    if !is_of_one_log(&rpc) {
        let reason = "the entries do not follow the one that they should follow".to_owned();
        return Err(Rejection::Malformed { reason });
    }
    fork::refuse_fork(&node, &rpc).await?;
    // The entries may not be on the leader's own disk yet. Committed ones almost always are.
    let leader = progress(&rpc.vote, rpc.leader_commit);
    let answer = node.raft.append_entries(rpc).await.map_err(stopped)?;
    if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
        node.note_leader(caller.host);
        node.peer_health.recall(caller.host, leader);
    }
    Ok(Json(Ok(answer)))
}

async fn vote(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Json(message): Json<Message<VoteRequest<u64>>>,
) -> Reply<VoteResponse<u64>> {
    let (epoch, rpc) = open(&node, &caller, message).await;
    if let Some(removal_notice) = check(&node, &caller, epoch, &rpc.vote).await? {
        return Ok(Json(Err(removal_notice)));
    }
    node.peer_health.note_answer(caller.host);
    // A host that is being removed must not lead. A leader that a majority follows must not be
    // deposed either: followers refuse that themselves (openraft's lease), but a leader has no
    // lease on itself.
    let is_removed = RemovalNotice::of(&node.cluster(), caller.host).is_some();
    // A host that was rolled back, or cannot know yet whether it was, must not decide who leads.
    let must_not_vote = !node.participation.may_send() || !rollback_check::may_vote(&node);
    if is_removed || must_not_vote || pre_vote::leads_a_majority(&node) {
        let metrics = node.raft.metrics();
        let vote = metrics.borrow().vote;
        return Ok(Json(Ok(VoteResponse { vote, vote_granted: false, last_log_id: None })));
    }
    node.peer_health.recall(caller.host, progress(&rpc.vote, None));
    node.raft.vote(rpc).await.map(|answer| Json(Ok(answer))).map_err(stopped)
}

async fn snapshot(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Json(message): Json<Message<InstallSnapshotRequest<Types>>>,
) -> Reply<Result<InstallSnapshotResponse<u64>, InstallSnapshotError>> {
    let (epoch, rpc) = open(&node, &caller, message).await;
    if let Some(removal_notice) = check(&node, &caller, epoch, &rpc.vote).await? {
        return Ok(Json(Err(removal_notice)));
    }
    node.note_leader(caller.host);
    // openraft takes one chunk at a time.
    let mut snapshot_chunks = node.snapshot_chunks.lock().await;
    let chunk = match snapshot_chunks.check(&rpc) {
        Ok(chunk) => chunk,
        Err(mismatch) => return Ok(Json(Ok(Err(mismatch)))),
    };
    match node.raft.install_snapshot(rpc).await {
        Ok(answer) => {
            snapshot_chunks.taken(chunk, &answer);
            Ok(Json(Ok(Ok(answer))))
        }
        Err(RaftError::APIError(error)) => Ok(Json(Ok(Err(error)))),
        Err(RaftError::Fatal(error)) => Err(stopped(error)),
    }
}

fn until(within: u64) -> Instant {
    Instant::now() + Duration::from_millis(within).min(WITHIN_MAX)
}

async fn propose(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Json(message): Json<Message<Propose>>,
) -> Reply<Proposed> {
    let (epoch, request) = open(&node, &caller, message).await;
    if caller.cluster.is_none() {
        return Err(Rejection::Malformed {
            reason: "a command must come from a host of the cluster".to_owned(),
        });
    }
    if let Some(removal_notice) = removal_notice(&node, &caller, epoch)? {
        return Ok(Json(Err(removal_notice)));
    }
    Ok(Json(Ok(
        propose::carry_out_for(&node, caller.host, request.errand, until(request.within)).await
    )))
}

async fn join(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Json(message): Json<Message<Join>>,
) -> Reply<Joined> {
    let (epoch, request) = open(&node, &caller, message).await;
    if let Some(removal_notice) = removal_notice(&node, &caller, epoch)? {
        return Ok(Json(Err(removal_notice)));
    }
    let until = until(request.within);
    Ok(Json(Ok(admission::admit(&node, caller.host, request, until).await)))
}

async fn status(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Json(message): Json<Message<()>>,
) -> Reply<StatusAnswer> {
    let (epoch, ()) = open(&node, &caller, message).await;
    if let Some(removal_notice) = removal_notice(&node, &caller, epoch)? {
        return Ok(Json(Err(removal_notice)));
    }
    Ok(Json(Ok(StatusAnswer {
        status: node.status(),
        your_address: node.cluster().hosts.get(&caller.host).map(|host| host.address),
        your_progress: node.peer_health.progress_of(caller.host),
        supports: STATE_VERSION,
    })))
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, EntryPayload};

    use super::*;
    use crate::raft::Entry;

    fn id((term, index): (u64, u64)) -> LogId {
        LogId::new(CommittedLeaderId::new(term, 1), index)
    }

    /// Log ids as (term, index).
    fn rpc(
        term: u64,
        before: Option<(u64, u64)>,
        entries: &[(u64, u64)],
    ) -> AppendEntriesRequest<Types> {
        AppendEntriesRequest {
            vote: Vote::new_committed(term, 1),
            prev_log_id: before.map(id),
            entries: entries
                .iter()
                .map(|at| Entry { log_id: id(*at), payload: EntryPayload::Blank })
                .collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn entries_that_are_not_of_one_log_are_refused() {
        for sound in [
            rpc(1, None, &[]),
            rpc(3, Some((2, 7)), &[]),
            rpc(3, None, &[(1, 0), (1, 1), (3, 2)]),
            rpc(3, Some((2, 7)), &[(2, 8), (3, 9)]),
        ] {
            assert!(is_of_one_log(&sound), "{sound:?}");
        }
        for unsound in [
            rpc(3, None, &[(1, 1)]),
            rpc(3, Some((2, 7)), &[(2, 9)]),
            rpc(3, Some((2, 7)), &[(2, 8), (2, 10)]),
            rpc(3, Some((2, 7)), &[(1, 8)]),
            rpc(3, Some((2, 7)), &[(3, 8), (2, 9)]),
            rpc(3, Some((2, 7)), &[(4, 8)]),
            rpc(3, Some((2, u64::MAX)), &[(2, u64::MAX), (2, 0)]),
        ] {
            assert!(!is_of_one_log(&unsound), "{unsound:?}");
        }
    }
}
