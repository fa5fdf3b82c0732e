//! If this host is a manager of a Swarm, keeps agreed state in step with the Swarm's networks: sets
//! their names, and repairs differences after a lost call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shoutd_consensus::ProposeError;
use shoutd_core::NetworkId;
use shoutd_core::cluster::{Cluster, Command, Description, Pool, Refusal};
use shoutd_core::events::EventKind;
use shoutd_core::swarm::{
    Differences, SWARM_DRIVER, Swarm, SwarmAction, SwarmNetwork, distinct_name, plan_swarm,
};
use shoutd_core::view::Membership;
use shoutd_docker::engine::{DockerNetwork, EngineError};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::app::services::Services;
use crate::docker::mirror_spec::description_of;
use crate::membership::agreement::AgreementError;

/// Interval of comparisons.
const PERIOD: Duration = Duration::from_secs(10);

/// Minimum time between two comparisons.
const PAUSE: Duration = Duration::from_secs(1);

/// Follows the Swarm of which this host is a manager.
#[derive(Debug)]
pub struct SwarmFollower {
    services: Services,
    differences: Mutex<Differences>,
    /// Zero of the times in `differences`.
    begin: Instant,
    problems: Mutex<BTreeMap<SwarmAction, String>>,
}

impl SwarmFollower {
    /// Starts with no comparison made.
    pub fn new(services: Services) -> Self {
        let begin = Instant::now();
        Self { services, differences: Mutex::default(), begin, problems: Mutex::default() }
    }

    /// Follows the Swarm until `stop`. This is a separate task from `docker::follower`, because an
    /// engine whose Swarm has no leader takes 20 s for each answer.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut cluster = self.services.agreement.watch();
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_time = tokio::select! {
                _ = tick.tick() => true,
                changed = cluster.changed() => match changed {
                    Ok(()) => has_news(&cluster.borrow_and_update()),
                    Err(_) => return,
                },
                () = stop.cancelled() => return,
            };
            if !is_time || self.services.agreement.membership() != Membership::Member {
                continue;
            }
            tokio::select! {
                compared = self.reconcile() => {
                    // The next comparison tries again.
                    if let Err(error) = compared {
                        debug!("cannot list the Swarm's networks: {error}");
                    }
                }
                () = stop.cancelled() => return,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Compares once, and repairs differences.
    async fn reconcile(&self) -> Result<(), EngineError> {
        let is_agreed = self
            .services
            .agreement
            .cluster()
            .networks
            .values()
            .any(|network| network.settings.swarm);
        // Most hosts have no Swarm networks; spare their engines the expensive calls.
        if !is_agreed
            && !self
                .services
                .engine
                .networks()
                .await?
                .iter()
                .any(|network| network.driver == SWARM_DRIVER)
        {
            return Ok(());
        }
        let swarm = self.read().await?;
        // Read the engine before agreed state: see `plan_mirrors`.
        let cluster = self.services.agreement.cluster();
        let me = self.services.agreement.me;
        let actions =
            swarm.as_ref().map(|swarm| plan_swarm(&cluster, swarm, me)).unwrap_or_default();
        let mut problems = BTreeMap::new();
        let due = self.differences.lock().due(actions, self.begin.elapsed());
        for action in due {
            if let Some(swarm) = &swarm
                && let Err(error) = self.execute(&action, swarm).await
            {
                let network = swarm
                    .networks
                    .get(action.network())
                    .map_or("", |network| &network.description.name);
                problems.insert(
                    action,
                    format!("Swarm network {network} cannot be agreed on: {error:#}"),
                );
            }
        }
        self.note(problems);
        Ok(())
    }

    /// Records an event when a problem appears or changes.
    fn note(&self, problems: BTreeMap<SwarmAction, String>) {
        let mut known = self.problems.lock();
        for (action, problem) in &problems {
            if known.get(action) != Some(problem) {
                let cluster = self.services.agreement.cluster();
                let title = cluster.network_title(action.network());
                self.services.events.note(EventKind::NetworkFailed, title, problem);
            }
        }
        *known = problems;
    }

    /// Problems with Swarm networks, one line each.
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().values().cloned().collect()
    }

    /// The Swarm's networks; `None` if this host is not a manager, or the Swarm has no leader.
    /// Without a leader the engine silently omits the Swarm's networks from its list, so we check
    /// for a leader before and after.
    async fn read(&self) -> Result<Option<Swarm>, EngineError> {
        let engine = &self.services.engine;
        let Some(id) = engine.engine_info().await?.managed_swarm().map(str::to_owned) else {
            return Ok(None);
        };
        let networks = engine.networks().await?;
        let is_still = engine.engine_info().await?.managed_swarm() == Some(&id);
        let ours = networks.iter().filter(|network| network.driver == SWARM_DRIVER);
        let networks = ours
            .map(|network| (NetworkId::from(&network.id), as_swarm_network(network, &id)))
            .collect();
        Ok(is_still.then_some(Swarm { id, networks }))
    }

    async fn execute(&self, action: &SwarmAction, swarm: &Swarm) -> anyhow::Result<()> {
        match action {
            SwarmAction::Describe(id) => match swarm.networks.get(id) {
                Some(network) => Ok(self.describe(id, &network.description).await?),
                None => Ok(()),
            },
            SwarmAction::Refuse(id) => match swarm.networks.get(id).and_then(SwarmNetwork::refusal)
            {
                Some(refusal) => Err(refusal.into()),
                None => Ok(()),
            },
            SwarmAction::Adopt(id) => {
                let Some(network) = swarm.networks.get(id) else {
                    return Ok(());
                };
                let origin = self.services.agreement.me;
                let command =
                    Command::CreateNetwork { id: id.clone(), origin, settings: network.settings() };
                self.services.agreement.propose(command).await?;
                info!(
                    network = network.description.name,
                    "added a Swarm network that the cluster did not have"
                );
                Ok(())
            }
            SwarmAction::Remove(id) => {
                self.services.agreement.propose(Command::RemoveNetwork { id: id.clone() }).await?;
                info!(
                    network = id.short(),
                    "removed a network from the cluster that the Swarm no longer has"
                );
                Ok(())
            }
        }
    }

    async fn describe(
        &self,
        id: &NetworkId,
        description: &Description,
    ) -> Result<(), AgreementError> {
        match self.propose_description(id, description.clone()).await {
            Err(AgreementError::Propose(ProposeError::Refused(Refusal::NameTaken { .. }))) => {
                let name = distinct_name(id, &description.name);
                let description = Description { name, ..description.clone() };
                self.propose_description(id, description).await
            }
            // It was removed after we read the engine's list.
            Err(AgreementError::Propose(ProposeError::Refused(Refusal::UnknownNetwork(_)))) => {
                Ok(())
            }
            other => other,
        }
    }

    async fn propose_description(
        &self,
        id: &NetworkId,
        description: Description,
    ) -> Result<(), AgreementError> {
        let command = Command::DescribeNetwork { id: id.clone(), description };
        self.services.agreement.propose(command).await.map(|_| ())
    }
}

/// Whether a Swarm network was just agreed on and has no name yet.
fn has_news(cluster: &Cluster) -> bool {
    cluster.networks.values().any(|network| network.settings.swarm && network.description.is_none())
}

fn as_swarm_network(network: &DockerNetwork, swarm: &str) -> SwarmNetwork {
    let pools = network.ipam.configs.iter().filter_map(|config| {
        let (gateway, auxiliary) = (config.gateway, config.auxiliary.clone());
        Some(Pool { subnet: config.subnet?, gateway, auxiliary, range: None })
    });
    SwarmNetwork {
        description: Description { swarm: Some(swarm.to_owned()), ..description_of(network) },
        pools: pools.collect(),
        options: network.options.clone(),
        internal: network.internal,
        ipv6: network.enable_ipv6,
    }
}
