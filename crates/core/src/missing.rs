//! Why this host's engine has no copy of a network, and so whether it gets one.
//!
//! The engine hides a network from its list before it calls `DeleteNetwork`. So a user may be about
//! to remove a copy that is missing, and a new copy would undo that. This is ruled out if the
//! engine's events show that the removal is done, or if the call does not come for a long time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::mirror::MirrorAction;
use crate::{DockerNetworkId, NetworkId};

/// How long an engine may take between hiding a network that a user removes and calling
/// `DeleteNetwork`: it repeats a call to a plugin that does not answer for 15 s. Normally we need
/// not wait for this, because the engine's events show that a removal is done. But it keeps only
/// the last 256 events, and none from before its restart.
pub const LEAVING_TIME_MAX: Duration = Duration::from_secs(20);

/// Why an engine has no copy of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A user may be removing it; `DeleteNetwork` may follow.
    Leaving,
    /// A user removed it while shoutd did not run.
    Unheard,
    /// The engine never had a copy, or lost it.
    Lost,
}

/// What is known about the copies of a network that the engine does not list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The copies that this host remembered before it asked the engine.
    pub remembered: Vec<DockerNetworkId>,
    /// Whether the engine knows that it has removed all of them.
    pub are_removed: bool,
    /// The copies that this host remembered after the engine's answer.
    pub remembered_after: Vec<DockerNetworkId>,
}

/// Since when networks have no copy for an unknown reason.
#[derive(Debug, Default)]
pub struct MissingCopies {
    since: BTreeMap<NetworkId, Duration>,
}

impl MissingCopies {
    /// Forgets the networks that are no longer to be created according to this plan, because they
    /// are no longer missing.
    pub fn retain(&mut self, plan: &[MirrorAction]) {
        self.since
            .retain(|network, _| plan.contains(&MirrorAction::Create { network: network.clone() }));
    }

    /// Why there is no copy. `now` is a monotonic clock, since any instant.
    pub fn why(&mut self, network: &NetworkId, evidence: &Evidence, now: Duration) -> Missing {
        if evidence.remembered.is_empty() {
            self.since.remove(network);
            return Missing::Lost;
        }
        if evidence.are_removed {
            // If `DeleteNetwork` arrived in between, the next comparison decides.
            let is_unheard = evidence.remembered == evidence.remembered_after;
            return if is_unheard { Missing::Unheard } else { Missing::Leaving };
        }
        let since = *self.since.entry(network.clone()).or_insert(now);
        if now.saturating_sub(since) < LEAVING_TIME_MAX { Missing::Leaving } else { Missing::Lost }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network() -> NetworkId {
        "aaaaaaaaaaaaaaaa".parse().unwrap()
    }

    fn evidence(remembered: usize, are_removed: bool, after: usize) -> Evidence {
        Evidence { remembered: copies(remembered), are_removed, remembered_after: copies(after) }
    }

    /// This many copies, two at most.
    fn copies(count: usize) -> Vec<DockerNetworkId> {
        let ids = ["bbbbbbbbbbbbbbbb", "cccccccccccccccc"];
        ids[..count].iter().map(|id| id.parse().unwrap()).collect()
    }

    #[test]
    fn a_removal_that_is_done_was_unheard_unless_its_call_has_just_arrived() {
        let mut missing = MissingCopies::default();
        for (evidence, expected) in [
            (evidence(1, true, 1), Missing::Unheard),
            (evidence(1, true, 0), Missing::Leaving),
            (evidence(0, false, 0), Missing::Lost),
        ] {
            assert_eq!(missing.why(&network(), &evidence, Duration::ZERO), expected);
        }
    }

    #[test]
    fn the_time_starts_again_when_the_copy_was_there_in_between() {
        let mut missing = MissingCopies::default();
        let unknown = evidence(1, false, 1);
        assert_eq!(missing.why(&network(), &unknown, Duration::ZERO), Missing::Leaving);
        let create = [MirrorAction::Create { network: network() }];
        missing.retain(&create);
        assert_eq!(missing.why(&network(), &unknown, LEAVING_TIME_MAX), Missing::Lost);
        missing.retain(&[]);
        assert_eq!(missing.why(&network(), &unknown, LEAVING_TIME_MAX), Missing::Leaving);
    }

    proptest! {
        /// A copy that a user may be removing is not created again before the engine has had the
        /// time to call, and is after it.
        #[test]
        fn a_copy_is_created_again_only_when_no_removal_can_follow(
            steps in prop::collection::vec((0_u64..8, 0_usize..3, any::<bool>()), 1..30),
        ) {
            let (mut missing, mut now) = (MissingCopies::default(), Duration::ZERO);
            let mut since: Option<Duration> = None;
            for (seconds, remembered, are_removed) in steps {
                now += Duration::from_secs(seconds);
                let are_removed = are_removed && remembered > 0;
                let evidence = evidence(remembered, are_removed, remembered);
                let why = missing.why(&network(), &evidence, now);
                if remembered == 0 {
                    since = None;
                    prop_assert_eq!(why, Missing::Lost);
                } else if are_removed {
                    prop_assert_eq!(why, Missing::Unheard);
                } else {
                    let waited = now - *since.get_or_insert(now);
                    prop_assert_eq!(why == Missing::Lost, waited >= LEAVING_TIME_MAX);
                }
            }
        }
    }
}
