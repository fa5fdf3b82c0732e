//! Decides which hosts should be voters and learners. Pure: works on plain data.

use std::collections::{BTreeMap, BTreeSet};

use shoutd_core::HostId;
use shoutd_core::cluster::Host;
use shoutd_core::limits::VOTERS_MAX;

/// The current Raft membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// The voters; two sets during joint consensus.
    pub voters: Vec<BTreeSet<HostId>>,
    /// The address that each member was added with.
    pub addresses: BTreeMap<HostId, String>,
}

/// The leader's view of the hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostView {
    /// The hosts that answer and have nearly all of the log. The leader is one.
    pub ready: BTreeSet<HostId>,
    /// The voters that have not been ready for a long time.
    pub away: BTreeSet<HostId>,
    /// The removed hosts that have had time to learn of their removal.
    pub dismissed: BTreeSet<HostId>,
    /// Hosts that are being removed. They lose their votes first: a majority of the old voters,
    /// which may include them, must commit that. Their removal then needs only the other voters. In
    /// the other order, a removed host would count for the quorum, and could leave the others
    /// unable to elect a leader.
    pub leaving: BTreeSet<HostId>,
    /// The leader itself.
    pub leader: Option<HostId>,
}

/// One membership change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Make exactly these the voters.
    Voters(BTreeSet<HostId>),
    /// Add these as learners.
    Add(BTreeMap<HostId, String>),
    /// Change the addresses of these.
    Move(BTreeMap<HostId, String>),
    /// Drop these learners.
    Drop(BTreeSet<HostId>),
}

/// The leader's next membership change, if one is needed.
///
/// Admitted hosts are added as learners first; [`choose_voters`] decides who votes. Removed hosts
/// lose their vote, and are dropped once they have had time to learn of their removal.
pub(crate) fn next_change(
    members: &Members,
    hosts: &BTreeMap<HostId, Host>,
    view: &HostView,
) -> Option<Change> {
    let voters = members.voters.last()?;
    if members.voters.len() > 1 {
        // A leader was lost during joint consensus.
        return Some(Change::Voters(voters.clone()));
    }
    if hosts.is_empty() {
        // The cluster is being founded: its first host votes already, and is not admitted yet.
        return None;
    }
    let (mut missing, mut moved) = (BTreeMap::new(), BTreeMap::new());
    for (id, host) in hosts {
        let address = host.address.to_string();
        match members.addresses.get(id) {
            None => _ = missing.insert(*id, address),
            Some(noted) if *noted != address => _ = moved.insert(*id, address),
            Some(_) => {}
        }
    }
    if !missing.is_empty() {
        return Some(Change::Add(missing));
    }
    if !moved.is_empty() {
        return Some(Change::Move(moved));
    }
    let mut staying = hosts.clone();
    staying.retain(|id, _| !view.leaving.contains(id));
    let wanted = choose_voters(voters, &staying, view);
    if wanted != *voters {
        return Some(Change::Voters(wanted));
    }
    let mut dropped: BTreeSet<HostId> = members.addresses.keys().copied().collect();
    dropped.retain(|id| {
        !hosts.contains_key(id) && !voters.contains(id) && view.dismissed.contains(id)
    });
    (!dropped.is_empty()).then_some(Change::Drop(dropped))
}

/// How many voters a cluster of this many hosts should have.
///
/// An odd number: one more would raise the quorum, and the cluster would not survive the loss of
/// more hosts. But of two hosts both vote. With one voter, the other host could not go on without
/// it either, as it does not know what was committed last; and committed entries would be on one
/// disk only, so that the loss of one host could lead to an address being leased twice. With two
/// voters, losing one host means that nothing can be committed until it is back or an administrator
/// runs `recover`, but no committed entry is lost.
fn fit(hosts: usize) -> usize {
    match hosts.min(VOTERS_MAX) {
        few @ 0..=2 => few,
        even if even.is_multiple_of(2) => even - 1,
        odd => odd,
    }
}

/// Which hosts should vote.
///
/// Removed hosts do not. Only ready hosts get a vote: a voter that is down would cost the cluster
/// its majority. A voter loses its vote when there are more voters than [`fit`], or when it has
/// been away for a long time and a ready host can replace it; not while it is merely slow, and not
/// because another host came back. Nothing changes if less than a majority of the new voters were
/// ready.
pub(crate) fn choose_voters(
    voters: &BTreeSet<HostId>,
    hosts: &BTreeMap<HostId, Host>,
    view: &HostView,
) -> BTreeSet<HostId> {
    let mut wanted: BTreeSet<_> =
        voters.iter().copied().filter(|id| hosts.contains_key(id)).collect();
    let mut candidates: Vec<_> = hosts
        .keys()
        .copied()
        .filter(|id| !voters.contains(id) && view.ready.contains(id))
        .collect();
    // Taken from the end: lowest id first.
    candidates.reverse();
    for away in voters.intersection(&view.away).filter(|id| Some(**id) != view.leader) {
        if wanted.contains(away)
            && let Some(candidate) = candidates.pop()
        {
            wanted.remove(away);
            wanted.insert(candidate);
        }
    }
    // The number stays odd even if there are fewer candidates than the cluster could use.
    let count = fit(hosts.len()).min(fit(wanted.len() + candidates.len()));
    while wanted.len() < count
        && let Some(candidate) = candidates.pop()
    {
        wanted.insert(candidate);
    }
    while wanted.len() > count {
        // Voters that are not ready first, the leader never.
        let spare = wanted
            .iter()
            .copied()
            .max_by_key(|id| (Some(*id) != view.leader, !view.ready.contains(id), *id));
        let Some(spare) = spare else { break };
        wanted.remove(&spare);
    }
    let ready = wanted.intersection(&view.ready).count();
    if ready > wanted.len() / 2 { wanted } else { voters.clone() }
}

#[cfg(test)]
mod tests;
