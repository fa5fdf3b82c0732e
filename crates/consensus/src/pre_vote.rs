//! Pre-vote: asks the other hosts before standing for election.
//!
//! In plain Raft a host that receives no heartbeats stands for election and raises the term, which
//! deposes the leader of all others as soon as they see it. A host that was cut off, in one
//! direction or both, would disturb the others when it is back. So a host first asks the others
//! whether they have a leader, and stands only if a majority, itself included, has none (Ongaro,
//! "Consensus: Bridging Theory and Practice", 9.6). A host that was removed while it was down
//! learns that from the answers, before it sends anything else.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openraft::CommittedLeaderId;
use openraft::raft::VoteRequest;
use shoutd_core::HostId;
use shoutd_peer::{CallError, Rejection};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::clock::millis;
use crate::node::Node;
use crate::peer_health::PeerHealth;
use crate::raft::{ELECTION_MAX, LogId, Vote};
use crate::status::{ConsensusStatus, Role};
use crate::wire::{self, Located, StatusAnswer};
use crate::{duplicate_identity, rollback_check};

/// How long the other hosts may take to answer.
const DEADLINE: Duration = Duration::from_millis(700);

/// How many terms the only voter may skip when it starts: the more, the less likely it leads again
/// in a term that it led before a rollback.
const TERM_LEAP: u64 = 1 << 20;

/// Time between two checks of a voter.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Time between two checks of a learner, which only checks whether it still belongs to the cluster.
const LEARNER_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Checks without a leader after which hosts begin to take turns: more than an election needs.
const CHECKS_BEFORE_TURNS: u64 = 15;

/// Learners that a starting host asks too: the voters that it knows may have been replaced.
const LEARNERS_MAX: usize = 8;

/// Allows openraft to send once the other hosts had a chance to object, and to stand for election
/// while it can win.
pub(crate) async fn pre_vote(node: Arc<Node>) {
    let all = acquaintances(&node);
    ask_around(&node, &all, true).await;
    if duplicate_identity::look_for_duplicate(&node).await {
        // The daemon ends.
        return;
    }
    node.participation.allow_sending();
    lead_alone(&node).await;
    let mut checks = 0;
    loop {
        if has_leader(&node) {
            checks = 0;
            node.raft.runtime_config().elect(false);
            sleep(CHECK_INTERVAL).await;
            continue;
        }
        let voters: BTreeSet<_> = node.voters().into_iter().collect();
        let may_stand = ask_around(&node, &voters, false).await
            && rollback_check::may_vote(&node)
            && is_turn_of(node.me(), checks);
        node.raft
            .runtime_config()
            .elect(may_stand && node.participation.removal_notice().is_none());
        checks += 1;
        let is_learner = !voters.is_empty() && !voters.contains(&node.me());
        sleep(if is_learner { LEARNER_CHECK_INTERVAL } else { CHECK_INTERVAL }).await;
    }
}

/// Whether a host may stand for election now. openraft draws its election time-out once, when it
/// starts. Hosts that started at the same moment and split the vote once would split it every time.
/// So after a while each host skips about half of the checks, by a hash of its id and the number of
/// the check, until one stands alone.
fn is_turn_of(host: HostId, checks: u64) -> bool {
    let mut hasher = DefaultHasher::new();
    (host, checks).hash(&mut hasher);
    checks < CHECKS_BEFORE_TURNS || hasher.finish().is_multiple_of(2)
}

/// If this host is the only voter, it elects itself at once, in a term that it has not led
/// before. This holds even if its data directory was rolled back, which no other host could
/// tell it. If it led an earlier term again, it could write a different entry with the same
/// term and index. Raft cannot detect that, neither here nor on hosts that this one has
/// forgotten.
async fn lead_alone(node: &Node) {
    let metrics = node.raft.metrics().borrow().clone();
    let me = node.me().get();
    let mut voters = metrics.membership_config.membership().voter_ids();
    if voters.next() != Some(me) || voters.next().is_some() {
        return;
    }
    let leap = node.peer_health.own().run % TERM_LEAP;
    let term = metrics.vote.leader_id().term.saturating_add(leap);
    // Raises the term by a vote request from this host to itself. The request claims the
    // longest possible log, so that only its term matters.
    let newest = LogId::new(CommittedLeaderId::new(u64::MAX, me), u64::MAX);
    let request = VoteRequest { vote: Vote::new(term, me), last_log_id: Some(newest) };
    let voted = node.raft.vote(request).await;
    if voted.is_err() || node.raft.trigger().elect().await.is_err() {
        tracing::debug!("this host is stopping and does not begin to lead");
    }
}

/// The voters and some learners.
fn acquaintances(node: &Node) -> BTreeSet<HostId> {
    let voters = node.voters();
    let cluster = node.cluster();
    let others = cluster.hosts.keys().copied().filter(|id| !voters.contains(id)).take(LEARNERS_MAX);
    voters.iter().copied().chain(others).collect()
}

/// Whether there was a leader a moment ago, which may be this host.
fn has_leader(node: &Node) -> bool {
    node.leader_heard().is_some_and(|heard| heard < ELECTION_MAX)
}

/// Whether this host leads and a majority answered it a moment ago.
pub(crate) fn leads_a_majority(node: &Node) -> bool {
    node.leader() == Some(node.me()) && has_leader(node)
}

/// Asks these hosts for their status. Returns whether a majority of the voters has no leader,
/// so that it could elect this host. Returns as soon as that is known, or, with `all`, once all
/// have answered or had time to.
async fn ask_around(node: &Arc<Node>, hosts: &BTreeSet<HostId>, all: bool) -> bool {
    let mut asked = JoinSet::new();
    for target in hosts.iter().copied().filter(|target| *target != node.me()) {
        if let Some(Located { host, address }) = node.located(target) {
            let node = Arc::clone(node);
            asked.spawn(async move {
                let answer = status_of(&node.peer_health, host, address).await?;
                rollback_check::check_rollback(&node, answer.your_progress).await;
                Ok::<_, CallError>(answer.status)
            });
        }
    }
    let mut leaderless = BTreeSet::from([node.me().get()]);
    let until = Instant::now() + DEADLINE;
    loop {
        if !all && is_majority(node, &leaderless) {
            return true;
        }
        match timeout_at(until, asked.join_next()).await {
            Ok(Some(Ok(Ok(status)))) if has_no_leader(&status) => {
                leaderless.insert(status.host.get());
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return is_majority(node, &leaderless),
        }
    }
}

fn is_majority(node: &Node, hosts: &BTreeSet<u64>) -> bool {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow();
    let mut sets = metrics.membership_config.membership().get_joint_config().iter();
    sets.all(|voters| voters.intersection(hosts).count() > voters.len() / 2)
}

async fn status_of(
    peer_health: &PeerHealth,
    host: HostId,
    address: SocketAddr,
) -> Result<StatusAnswer, CallError> {
    let status = peer_health.ask_status(host, address, DEADLINE).await;
    if let Err(CallError::Refused { rejection: Rejection::OtherHost { .. }, .. }) = &status {
        // Another host has this address: the machine was set up again, perhaps from a backup.
        // That host may know that this one was removed. Its answer does not count as a vote.
        peer_health
            .call_address::<_, ConsensusStatus>(address, wire::STATUS, &(), DEADLINE)
            .await?;
    }
    status
}

/// Whether a host runs and has no leader.
fn has_no_leader(status: &ConsensusStatus) -> bool {
    status.role != Role::Stopped
        && status.leader_heard.is_none_or(|heard| heard >= millis(ELECTION_MAX))
}
