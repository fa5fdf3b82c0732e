//! One host's Raft node: its state, its tasks and the public handle.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use openraft::ServerState;
use openraft::error::Fatal;
use parking_lot::Mutex;
use shoutd_core::cluster::Cluster;
use shoutd_core::{ClusterId, HostId};
use shoutd_peer::{Client, Identity};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::calls::Calls;
use crate::network::Network;
use crate::notice::Notice;
use crate::participation::Participation;
use crate::peer_health::{PeerHealth, millis};
use crate::pre_vote::pre_vote;
use crate::raft::{Metrics, Raft, config, host};
use crate::record::Record;
use crate::removal_notice::RemovalNotice;
use crate::rollback::Rollback;
use crate::snapshot_chunks::SnapshotChunks;
use crate::status::{ConsensusStatus, Role};
use crate::store::{self, LogStore, Machine, Published, Store, StoreError};
use crate::wire::Sender;
use crate::{maintenance, router};

/// How long stopping may take: only a few writes to the disk are in progress then.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// How long there may be no leader before we report it: somewhat longer than an election takes.
const ELECTION_TIME_MAX: Duration = Duration::from_secs(4);

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

/// One host's Raft node. It runs until [`Consensus::shutdown`].
pub struct Consensus {
    pub(crate) node: Arc<Node>,
    tasks: Vec<JoinHandle<()>>,
}

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

impl fmt::Debug for Consensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consensus").field("identity", &self.node.identity).finish_non_exhaustive()
    }
}

impl Consensus {
    /// Starts this host from its store. When this returns, [`Self::state`] has all committed
    /// entries that this host knew.
    ///
    /// The client must have been made with the identity of this store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(
        store: Store,
        settings: Settings,
        client: Client,
    ) -> Result<Self, StoreError> {
        Self::start_with(store, settings, client, Timeouts::default()).await
    }

    /// As [`Self::start`]. Before this host calls any other, it shows `prepare` the committed state
    /// that it knows.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start_prepared(
        store: Store,
        settings: Settings,
        client: Client,
        prepare: impl FnOnce(&Cluster),
    ) -> Result<Self, StoreError> {
        Self::launch((store, settings, client), Timeouts::default(), prepare).await
    }

    /// As [`Self::start`], with other time-outs.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start_with(
        store: Store,
        settings: Settings,
        client: Client,
        patience: Timeouts,
    ) -> Result<Self, StoreError> {
        Self::launch((store, settings, client), patience, |_| ()).await
    }

    async fn launch(
        (store, settings, client): (Store, Settings, Client),
        patience: Timeouts,
        prepare: impl FnOnce(&Cluster),
    ) -> Result<Self, StoreError> {
        let identity = client.identity().clone();
        let stored = store.identity();
        let file = store.into_file();
        let participation =
            Arc::new(Participation::new(stored.epoch, store::read_removal_notice(&file).await?));
        let (machine, published) = Machine::open(file.clone()).await?;
        let calls = Calls::Peers(client);
        // Random, but not secret: `RandomState` will do.
        let own =
            Sender { address: settings.advertise, run: RandomState::new().build_hasher().finish() };
        let peer_health = Arc::new(PeerHealth::new(
            calls.clone(),
            own,
            published.cluster.clone(),
            Arc::clone(&participation),
        ));
        let network = Network {
            me: stored.host.get(),
            peer_health: Arc::clone(&peer_health),
            participation: Arc::clone(&participation),
        };
        let log =
            LogStore::with_snapshots(file.clone(), published.snapshots.clone(), stored.host.get());
        let failed = |error: Fatal<u64>| {
            // openraft wraps the store's error several times.
            let source = file.fault().map_or_else(|| error.into(), Into::into);
            StoreError::Failed { path: file.path().to_owned(), source }
        };
        let raft = Raft::new(stored.host.get(), Arc::new(config()), network, log, machine)
            .await
            .map_err(failed)?;
        // Returns once openraft runs. Before that its metrics are those of an empty log.
        raft.with_raft_state(|_| ()).await.map_err(failed)?;
        let known = Arc::clone(&published.cluster.borrow());
        prepare(&known);
        let node = Arc::new(Node {
            identity,
            settings,
            calls,
            patience,
            participation,
            peer_health,
            raft,
            published,
            members_wanted: Notify::new(),
            leaving: Mutex::default(),
            record: Record::File(file),
            rollback: Rollback::default(),
            started: Instant::now(),
            leader_heard: Mutex::default(),
            snapshot_chunks: tokio::sync::Mutex::default(),
        });
        let tasks = vec![
            tokio::spawn(pre_vote(Arc::clone(&node))),
            tokio::spawn(maintenance::lead(Arc::clone(&node))),
            tokio::spawn(maintenance::represent(Arc::clone(&node))),
            tokio::spawn(maintenance::depart(Arc::clone(&node))),
        ];
        Ok(Self { node, tasks })
    }

    /// The handlers for peers, to be merged into the peer server's router.
    pub fn router(&self) -> Router {
        router::router(Arc::clone(&self.node))
    }

    /// Agreed state, as far as this host knows it. It never goes back to an earlier one.
    pub fn state(&self) -> watch::Receiver<Arc<Cluster>> {
        self.node.published.cluster.clone()
    }

    /// This host's id, and the cluster that it belongs to.
    pub fn identity(&self) -> &Identity {
        &self.node.identity
    }

    /// The status of consensus. Does not wait.
    pub fn status(&self) -> ConsensusStatus {
        self.node.status()
    }

    /// Why this host has left its cluster, in one line for the user; `None` while it belongs to it.
    /// This is final: the host takes no part in consensus, and the daemon should end with this
    /// line.
    pub fn removed(&self) -> Option<String> {
        self.node.removed()
    }

    /// Whether this host was removed, or left out by a recovery, and has left the Raft membership:
    /// its requests are then refused. A host that is being removed still takes part in its own
    /// removal.
    pub fn has_left(&self, host: HostId) -> bool {
        self.node.removal_notice_for(host).is_some()
    }

    /// Why this host itself takes no part now, in one line for the user; for example, its disk is
    /// full. It continues by itself when the cause is gone, unless [`Self::stopped`] has resolved.
    pub fn fault(&self) -> Option<String> {
        self.node.fault()
    }

    /// Problems of consensus other than [`Self::fault`], one line each.
    pub fn troubles(&self) -> Vec<String> {
        self.node.troubles()
    }

    /// Whether this host's data were rolled back and it has yet to catch up: agreed state may have
    /// more than it knows of.
    pub fn is_rolled_back(&self) -> bool {
        !self.node.may_vote()
    }

    /// Waits for the next notice for users.
    pub async fn next_notice(&self) -> Notice {
        self.node.participation.notices.next().await
    }

    /// Resolves when this host has asked the others about its membership, or they had time to
    /// answer: from then on it takes part. Returns one line if it must not, because another host
    /// runs with its identity.
    pub async fn until_participating(&self) -> Option<String> {
        tokio::select! {
            () = self.node.participation.sending_allowed() => None,
            other = self.node.participation.until_duplicate() => {
                Some(self.node.duplicate_text(other))
            }
        }
    }

    /// Resolves when another host is found to run with this host's identity. Returns one line that
    /// says why this one must end.
    pub async fn duplicate_identity(&self) -> String {
        let other = self.node.participation.until_duplicate().await;
        self.node.duplicate_text(other)
    }

    /// Waits until consensus stops for good, and returns why: the disk is damaged, the log has a
    /// command that this version does not know, or this host was removed. The daemon cannot
    /// continue then.
    pub async fn stopped(&self) -> String {
        let mut metrics = self.node.raft.metrics();
        let ended = metrics.wait_for(|metrics| metrics.running_state.is_err()).await;
        let error = match ended.as_deref().map(|metrics| &metrics.running_state) {
            Ok(Err(error)) => error.to_string(),
            _ => "it was dropped".to_owned(),
        };
        // openraft wraps the store's error several times.
        self.node.fault().unwrap_or(error)
    }

    /// Stops, and closes the store. Other hosts elect another leader if this one led.
    pub async fn shutdown(&self) {
        self.abort_duties();
        let node = Arc::clone(&self.node);
        node.record.stop_waiting();
        let stopping = async {
            self.node.raft.shutdown().await.map_err(|error| error.to_string())?;
            // Waits for writes in progress, so that the directory is free when this returns.
            tokio::task::spawn_blocking(move || node.record.close())
                .await
                .map_err(|error| error.to_string())
        };
        match timeout(SHUTDOWN_DEADLINE, stopping).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "consensus did not shut down cleanly"),
            Err(_) => tracing::warn!(
                "consensus did not stop within {SHUTDOWN_DEADLINE:?}; is the disk stuck?"
            ),
        }
    }
}

impl Consensus {
    fn abort_duties(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Drop for Consensus {
    fn drop(&mut self) {
        self.abort_duties();
    }
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

    fn troubles(&self) -> Vec<String> {
        let leaderless = || {
            let silence = self.leader_heard().unwrap_or_else(|| self.started.elapsed());
            let is_member =
                self.identity.cluster().is_some() && self.cluster().hosts.contains_key(&self.me());
            let waits = is_member && self.fault().is_none() && silence >= ELECTION_TIME_MAX;
            waits.then(|| {
                let reason = self.why_not(None, silence);
                format!(
                    "no change can be committed: {reason}; if hosts have new addresses, start one \
                     with --peer-addresses of the others"
                )
            })
        };
        let own =
            [leaderless(), self.rollback_problem(), self.copy_problem()].into_iter().flatten();
        own.chain(self.peer_health.distrusted()).collect()
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
