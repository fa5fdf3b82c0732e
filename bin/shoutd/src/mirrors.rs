//! Keeps the networks of this host's engine in step with the cluster's, through the engine's own API.
//!
//! It never runs inside a plugin callback: the engine would wait for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoutd_consensus::ProposeError;
use shoutd_core::cluster::{Command, Description, Network, Refusal};
use shoutd_core::mirror::{DRIVER, EngineNetwork, MirrorAction, NETWORK_OPTION, plan_mirrors};
use shoutd_core::{DockerNetworkId, NetworkId};
use shoutd_docker::engine::{
    CreateNetworkError, DockerNetwork, EngineClient, EngineError, Ipam, IpamConfig, NetworkSpec, RemoveNetworkError,
};
use tracing::{info, warn};

use crate::agreement::{Agreement, AgreementError};
use crate::local_state::LocalState;

/// How long after the cluster agreed to a network its engine may take to store it, before it counts as never made.
const CREATION_TIME_MAX: Duration = Duration::from_secs(60);

/// The mirrors of this host.
#[derive(Debug)]
pub struct Mirrors {
    agreement: Agreement,
    local: Arc<LocalState>,
    engine: EngineClient,
    under_way: Arc<UnderWay>,
    problems: Mutex<BTreeMap<NetworkId, String>>,
}

/// What is under way between this host's engine and shoutd, where a callback alone does not tell.
#[derive(Debug, Default)]
pub struct UnderWay {
    /// Networks whose creation the engine has asked for, and when.
    creations: Mutex<BTreeMap<NetworkId, Instant>>,
    /// Networks whose mirror shoutd itself is making: if the engine takes that back, it is not a user who removes the network.
    mirrorings: Mutex<BTreeSet<NetworkId>>,
}

impl UnderWay {
    /// Notes that the engine creates a network.
    pub fn creating(&self, network: &NetworkId) {
        let mut creations = self.creations.lock().unwrap_or_else(PoisonError::into_inner);
        creations.retain(|_, since| since.elapsed() < CREATION_TIME_MAX);
        creations.insert(network.clone(), Instant::now());
    }

    /// Notes that the engine has given up creating a network, or has removed it.
    pub fn not_creating(&self, network: &NetworkId) {
        self.creations.lock().unwrap_or_else(PoisonError::into_inner).remove(network);
    }

    /// Whether shoutd itself is making a mirror of this network.
    pub fn is_mirroring(&self, network: &NetworkId) -> bool {
        self.mirrorings.lock().unwrap_or_else(PoisonError::into_inner).contains(network)
    }

    fn creations(&self) -> BTreeSet<NetworkId> {
        let mut creations = self.creations.lock().unwrap_or_else(PoisonError::into_inner);
        creations.retain(|_, since| since.elapsed() < CREATION_TIME_MAX);
        creations.keys().cloned().collect()
    }

    fn mirroring(&self, network: &NetworkId, is_under_way: bool) {
        let mut mirrorings = self.mirrorings.lock().unwrap_or_else(PoisonError::into_inner);
        if is_under_way {
            mirrorings.insert(network.clone());
        } else {
            mirrorings.remove(network);
        }
    }
}

impl Mirrors {
    /// Puts the parts together; nothing happens yet.
    pub fn new(agreement: Agreement, local: Arc<LocalState>, engine: EngineClient, under_way: Arc<UnderWay>) -> Self {
        Self { agreement, local, engine, under_way, problems: Mutex::default() }
    }

    /// What keeps networks of the cluster from being on this host, one line each.
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Compares once and mends what differs. Returns the engine's networks as they were before.
    ///
    /// # Errors
    /// If the engine does not list its networks.
    pub async fn reconcile(&self) -> Result<Vec<DockerNetwork>, EngineError> {
        self.finish_removals().await;
        // The engine first, the cluster after it: see `plan_mirrors`.
        let networks = self.engine.networks().await?;
        let cluster = self.agreement.cluster();
        let engine: Vec<_> = networks.iter().map(as_engine_network).collect();
        let creations = self.under_way.creations();
        let plan = plan_mirrors(&cluster, &self.local.get(), self.agreement.me, &engine, &creations);
        let mut problems = BTreeMap::new();
        for action in plan {
            if let Err((network, problem)) = self.execute(action, &networks).await {
                problems.insert(network, problem);
            }
        }
        self.note(problems);
        Ok(networks)
    }

    /// Problems are logged when they appear or change, not each time they are met.
    fn note(&self, problems: BTreeMap<NetworkId, String>) {
        let mut known = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        for (network, problem) in &problems {
            if known.get(network) != Some(problem) {
                warn!("{problem}");
            }
        }
        *known = problems;
    }

    /// Asks the cluster again about removals that it could not be asked about at the time.
    async fn finish_removals(&self) {
        for network in &self.local.get().removals {
            match self.agreement.propose(Command::RemoveNetwork { id: network.clone() }).await {
                Ok(_) => info!(%network, "removed from the cluster"),
                Err(AgreementError::Propose(ProposeError::Refused(refusal))) => {
                    warn!("{refusal}: it stays, and comes back on this host")
                }
                Err(error) => {
                    warn!(%network, "cannot remove it from the cluster yet: {error}");
                    return;
                }
            }
            let forgotten = self.local.change(|local| local.removals.remove(network)).await;
            if let Err(error) = forgotten {
                warn!("{error}");
            }
        }
    }

    async fn execute(&self, action: MirrorAction, networks: &[DockerNetwork]) -> Result<(), (NetworkId, String)> {
        match action {
            MirrorAction::Describe { network, docker } => {
                let result = self.describe(&network, &docker, networks).await;
                result.map_err(|problem| (network, problem))
            }
            MirrorAction::Create { network } => {
                let result = self.create(&network).await;
                result.map_err(|problem| (network, problem))
            }
            MirrorAction::Remove { docker } => {
                let network = NetworkId::from(&docker);
                self.remove(&docker).await.map_err(|problem| (network, problem))
            }
            MirrorAction::Abandon { network } => {
                info!(%network, "its creation was never finished; it is removed from the cluster");
                let removed = self.agreement.propose(Command::RemoveNetwork { id: network.clone() }).await;
                removed.map(|_| ()).map_err(|error| (network, error.to_string()))
            }
            MirrorAction::NameTaken { network, name } => {
                let driver =
                    networks.iter().find(|other| other.name == name).map_or("another", |other| other.driver.as_str());
                let problem = format!(
                    "network {name} cannot be made on this host: there is a Docker network of that name here already (driver {driver}); \
                     remove that one with: docker network rm {name}"
                );
                Err((network, problem))
            }
        }
    }

    /// Tells the cluster the name of a network that was created here.
    async fn describe(
        &self,
        network: &NetworkId,
        docker: &DockerNetworkId,
        networks: &[DockerNetwork],
    ) -> Result<(), String> {
        let Some(copy) = networks.iter().find(|copy| copy.id == *docker) else {
            return Ok(());
        };
        let description =
            Description { name: copy.name.clone(), labels: copy.labels.clone(), attachable: copy.attachable };
        let command = Command::DescribeNetwork { id: network.clone(), description };
        match self.agreement.propose(command).await {
            Ok(_) => {
                self.under_way.not_creating(network);
                info!(network = copy.name, "created on this host and made known to the cluster");
                Ok(())
            }
            Err(AgreementError::Propose(ProposeError::Refused(refusal @ Refusal::NameTaken { .. }))) => {
                self.yield_name(network, copy, &refusal).await
            }
            Err(error) => Err(format!("cannot tell the cluster the name of network {}: {error}", copy.name)),
        }
    }

    /// The same name was created on two hosts at once, and the other was first: ours makes room for its mirror, unless containers use it.
    async fn yield_name(&self, network: &NetworkId, copy: &DockerNetwork, refusal: &Refusal) -> Result<(), String> {
        let in_use = self.local.get().endpoints.values().any(|endpoint| endpoint.network == *network);
        if in_use {
            return Err(format!(
                "network {} of this host stays apart from the cluster's: {refusal}; stop its containers to merge them",
                copy.name
            ));
        }
        warn!("{refusal}: the copy of this host is replaced by that network's");
        self.under_way.not_creating(network);
        let removed = self.agreement.propose(Command::RemoveNetwork { id: network.clone() }).await;
        removed.map_err(|error| error.to_string())?;
        self.remove(&copy.id).await
    }

    async fn create(&self, id: &NetworkId) -> Result<(), String> {
        let cluster = self.agreement.cluster();
        let Some((network, description)) =
            cluster.networks.get(id).and_then(|n| n.description.as_ref().map(|d| (n, d)))
        else {
            return Ok(());
        };
        self.under_way.mirroring(id, true);
        let created = self.engine.create_network(&mirror_of(id, network, description)).await;
        self.under_way.mirroring(id, false);
        match created {
            Ok(_) => {
                info!(network = description.name, "made on this host");
                Ok(())
            }
            // Somebody made it in the meantime; the next comparison tells who.
            Err(CreateNetworkError::NameTaken { .. }) => Ok(()),
            Err(error) => Err(format!("network {} cannot be made on this host: {error}", description.name)),
        }
    }

    async fn remove(&self, docker: &DockerNetworkId) -> Result<(), String> {
        match self.engine.remove_network(docker).await {
            Ok(()) | Err(RemoveNetworkError::NotFound { .. }) => {
                info!(network = docker.short(), "removed from this host, as it is gone from the cluster");
                Ok(())
            }
            Err(error) => {
                Err(format!("network {} is gone from the cluster but not from this host: {error}", docker.short()))
            }
        }
    }
}

fn as_engine_network(network: &DockerNetwork) -> EngineNetwork {
    EngineNetwork {
        id: network.id.clone(),
        name: network.name.clone(),
        ours: network.driver == DRIVER,
        mirrors: network.options.get(NETWORK_OPTION).and_then(|id| id.parse().ok()),
    }
}

/// The Docker network that is this network's copy on a host that did not create it.
fn mirror_of(id: &NetworkId, network: &Network, description: &Description) -> NetworkSpec {
    let settings = &network.settings;
    let mut options = settings.options.clone();
    options.insert(NETWORK_OPTION.to_owned(), id.to_string());
    let configs = settings.pools.iter().map(|pool| IpamConfig {
        subnet: Some(pool.subnet),
        gateway: pool.gateway,
        ip_range: None,
        auxiliary: pool.auxiliary.clone(),
    });
    NetworkSpec {
        name: description.name.clone(),
        driver: DRIVER.to_owned(),
        internal: settings.internal,
        attachable: description.attachable,
        enable_ipv4: true,
        enable_ipv6: settings.ipv6,
        labels: description.labels.clone(),
        options,
        ipam: Ipam { driver: DRIVER.to_owned(), options: BTreeMap::new(), configs: configs.collect() },
    }
}
