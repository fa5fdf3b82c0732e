//! Asks all hosts for the rollout of a network, for `shoutdctl network`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use shoutd_core::cluster::{Cluster, Host};
use shoutd_core::driver::{RemovalState, removal_state};
use shoutd_core::rollout::{Question, is_ready, made_room, phase, question, resolve};
use shoutd_core::view::{self, AwaitNetwork, CopyState, HostCopy, NetworkPhase, NetworkStanding};
use shoutd_core::{HostId, NetworkId};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::app::services::Services;
use crate::docker::mirrors::Mirrors;
use crate::probes::kind_of;

/// Path at which peers ask for this host's copy.
const PATH: &str = "/v1/networks/copy";

/// How long one request waits at most; a client that waits longer asks again.
const PATIENCE_MAX: Duration = Duration::from_secs(10);

/// How much longer than its wait a peer may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Deadline of the first question to a peer, which does not wait.
const REACH_TIME: Duration = Duration::from_secs(2);

/// Reads the rollout of networks from all hosts.
#[derive(Debug)]
pub struct Rollouts {
    /// State and peers.
    pub services: Services,
    /// The engine's networks.
    pub mirrors: Arc<Mirrors>,
    /// Whether the engine answers.
    pub engine_state: watch::Receiver<view::Engine>,
}

/// Asks a host to answer when its engine has a copy of this network, or no copy if `gone`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct AskCopy {
    network: NetworkId,
    gone: bool,
    /// How long to wait for that, in milliseconds.
    patience: u64,
}

/// Whether the engine has a copy, and the problem if the wait timed out.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Copy {
    present: bool,
    problem: Option<String>,
}

impl Rollouts {
    /// The state of a network on all hosts, once it is as requested, or after the requested time.
    pub async fn of(&self, asked: &AwaitNetwork) -> NetworkStanding {
        let deadline = Instant::now() + Duration::from_millis(asked.patience).min(PATIENCE_MAX);
        let mut agreed = self.services.agreement.watch();
        let was_known = resolve(&agreed.borrow(), &asked.network).is_some();
        let ready = agreed.wait_for(|cluster| {
            let id = resolve(cluster, &asked.network);
            self.made_room(cluster, &asked.network).is_some()
                || is_ready(&self.phase(cluster, id.as_ref()), asked.gone, was_known)
        });
        _ = timeout_at(deadline, ready).await;
        let cluster = self.services.agreement.cluster();
        let id = resolve(&cluster, &asked.network).or_else(|| asked.network.parse().ok());
        let question = question(&self.phase(&cluster, id.as_ref()), asked.gone);
        let hosts = match (question, &id) {
            (Question::Present, Some(id)) => self.copies(id, false, deadline, &cluster).await,
            (Question::Gone, Some(id)) => {
                let hosts = self.copies(id, true, deadline, &cluster).await;
                let decided =
                    agreed.wait_for(|cluster| removal_state(cluster, id) != RemovalState::Waiting);
                _ = timeout_at(deadline, decided).await;
                hosts
            }
            _ => Vec::new(),
        };
        let cluster = self.services.agreement.cluster();
        let made_room = self.made_room(&cluster, &asked.network);
        let network = id.as_ref().and_then(|id| cluster.networks.get(id));
        let tunnel_problems = network.map_or_else(Vec::new, |network| {
            self.services.prober.problems_of(kind_of(network.encrypted))
        });
        NetworkStanding {
            phase: self.phase(&cluster, id.as_ref()),
            id,
            hosts,
            tunnel_problems,
            made_room,
        }
    }

    fn made_room(&self, cluster: &Cluster, wanted: &str) -> Option<String> {
        made_room(cluster, &self.services.in_flight.operations(), wanted)
    }

    fn phase(&self, cluster: &Cluster, id: Option<&NetworkId>) -> NetworkPhase {
        phase(cluster, &self.services.local.get(), id)
    }

    /// The copies of all hosts of the cluster.
    async fn copies(
        &self,
        network: &NetworkId,
        gone: bool,
        deadline: Instant,
        cluster: &Cluster,
    ) -> Vec<HostCopy> {
        let asked = cluster.hosts.iter().map(async |(id, host)| {
            let copy = if *id == self.services.agreement.me {
                Some(self.own_copy(network, gone, deadline).await)
            } else {
                self.copy_of(*id, host, network, gone, deadline).await
            };
            let (state, problem) = match copy {
                None => (CopyState::Unreachable, None),
                Some(Copy { present: true, problem }) => (CopyState::Present, problem),
                Some(Copy { present: false, problem }) => (CopyState::Absent, problem),
            };
            HostCopy { host: host.name.clone(), state, problem }
        });
        join_all(asked).await
    }

    /// The copy of another host; `None` if it does not answer.
    async fn copy_of(
        &self,
        id: HostId,
        host: &Host,
        network: &NetworkId,
        gone: bool,
        deadline: Instant,
    ) -> Option<Copy> {
        let patience = deadline.saturating_duration_since(Instant::now());
        let patience = patience.as_millis().try_into().unwrap_or(u64::MAX);
        let mut question = AskCopy { network: network.clone(), gone, patience: 0 };
        // First without waiting: a host that is down must not use up all the time.
        let first: Option<Copy> =
            self.services.peers.call_host(id, host.address, PATH, &question, REACH_TIME).await.ok();
        if first.as_ref().is_none_or(|copy| copy.present != gone) {
            return first;
        }
        question.patience = patience;
        let within = deadline.saturating_duration_since(Instant::now()) + ANSWER_TIME;
        self.services.peers.call_host(id, host.address, PATH, &question, within).await.ok()
    }

    async fn own_copy(&self, network: &NetworkId, gone: bool, deadline: Instant) -> Copy {
        let mut copies = self.mirrors.watch_copies();
        let waited =
            timeout_at(deadline, copies.wait_for(|copies| copies.contains(network) != gone)).await;
        let present = waited.is_ok() != gone;
        let problem = match &*self.engine_state.borrow() {
            view::Engine::Absent(why) => Some(why.clone()),
            view::Engine::Serving(_) => self.mirrors.problem(network),
        };
        Copy { present, problem: problem.filter(|_| waited.is_err()) }
    }
}

/// The routes for peers.
pub fn router(rollouts: Arc<Rollouts>) -> Router {
    Router::new().route(PATH, post(answer)).with_state(rollouts)
}

async fn answer(State(rollouts): State<Arc<Rollouts>>, Json(asked): Json<AskCopy>) -> Json<Copy> {
    let deadline = Instant::now() + Duration::from_millis(asked.patience).min(PATIENCE_MAX);
    Json(rollouts.own_copy(&asked.network, asked.gone, deadline).await)
}
