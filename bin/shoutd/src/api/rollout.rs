//! Whether a network is on every host already, or gone from every host: for those who create or
//! remove one and want to know when all have followed.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use shoutd_core::cluster::{Cluster, Host};
use shoutd_core::view::{self, AwaitNetwork, CopyState, HostCopy, NetworkPhase, NetworkStanding};
use shoutd_core::{HostId, NetworkId};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::app::services::Services;
use crate::docker::mirrors::Mirrors;

/// Where peers ask for this host's copy.
const PATH: &str = "/v1/networks/copy";

/// How long one question waits for what was asked for; whoever wants to wait longer asks again.
const PATIENCE_MAX: Duration = Duration::from_secs(10);

/// How much longer a peer may take to answer than it waits.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// How long a host that is away is waited for when nothing else is.
const REACH_TIME: Duration = Duration::from_secs(2);

/// What finds out about copies on all hosts.
#[derive(Debug)]
pub struct Rollouts {
    /// State and peers.
    pub services: Services,
    /// The engine's networks.
    pub mirrors: Arc<Mirrors>,
    /// Whether the engine answers.
    pub engine_state: watch::Receiver<view::Engine>,
}

/// "Tell me when your engine has a copy of this network", or has none any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct AskCopy {
    network: NetworkId,
    gone: bool,
    /// Milliseconds to wait for it.
    patience: u64,
}

/// Whether it has one, and if not what is in the way.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Copy {
    present: bool,
    problem: Option<String>,
}

impl Rollouts {
    /// How a network stands on all hosts, as soon as it stands as asked for, or when the patience
    /// is over.
    pub async fn of(&self, asked: &AwaitNetwork) -> NetworkStanding {
        let deadline = Instant::now() + Duration::from_millis(asked.patience).min(PATIENCE_MAX);
        let mut agreed = self.services.agreement.watch();
        let was_known = resolve(&agreed.borrow(), &asked.network).is_some();
        let may_go_on = |cluster: &Arc<Cluster>| {
            let id = resolve(cluster, &asked.network);
            match self.phase(cluster, id.as_ref()) {
                NetworkPhase::Asking | NetworkPhase::Nameless => false,
                // One that was there and is no more has made room for another of its name.
                NetworkPhase::Unknown => asked.gone || was_known,
                NetworkPhase::There(_) | NetworkPhase::Leaving(_) => true,
            }
        };
        _ = timeout_at(deadline, agreed.wait_for(may_go_on)).await;
        let cluster = self.services.agreement.cluster();
        let id = resolve(&cluster, &asked.network).or_else(|| asked.network.parse().ok());
        let hosts = match (self.phase(&cluster, id.as_ref()), &id) {
            (NetworkPhase::There(_), Some(id)) if !asked.gone => {
                self.copies(id, false, deadline, &cluster).await
            }
            (NetworkPhase::Leaving(_) | NetworkPhase::Unknown, Some(id)) if asked.gone => {
                let hosts = self.copies(id, true, deadline, &cluster).await;
                let is_decided = |cluster: &Arc<Cluster>| {
                    cluster.networks.get(id).is_none_or(|network| !network.removing)
                };
                _ = timeout_at(deadline, agreed.wait_for(is_decided)).await;
                hosts
            }
            _ => Vec::new(),
        };
        NetworkStanding {
            phase: self.phase(&self.services.agreement.cluster(), id.as_ref()),
            id,
            hosts,
        }
    }

    fn phase(&self, cluster: &Cluster, id: Option<&NetworkId>) -> NetworkPhase {
        let Some((id, network)) = id.and_then(|id| cluster.networks.get_key_value(id)) else {
            return NetworkPhase::Unknown;
        };
        let names = |hosts: &mut dyn Iterator<Item = HostId>| {
            let mut names: Vec<_> = hosts.map(|host| cluster.host_name(host)).collect();
            names.sort();
            names.dedup();
            names
        };
        match () {
            () if network.removing => {
                NetworkPhase::Leaving(names(&mut network.leases.values().copied()))
            }
            () if self.services.local.get().removals.contains(id) => NetworkPhase::Asking,
            () if network.description.is_none() => NetworkPhase::Nameless,
            () => NetworkPhase::There(names(&mut network.attached.iter().copied())),
        }
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
            let copy = match *id == self.services.agreement.me {
                true => Some(self.own_copy(network, gone, deadline).await),
                false => self.copy_of(*id, host, network, gone, deadline).await,
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

    /// What another host says; nothing if it does not answer.
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
        // First without waiting: a host that is away must not take all the patience there is.
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

/// The network of this name, or with this id.
fn resolve(cluster: &Cluster, wanted: &str) -> Option<NetworkId> {
    let has_name = |id: &&NetworkId| {
        let description =
            cluster.networks.get(*id).and_then(|network| network.description.as_ref());
        description.is_some_and(|description| description.name == wanted)
    };
    let by_id = wanted.parse().ok().filter(|id| cluster.networks.contains_key(id));
    by_id.or_else(|| cluster.networks.keys().find(has_name).cloned())
}

/// What peers ask.
pub fn router(rollouts: Arc<Rollouts>) -> Router {
    Router::new().route(PATH, post(answer)).with_state(rollouts)
}

async fn answer(State(rollouts): State<Arc<Rollouts>>, Json(asked): Json<AskCopy>) -> Json<Copy> {
    let deadline = Instant::now() + Duration::from_millis(asked.patience).min(PATIENCE_MAX);
    Json(rollouts.own_copy(&asked.network, asked.gone, deadline).await)
}
