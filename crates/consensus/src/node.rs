//! What the parts of one host's Raft node share: its state and the questions about it. Each part is
//! a module of functions that take the node; the node knows none of them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use parking_lot::Mutex;
use shoutd_core::cluster::Cluster;
use shoutd_core::{ClusterId, HostId};
use shoutd_peer::Identity;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::calls::Calls;
use crate::clock::millis;
use crate::participation::Participation;
use crate::peer_health::PeerHealth;
use crate::raft::{Metrics, Raft, host};
use crate::record::Record;
use crate::removal_notice::RemovalNotice;
use crate::rollback::Rollback;
use crate::snapshot_chunks::SnapshotChunks;
use crate::status::{ConsensusStatus, Role};
use crate::store::{Published, StoreError};
use crate::wire::Located;

/// A host's entry in agreed state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The address at which peers reach it.
    pub advertise: SocketAddr,
    /// Its host name, for users.
    pub name: String,
}

/// How long a condition must last before we act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// How long a voter must have been away to be replaced by another host.
    pub voter_away: Duration,
}

impl Default for Timeouts {
    /// A minute: longer than a reboot takes, so that a reboot does not move votes.
    fn default() -> Self {
        Self { voter_away: Duration::from_secs(60) }
    }
}

/// What the parts of one host's Raft node share.
pub(crate) struct Node {
    pub identity: Identity,
    pub settings: Settings,
    pub calls: Calls,
    pub patience: Timeouts,
    pub participation: Arc<Participation>,
    pub peer_health: Arc<PeerHealth>,
    pub raft: Raft,
    pub published: Published,
    /// Wakes `maintenance::lead`: a caller waits for a membership change.
    pub members_wanted: Notify,
    /// Hosts that this one, as the leader, is removing.
    pub leaving: Mutex<BTreeSet<HostId>>,
    pub record: Record,
    /// This host's progress before a rollback.
    pub rollback: Rollback,
    /// When it began to run.
    pub started: Instant,
    pub leader_heard: Mutex<Option<Instant>>,
    /// The snapshot being received.
    pub snapshot_chunks: tokio::sync::Mutex<SnapshotChunks>,
}

impl Node {
    pub fn me(&self) -> HostId {
        self.identity.host()
    }

    pub fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.published.cluster.borrow())
    }

    /// Records that this host belongs to a cluster, unless it belongs to one already. Returns its
    /// cluster.
    pub async fn belong_to(
        &self,
        cluster: ClusterId,
        founder: bool,
        epoch: u64,
    ) -> Result<ClusterId, StoreError> {
        if let Some(has) = self.identity.cluster() {
            return Ok(has);
        }
        let recorded = self.record.record_cluster(cluster, founder, epoch).await?;
        // Before other tasks can see that it belongs to one.
        self.participation.set_epoch(recorded.epoch);
        let recorded = recorded.cluster.unwrap_or(cluster);
        // With concurrent callers, all get what the first has recorded.
        Ok(self.identity.join(recorded).err().unwrap_or(recorded))
    }

    /// Why this host has left the cluster, in one line for the user.
    pub fn removed(&self) -> Option<String> {
        let directory = self.record.path().parent().unwrap_or(self.record.path());
        Some(
            self.participation
                .removal_notice()?
                .text(&self.settings.name, &directory.display().to_string()),
        )
    }

    /// The notice for a host that has left the cluster; `None` while it is in the Raft membership
    /// and takes part in its removal.
    pub fn removal_notice_for(&self, host: HostId) -> Option<RemovalNotice> {
        let removal_notice = RemovalNotice::of(&self.cluster(), host)?;
        let metrics = self.raft.metrics();
        let is_member =
            metrics.borrow().membership_config.membership().get_node(&host.get()).is_some();
        (!is_member).then_some(removal_notice)
    }

    /// Why this host itself takes no part.
    pub fn fault(&self) -> Option<String> {
        self.removed().or_else(|| self.record.fault())
    }

    /// Whether this host founded its cluster.
    pub async fn is_founder(&self) -> Result<bool, StoreError> {
        Ok(self.record.identity().await?.founder)
    }

    /// Records a message from the leader.
    pub fn note_leader(&self, leader: HostId) {
        self.peer_health.note_answer(leader);
        *self.leader_heard.lock() = Some(Instant::now());
    }

    /// The time since the last message from a leader.
    pub fn last_leader_message(&self) -> Option<Duration> {
        let heard = *self.leader_heard.lock();
        heard.map(|heard| heard.elapsed())
    }

    /// The leader, as far as this host knows.
    pub fn leader(&self) -> Option<HostId> {
        self.raft.metrics().borrow().current_leader.and_then(host)
    }

    /// The voters.
    pub fn voters(&self) -> Vec<HostId> {
        voters(&self.raft.metrics().borrow())
    }

    /// A host's address: the one that it answers at, or else the one that it was added with.
    pub fn located(&self, host: HostId) -> Option<Located> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let noted = metrics
            .membership_config
            .membership()
            .get_node(&host.get())
            .map(|node| node.addr.as_str());
        Some(Located { host, address: self.peer_health.address(host, noted)? })
    }

    /// How long ago this host received a message from its leader; on the leader, answers of a
    /// majority.
    pub fn leader_heard(&self) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.state != ServerState::Leader {
            return self.last_leader_message();
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

    /// The status of consensus.
    pub fn status(&self) -> ConsensusStatus {
        let metrics = self.raft.metrics().borrow().clone();
        ConsensusStatus {
            host: self.me(),
            role: role(&metrics),
            leader: metrics.current_leader.and_then(host),
            term: metrics.current_term,
            applied: self.published.applied.borrow().checked_sub(1),
            voters: voters(&metrics),
            learners: metrics
                .membership_config
                .membership()
                .learner_ids()
                .filter_map(host)
                .collect(),
            leader_heard: self.leader_heard().map(millis),
            fault: self.fault(),
            peer_health: self.peer_health.status(),
        }
    }
}

fn voters(metrics: &Metrics) -> Vec<HostId> {
    let mut voters: Vec<_> =
        metrics.membership_config.membership().voter_ids().filter_map(host).collect();
    voters.sort_unstable();
    voters.dedup();
    voters
}

fn role(metrics: &Metrics) -> Role {
    if metrics.running_state.is_err() {
        return Role::Stopped;
    }
    match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Shutdown => Role::Stopped,
    }
}
