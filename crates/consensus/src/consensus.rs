//! The public handle of one host's Raft node: it starts the parts, and passes calls on to them.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use openraft::error::Fatal;
use parking_lot::Mutex;
use shoutd_core::cluster::{Cluster, Command, Outcome};
use shoutd_core::{ClusterId, HostId};
use shoutd_peer::{Client, Identity};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::admission::{FoundError, JoinError};
use crate::backup::{BackupError, BackupSummary};
use crate::calls::Calls;
use crate::network::Network;
use crate::node::{Node, Settings, Timeouts};
use crate::notice::Notice;
use crate::participation::Participation;
use crate::peer_health::PeerHealth;
use crate::pre_vote::pre_vote;
use crate::propose_error::ProposeError;
use crate::raft::{Raft, config};
use crate::record::Record;
use crate::rollback::Rollback;
use crate::status::ConsensusStatus;
use crate::store::{self, DatabaseFile, LogStore, Machine, Store, StoreError};
use crate::wire::{Errand, Sender};
use crate::{
    admission, backup, duplicate_identity, maintenance, obstacle, propose, rollback_check, router,
};

/// How long stopping may take: only a few writes to the disk are in progress then.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// How long there may be no leader before we report it: somewhat longer than an election takes.
const ELECTION_TIME_MAX: Duration = Duration::from_secs(4);

/// One host's Raft node. It runs until [`Consensus::shutdown`].
pub struct Consensus {
    pub(crate) node: Arc<Node>,
    tasks: Vec<JoinHandle<()>>,
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
        Self::launch(store, settings, client, Timeouts::default(), prepare).await
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
        Self::launch(store, settings, client, patience, |_| ()).await
    }

    async fn launch(
        store: Store,
        settings: Settings,
        client: Client,
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
        let raft = Raft::new(stored.host.get(), Arc::new(config()), network, log, machine)
            .await
            .map_err(|error| failed(&file, error))?;
        // Returns once openraft runs. Before that its metrics are those of an empty log.
        raft.with_raft_state(|_| ()).await.map_err(|error| failed(&file, error))?;
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

    /// Whether `host` was removed, or left out by a recovery, and has left the Raft membership: its
    /// requests are then refused. A host that is being removed still takes part in its own removal.
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
        troubles(&self.node)
    }

    /// Whether this host's data were rolled back and it has yet to catch up: agreed state may have
    /// more than it knows of.
    pub fn is_rolled_back(&self) -> bool {
        !rollback_check::may_vote(&self.node)
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
                Some(duplicate_identity::duplicate_text(&self.node, other))
            }
        }
    }

    /// Resolves when another host is found to run with this host's identity. Returns one line that
    /// says why this one must end.
    pub async fn duplicate_identity(&self) -> String {
        let other = self.node.participation.until_duplicate().await;
        duplicate_identity::duplicate_text(&self.node, other)
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
        // Not openraft's text: openraft wraps the store's error several times.
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
    /// Commits a command within the deadline. When it returns, [`Consensus::state`] includes it.
    /// After [`ProposeError::NoLeader`], [`ProposeError::Disk`] and [`ProposeError::TimedOut`] the
    /// command may still be committed later.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(
        &self,
        command: Command,
        deadline: Duration,
    ) -> Result<Outcome, ProposeError> {
        propose::propose(&self.node, command, deadline).await
    }

    /// Removes a host from the cluster, with all that it held, and from the Raft membership. The
    /// host may be down, and may be this one. When it returns without an error,
    /// [`Consensus::state`] includes the removal, and the others no longer need the host. Removing
    /// it again is no error.
    ///
    /// # Errors
    /// [`ProposeError::NoMajority`] if the other hosts would have no quorum,
    /// [`ProposeError::Refused`] for an unknown host and for the last one, and as
    /// [`Consensus::propose`].
    pub async fn remove_host(&self, host: HostId, deadline: Duration) -> Result<(), ProposeError> {
        propose::run_errand(&self.node, Errand::Remove(host), deadline).await.map(drop)
    }

    /// Founds a cluster with this host as the first. Founding the same cluster again is no error,
    /// even after an interruption, nor on a host that was admitted to it.
    ///
    /// # Errors
    /// See [`FoundError`].
    pub async fn found(&self, cluster: ClusterId, deadline: Duration) -> Result<(), FoundError> {
        admission::found(&self.node, cluster, deadline).await
    }

    /// Joins the cluster of these peers: asks each once, until one admits this host. When this
    /// returns, agreed state includes this host. Joining again is no error, and records this host's
    /// new name and address.
    ///
    /// # Errors
    /// See [`JoinError`]: the most relevant of the peers' answers.
    pub async fn join(&self, peers: &[SocketAddr], deadline: Duration) -> Result<(), JoinError> {
        admission::join(&self.node, peers, Instant::now() + deadline).await
    }

    /// Looks for hosts of this cluster at addresses that a user gave. This host uses these
    /// addresses from then on, also where agreed state has others, and tells those hosts its own
    /// address.
    pub async fn meet(&self, peers: &[SocketAddr]) {
        admission::meet(&self.node, peers).await;
    }

    /// Writes a backup of agreed state as this host knows it now. `now` is the time since 1970.
    /// [`Consensus::status`] tells whether this host is behind the others.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn backup(
        &self,
        writer: &mut dyn Write,
        now: Duration,
    ) -> Result<BackupSummary, BackupError> {
        backup::write(&self.node, writer, now)
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

/// Why openraft did not start.
fn failed(file: &DatabaseFile, error: Fatal<u64>) -> StoreError {
    // Not openraft's text: openraft wraps the store's error several times.
    let source = file.fault().map_or_else(|| error.into(), Into::into);
    StoreError::Failed { path: file.path().to_owned(), source }
}

/// The problem if there has been no leader for longer than an election takes.
fn without_leader(node: &Node) -> Option<String> {
    let silence = node.leader_heard().unwrap_or_else(|| node.started.elapsed());
    let is_member =
        node.identity.cluster().is_some() && node.cluster().hosts.contains_key(&node.me());
    if !is_member || node.fault().is_some() || silence < ELECTION_TIME_MAX {
        return None;
    }
    let reason = obstacle::why_not(node, None, silence);
    Some(format!(
        "no change can be committed: {reason}; if hosts have new addresses, start one with \
         --peer-addresses of the others"
    ))
}

/// Problems other than a fault, one line each.
fn troubles(node: &Node) -> Vec<String> {
    let own = [
        without_leader(node),
        rollback_check::rollback_problem(node),
        duplicate_identity::copy_problem(node),
    ]
    .into_iter()
    .flatten();
    own.chain(node.peer_health.distrusted()).collect()
}
