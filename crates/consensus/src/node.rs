//! The handle of one host on agreement.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use openraft::ServerState;
use openraft::error::Fatal;
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

/// How long stopping may take: what is under way is a few writes to the disk.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// How long there may be no leader before that is a problem: somewhat longer than an election
/// takes.
const ELECTION_TIME_MAX: Duration = Duration::from_secs(4);

/// What a host says of itself when it is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where peers reach it.
    pub advertise: SocketAddr,
    /// Its host name, for people.
    pub name: String,
}

/// How long to wait before something is done that a moment's trouble is no reason for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For how long a voter must not have been there to be replaced by another host.
    pub voter_away: Duration,
}

impl Default for Timeouts {
    /// A minute: longer than a host takes to start again, so that this alone moves no votes.
    fn default() -> Self {
        Self { voter_away: Duration::from_secs(60) }
    }
}

/// One host's part in agreement. It runs until [`Consensus::shutdown`].
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
    /// Wakes the leader's duties: somebody waits for a change of members.
    pub members_wanted: Notify,
    /// Hosts that this one, as the leader, is about to remove.
    pub leaving: Mutex<BTreeSet<HostId>>,
    pub record: Record,
    /// How far this host was, if its data were set back.
    pub rollback: Rollback,
    /// When it began to run.
    pub started: Instant,
    pub leader_heard: Mutex<Option<Instant>>,
    /// The snapshot that is coming.
    pub snapshot_chunks: tokio::sync::Mutex<SnapshotChunks>,
}

impl fmt::Debug for Consensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consensus").field("identity", &self.node.identity).finish_non_exhaustive()
    }
}

impl Consensus {
    /// Takes up where this host was. When it returns, [`Self::state`] has everything that this host
    /// ever acknowledged.
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

    /// The same with another patience.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start_with(
        store: Store,
        settings: Settings,
        client: Client,
        patience: Timeouts,
    ) -> Result<Self, StoreError> {
        let identity = client.identity().clone();
        let stored = store.identity();
        let file = store.into_file();
        let participation =
            Arc::new(Participation::new(stored.epoch, store::read_farewell(&file).await?));
        let (machine, published) = Machine::open(file.clone()).await?;
        let calls = Calls::Peers(client);
        // Random, and nobody need be unable to guess it.
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
            // openraft wraps the store's words several times.
            let source = file.fault().map_or_else(|| error.into(), Into::into);
            StoreError::Failed { path: file.path().to_owned(), source }
        };
        let raft = Raft::new(stored.host.get(), Arc::new(config()), network, log, machine)
            .await
            .map_err(failed)?;
        // Answered once openraft runs; before, its status would be that of a host without a past.
        raft.with_raft_state(|_| ()).await.map_err(failed)?;
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

    /// What peers ask of this host; to be merged into the peer server's router.
    pub fn router(&self) -> Router {
        router::router(Arc::clone(&self.node))
    }

    /// The agreed state, as far as this host knows it. It never goes back.
    pub fn state(&self) -> watch::Receiver<Arc<Cluster>> {
        self.node.published.cluster.clone()
    }

    /// Who this host is, and which cluster it belongs to.
    pub fn identity(&self) -> &Identity {
        &self.node.identity
    }

    /// How agreement fares. Answers at once.
    pub fn status(&self) -> ConsensusStatus {
        self.node.status()
    }

    /// Why this host does not belong to its cluster any more, in one line for the user; `None`
    /// while it does. It is for ever: the host takes no part in agreement, and the daemon should
    /// end with this line.
    pub fn removed(&self) -> Option<String> {
        self.node.removed()
    }

    /// Whether this host was removed, or was not there when the cluster was recovered, and has no
    /// part in agreement left: the test for turning its requests away. A host that is just being
    /// removed still takes part in its own removal.
    pub fn has_left(&self, host: HostId) -> bool {
        self.node.removal_notice_for(host).is_some()
    }

    /// Why this host agrees on nothing now, in one line for the user, if that is for a reason of
    /// its own: its disk is full, say. It goes on by itself when that is mended, unless
    /// [`Self::stopped`] is ready.
    pub fn fault(&self) -> Option<String> {
        self.node.fault()
    }

    /// What is in the way of agreement now and is no fault of this host's own, one line each.
    pub fn troubles(&self) -> Vec<String> {
        self.node.troubles()
    }

    /// The next thing that a person should hear of, as soon as there is one.
    pub async fn next_notice(&self) -> Notice {
        self.node.participation.notices.next().await
    }

    /// Ready when this host has asked the others what has become of it, or had time to: from then
    /// on it takes part. Says why it must not, in one line, if another host is at work as this one.
    pub async fn looked_around(&self) -> Option<String> {
        tokio::select! {
            () = self.node.participation.speech() => None,
            twin = self.node.participation.until_twin() => Some(self.node.twin_text(twin)),
        }
    }

    /// Ready when another host is found to be at work as this one: why this one must end, in one
    /// line.
    pub async fn twin(&self) -> String {
        let twin = self.node.participation.until_twin().await;
        self.node.twin_text(twin)
    }

    /// Waits until consensus stops for good, and returns why: the disk is damaged, or the log has
    /// something that this version does not know, or this host was removed. The daemon cannot go on
    /// then.
    pub async fn stopped(&self) -> String {
        let mut metrics = self.node.raft.metrics();
        let ended = metrics.wait_for(|metrics| metrics.running_state.is_err()).await;
        let error = match ended.as_deref().map(|metrics| &metrics.running_state) {
            Ok(Err(error)) => error.to_string(),
            _ => "it was dropped".to_owned(),
        };
        // openraft wraps the store's words several times.
        self.node.fault().unwrap_or(error)
    }

    /// Stops, and closes the store. Other hosts elect another leader if this one led.
    pub async fn shutdown(&self) {
        self.abort_duties();
        let node = Arc::clone(&self.node);
        node.record.stop_waiting();
        let stopping = async {
            self.node.raft.shutdown().await.map_err(|error| error.to_string())?;
            // The closing waits for writes under way, so that the directory is free when this
            // returns.
            tokio::task::spawn_blocking(move || node.record.close())
                .await
                .map_err(|error| error.to_string())
        };
        match timeout(SHUTDOWN_DEADLINE, stopping).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "agreement did not stop in order"),
            Err(_) => tracing::warn!(
                "agreement did not stop within {SHUTDOWN_DEADLINE:?}; is the disk stuck?"
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

    /// Records that this host belongs to a cluster, unless it belongs to one already; returns to
    /// which.
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
        // Before others can see that it belongs to one.
        self.participation.set_epoch(recorded.epoch);
        let recorded = recorded.cluster.unwrap_or(cluster);
        // Whoever comes first records the same that all later ones find.
        Ok(self.identity.join(recorded).err().unwrap_or(recorded))
    }

    /// Why this host has left the cluster, for its user.
    pub fn removed(&self) -> Option<String> {
        let directory = self.record.path().parent().unwrap_or(self.record.path());
        Some(
            self.participation
                .removal_notice()?
                .text(&self.settings.name, &directory.display().to_string()),
        )
    }

    /// What a host is to be told that has left the cluster. One that is still in the Raft group
    /// takes part in its removal.
    pub fn removal_notice_for(&self, host: HostId) -> Option<RemovalNotice> {
        let removal_notice = RemovalNotice::of(&self.cluster(), host)?;
        let metrics = self.raft.metrics();
        let is_member =
            metrics.borrow().membership_config.membership().get_node(&host.get()).is_some();
        (!is_member).then_some(removal_notice)
    }

    /// Why this host agrees on nothing.
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
                    "nothing can be agreed on: {reason}; if hosts have new addresses, start one \
                     with --peer-addresses of the others"
                )
            })
        };
        let own =
            [leaderless(), self.set_back_problem(), self.copy_problem()].into_iter().flatten();
        own.chain(self.peer_health.distrusted()).collect()
    }

    /// Takes note of a message from the leader.
    pub fn hear_leader(&self, leader: HostId) {
        self.peer_health.heard(leader);
        *self.leader_heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long ago it heard from one.
    pub fn last_heard_leader(&self) -> Option<Duration> {
        let heard = *self.leader_heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.map(|heard| heard.elapsed())
    }

    /// The leader, as far as this host knows.
    pub fn leader(&self) -> Option<HostId> {
        self.raft.metrics().borrow().current_leader.and_then(host)
    }

    /// The hosts with a vote.
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
