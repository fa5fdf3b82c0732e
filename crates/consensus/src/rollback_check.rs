//! Compares what this host has with what it had acknowledged: see [`crate::rollback`].

use std::time::Duration;

use tokio::time::timeout;

use crate::node::Node;
use crate::notice::NoticeKind;
use crate::raft::Metrics;
use crate::rollback::{has_caught_up, is_behind};
use crate::wire::Progress;

/// How long openraft's metrics may lag behind what it has acknowledged.
const LAG: Duration = Duration::from_millis(500);

fn progress(metrics: &Metrics) -> Progress {
    Progress { term: metrics.vote.leader_id().term, index: metrics.last_log_index.unwrap_or(0) }
}

/// Compares this host's progress with what another host remembers of it.
pub(crate) async fn check_rollback(node: &Node, recalled: Option<Progress>) {
    let Some(acknowledged) = recalled.filter(|_| node.rollback.get().is_none()) else { return };
    let mut metrics = node.raft.metrics();
    if !is_behind(progress(&metrics.borrow()), acknowledged) {
        return;
    }
    if let Ok(Ok(_)) =
        timeout(LAG, metrics.wait_for(|metrics| !is_behind(progress(metrics), acknowledged))).await
    {
        return;
    }
    let has = progress(&metrics.borrow());
    if node.rollback.note(acknowledged) {
        let text = format!(
            "this host's data directory was rolled back: it has {} log entries and term {}, \
             but had acknowledged {} entries in term {}; it does not vote until the other \
             hosts have sent what is missing",
            has.index + 1,
            has.term,
            acknowledged.index + 1,
            acknowledged.term
        );
        tracing::warn!("{text}");
        node.participation.notices.add(NoticeKind::Rollback, node.settings.name.clone(), text);
    }
}

/// Whether this host may vote and lead: not while it lacks entries that it may have
/// acknowledged. Ends the rollback once it has caught up.
pub(crate) fn may_vote(node: &Node) -> bool {
    let Some(acknowledged) = node.rollback.get() else { return true };
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow();
    let applied = metrics.last_applied.map(|last| (last.leader_id.term, last.index));
    let caught_up = has_caught_up(metrics.vote.leader_id().term, applied, acknowledged);
    if caught_up {
        node.rollback.clear();
        tracing::info!("this host has received again what it lost by the rollback");
    }
    caught_up
}

/// The problem to show while this host lacks entries that it may have acknowledged.
pub(crate) fn rollback_problem(node: &Node) -> Option<String> {
    let acknowledged = node.rollback.get().filter(|_| !may_vote(node))?;
    Some(format!(
        "this host's data directory was rolled back to an earlier state: it does not vote \
         until it has caught up with the {} log entries that it had acknowledged",
        acknowledged.index + 1
    ))
}
