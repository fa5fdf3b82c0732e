//! Who should belong to the Raft group, and with which part: a decision on plain data.

use std::collections::{BTreeMap, BTreeSet};

use shoutd_core::HostId;
use shoutd_core::cluster::Host;
use shoutd_core::limits::VOTERS_MAX;

/// The Raft group as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// The voters; two sets while one replaces the other.
    pub voters: Vec<BTreeSet<HostId>>,
    /// The address that each member was added with.
    pub addresses: BTreeMap<HostId, String>,
}

/// One change of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// These vote, and no others.
    Voters(BTreeSet<HostId>),
    /// These are added, without a vote.
    Add(BTreeMap<HostId, String>),
    /// These have new addresses.
    Move(BTreeMap<HostId, String>),
}

/// What the leader should change next, if anything.
///
/// Admitted hosts are added first without a vote. Those in `ready` (they answer, and have nearly all of the log) then get one,
/// until there are [`VOTERS_MAX`]: a voter that is not there would cost the cluster its majority. Nobody loses a vote.
pub(crate) fn next_change(
    members: &Members,
    hosts: &BTreeMap<HostId, Host>,
    ready: &BTreeSet<HostId>,
) -> Option<Change> {
    let voters = members.voters.last()?;
    if members.voters.len() > 1 {
        // A leader was lost half way through.
        return Some(Change::Voters(voters.clone()));
    }
    let addresses = || hosts.iter().map(|(id, host)| (*id, host.address.to_string()));
    let missing: BTreeMap<_, _> = addresses().filter(|(id, _)| !members.addresses.contains_key(id)).collect();
    if !missing.is_empty() {
        return Some(Change::Add(missing));
    }
    let moved = |(id, address): &(HostId, String)| members.addresses.get(id).is_some_and(|noted| noted != address);
    let moved: BTreeMap<_, _> = addresses().filter(moved).collect();
    if !moved.is_empty() {
        return Some(Change::Move(moved));
    }
    let candidates = hosts.keys().filter(|id| ready.contains(id) && !voters.contains(id));
    let promoted: BTreeSet<_> = candidates.take(VOTERS_MAX.saturating_sub(voters.len())).copied().collect();
    (!promoted.is_empty()).then(|| Change::Voters(voters | &promoted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: u64) -> HostId {
        HostId::new(value).unwrap()
    }

    fn hosts(count: u64) -> BTreeMap<HostId, Host> {
        let host = |n: u64| Host {
            name: format!("h{n}"),
            address: format!("10.0.0.{n}:7789").parse().unwrap(),
            subnets: vec![],
        };
        (1..=count).map(|n| (id(n), host(n))).collect()
    }

    fn members(voters: &[&[u64]], members: u64) -> Members {
        Members {
            voters: voters.iter().map(|set| set.iter().copied().map(id).collect()).collect(),
            addresses: hosts(members).into_iter().map(|(id, host)| (id, host.address.to_string())).collect(),
        }
    }

    fn set(ids: &[u64]) -> BTreeSet<HostId> {
        ids.iter().copied().map(id).collect()
    }

    #[test]
    fn nothing_to_do_before_the_cluster_is_founded_or_when_all_is_well() {
        assert_eq!(next_change(&Members::default(), &hosts(1), &set(&[])), None);
        assert_eq!(next_change(&members(&[&[1, 2]], 2), &hosts(2), &set(&[2])), None);
    }

    #[test]
    fn hosts_are_added_then_moved_then_promoted() {
        let added = next_change(&members(&[&[1]], 1), &hosts(2), &set(&[2]));
        assert_eq!(added, Some(Change::Add([(id(2), "10.0.0.2:7789".to_owned())].into())));
        let mut old = members(&[&[1]], 2);
        old.addresses.insert(id(2), "10.0.0.9:7789".to_owned());
        let moved = next_change(&old, &hosts(2), &set(&[2]));
        assert_eq!(moved, Some(Change::Move([(id(2), "10.0.0.2:7789".to_owned())].into())));
        let promoted = next_change(&members(&[&[1]], 2), &hosts(2), &set(&[2]));
        assert_eq!(promoted, Some(Change::Voters(set(&[1, 2]))));
    }

    #[test]
    fn who_is_not_ready_gets_no_vote() {
        assert_eq!(next_change(&members(&[&[1]], 3), &hosts(3), &set(&[])), None);
        assert_eq!(next_change(&members(&[&[1]], 3), &hosts(3), &set(&[3])), Some(Change::Voters(set(&[1, 3]))));
    }

    #[test]
    fn there_are_never_more_voters_than_the_limit() {
        let all: Vec<u64> = (1..=9).collect();
        let promoted = next_change(&members(&[&[1, 8]], 9), &hosts(9), &set(&all));
        assert_eq!(promoted, Some(Change::Voters(set(&[1, 2, 3, 4, 8]))));
        assert_eq!(next_change(&members(&[&[1, 2, 3, 4, 8]], 9), &hosts(9), &set(&all)), None);
    }

    #[test]
    fn a_change_that_was_left_half_done_is_finished() {
        let half_done = members(&[&[1, 2], &[1, 2, 3]], 3);
        assert_eq!(next_change(&half_done, &hosts(4), &set(&[])), Some(Change::Voters(set(&[1, 2, 3]))));
    }
}
