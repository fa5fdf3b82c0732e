//! Repairs: what something else on the host removes again and again, and shoutd makes again. Each
//! time, packets are lost. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{Action, Desired, Segment};
use crate::Vni;

/// How long a repair is remembered.
pub const REPAIRS_REMEMBERED: Duration = Duration::from_secs(15);

/// Repairs of one segment within [`REPAIRS_REMEMBERED`] from which they are a problem. One or two
/// are a user's mistake.
const REPAIRS_MIN: usize = 3;

/// Repairs of one segment that are counted. More make no difference.
const REPAIRS_MAX: usize = 1000;

/// The repairs of all segments. Times are of a monotonic clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Segments that had everything, and whose devices have not been desired otherwise since.
    complete: BTreeSet<Vni>,
    made: BTreeMap<Vni, VecDeque<Repair>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Repair {
    at: Duration,
    what: &'static str,
}

/// What is removed again and again from one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undone {
    /// What was removed last.
    pub what: &'static str,
    /// How many times something was removed.
    pub times: usize,
}

impl Undone {
    /// One line. `network` is the network's title.
    pub fn describe(&self, network: &str) -> String {
        format!(
            "network {network}: something else on this host removed its {} {} times within {} s. \
             shoutd makes it again, but packets are lost in between; find what does it: ip monitor \
             link, in the namespaces of ip netns list",
            self.what,
            self.times,
            REPAIRS_REMEMBERED.as_secs()
        )
    }
}

impl Repairs {
    /// The desired state has changed.
    pub fn heed(&mut self, before: &Desired, after: &Desired) {
        self.complete.retain(|vni| {
            let pair = before.segments.get(vni).zip(after.segments.get(vni));
            pair.is_some_and(|(before, after)| has_same_devices(before, after))
        });
        self.made.retain(|vni, _| after.segments.contains_key(vni));
    }

    /// A round was done: these actions were planned, and these of them were done.
    pub fn note(
        &mut self,
        desired: &Desired,
        planned: &BTreeSet<Vni>,
        done: &[Action],
        now: Duration,
    ) {
        for (vni, what) in done.iter().filter_map(repaired) {
            // What follows in the same round, and the next rounds, belong to the same repair.
            if self.complete.remove(&vni) {
                let made = self.made.entry(vni).or_default();
                made.push_back(Repair { at: now, what });
                if made.len() > REPAIRS_MAX {
                    made.pop_front();
                }
            }
        }
        let whole = desired.segments.keys().filter(|vni| !planned.contains(vni));
        self.complete.extend(whole);
        for made in self.made.values_mut() {
            made.retain(|repair| now.saturating_sub(repair.at) < REPAIRS_REMEMBERED);
        }
        self.made.retain(|_, made| !made.is_empty());
    }

    /// What is removed again and again, by segment.
    pub fn undone(&self) -> BTreeMap<Vni, Undone> {
        let undone = self.made.iter().filter(|(_, made)| made.len() >= REPAIRS_MIN);
        let undone = undone.filter_map(|(vni, made)| {
            Some((*vni, Undone { what: made.back()?.what, times: made.len() }))
        });
        undone.collect()
    }
}

/// Whether two desired states of a segment need the same devices, flood entries and filters.
fn has_same_devices(before: &Segment, after: &Segment) -> bool {
    let devices = |segment: &Segment| (segment.mtu, segment.max_rate, segment.learning);
    devices(before) == devices(after)
        && before.vtep == after.vtep
        && before.remotes == after.remotes
        && before.gateways == after.gateways
}

/// What an action makes, if nothing but a removal makes it necessary in a complete segment. What
/// Docker or the kernel may change at any time, such as a container's end, is left out.
fn repaired(action: &Action) -> Option<(Vni, &'static str)> {
    let what = match action {
        Action::CreateSegment { .. } => "namespace",
        Action::CreateBridge { .. } => "bridge",
        Action::CreateTunnel { .. } => "VXLAN device",
        Action::AddFlood { .. } => "flood entry",
        Action::InstallIgmpMldFilter { .. } => "IGMP/MLD filter",
        _ => return None,
    };
    Some((action.vni()?, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::Vtep;

    const SECOND: Duration = Duration::from_secs(1);

    fn vni() -> Vni {
        Vni::new(4097).unwrap()
    }

    fn desired(remotes: u8) -> Desired {
        let vtep = Vtep { address: [192, 0, 2, 1].into(), port: 7789, encrypted: false };
        let mut segment = Segment::empty("1".repeat(64).parse().unwrap(), 1450, vtep);
        segment.remotes = (2..2 + remotes).map(|last| [192, 0, 2, last].into()).collect();
        Desired { segments: [(vni(), segment)].into(), ..Desired::default() }
    }

    fn flood(last: u8) -> Action {
        Action::AddFlood { vni: vni(), remote: [192, 0, 2, last].into() }
    }

    /// Rounds in which something was removed and made again.
    fn rounds(repairs: &mut Repairs, desired: &Desired, count: u32, begin: u32) {
        for round in begin..begin + count {
            repairs.note(desired, &BTreeSet::new(), &[], round * SECOND);
            repairs.note(desired, &[vni()].into(), &[flood(2)], round * SECOND);
        }
    }

    #[test]
    fn what_is_removed_again_and_again_is_told_until_it_ends() {
        let (desired, mut repairs) = (desired(1), Repairs::default());
        rounds(&mut repairs, &desired, 2, 0);
        assert_eq!(repairs.undone(), BTreeMap::new());
        rounds(&mut repairs, &desired, 1, 2);
        let undone = Undone { what: "flood entry", times: 3 };
        assert_eq!(repairs.undone(), [(vni(), undone.clone())].into());
        assert!(undone.describe("foo").contains("removed its flood entry 3 times"));
        repairs.note(&desired, &BTreeSet::new(), &[], 40 * SECOND);
        assert_eq!(repairs, Repairs { complete: [vni()].into(), ..Repairs::default() });
    }

    #[test]
    fn what_is_newly_desired_is_no_repair() {
        let mut repairs = Repairs::default();
        for remotes in 1..20 {
            let (before, after) = (desired(remotes), desired(remotes + 1));
            repairs.note(&before, &BTreeSet::new(), &[], SECOND);
            repairs.heed(&before, &after);
            repairs.note(&after, &[vni()].into(), &[flood(remotes + 2)], SECOND);
        }
        assert_eq!(repairs.undone(), BTreeMap::new());
        // Several rounds that make one segment are none either.
        for _ in 0..9 {
            repairs.note(&desired(20), &[vni()].into(), &[flood(2)], SECOND);
        }
        assert_eq!(repairs.undone(), BTreeMap::new());
    }

    #[test]
    fn a_segment_that_is_no_longer_desired_is_forgotten() {
        let (desired, mut repairs) = (desired(1), Repairs::default());
        rounds(&mut repairs, &desired, 5, 0);
        repairs.heed(&desired, &Desired::default());
        assert_eq!(repairs, Repairs::default());
    }
}
