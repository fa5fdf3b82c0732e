//! Noticing that this host's data are older than what it has said: its disk was set back to an
//! earlier state, by a snapshot of a virtual machine or a restored copy.
//!
//! Raft rests on what a host acknowledged being on its disk. A host whose disk was set back may
//! have forgotten entries that only it and the leader had, and a vote that it gave: if it went on
//! voting, hosts could be elected that lack what was agreed on. So the others remember how far they
//! have known a host to be ([`Progress`]) and tell it, before it says anything when it starts, and
//! with each message. One that is behind what it said neither votes nor stands for election until
//! it has again what it may have acknowledged.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use crate::node::Node;
use crate::notice::NoticeKind;
use crate::raft::Metrics;
use crate::wire::Progress;

/// How long what openraft says of itself may lag behind what it has done.
const LAG: Duration = Duration::from_millis(500);

/// How far this host was before it was set back; `None` unless it was, and has yet to come there
/// again.
#[derive(Debug, Default)]
pub(crate) struct Rollback(Mutex<Option<Progress>>);

impl Rollback {
    fn get(&self) -> Option<Progress> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether this is news.
    fn note(&self, recalled: Progress) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = known.is_none();
        *known = (*known).max(Some(recalled));
        is_news
    }

    fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Whether a host has less than it had said. In a term that is not over yet, nothing that it
/// acknowledged is taken back; when another has begun, entries that were not agreed on may rightly
/// be gone.
pub(crate) fn is_behind(has: Progress, said: Progress) -> bool {
    has.term < said.term || (has.term == said.term && has.index < said.index)
}

/// Whether a host, which has applied this entry in this term, has again all that it may have
/// acknowledged. What was agreed on before a leader's own first entry comes before that in the log.
pub(crate) fn has_caught_up(term: u64, applied: Option<(u64, u64)>, said: Progress) -> bool {
    let (applied_term, applied_index) = applied.unwrap_or_default();
    applied_term > said.term
        || (term >= said.term && applied.is_some() && applied_index >= said.index)
}

fn progress(metrics: &Metrics) -> Progress {
    Progress { term: metrics.vote.leader_id().term, index: metrics.last_log_index.unwrap_or(0) }
}

impl Node {
    /// Takes note of how far another host has known this one to be.
    pub async fn heed(&self, recalled: Option<Progress>) {
        let Some(said) = recalled.filter(|_| self.rollback.get().is_none()) else { return };
        let mut metrics = self.raft.metrics();
        if !is_behind(progress(&metrics.borrow()), said) {
            return;
        }
        if let Ok(Ok(_)) =
            timeout(LAG, metrics.wait_for(|metrics| !is_behind(progress(metrics), said))).await
        {
            return;
        }
        let has = progress(&metrics.borrow());
        if self.rollback.note(said) {
            let text = format!(
                "this host's data were set back: it has {} log entries of term {}, and had said \
                 that it has {} of term {}; it does not vote until the other hosts have sent what \
                 is missing",
                has.index + 1,
                has.term,
                said.index + 1,
                said.term
            );
            tracing::warn!("{text}");
            self.participation.notices.add(NoticeKind::Rollback, self.settings.name.clone(), text);
        }
    }

    /// Whether this host may vote and lead: it may not while it lacks what it may have
    /// acknowledged.
    pub fn may_vote(&self) -> bool {
        let Some(said) = self.rollback.get() else { return true };
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let applied = metrics.last_applied.map(|last| (last.leader_id.term, last.index));
        let caught_up = has_caught_up(metrics.vote.leader_id().term, applied, said);
        if caught_up {
            self.rollback.clear();
            tracing::info!("this host has again what it had before its data were set back");
        }
        caught_up
    }

    /// What is to be shown while this host lacks what it may have acknowledged.
    pub fn set_back_problem(&self) -> Option<String> {
        let said = self.rollback.get().filter(|_| !self.may_vote())?;
        Some(format!(
            "this host's data were set back to an earlier state: it does not vote until it has \
             again the {} log entries that it had",
            said.index + 1
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
    fn only_what_a_host_cannot_have_lost_rightly_counts() {
        assert!(is_behind(at(3, 95), at(3, 100)), "entries of this term are gone");
        assert!(is_behind(at(2, 200), at(3, 0)), "a vote is forgotten");
        assert!(!is_behind(at(3, 100), at(3, 100)));
        assert!(!is_behind(at(4, 98), at(3, 100)), "the next leader may have had fewer");
    }

    #[test]
    fn it_votes_again_when_it_has_what_it_may_have_acknowledged() {
        let said = at(3, 100);
        assert!(!has_caught_up(3, None, said));
        assert!(!has_caught_up(3, Some((3, 99)), said));
        assert!(has_caught_up(3, Some((3, 100)), said));
        assert!(
            !has_caught_up(5, Some((3, 98)), said),
            "the new leader's own entry has not come yet"
        );
        assert!(
            has_caught_up(5, Some((5, 99)), said),
            "entries that were never agreed on do not come back"
        );
    }

    proptest! {
        /// Nobody is held up for good: a host that follows a leader for long enough has caught up.
        #[test]
        fn what_a_host_lacks_has_an_end(term in 0_u64..9, index in 0_u64..9, later in 1_u64..9, more in 0_u64..9) {
            let said = at(term, index);
            prop_assert!(has_caught_up(term, Some((term, index + more)), said));
            prop_assert!(has_caught_up(term + later, Some((term + later, more)), said));
        }
    }
}
