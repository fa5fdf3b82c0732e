//! Keeps agreed state in step with the Swarm that this host manages, if it does: names networks,
//! and mends what got lost between the Swarm's word and the cluster's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoutd_consensus::ProposeError;
use shoutd_core::NetworkId;
use shoutd_core::cluster::{Cluster, Command, Description, Pool, Refusal};
use shoutd_core::events::EventKind;
use shoutd_core::swarm::{
    SWARM_DRIVER, Swarm, SwarmAction, SwarmNetwork, distinct_name, plan_swarm,
};
use shoutd_core::view::Membership;
use shoutd_docker::engine::{DockerNetwork, EngineError};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::app::services::Services;
use crate::docker::mirrors::description_of;
use crate::membership::agreement::AgreementError;

/// How often the Swarm is looked at.
const PERIOD: Duration = Duration::from_secs(10);

/// The least time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a difference must last before it is believed that a call of the Swarm was lost. Its
/// leader calls within a moment, and waits for the answer.
const PATIENCE: Duration = Duration::from_secs(25);

/// Follows the Swarm that this host manages.
#[derive(Debug)]
pub struct SwarmFollower {
    services: Services,
    /// Since when each difference has been seen in every look.
    differences: Mutex<BTreeMap<SwarmAction, Instant>>,
    problems: Mutex<BTreeMap<SwarmAction, String>>,
}

impl SwarmFollower {
    /// Puts the parts together; nothing happens yet.
    pub fn new(services: Services) -> Self {
        Self { services, differences: Mutex::default(), problems: Mutex::default() }
    }

    /// Follows the Swarm until it is told to stop. It is apart from what follows the engine's own
    /// networks: an engine whose Swarm has no leader takes 20 s for each answer.
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
                // What the engine does not answer now, it is asked again.
                looked = self.reconcile() => if let Err(error) = looked { debug!("cannot see the Swarm's networks: {error}") },
                () = stop.cancelled() => return,
            }
            // Several looks in one second would show the same.
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Compares once, and mends what differs.
    async fn reconcile(&self) -> Result<(), EngineError> {
        let is_agreed = self
            .services
            .agreement
            .cluster()
            .networks
            .values()
            .any(|network| network.settings.swarm);
        // Most hosts know nothing of a Swarm, and to ask for it costs the engine something.
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
        let swarm = self.look().await?;
        // The engine first, the cluster after it, as for mirrors.
        let cluster = self.services.agreement.cluster();
        let me = self.services.agreement.me;
        let actions =
            swarm.as_ref().map(|swarm| plan_swarm(&cluster, swarm, me)).unwrap_or_default();
        let mut problems = BTreeMap::new();
        for action in self.due(&actions) {
            if let Some(swarm) = &swarm
                && let Err(error) = self.execute(&action, swarm).await
            {
                let network = swarm
                    .networks
                    .get(action.network())
                    .map_or("", |network| &network.description.name);
                problems.insert(
                    action,
                    format!("network {network} of the Swarm is not agreed on: {error:#}"),
                );
            }
        }
        self.note(problems);
        Ok(())
    }

    /// Problems are noted when they appear or change, not each time they are met.
    fn note(&self, problems: BTreeMap<SwarmAction, String>) {
        let mut known = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        for (action, problem) in &problems {
            if known.get(action) != Some(problem) {
                let cluster = self.services.agreement.cluster();
                let title = cluster.network_title(action.network());
                self.services.events.note(EventKind::NetworkFailed, title, problem);
            }
        }
        *known = problems;
    }

    /// What keeps networks of the Swarm from being agreed on, one line each.
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// What the Swarm has; `None` if this host does not manage one, or it has no leader. An engine
    /// without one lists none of its networks, and does not say why: so it is asked before and
    /// after.
    async fn look(&self) -> Result<Option<Swarm>, EngineError> {
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

    /// Those that are to be done now: what the Swarm may be about to say itself waits.
    fn due(&self, actions: &[SwarmAction]) -> Vec<SwarmAction> {
        let mut differences = self.differences.lock().unwrap_or_else(PoisonError::into_inner);
        differences.retain(|action, _| actions.contains(action));
        let mut is_due = |action: &SwarmAction| {
            let since = differences.entry(action.clone()).or_insert_with(Instant::now);
            matches!(action, SwarmAction::Describe(_) | SwarmAction::Refuse(_))
                || since.elapsed() > PATIENCE
        };
        actions.iter().filter(|action| is_due(action)).cloned().collect()
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
                    "the Swarm has it: the cluster knows it from now on"
                );
                Ok(())
            }
            SwarmAction::Remove(id) => {
                self.services.agreement.propose(Command::RemoveNetwork { id: id.clone() }).await?;
                info!(
                    network = id.short(),
                    "the Swarm does not have it any more: it is removed from the cluster"
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
        let describe = |description| Command::DescribeNetwork { id: id.clone(), description };
        match self.services.agreement.propose(describe(description.clone())).await {
            Err(AgreementError::Propose(ProposeError::Refused(Refusal::NameTaken { .. }))) => {
                let name = distinct_name(id, &description.name);
                let description = Description { name, ..description.clone() };
                self.services.agreement.propose(describe(description)).await.map(|_| ())
            }
            // Removed since the engine was asked.
            Err(AgreementError::Propose(ProposeError::Refused(Refusal::UnknownNetwork(_)))) => {
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }
}

/// Whether there is a network that has only just been agreed on, and has no name yet.
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
