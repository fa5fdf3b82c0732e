//! Removing a host, as the leader: it loses its vote, and then its entry in agreed state.

use std::collections::BTreeSet;
use std::time::Duration;

use shoutd_core::HostId;
use shoutd_core::cluster::{Cluster, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::clock::since_1970;
use crate::members::{HostView, choose_voters};
use crate::node::Node;
use crate::raft::Metrics;
use crate::readiness::{members, ready};
use crate::wire::Proposed;
use crate::{ProposeError, commit, obstacle};

/// How long a new leader may take until its followers have answered. Until then it does not count
/// any of them as ready.
const FIRST_ANSWERS: Duration = Duration::from_secs(2);
/// Time between two checks.
const PAUSE: Duration = Duration::from_millis(50);

/// Removes a host if this host leads: takes its vote, and then removes it from agreed state.
/// When this returns, the others no longer need the host. A leader that removes itself gives up
/// its vote last, as it cannot lead without.
pub(crate) async fn remove_until(node: &Node, host: HostId, until: Instant) -> Proposed {
    let mut metrics = node.raft.metrics();
    let seen = metrics.borrow_and_update().clone();
    if seen.current_leader != Some(node.me().get()) {
        let leader = node.leader().filter(|leader| *leader != node.me());
        return Proposed::NotLeader { leader: leader.and_then(|leader| node.located(leader)) };
    }
    if let Err(error) = await_majority_without(node, host, &metrics, until).await {
        return Proposed::Failed(error);
    }
    let removal = Command::RemoveHost { host, now: since_1970() };
    // If the removal will be refused, the host must keep its vote.
    let refused = Cluster::clone(&node.cluster()).apply(&removal).is_err();
    let _leaving = Leaving::new(node, host);
    if host != node.me()
        && !refused
        && let Err(error) = await_vote_taken(node, host, &mut metrics, until).await
    {
        return Proposed::Failed(error);
    }
    let done = commit::write_until(node, removal, until).await;
    if host == node.me() && matches!(done, Proposed::Done { result: Ok(_), .. }) {
        return match await_vote_taken(node, host, &mut metrics, until).await {
            // This host may lose its membership before it sees that it has no vote.
            Ok(()) | Err(ProposeError::Stopped) => done,
            Err(error) => Proposed::Failed(error),
        };
    }
    done
}

/// Waits until it is committed that `host` has no vote, or until this host no longer leads.
async fn await_vote_taken(
    node: &Node,
    host: HostId,
    metrics: &mut watch::Receiver<Metrics>,
    until: Instant,
) -> Result<(), ProposeError> {
    node.members_wanted.notify_one();
    let deadline = until.saturating_duration_since(Instant::now());
    let me = node.me();
    let over = metrics.wait_for(|metrics| {
        // If another host leads by then, the next proposal fails with `NotLeader`, and the
        // caller asks that host.
        has_no_vote(host, metrics) || (host != me && metrics.current_leader != Some(me.get()))
    });
    match timeout_at(until, over).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(ProposeError::Stopped),
        Err(_) => Err(obstacle::why_not(node, None, deadline)),
    }
}

/// Whether it is committed that `host` has no vote.
fn has_no_vote(host: HostId, metrics: &Metrics) -> bool {
    let members = &metrics.membership_config;
    let agreed = *members.log_id() <= metrics.last_applied;
    agreed && members.membership().voter_ids().all(|voter| voter != host.get())
}

/// Checks that the remaining hosts have a quorum. A new leader waits for their answers first.
async fn await_majority_without(
    node: &Node,
    host: HostId,
    metrics: &watch::Receiver<Metrics>,
    until: Instant,
) -> Result<(), ProposeError> {
    let patience = until.min(Instant::now() + FIRST_ANSWERS);
    loop {
        let seen = metrics.borrow().clone();
        match check_majority_without(node, host, &seen) {
            Err(_) if Instant::now() < patience => sleep(PAUSE).await,
            checked => return checked,
        }
    }
}

/// Checks that the remaining hosts have a quorum: after the removal, more than half of the
/// voters would be ready. If not, [`choose_voters`] changes nothing, so `host` keeps its vote.
fn check_majority_without(
    node: &Node,
    host: HostId,
    metrics: &Metrics,
) -> Result<(), ProposeError> {
    let cluster = node.cluster();
    let members = members(metrics);
    let voters: BTreeSet<_> = members.voters.iter().flatten().copied().collect();
    if !voters.contains(&host) || cluster.hosts.keys().all(|id| *id == host) {
        // It has no vote; or it is the last host, and agreed state refuses to remove that.
        return Ok(());
    }
    let mut remaining = cluster.hosts.clone();
    remaining.remove(&host);
    let view =
        HostView { ready: ready(node, metrics), leader: Some(node.me()), ..HostView::default() };
    if !choose_voters(&voters, &remaining, &view).contains(&host) {
        return Ok(());
    }
    let left: BTreeSet<_> =
        voters.into_iter().filter(|voter| remaining.contains_key(voter)).collect();
    let missing: BTreeSet<_> = left.difference(&view.ready).copied().collect();
    Err(ProposeError::NoMajority(no_majority(
        &cluster.host_name(host),
        &sorted_names(&cluster, &left),
        &sorted_names(&cluster, &missing),
    )))
}

fn sorted_names(cluster: &Cluster, hosts: &BTreeSet<HostId>) -> Vec<String> {
    let mut names: Vec<_> = hosts.iter().map(|host| cluster.host_name(*host)).collect();
    names.sort();
    names
}

/// Keeps a host without a vote while it is being removed.
struct Leaving<'a> {
    node: &'a Node,
    host: HostId,
}

impl<'a> Leaving<'a> {
    fn new(node: &'a Node, host: HostId) -> Self {
        node.leaving.lock().insert(host);
        Self { node, host }
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.node.leaving.lock().remove(&self.host);
    }
}

fn no_majority(removed: &str, left: &[String], missing: &[String]) -> String {
    if left.is_empty() {
        return format!(
            "{removed} is the only voter, and no other host is ready to vote: wait until one is, \
             and then remove {removed}"
        );
    }
    let (voters, missing) = (left.join(", "), missing.join(" and "));
    let verb = if missing.contains(" and ") { "do" } else { "does" };
    format!(
        "removing {removed} leaves the voters {voters}, but {missing} {verb} not answer: the \
         cluster would have no quorum; bring {missing} back first, or see shoutdctl recover"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_refusal_names_the_missing_hosts() {
        assert_eq!(
            no_majority("c", &names(&["a", "b"]), &names(&["b"])),
            "removing c leaves the voters a, b, but b does not answer: the cluster would have no \
             quorum; bring b back first, or see shoutdctl recover"
        );
        let two = no_majority("e", &names(&["a", "b", "c", "d"]), &names(&["b", "c"]));
        assert!(
            two.contains("but b and c do not answer") && two.contains("bring b and c back first"),
            "{two}"
        );
        assert!(no_majority("a", &[], &[]).starts_with("a is the only voter"));
    }
}
