//! Messages of other hosts about agreement.

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

type Reply<T> = Result<Json<Answer<T>>, Rejection>;

/// The longest time that a caller can give a request; see `shoutd_peer::limits::REQUEST_DEADLINE`.
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

/// Opens a message: takes note of where its sender is, if that is a host of this cluster, and of
/// what it knows of this one.
async fn open<T>(node: &Node, caller: &Caller, message: Message<T>) -> (u64, T) {
    if caller.cluster.is_some() {
        if let Some(sender) = message.sender {
            node.peer_health.learn(caller.host, sender.address);
            node.note_copy(caller, sender);
        }
        if message.epoch == node.participation.epoch() && caller.host != node.me() {
            node.heed(message.recalled).await;
        }
    }
    (message.epoch, message.content)
}

/// How far a host is that has this vote and this log entry, both on its disk.
fn progress(vote: &Vote, last: Option<LogId>) -> Progress {
    Progress { term: vote.leader_id().term, index: last.map_or(0, |last| last.index) }
}

/// Checks that openraft's message is from the host that it says, for this one, and of this host's
/// cluster.
///
/// The sender need not be in the membership that this host knows: that may be older than the
/// sender's, and a host which must not vote for a newcomer would keep the cluster without a leader.
/// A host that belongs to no cluster yet takes the messages of the first that addresses it by its
/// id, which is random and known only to those it asked to join; from then on it takes those of no
/// other.
async fn check(
    node: &Node,
    caller: &Caller,
    epoch: u64,
    vote: &Vote,
) -> Result<Option<RemovalNotice>, Rejection> {
    let malformed = |reason: &str| Err(Rejection::Malformed { reason: reason.to_owned() });
    let Some(cluster) = caller.cluster.filter(|_| caller.names_this_host) else {
        return malformed(
            "a message of consensus must name the host and the cluster that it is for",
        );
    };
    if vote.leader_id().voted_for() != Some(caller.host.get()) {
        return malformed("a message of consensus must come from the host whose term it is");
    }
    match node.belong_to(cluster, false, epoch).await {
        Ok(has) if has == cluster => removal_notice(node, caller, epoch),
        Ok(has) => Err(Rejection::OtherCluster { has, caller: cluster }),
        Err(error) => Err(Rejection::Failed { reason: error.to_string() }),
    }
}

/// What a member is to be told that has left the cluster. A caller of a later epoch shows that it
/// is this host which has.
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
            Err(stopped("the cluster was recovered without it"))
        }
    }
}

/// Whether the entries follow one another, and the one that is said to come before them, in a log
/// of this leader's.
///
/// openraft takes that for granted. But a host that led, and does not know yet that it ceased to
/// while its log changes, reads what it sends from that log: its last message may have a gap, where
/// entries went with a snapshot, or have entries of its successor's. A host that has not heard of
/// the successor would keep them, and have another log than all others.
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
    Rejection::Failed { reason: format!("consensus does not run here: {error}") }
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
        let reason =
            "the entries do not continue the log that they are said to continue".to_owned();
        return Err(Rejection::Malformed { reason });
    }
    node.refuse_fork(&rpc).await?;
    // What it sends may not be on its own disk yet. What is agreed on almost always is.
    let leader = progress(&rpc.vote, rpc.leader_commit);
    let answer = node.raft.append_entries(rpc).await.map_err(stopped)?;
    if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
        node.hear_leader(caller.host);
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
    node.peer_health.heard(caller.host);
    // A host that is being removed must not lead. And a leader whom a majority follows is deposed
    // by nobody; followers see to that themselves (openraft's lease), but a leader does not hear
    // itself.
    let is_removed = RemovalNotice::of(&node.cluster(), caller.host).is_some();
    // And one that does not know yet what it may have acknowledged, or lacks it, cannot tell who
    // may lead.
    let must_not_vote = !node.participation.may_speak() || !node.may_vote();
    if is_removed || must_not_vote || node.leads_a_majority() {
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
    node.hear_leader(caller.host);
    // One piece at a time, as openraft takes them.
    let mut snapshot_chunks = node.snapshot_chunks.lock().await;
    let piece = match snapshot_chunks.check(&rpc) {
        Ok(piece) => piece,
        Err(mismatch) => return Ok(Json(Ok(Err(mismatch)))),
    };
    match node.raft.install_snapshot(rpc).await {
        Ok(answer) => {
            snapshot_chunks.taken(piece, &answer);
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
    Ok(Json(Ok(node.carry_out_for(caller.host, request.errand, until(request.within)).await)))
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
    Ok(Json(Ok(node.admit(caller.host, request, until).await)))
}

async fn status(
    State(node): State<Arc<Node>>,
    Extension(caller): Extension<Caller>,
    Json(message): Json<Message<()>>,
) -> Reply<StatusAnswer> {
    let (epoch, ()) = open(&node, &caller, message).await;
    let answer = || StatusAnswer {
        status: node.status(),
        your_address: node.cluster().hosts.get(&caller.host).map(|host| host.address),
        your_progress: node.peer_health.progress_of(caller.host),
    };
    Ok(Json(removal_notice(&node, &caller, epoch)?.map_or_else(|| Ok(answer()), Err)))
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, EntryPayload};

    use super::*;
    use crate::raft::Entry;

    /// Log ids as (term, index).
    fn rpc(
        term: u64,
        before: Option<(u64, u64)>,
        entries: &[(u64, u64)],
    ) -> AppendEntriesRequest<Types> {
        let id = |(term, index): (u64, u64)| LogId::new(CommittedLeaderId::new(term, 1), index);
        let entry = |&at: &(u64, u64)| Entry { log_id: id(at), payload: EntryPayload::Blank };
        AppendEntriesRequest {
            vote: Vote::new_committed(term, 1),
            prev_log_id: before.map(id),
            entries: entries.iter().map(entry).collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn entries_that_are_not_of_one_log_are_noticed() {
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
