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

/// What the leader knows of the hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostView {
    /// The hosts that answer and have nearly all of the log; the leader among them.
    pub ready: BTreeSet<HostId>,
    /// The voters that have not been ready for long.
    pub away: BTreeSet<HostId>,
    /// The members that were removed and have had time to learn of it.
    pub dismissed: BTreeSet<HostId>,
    /// Hosts whose removal is under way: their votes go first. What takes a vote needs the host
    /// that has it, while removing the host does not, so a host that was removed and kept its vote
    /// could leave the others unable to elect anybody.
    pub leaving: BTreeSet<HostId>,
    /// The leader itself.
    pub leader: Option<HostId>,
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
    /// These, which have no vote, are told nothing any more.
    Drop(BTreeSet<HostId>),
}

/// What the leader should change next, if anything.
///
/// Admitted hosts are added first without a vote. Who votes is then up to [`choose_voters`]. Hosts
/// that were removed lose their vote, and go once they know.
pub(crate) fn next_change(
    members: &Members,
    hosts: &BTreeMap<HostId, Host>,
    sight: &HostView,
) -> Option<Change> {
    let voters = members.voters.last()?;
    if members.voters.len() > 1 {
        // A leader was lost half way through.
        return Some(Change::Voters(voters.clone()));
    }
    if hosts.is_empty() {
        // The cluster is being founded: its first host votes, and is still to be admitted.
        return None;
    }
    let addresses = || hosts.iter().map(|(id, host)| (*id, host.address.to_string()));
    let missing: BTreeMap<_, _> =
        addresses().filter(|(id, _)| !members.addresses.contains_key(id)).collect();
    if !missing.is_empty() {
        return Some(Change::Add(missing));
    }
    let moved = |(id, address): &(HostId, String)| {
        members.addresses.get(id).is_some_and(|noted| noted != address)
    };
    let moved: BTreeMap<_, _> = addresses().filter(moved).collect();
    if !moved.is_empty() {
        return Some(Change::Move(moved));
    }
    let mut staying = hosts.clone();
    staying.retain(|id, _| !sight.leaving.contains(id));
    let wanted = choose_voters(voters, &staying, sight);
    if wanted != *voters {
        return Some(Change::Voters(wanted));
    }
    let stays = |id: &HostId| {
        hosts.contains_key(id) || voters.contains(id) || !sight.dismissed.contains(id)
    };
    let dropped: BTreeSet<_> = members.addresses.keys().copied().filter(|id| !stays(id)).collect();
    (!dropped.is_empty()).then_some(Change::Drop(dropped))
}

/// How many of so many hosts should vote.
///
/// An odd number: one more would have to agree as well and would survive the loss of no more hosts.
/// But of two hosts both vote. With one voter the other host could do without it no better, as it
/// does not know what was agreed on last; and what was agreed on would be on one disk only, so that
/// the loss of one host could put an address into two hands. With two, what is lost together with a
/// host is the ability to agree until it is back or `recover` was said, and never what was agreed
/// on.
fn fit(hosts: usize) -> usize {
    match hosts.min(VOTERS_MAX) {
        few @ 0..=2 => few,
        even if even.is_multiple_of(2) => even - 1,
        odd => odd,
    }
}

/// Who should vote.
///
/// Hosts that were removed do not. A vote goes to hosts that are ready only: a voter that is not
/// there would cost the cluster its majority. Once given, it is lost when there are more voters
/// than fit, or when the host has been away for long and another is ready to replace it; not while
/// it is merely slow, and not for one that came back. Nothing changes if fewer than a majority of
/// the new voters were ready.
pub(crate) fn choose_voters(
    voters: &BTreeSet<HostId>,
    hosts: &BTreeMap<HostId, Host>,
    sight: &HostView,
) -> BTreeSet<HostId> {
    let mut wanted: BTreeSet<_> =
        voters.iter().copied().filter(|id| hosts.contains_key(id)).collect();
    let mut candidates: Vec<_> = hosts
        .keys()
        .copied()
        .filter(|id| !voters.contains(id) && sight.ready.contains(id))
        .collect();
    // Lowest id first; taken from the end.
    candidates.reverse();
    for away in voters.intersection(&sight.away).filter(|id| Some(**id) != sight.leader) {
        if wanted.contains(away)
            && let Some(candidate) = candidates.pop()
        {
            wanted.remove(away);
            wanted.insert(candidate);
        }
    }
    let count = fit(hosts.len()).min(fit(wanted.len() + candidates.len()));
    while wanted.len() < count
        && let Some(candidate) = candidates.pop()
    {
        wanted.insert(candidate);
    }
    while wanted.len() > count {
        // Those that are not there first, the leader never.
        let least = |id: &&HostId| (Some(**id) != sight.leader, !sight.ready.contains(*id), **id);
        let Some(spare) = wanted.iter().max_by_key(least).copied() else { break };
        wanted.remove(&spare);
    }
    let ready = wanted.intersection(&sight.ready).count();
    if ready > wanted.len() / 2 { wanted } else { voters.clone() }
}

#[cfg(test)]
mod tests;
