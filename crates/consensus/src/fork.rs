//! Noticing that this host has agreed on other things than its cluster.
//!
//! In Raft that cannot be, and openraft takes what was agreed on for the same on all hosts without
//! looking. It does happen to a host whose disk was set back to a time when it alone voted, and
//! that went on without the others: what it agreed on then is in the way of what they have agreed
//! on, and cannot be taken back.

use openraft::raft::AppendEntriesRequest;
use shoutd_peer::Rejection;

use crate::StoreError;
use crate::node::Node;
use crate::raft::{LogId, Types};

/// The newest entry that a leader has, of those that a host with so many agreed on should have too.
fn newest_below(rpc: &AppendEntriesRequest<Types>, applied: LogId) -> Option<LogId> {
    let ids = rpc.prev_log_id.into_iter().chain(rpc.entries.iter().map(|entry| entry.log_id));
    ids.filter(|id| id.index <= applied.index).max_by_key(|id| id.index)
}

impl Node {
    /// Checks that a leader's log has what this host has applied. If not, this host stops for good.
    pub async fn refuse_fork(&self, rpc: &AppendEntriesRequest<Types>) -> Result<(), Rejection> {
        // Of one moment: whoever committed what is applied had this vote at the most.
        let (vote, applied) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.vote, metrics.last_applied)
        };
        // A leader that was deposed may have entries that were never agreed on, where others have
        // been since.
        let Some(applied) = applied.filter(|_| rpc.vote >= vote) else { return Ok(()) };
        let Some(theirs) = newest_below(rpc, applied) else { return Ok(()) };
        let ours = if theirs.index == applied.index {
            Some(applied)
        } else {
            self.record.log_id_at(theirs.index).await
        };
        // What was dropped after a snapshot is not known any more.
        if ours.is_none_or(|ours| ours == theirs) {
            return Ok(());
        }
        let directory = self.record.path().parent().unwrap_or(self.record.path()).to_owned();
        let reason = StoreError::Fork { directory }.to_string();
        tracing::error!("{reason}");
        self.record.condemn(reason.clone());
        if let Err(error) = self.raft.shutdown().await {
            tracing::debug!(%error, "consensus did not stop in order");
        }
        Err(Rejection::Failed { reason })
    }
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, EntryPayload};

    use super::*;
    use crate::raft::{Entry, Vote};

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, 1), index)
    }

    #[test]
    fn the_newest_entry_is_compared_that_both_should_have() {
        let rpc = |before: Option<LogId>, entries: &[LogId]| AppendEntriesRequest::<Types> {
            vote: Vote::new_committed(9, 1),
            prev_log_id: before,
            entries: entries
                .iter()
                .map(|id| Entry { log_id: *id, payload: EntryPayload::Blank })
                .collect(),
            leader_commit: None,
        };
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
