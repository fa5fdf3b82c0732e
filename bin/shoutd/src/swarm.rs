//! Keeps agreed state in step with the Swarm that this host manages, if it does: names networks, and mends what got lost between the Swarm's word and the cluster's.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoutd_consensus::ProposeError;
use shoutd_core::NetworkId;
use shoutd_core::cluster::{Command, Description, Pool, Refusal};
use shoutd_core::swarm::{SWARM_DRIVER, Swarm, SwarmAction, SwarmNetwork, distinct_name, plan_swarm};
use shoutd_docker::engine::{DockerNetwork, EngineError};
use tracing::{info, warn};

use crate::agreement::AgreementError;
use crate::mirrors::description_of;
use crate::parts::Parts;

/// How long a difference must last before it is believed that a call of the Swarm was lost. Its leader calls within a moment, and waits for the answer.
const PATIENCE: Duration = Duration::from_secs(25);

/// Follows the Swarm that this host manages.
#[derive(Debug)]
pub struct SwarmFollower {
    parts: Parts,
    /// Since when each difference has been seen in every look.
    differences: Mutex<BTreeMap<SwarmAction, Instant>>,
}

impl SwarmFollower {
    /// Puts the parts together; nothing happens yet.
    pub fn new(parts: Parts) -> Self {
        Self { parts, differences: Mutex::default() }
    }

    /// Whether there is a network that has just been agreed on, and has no name yet.
    pub fn has_news(&self) -> bool {
        let cluster = self.parts.agreement.cluster();
        cluster.networks.values().any(|network| network.settings.swarm && network.description.is_none())
    }

    /// Compares once, and mends what differs.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn reconcile(&self, listed: &[DockerNetwork]) -> Result<(), EngineError> {
        let is_agreed = self.parts.agreement.cluster().networks.values().any(|network| network.settings.swarm);
        // Asking costs the engine something, and most know nothing of a Swarm.
        if !is_agreed && !listed.iter().any(|network| network.driver == SWARM_DRIVER) {
            return Ok(());
        }
        let swarm = self.look().await?;
        let actions = swarm.as_ref().map(|swarm| {
            // The engine first, the cluster after it, as for mirrors.
            let cluster = self.parts.agreement.cluster();
            plan_swarm(&cluster, swarm, self.parts.agreement.me)
        });
        let due = self.due(actions.unwrap_or_default());
        if let Some(swarm) = swarm {
            for action in due {
                if let Err(error) = self.execute(&action, &swarm).await {
                    warn!("a network of the Swarm is not agreed on yet: {error}");
                }
            }
        }
        Ok(())
    }

    /// What the Swarm has; `None` if this host does not manage one, or it has no leader. An engine without one lists none of its networks, and does not say why: so it is asked before and
    /// after.
    async fn look(&self) -> Result<Option<Swarm>, EngineError> {
        let engine = &self.parts.engine;
        let Some(id) = engine.engine_info().await?.managed_swarm else {
            return Ok(None);
        };
        let networks = engine.networks().await?;
        let is_still = engine.engine_info().await?.managed_swarm.as_ref() == Some(&id);
        let ours = networks.iter().filter(|network| network.driver == SWARM_DRIVER);
        let networks = ours.map(|network| (NetworkId::from(&network.id), as_swarm_network(network, &id))).collect();
        Ok(is_still.then_some(Swarm { id, networks }))
    }

    /// Those that are to be done now: what the Swarm may be about to say itself waits.
    fn due(&self, actions: Vec<SwarmAction>) -> Vec<SwarmAction> {
        let mut differences = self.differences.lock().unwrap_or_else(PoisonError::into_inner);
        differences.retain(|action, _| actions.contains(action));
        let mut is_due = |action: &SwarmAction| {
            let since = differences.entry(action.clone()).or_insert_with(Instant::now);
            matches!(action, SwarmAction::Describe(_)) || since.elapsed() > PATIENCE
        };
        actions.into_iter().filter(|action| is_due(action)).collect()
    }

    async fn execute(&self, action: &SwarmAction, swarm: &Swarm) -> Result<(), AgreementError> {
        match action {
            SwarmAction::Describe(id) => match swarm.networks.get(id) {
                Some(network) => self.describe(id, &network.description).await,
                None => Ok(()),
            },
            SwarmAction::Adopt(id) => {
                let Some(network) = swarm.networks.get(id) else {
                    return Ok(());
                };
                let origin = self.parts.agreement.me;
                let command = Command::CreateNetwork { id: id.clone(), origin, settings: network.settings() };
                self.parts.agreement.propose(command).await?;
                info!(network = network.description.name, "the Swarm has it: the cluster knows it from now on");
                Ok(())
            }
            SwarmAction::Remove(id) => {
                self.parts.agreement.propose(Command::RemoveNetwork { id: id.clone() }).await?;
                info!(network = id.short(), "the Swarm does not have it any more: it is removed from the cluster");
                Ok(())
            }
        }
    }

    async fn describe(&self, id: &NetworkId, description: &Description) -> Result<(), AgreementError> {
        let describe = |description| Command::DescribeNetwork { id: id.clone(), description };
        match self.parts.agreement.propose(describe(description.clone())).await {
            Err(AgreementError::Propose(ProposeError::Refused(Refusal::NameTaken { .. }))) => {
                let name = distinct_name(id, &description.name);
                let description = Description { name, ..description.clone() };
                self.parts.agreement.propose(describe(description)).await.map(|_| ())
            }
            // Removed since the engine was asked.
            Err(AgreementError::Propose(ProposeError::Refused(Refusal::UnknownNetwork(_)))) => Ok(()),
            other => other.map(|_| ()),
        }
    }
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
