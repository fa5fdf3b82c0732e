//! Limits for MAC learning. Where a network learns too many addresses, learning is suspended.
//!
//! Endpoints are pinned and need no learning. Learned addresses are virtual ones (VRRP, CARP,
//! machines behind a container's bridge). A container that sends from forged addresses fills the
//! tables of *other* hosts, and the limit of a VXLAN device cannot be changed once it exists. A
//! segment without learning floods unknown unicast: nothing is lost, and virtual addresses can
//! still move.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{Desired, Observed};
use crate::Vni;
use crate::limits::{LEARNED_MAX, LEARNED_SUM_MAX, LEARNING_SUSPENDED_FOR};

/// What a segment's FDBs have learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Learned {
    /// The number of addresses. It is a lower bound if it exceeds [`LEARNED_MAX`].
    pub count: usize,
    /// The VTEP from which most of them came; `None` if they came from containers of this host.
    pub from: Option<IpAddr>,
}

/// A segment with suspended learning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspension {
    /// When it ends, by the clock of [`Learning::note`].
    pub until: Duration,
    /// What the segment had learned.
    pub learned: Learned,
}

/// The segments with suspended learning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learning {
    suspended: BTreeMap<Vni, Suspension>,
}

impl Learning {
    /// Processes an observation at this time of a monotonic clock. Suspends segments that learned
    /// more than their limit, and then those with the most addresses until the sum is within its
    /// limit.
    pub fn note(&mut self, observed: &Observed, now: Duration) {
        self.suspended.retain(|vni, suspension| {
            let is_there = observed.segments.contains_key(vni)
                || observed.unreadable_segments.contains_key(vni);
            suspension.until > now && is_there
        });
        let learned = observed.segments.iter().map(|(vni, segment)| (*vni, segment.learned));
        let mut learned: Vec<(Vni, Learned)> =
            learned.filter(|(_, learned)| learned.count > 0).collect();
        learned.sort_by_key(|(_, learned)| std::cmp::Reverse(learned.count));
        let mut sum: usize = learned.iter().map(|(_, learned)| learned.count).sum();
        for (vni, learned) in learned {
            if learned.count <= LEARNED_MAX && sum <= LEARNED_SUM_MAX {
                return;
            }
            sum = sum.saturating_sub(learned.count);
            let until = now + LEARNING_SUSPENDED_FOR;
            self.suspended.entry(vni).or_insert(Suspension { until, learned });
        }
    }

    /// Disables learning in `desired` where it is suspended.
    pub fn restrict(&self, desired: &mut Desired) {
        for vni in self.suspended.keys() {
            if let Some(segment) = desired.segments.get_mut(vni) {
                segment.learning = false;
            }
        }
    }

    /// The segments with suspended learning.
    pub fn suspended(&self) -> &BTreeMap<Vni, Suspension> {
        &self.suspended
    }
}

impl Suspension {
    /// A problem text; `network` is the network's name.
    pub fn describe(&self, network: &str) -> String {
        let from = self
            .learned
            .from
            .map_or_else(|| "containers of this host".to_owned(), |from| format!("host {from}"));
        format!(
            "network {network}: more than {LEARNED_MAX} MAC addresses that do not belong to a \
             container came from {from}, so MAC learning on this network is suspended for {} \
             minutes. Nothing is lost; until then, frames to virtual MAC addresses are flooded to \
             all hosts of the network. Look for a container that sends from forged addresses, or \
             create the network with --opt shoutd.mac-moves=off",
            LEARNING_SUSPENDED_FOR.as_secs() / 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::{ObservedSegment, Segment, Vtep};

    fn vni(number: u32) -> Vni {
        Vni::new(number).unwrap()
    }

    fn observed(counts: &[usize]) -> Observed {
        let mut observed = Observed::default();
        for (number, count) in (7..).zip(counts) {
            let learned = Learned { count: *count, from: Some([192, 0, 2, 9].into()) };
            let segment = ObservedSegment { learned, ..ObservedSegment::default() };
            observed.segments.insert(vni(number), segment);
        }
        observed
    }

    /// Whether each segment learns.
    fn learning(learning: &Learning, segments: u32) -> Vec<bool> {
        let vtep = Vtep { address: [192, 0, 2, 1].into(), port: 7789, encrypted: false };
        let segment = Segment::empty("a".repeat(64).parse().unwrap(), 1450, vtep);
        let segments = (7..7 + segments).map(|number| (vni(number), segment.clone())).collect();
        let mut desired = Desired { segments, ..Desired::default() };
        learning.restrict(&mut desired);
        desired.segments.values().map(|segment| segment.learning).collect()
    }

    #[test]
    fn learning_is_suspended_in_a_segment_over_its_limit() {
        let mut state = Learning::default();
        state.note(&observed(&[LEARNED_MAX + 1, LEARNED_MAX]), Duration::ZERO);
        assert_eq!(learning(&state, 2), [false, true]);
        let line = state.suspended()[&vni(7)].describe("foo");
        assert!(
            line.contains("network foo")
                && line.contains("host 192.0.2.9")
                && line.contains("5 minutes"),
            "{line}"
        );
        // It lasts for the whole time, even when the addresses are gone.
        let almost = LEARNING_SUSPENDED_FOR - Duration::from_secs(1);
        state.note(&observed(&[0, 0]), almost);
        assert_eq!(learning(&state, 2), [false, true]);
        state.note(&observed(&[0, 0]), LEARNING_SUSPENDED_FOR);
        assert_eq!(learning(&state, 2), [true, true]);
    }

    #[test]
    fn learning_is_suspended_where_it_is_most_if_the_sum_is_over_its_limit() {
        let mut state = Learning::default();
        let many = LEARNED_SUM_MAX / LEARNED_MAX;
        let mut counts = vec![LEARNED_MAX; many];
        state.note(&observed(&counts), Duration::ZERO);
        assert!(state.suspended().is_empty());
        counts.push(1);
        state.note(&observed(&counts), Duration::ZERO);
        assert_eq!(state.suspended().len(), 1);
        assert!(
            !state.suspended().contains_key(&vni(7 + u32::try_from(many).unwrap())),
            "this one has the fewest addresses"
        );
    }

    #[test]
    fn a_deleted_segment_is_forgotten() {
        let mut state = Learning::default();
        state.note(&observed(&[LEARNED_MAX + 1]), Duration::ZERO);
        state.note(&Observed::default(), Duration::ZERO);
        assert!(state.suspended().is_empty());
    }
}
