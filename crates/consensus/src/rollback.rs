//! Detects a rollback: this host's data directory is older than what this host has acknowledged,
//! because a virtual machine was reset to a snapshot, or a copy of the disk was restored.
//!
//! Raft requires that what a host acknowledged is on its disk. A host that was rolled back may have
//! lost entries that only it and the leader had, and a vote that it gave. If it went on voting,
//! hosts could be elected that lack committed entries. So each host remembers the furthest progress
//! of its peers ([`Progress`]). It tells a peer that starts and asks, and tells each peer in every
//! message. A host that is behind its own progress neither votes nor stands for election until
//! it has everything again that it may have acknowledged.

use parking_lot::Mutex;

use crate::wire::Progress;

/// This host's progress before the rollback; `None` without a rollback, and after it has caught up.
#[derive(Debug, Default)]
pub(crate) struct Rollback(Mutex<Option<Progress>>);

impl Rollback {
    pub fn get(&self) -> Option<Progress> {
        *self.0.lock()
    }

    /// Returns whether this is the first notice of a rollback.
    pub fn note(&self, recalled: Progress) -> bool {
        let mut known = self.0.lock();
        let is_news = known.is_none();
        *known = (*known).max(Some(recalled));
        is_news
    }

    pub fn clear(&self) {
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
