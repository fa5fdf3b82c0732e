//! The handle of one host on agreement.

use std::fmt;
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

use crate::contacts::{Contacts, millis};
use crate::network::Network;
use crate::raft::{Metrics, Raft, config, host};
use crate::status::{ConsensusStatus, Role};
use crate::store::{self, DatabaseFile, LogStore, Machine, Published, Store, StoreError};
use crate::{duties, router};

/// How long stopping may take: what is under way is a few writes to the disk.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// What a host says of itself when it is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where peers reach it.
    pub advertise: SocketAddr,
    /// Its host name, for people.
    pub name: String,
}

/// One host's part in agreement. It runs until [`Consensus::shutdown`].
pub struct Consensus {
    pub(crate) inner: Arc<Inner>,
    tasks: Vec<JoinHandle<()>>,
}

pub(crate) struct Inner {
    pub identity: Identity,
    pub settings: Settings,
    pub client: Client,
    pub contacts: Arc<Contacts>,
    pub raft: Raft,
    pub published: Published,
    /// Wakes the leader's duties: somebody waits for a change of members.
    pub members_wanted: Notify,
    file: DatabaseFile,
    leader_heard: Mutex<Option<Instant>>,
}

impl fmt::Debug for Consensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consensus").field("identity", &self.inner.identity).finish_non_exhaustive()
    }
}

impl Consensus {
    /// Takes up where this host was. When it returns, [`Self::state`] has everything that this host ever acknowledged.
    ///
    /// The client must have been made with the identity of this store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(store: Store, settings: Settings, client: Client) -> Result<Self, StoreError> {
        let identity = client.identity().clone();
        let me = store.identity().host;
        let file = store.into_file();
        let (machine, published) = Machine::open(file.clone()).await?;
        let contacts = Arc::new(Contacts::new(client.clone(), published.cluster.clone()));
        let network = Network { me: me.get(), contacts: Arc::clone(&contacts) };
        let raft = Raft::new(me.get(), Arc::new(config()), network, LogStore::new(file.clone()), machine).await;
        let failed = |error: Fatal<u64>| StoreError::Failed { path: file.path().to_owned(), source: error.into() };
        let raft = raft.map_err(failed)?;
        // Answered once openraft runs; before, its status would be that of a host without a past.
        raft.with_raft_state(|_| ()).await.map_err(failed)?;
        let inner = Arc::new(Inner {
            identity,
            settings,
            client,
            contacts,
            raft,
            published,
            members_wanted: Notify::new(),
            file,
            leader_heard: Mutex::default(),
        });
        let tasks =
            vec![tokio::spawn(duties::lead(Arc::clone(&inner))), tokio::spawn(duties::represent(Arc::clone(&inner)))];
        Ok(Self { inner, tasks })
    }

    /// What peers ask of this host; to be merged into the peer server's router.
    pub fn router(&self) -> Router {
        router::router(Arc::clone(&self.inner))
    }

    /// The agreed state, as far as this host knows it. It never goes back.
    pub fn state(&self) -> watch::Receiver<Arc<Cluster>> {
        self.inner.published.cluster.clone()
    }

    /// Who this host is, and which cluster it belongs to.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// How agreement fares. Answers at once.
    pub fn status(&self) -> ConsensusStatus {
        self.inner.status()
    }

    /// Waits until consensus stops, which it does by itself only when the disk fails it, and returns why. The daemon cannot go
    /// on then.
    pub async fn stopped(&self) -> String {
        let mut metrics = self.inner.raft.metrics();
        let ended = metrics.wait_for(|metrics| metrics.running_state.is_err()).await;
        let error = match ended.as_deref().map(|metrics| &metrics.running_state) {
            Ok(Err(error)) => error.to_string(),
            _ => "it was dropped".to_owned(),
        };
        // openraft wraps the store's words several times.
        self.inner.file.fault().map_or(error, str::to_owned)
    }

    /// Stops, and closes the store. Other hosts elect another leader if this one led.
    pub async fn shutdown(&self) {
        self.abort_duties();
        let file = self.inner.file.clone();
        let stopping = async {
            self.inner.raft.shutdown().await.map_err(|error| error.to_string())?;
            // The closing waits for writes under way, so that the directory is free when this returns.
            tokio::task::spawn_blocking(move || file.close()).await.map_err(|error| error.to_string())
        };
        match timeout(SHUTDOWN_DEADLINE, stopping).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "agreement did not stop in order"),
            Err(_) => tracing::warn!("agreement did not stop within {SHUTDOWN_DEADLINE:?}; is the disk stuck?"),
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

impl Inner {
    pub fn me(&self) -> HostId {
        self.identity.host()
    }

    pub fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.published.cluster.borrow())
    }

    /// Records that this host belongs to a cluster, unless it belongs to one already; returns to which.
    pub async fn belong_to(&self, cluster: ClusterId, founder: bool) -> Result<ClusterId, StoreError> {
        if let Some(has) = self.identity.cluster() {
            return Ok(has);
        }
        let recorded = store::record_cluster(&self.file, cluster, founder).await?.cluster.unwrap_or(cluster);
        // Whoever comes first records the same that all later ones find.
        Ok(self.identity.join(recorded).err().unwrap_or(recorded))
    }

    /// Whether this host founded its cluster.
    pub async fn is_founder(&self) -> Result<bool, StoreError> {
        Ok(store::read_identity(&self.file).await?.founder)
    }

    /// Takes note of a message from the leader.
    pub fn hear_leader(&self, leader: HostId) {
        self.contacts.heard(leader);
        *self.leader_heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
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
        let heard = *self.leader_heard.lock().unwrap_or_else(PoisonError::into_inner);
        let role = role(&metrics);
        ConsensusStatus {
            host: self.me(),
            role,
            leader: metrics.current_leader.and_then(host),
            term: metrics.current_term,
            applied: self.published.applied.borrow().checked_sub(1),
            voters: voters(&metrics),
            learners: metrics.membership_config.membership().learner_ids().filter_map(host).collect(),
            leader_heard: if role == Role::Leader { Some(0) } else { heard.map(|heard| millis(heard.elapsed())) },
            contacts: self.contacts.status(),
        }
    }
}

fn voters(metrics: &Metrics) -> Vec<HostId> {
    let mut voters: Vec<_> = metrics.membership_config.membership().voter_ids().filter_map(host).collect();
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
