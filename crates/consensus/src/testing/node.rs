//! A host's Raft node in simulated surroundings.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::future::BoxFuture;
use openraft::Config;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoutd_core::cluster::{Cluster, Command, Outcome};
use shoutd_core::{ClusterId, HostId};
use shoutd_peer::{CallError, Identity};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{Published, Records, Transport, Types};
use crate::calls::Calls;
use crate::network::Network;
use crate::participation::Participation;
use crate::peer_health::PeerHealth;
use crate::pre_vote::pre_vote;
use crate::raft::Raft;
use crate::record::Record;
use crate::rollback::Rollback;
use crate::wire::{Errand, Sender};
use crate::{
    ConsensusStatus, FoundError, JoinError, ProposeError, Settings, Timeouts, admission,
    maintenance, node, propose, router,
};

/// What surrounds a node.
#[derive(Debug)]
pub struct Surroundings<L, M> {
    /// The host's entry in agreed state.
    pub settings: Settings,
    /// How long conditions must last.
    pub timeouts: Timeouts,
    /// A number that differs between the runs of a host.
    pub run: u64,
    /// openraft's configuration.
    pub config: Arc<Config>,
    /// Calls to other hosts.
    pub transport: Arc<dyn Transport>,
    /// What the host has on disk besides log and state.
    pub records: Arc<dyn Records>,
    /// The log and the vote.
    pub log: L,
    /// The state machine.
    pub machine: M,
    /// What the state machine publishes.
    pub published: Published,
}

/// One host's Raft node, as `Consensus` has it. Clones share it.
#[derive(Clone)]
pub struct Node(Arc<node::Node>);

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("identity", &self.0.identity).finish_non_exhaustive()
    }
}

impl Node {
    /// Starts a node, as `Consensus::start` does, but none of its [`Self::duties`]. `None` if the
    /// disk fails.
    pub async fn start<L, M>(surroundings: Surroundings<L, M>) -> Option<Self>
    where
        L: RaftLogStorage<Types>,
        M: RaftStateMachine<Types>,
    {
        let Surroundings { settings, timeouts, run, config, transport, records, .. } = surroundings;
        let Surroundings { log, machine, published, .. } = surroundings;
        let identity = transport.identity().clone();
        let calls = Calls::Simulated(transport);
        let participation =
            Arc::new(Participation::new(records.identity().epoch, records.removal_notice()));
        let peer_health = Arc::new(PeerHealth::new(
            calls.clone(),
            Sender { address: settings.advertise, run },
            published.cluster.clone(),
            Arc::clone(&participation),
        ));
        let me = identity.host().get();
        let network = Network {
            me,
            peer_health: Arc::clone(&peer_health),
            participation: Arc::clone(&participation),
        };
        let raft = Raft::new(me, config, network, log, machine).await.ok()?;
        Some(Self(Arc::new(node::Node {
            identity,
            settings,
            calls,
            patience: timeouts,
            participation,
            peer_health,
            raft,
            published,
            members_wanted: Notify::new(),
            leaving: Mutex::default(),
            record: Record::Simulated(records),
            rollback: Rollback::default(),
            started: Instant::now(),
            leader_heard: Mutex::default(),
            snapshot_chunks: tokio::sync::Mutex::default(),
        })))
    }

    /// The tasks that a running node has. They run until they are dropped.
    pub fn duties(&self) -> [BoxFuture<'static, ()>; 4] {
        [
            Box::pin(pre_vote(Arc::clone(&self.0))),
            Box::pin(maintenance::depart(Arc::clone(&self.0))),
            Box::pin(maintenance::lead(Arc::clone(&self.0))),
            Box::pin(maintenance::represent(Arc::clone(&self.0))),
        ]
    }

    /// The handlers for peers.
    pub fn router(&self) -> Router {
        router::router(Arc::clone(&self.0))
    }

    /// The host's id.
    pub fn me(&self) -> HostId {
        self.0.me()
    }

    /// The host's id, and its cluster.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Agreed state, as far as the host knows it.
    pub fn cluster(&self) -> Arc<Cluster> {
        self.0.cluster()
    }

    /// The changes of [`Self::cluster`].
    pub fn clusters(&self) -> watch::Receiver<Arc<Cluster>> {
        self.0.published.cluster.clone()
    }

    /// The index of the last log entry that the host has applied.
    pub fn applied(&self) -> Option<u64> {
        self.0.published.applied.borrow().checked_sub(1)
    }

    /// The status of consensus.
    pub fn status(&self) -> ConsensusStatus {
        self.0.status()
    }

    /// The leader, as far as the host knows.
    pub fn leader(&self) -> Option<HostId> {
        self.0.leader()
    }

    /// Whether the host knows that it has left the cluster.
    pub fn has_left(&self) -> bool {
        self.0.participation.removal_notice().is_some()
    }

    /// Whether openraft has stopped, as it does when the disk fails.
    pub fn has_stopped(&self) -> bool {
        self.0.raft.metrics().borrow().running_state.is_err()
    }

    /// As `Consensus::found`.
    ///
    /// # Errors
    /// See [`FoundError`].
    pub async fn found(&self, cluster: ClusterId, deadline: Duration) -> Result<(), FoundError> {
        admission::found(&self.0, cluster, deadline).await
    }

    /// As `Consensus::join`.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub async fn join(&self, peers: &[SocketAddr], until: Instant) -> Result<(), JoinError> {
        admission::join(&self.0, peers, until).await
    }

    /// As `Consensus::propose`.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(
        &self,
        command: Command,
        deadline: Duration,
    ) -> Result<Outcome, ProposeError> {
        propose::propose(&self.0, command, deadline).await
    }

    /// Removes a host from the cluster, in one attempt of `Consensus::remove`.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn remove(&self, host: HostId, deadline: Duration) -> Result<Outcome, ProposeError> {
        propose::run_errand(&self.0, Errand::Remove(host), deadline).await
    }

    /// Calls a path of another host that is not one of consensus, as `shoutd_peer::Client` does.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        host: HostId,
        address: SocketAddr,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        self.0.calls.call(Some(host), address, path, request, deadline).await
    }
}
