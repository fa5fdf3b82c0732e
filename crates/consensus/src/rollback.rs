//! Detects a rollback: this host's data directory is older than what this host has acknowledged,
//! because a virtual machine was reset to a snapshot, or a copy of the disk was restored.
//!
//! Raft requires that what a host acknowledged is on its disk. A host that was rolled back may have
//! lost entries that only it and the leader had, and a vote that it gave. If it went on voting,
//! hosts could be elected that lack committed entries. So each host remembers the furthest progress
//! of its peers ([`Progress`]) and tells them: when they start, before they send anything, and with
//! each message. A host that is behind its own progress neither votes nor stands for election until
//! it has everything again that it may have acknowledged.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;

use crate::node::Node;
use crate::notice::NoticeKind;
use crate::raft::Metrics;
use crate::wire::Progress;

/// How long openraft's metrics may lag behind what it has acknowledged.
const LAG: Duration = Duration::from_millis(500);

/// This host's progress before the rollback; `None` without a rollback, and after it has caught up.
#[derive(Debug, Default)]
pub(crate) struct Rollback(Mutex<Option<Progress>>);

impl Rollback {
    fn get(&self) -> Option<Progress> {
        *self.0.lock()
    }

    /// Returns whether this is the first notice of a rollback.
    fn note(&self, recalled: Progress) -> bool {
        let mut known = self.0.lock();
        let is_news = known.is_none();
        *known = (*known).max(Some(recalled));
        is_news
    }

    fn clear(&self) {
        *self.0.lock() = None;
    }
}

/// Whether a host has less than it acknowledged. Within a term no acknowledged entry is removed; a
/// later term's leader may overwrite uncommitted ones.
pub(crate) fn is_behind(has: Progress, acknowledged: Progress) -> bool {
    has.term < acknowledged.term
        || (has.term == acknowledged.term && has.index < acknowledged.index)
}

/// Whether a host, with this term and this applied entry, has everything again that it may have
/// acknowledged. A leader's first entry comes after all committed entries of earlier terms in the
/// log.
pub(crate) fn has_caught_up(
    term: u64,
    applied: Option<(u64, u64)>,
    acknowledged: Progress,
) -> bool {
    let (applied_term, applied_index) = applied.unwrap_or_default();
    applied_term > acknowledged.term
        || (term >= acknowledged.term && applied.is_some() && applied_index >= acknowledged.index)
}

fn progress(metrics: &Metrics) -> Progress {
    Progress { term: metrics.vote.leader_id().term, index: metrics.last_log_index.unwrap_or(0) }
}

impl Node {
    /// Compares this host's progress with what another host remembers of it.
    pub async fn check_rollback(&self, recalled: Option<Progress>) {
        let Some(acknowledged) = recalled.filter(|_| self.rollback.get().is_none()) else { return };
        let mut metrics = self.raft.metrics();
        if !is_behind(progress(&metrics.borrow()), acknowledged) {
            return;
        }
        if let Ok(Ok(_)) =
            timeout(LAG, metrics.wait_for(|metrics| !is_behind(progress(metrics), acknowledged)))
                .await
        {
            return;
        }
        let has = progress(&metrics.borrow());
        if self.rollback.note(acknowledged) {
            let text = format!(
                "this host's data directory was rolled back: it has {} log entries of term {}, \
                 but had acknowledged {} of term {}; it does not vote until the other hosts have \
                 sent what is missing",
                has.index + 1,
                has.term,
                acknowledged.index + 1,
                acknowledged.term
            );
            tracing::warn!("{text}");
            self.participation.notices.add(NoticeKind::Rollback, self.settings.name.clone(), text);
        }
    }

    /// Whether this host may vote and lead: not while it lacks entries that it may have
    /// acknowledged. Ends the rollback once it has caught up.
    pub fn may_vote(&self) -> bool {
        let Some(acknowledged) = self.rollback.get() else { return true };
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let applied = metrics.last_applied.map(|last| (last.leader_id.term, last.index));
        let caught_up = has_caught_up(metrics.vote.leader_id().term, applied, acknowledged);
        if caught_up {
            self.rollback.clear();
            tracing::info!("this host has received again what it lost by the rollback");
        }
        caught_up
    }

    /// The problem to show while this host lacks entries that it may have acknowledged.
    pub fn rollback_problem(&self) -> Option<String> {
        let acknowledged = self.rollback.get().filter(|_| !self.may_vote())?;
        Some(format!(
            "this host's data directory was rolled back to an earlier state: it does not vote \
             until it has received its {} log entries again",
            acknowledged.index + 1
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(term: u64, index: u64) -> Progress {
        Progress { term, index }
    }

    #[test]
    fn entries_that_raft_may_overwrite_are_no_rollback() {
        assert!(is_behind(at(3, 95), at(3, 100)), "entries of this term are lost");
        assert!(is_behind(at(2, 200), at(3, 0)), "a vote is lost");
        assert!(!is_behind(at(3, 100), at(3, 100)));
        assert!(!is_behind(at(4, 98), at(3, 100)), "the next leader may have had fewer");
    }

    #[test]
    fn a_host_votes_again_when_it_has_all_that_it_may_have_acknowledged() {
        let acknowledged = at(3, 100);
        assert!(!has_caught_up(3, None, acknowledged));
        assert!(!has_caught_up(3, Some((3, 99)), acknowledged));
        assert!(has_caught_up(3, Some((3, 100)), acknowledged));
        assert!(
            !has_caught_up(5, Some((3, 98)), acknowledged),
            "the new leader's first entry has not arrived yet"
        );
        assert!(
            has_caught_up(5, Some((5, 99)), acknowledged),
            "uncommitted entries do not come back"
        );
    }

    proptest! {
        #[test]
        fn a_host_that_follows_a_leader_catches_up_eventually(
            term in 0_u64..9,
            index in 0_u64..9,
            later in 1_u64..9,
            more in 0_u64..9,
        ) {
            let acknowledged = at(term, index);
            prop_assert!(has_caught_up(term, Some((term, index + more)), acknowledged));
            prop_assert!(has_caught_up(term + later, Some((term + later, more)), acknowledged));
        }
    }
}
