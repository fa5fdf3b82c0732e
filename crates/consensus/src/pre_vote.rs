//! Looking around before standing for election.
//!
//! Raft alone lets a host stand whenever it hears no leader, and each time raises the term, which
//! deposes the leader of all others as soon as they hear of it: a host whose network was cut, on
//! one side or both, would disturb the others when it is back. So a host first asks the others
//! whether they hear a leader, and stands only if a majority, itself included, hears none (Ongaro,
//! "Consensus: Bridging Theory and Practice", 9.6). By the same question a host that was removed
//! while it was not there learns of it, before it says anything else.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openraft::raft::VoteRequest;
use openraft::{CommittedLeaderId, ServerState};
use shoutd_core::HostId;
use shoutd_peer::{CallError, Rejection};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::node::Node;
use crate::peer_health::{PeerHealth, millis};
use crate::raft::{ELECTION_MAX, LogId, Vote, host};
use crate::status::{ConsensusStatus, Role};
use crate::wire::{self, Located, StatusAnswer};

/// How long the others may take to answer.
const DEADLINE: Duration = Duration::from_millis(700);

/// How many terms a host that alone votes may leave out when it starts: the more, the less likely
/// is it that it comes to a term again that it led before its disk was set back.
const TERM_LEAP: u64 = 1 << 20;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Looks without a leader after which hosts begin to stand aside for one another: more than an
/// election needs.
const LOOKS_AT_WILL: u64 = 15;

/// The same for a host without a vote, which only wants to know whether it still belongs to the
/// cluster.
const LEARNER_LOOK: Duration = Duration::from_secs(2);

/// Hosts without a vote that are asked too, when a host starts: the voters that it knows may have
/// been replaced since.
const LEARNERS_MAX: usize = 8;

/// Lets openraft speak once somebody could have objected, and stand for election while that can
/// succeed.
pub(crate) async fn pre_vote(node: Arc<Node>) {
    let all = node.acquaintances();
    node.ask_around(&all, true).await;
    if node.look_for_twin().await {
        // The daemon ends.
        return;
    }
    node.participation.allow_to_speak();
    node.lead_alone().await;
    let mut looks = 0;
    loop {
        if node.hears_leader() {
            looks = 0;
            node.raft.runtime_config().elect(false);
            sleep(LOOK).await;
            continue;
        }
        let voters: BTreeSet<_> = node.voters().into_iter().collect();
        let may_stand = node.ask_around(&voters, false).await
            && node.may_vote()
            && is_turn_of(node.me(), looks);
        node.raft
            .runtime_config()
            .elect(may_stand && node.participation.removal_notice().is_none());
        looks += 1;
        sleep(if voters.contains(&node.me()) || voters.is_empty() { LOOK } else { LEARNER_LOOK })
            .await;
    }
}

/// Whether a host may stand now. openraft draws the time between its elections once, when it
/// starts: hosts that stand in each other's way once, as they were started in the same moment,
/// would do so each time. So after a while each stands aside every other time, as its id has it,
/// until one stands alone.
fn is_turn_of(host: HostId, looks: u64) -> bool {
    let mut hasher = DefaultHasher::new();
    (host, looks).hash(&mut hasher);
    looks < LOOKS_AT_WILL || hasher.finish().is_multiple_of(2)
}

impl Node {
    /// A host that alone votes is elected at once, in a term that it has not led before, whatever
    /// its disk says: nobody could tell it if that was set back, and entries of other contents at
    /// the same place of one term would never be noticed, neither by this host nor by those which
    /// it may have forgotten.
    async fn lead_alone(&self) {
        let metrics = self.raft.metrics().borrow().clone();
        let me = self.me().get();
        let mut voters = metrics.membership_config.membership().voter_ids();
        if voters.next() != Some(me) || voters.next().is_some() {
            return;
        }
        let leap = self.peer_health.own().run % TERM_LEAP;
        let term = metrics.vote.leader_id().term.saturating_add(leap);
        // No log has more: what counts in this request is the term.
        let newest = LogId::new(CommittedLeaderId::new(u64::MAX, me), u64::MAX);
        let request = VoteRequest { vote: Vote::new(term, me), last_log_id: Some(newest) };
        let voted = self.raft.vote(request).await;
        if voted.is_err() || self.raft.trigger().elect().await.is_err() {
            tracing::debug!("this host is being stopped, and does not begin to lead");
        }
    }

    /// The voters, and some hosts without a vote.
    fn acquaintances(&self) -> BTreeSet<HostId> {
        let voters = self.voters();
        let cluster = self.cluster();
        let others =
            cluster.hosts.keys().copied().filter(|id| !voters.contains(id)).take(LEARNERS_MAX);
        voters.iter().copied().chain(others).collect()
    }

    /// Whether a leader, which may be this host, was there a moment ago.
    fn hears_leader(&self) -> bool {
        self.leader_heard().is_some_and(|heard| heard < ELECTION_MAX)
    }

    /// Whether this host leads, and a majority has answered it a moment ago.
    pub fn leads_a_majority(&self) -> bool {
        self.leader() == Some(self.me()) && self.hears_leader()
    }

    /// Asks these hosts how they fare, and returns whether enough voters hear no leader to elect
    /// this host. Returns as soon as that is so, or, if `all` should have had their say, when they
    /// had.
    async fn ask_around(self: &Arc<Self>, hosts: &BTreeSet<HostId>, all: bool) -> bool {
        let mut asked = JoinSet::new();
        for target in hosts.iter().copied().filter(|target| *target != self.me()) {
            if let Some(Located { host, address }) = self.located(target) {
                let node = Arc::clone(self);
                asked.spawn(async move {
                    let answer = node.peer_health.status_of(host, address).await?;
                    node.heed(answer.your_progress).await;
                    Ok::<_, CallError>(answer.status)
                });
            }
        }
        let mut leaderless = BTreeSet::from([self.me().get()]);
        let until = Instant::now() + DEADLINE;
        loop {
            if !all && self.is_majority(&leaderless) {
                return true;
            }
            match timeout_at(until, asked.join_next()).await {
                Ok(Some(Ok(Ok(status)))) if hears_none(&status) => {
                    leaderless.insert(status.host.get());
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return self.is_majority(&leaderless),
            }
        }
    }

    fn is_majority(&self, hosts: &BTreeSet<u64>) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let mut sets = metrics.membership_config.membership().get_joint_config().iter();
        sets.all(|voters| voters.intersection(hosts).count() > voters.len() / 2)
    }

    /// How long ago this host heard its leader; if it leads, a majority.
    pub fn leader_heard(&self) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.state != ServerState::Leader {
            return self.last_heard_leader();
        }
        let alone = metrics
            .membership_config
            .membership()
            .voter_ids()
            .filter_map(host)
            .all(|voter| voter == self.me());
        if alone {
            Some(Duration::ZERO)
        } else {
            metrics.millis_since_quorum_ack.map(Duration::from_millis)
        }
    }
}

impl PeerHealth {
    async fn status_of(
        &self,
        host: HostId,
        address: SocketAddr,
    ) -> Result<StatusAnswer, CallError> {
        let status = self.ask_status(host, address, DEADLINE).await;
        if let Err(CallError::Refused { rejection: Rejection::OtherHost { .. }, .. }) = &status {
            // A machine that started anew, perhaps from a backup: it may know what has become of
            // this host. Its vote is another's.
            self.call_whoever::<_, ConsensusStatus>(address, wire::STATUS, &(), DEADLINE).await?;
        }
        status
    }
}

/// Whether a host would want a leader.
fn hears_none(status: &ConsensusStatus) -> bool {
    status.role != Role::Stopped
        && status.leader_heard.is_none_or(|heard| heard >= millis(ELECTION_MAX))
}
