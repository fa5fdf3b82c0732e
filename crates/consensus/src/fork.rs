//! Detects that this host has applied other log entries than its cluster.
//!
//! Raft excludes that, and openraft does not check it: it assumes that committed entries are the
//! same on all hosts. But it happens to a host that was rolled back to a time when it was the only
//! voter and that went on without the others. The entries it committed then conflict with theirs,
//! and applied entries cannot be undone.

use openraft::raft::AppendEntriesRequest;
use shoutd_peer::Rejection;

use crate::StoreError;
use crate::node::Node;
use crate::raft::{LogId, Types};

/// The leader's newest entry in this message that a host with this `applied` must have too.
fn newest_below(rpc: &AppendEntriesRequest<Types>, applied: LogId) -> Option<LogId> {
    let ids = rpc.prev_log_id.into_iter().chain(rpc.entries.iter().map(|entry| entry.log_id));
    ids.filter(|id| id.index <= applied.index).max_by_key(|id| id.index)
}

/// Checks that the leader's log has what this host has applied. If not, this host stops for
/// good.
pub(crate) async fn refuse_fork(
    node: &Node,
    rpc: &AppendEntriesRequest<Types>,
) -> Result<(), Rejection> {
    // Read together: the leader that committed `applied` cannot have had a later vote than
    // this.
    let (vote, applied) = {
        let metrics = node.raft.metrics();
        let metrics = metrics.borrow();
        (metrics.vote, metrics.last_applied)
    };
    // A deposed leader may have uncommitted entries where another leader has committed its own.
    let Some(applied) = applied.filter(|_| rpc.vote >= vote) else { return Ok(()) };
    let Some(theirs) = newest_below(rpc, applied) else { return Ok(()) };
    let ours = if theirs.index == applied.index {
        Some(applied)
    } else {
        node.record.log_id_at(theirs.index).await
    };
    // `None`: the entry was purged after a snapshot.
    if ours.is_none_or(|ours| ours == theirs) {
        return Ok(());
    }
    let directory = node.record.path().parent().unwrap_or(node.record.path()).to_owned();
    let reason = StoreError::Fork { directory }.to_string();
    tracing::error!("{reason}");
    node.record.condemn(reason.clone());
    if let Err(error) = node.raft.shutdown().await {
        tracing::debug!(%error, "openraft did not shut down cleanly");
    }
    Err(Rejection::Failed { reason })
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, EntryPayload};

    use super::*;
    use crate::raft::{Entry, Vote};

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, 1), index)
    }

    fn rpc(before: Option<LogId>, entries: &[LogId]) -> AppendEntriesRequest<Types> {
        AppendEntriesRequest {
            vote: Vote::new_committed(9, 1),
            prev_log_id: before,
            entries: entries
                .iter()
                .map(|id| Entry { log_id: *id, payload: EntryPayload::Blank })
                .collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn the_newest_entry_that_both_logs_must_have_is_compared() {
        let applied = id(4, 10);
        assert_eq!(newest_below(&rpc(None, &[]), applied), None);
        assert_eq!(newest_below(&rpc(Some(id(5, 11)), &[id(5, 12)]), applied), None);
        assert_eq!(
            newest_below(&rpc(Some(id(3, 8)), &[id(3, 9), id(5, 10), id(5, 11)]), applied),
            Some(id(5, 10))
        );
        assert_eq!(newest_below(&rpc(Some(id(3, 8)), &[]), applied), Some(id(3, 8)));
    }
}
