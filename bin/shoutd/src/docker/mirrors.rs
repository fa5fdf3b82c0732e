//! Keeps the networks of this host's engine in step with the cluster's, through the engine's own
//! API.
//!
//! It never runs inside a plugin callback: the engine would wait for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoutd_consensus::ProposeError;
use shoutd_core::cluster::{Command, DescribedSubnet, Description, Network, Refusal};
use shoutd_core::events::EventKind;
use shoutd_core::mirror::{DRIVER, EngineNetwork, MirrorAction, NETWORK_OPTION, plan_mirrors};
use shoutd_core::{DockerNetworkId, NetworkId};
use shoutd_docker::engine::{
    CreateNetworkError, DockerNetwork, EngineError, Ipam, IpamConfig, NetworkSpec,
    RemoveNetworkError,
};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::app::services::Services;
use crate::membership::agreement::AgreementError;

/// How long an engine may take from hiding a network that is being removed to saying so: a call to
/// a plugin that is away is repeated for 15 s. Mostly it remembers that a removal is done, and
/// nobody waits for this; but it remembers the last 256 events only, and none from before it was
/// restarted.
const LEAVING_TIME_MAX: Duration = Duration::from_secs(20);

/// Why an engine lacks a copy of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// It may be about to say that a user removed it.
    Leaving,
    /// A user removed it, and shoutd was not there to be told.
    Unheard,
    /// It never had one, or lost it.
    Lost,
}

/// The mirrors of this host.
#[derive(Debug)]
pub struct Mirrors {
    services: Services,
    problems: Mutex<BTreeMap<NetworkId, String>>,
    /// Networks whose copies are missing without anybody having said why, and since when.
    missing: Mutex<BTreeMap<NetworkId, Instant>>,
    /// Networks that the engine had at the last comparison, ready for containers.
    copies: watch::Sender<BTreeSet<NetworkId>>,
}

impl Mirrors {
    /// Puts the parts together; nothing happens yet.
    pub fn new(services: Services) -> Self {
        Self {
            services,
            problems: Mutex::default(),
            missing: Mutex::default(),
            copies: watch::Sender::default(),
        }
    }

    /// What keeps networks of the cluster from being on this host, one line each.
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// What keeps this network from being on this host.
    pub fn problem(&self, network: &NetworkId) -> Option<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).get(network).cloned()
    }

    /// Follows which networks this host's engine has, ready for containers.
    pub fn watch_copies(&self) -> watch::Receiver<BTreeSet<NetworkId>> {
        self.copies.subscribe()
    }

    /// Compares once and mends what differs. Returns the engine's networks as they were before.
    ///
    /// # Errors
    /// If the engine does not list its networks.
    pub async fn reconcile(&self) -> Result<Vec<DockerNetwork>, EngineError> {
        if let Err(error) = self.services.removals.settle().await {
            warn!("{error}");
        }
        // The engine first, the cluster after it: see `plan_mirrors`.
        let networks = self.services.engine.networks().await?;
        let cluster = self.services.agreement.cluster();
        let engine: Vec<_> = networks.iter().map(as_engine_network).collect();
        self.publish_copies(&engine);
        let creations = self.services.in_flight.creations();
        let plan = plan_mirrors(
            &cluster,
            &self.services.local.get(),
            self.services.agreement.me,
            &engine,
            &creations,
        );
        self.forget_found(&plan);
        let mut problems = BTreeMap::new();
        for action in plan {
            if let Err((network, problem)) = self.execute(action, &networks).await {
                problems.insert(network, problem);
            }
        }
        self.note(problems);
        Ok(networks)
    }

    fn publish_copies(&self, engine: &[EngineNetwork]) {
        let local = self.services.local.get();
        let ready = engine.iter().filter(|copy| copy.ours && local.bindings.contains_key(&copy.id));
        let copies: BTreeSet<_> = ready.map(EngineNetwork::network).collect();
        self.copies.send_if_modified(|known| {
            let differs = *known != copies;
            *known = copies;
            differs
        });
    }

    /// Problems are noted when they appear or change, not each time they are met.
    fn note(&self, problems: BTreeMap<NetworkId, String>) {
        let mut known = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = self.services.agreement.cluster();
        for (network, problem) in &problems {
            if known.get(network) != Some(problem) {
                self.services.events.note(
                    EventKind::NetworkFailed,
                    cluster.network_title(network),
                    problem,
                );
            }
        }
        *known = problems;
    }

    fn note_restored(&self, network: &NetworkId, text: &str) {
        let cluster = self.services.agreement.cluster();
        self.services.events.note(EventKind::NetworkRestored, cluster.network_title(network), text);
    }

    async fn execute(
        &self,
        action: MirrorAction,
        networks: &[DockerNetwork],
    ) -> Result<(), (NetworkId, String)> {
        match action {
            MirrorAction::Describe { network, docker } => {
                let result = self.describe(&network, &docker, networks).await;
                result.map_err(|problem| (network, problem))
            }
            MirrorAction::Create { network } => {
                let result = self.create_missing(&network).await;
                result.map_err(|problem| (network, problem))
            }
            MirrorAction::Bind { network, docker } => {
                let bound = self.services.local.change(|local| {
                    // Removed by a user in the meantime.
                    if !local.removals.contains(&network) {
                        local.bindings.insert(docker, network.clone());
                    }
                });
                bound.await.map_err(|error| (network.clone(), error.to_string()))?;
                self.note_restored(&network, "found on this host again");
                Ok(())
            }
            MirrorAction::TakeOver { network, docker } => {
                let result = self.take_over(&network, &docker).await;
                result.map_err(|problem| (network, problem))
            }
            MirrorAction::Remove { docker } => {
                let network = NetworkId::from(&docker);
                let copy = networks.iter().find(|copy| copy.id == docker);
                let name = copy.map_or(docker.short(), |copy| copy.name.as_str());
                self.remove(&docker, name).await.map_err(|problem| (network, problem))
            }
            MirrorAction::RemoveSurplus { network, copies } => {
                let result = self.remove_surplus(&network, &copies).await;
                result.map_err(|problem| (network, problem))
            }
            MirrorAction::Abandon { network } => {
                let removed = self
                    .services
                    .agreement
                    .propose(Command::RemoveNetwork { id: network.clone() })
                    .await;
                removed.map_err(|error| (network.clone(), error.to_string()))?;
                let text =
                    "its creation on this host was never finished; it is removed from the cluster";
                self.services.events.note(EventKind::NetworkRemoved, network.short(), text);
                Ok(())
            }
            MirrorAction::NameTaken { network, name } => {
                let driver = networks
                    .iter()
                    .find(|other| other.name == name)
                    .map_or("another", |other| other.driver.as_str());
                let problem = format!(
                    "network {name} cannot be made on this host: there is a Docker network of \
                     that name here already (driver {driver}); remove that one with: docker \
                     network rm {name}"
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
        let command =
            Command::DescribeNetwork { id: network.clone(), description: description_of(copy) };
        match self.services.agreement.propose(command).await {
            Ok(_) => {
                self.services.in_flight.not_creating(network);
                info!(network = copy.name, "created on this host and made known to the cluster");
                Ok(())
            }
            Err(AgreementError::Propose(ProposeError::Refused(
                refusal @ Refusal::NameTaken { .. },
            ))) => self.yield_name(network, copy, &refusal).await,
            Err(error) => {
                Err(format!("cannot tell the cluster the name of network {}: {error}", copy.name))
            }
        }
    }

    /// The same name was created on two hosts at once, and the other was first: ours makes room for
    /// its mirror, unless containers use it.
    async fn yield_name(
        &self,
        network: &NetworkId,
        copy: &DockerNetwork,
        refusal: &Refusal,
    ) -> Result<(), String> {
        let in_use = self
            .services
            .local
            .get()
            .endpoints
            .values()
            .any(|endpoint| endpoint.network == *network);
        if in_use {
            return Err(format!(
                "network {} of this host stays apart from the cluster's: {refusal}; stop its \
                 containers to merge them",
                copy.name
            ));
        }
        // First: containers that wait for the name are told as soon as the cluster has let go of
        // the network.
        self.services.in_flight.yielding(network, refusal.to_string());
        let removed =
            self.services.agreement.propose(Command::RemoveNetwork { id: network.clone() }).await;
        removed.map_err(|error| error.to_string())?;
        self.services.in_flight.not_creating(network);
        let text =
            format!("{refusal}: the network that was created on this host made room for that one");
        self.services.events.note(EventKind::NetworkRefused, &copy.name, &text);
        self.remove(&copy.id, &copy.name).await
    }

    /// Makes a copy that this engine lacks, unless it may be about to say that a user removed it.
    async fn create_missing(&self, network: &NetworkId) -> Result<(), String> {
        // Engines before 25 would have two networks of one name then. The event that it is created
        // brings the next comparison.
        if self.services.in_flight.is_creating() {
            debug!(
                network = network.short(),
                "a network is just being created here, perhaps of this name"
            );
            return Ok(());
        }
        match self.missing(network).await {
            Missing::Leaving => {
                debug!(
                    network = network.short(),
                    "its copy has only just gone: a removal may be under way"
                );
                Ok(())
            }
            Missing::Unheard => {
                self.create(network).await?;
                let text = "its copy was removed while shoutd could not hear of it; it belongs to \
                            all hosts and came back";
                self.note_restored(network, text);
                Ok(())
            }
            Missing::Lost => self.create(network).await,
        }
    }

    /// Why the engine lacks a copy. It hides a network from its list before it says that a user
    /// removed it. Once it remembers the removal as done, or has kept silent for long, the copy was
    /// lost in another way.
    async fn missing(&self, network: &NetworkId) -> Missing {
        let copies = self.copies_of(network);
        if !copies.is_empty() && self.are_removed(&copies).await {
            // It may have said so just before: then the next comparison knows.
            return if self.copies_of(network) == copies {
                Missing::Unheard
            } else {
                Missing::Leaving
            };
        }
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if copies.is_empty() {
            missing.remove(network);
            return Missing::Lost;
        }
        let since = missing.entry(network.clone()).or_insert_with(Instant::now);
        if since.elapsed() < LEAVING_TIME_MAX { Missing::Leaving } else { Missing::Lost }
    }

    /// The copies of a network that this host remembers.
    fn copies_of(&self, network: &NetworkId) -> Vec<DockerNetworkId> {
        let local = self.services.local.get();
        local
            .bindings
            .iter()
            .filter(|(_, bound)| *bound == network)
            .map(|(docker, _)| docker.clone())
            .collect()
    }

    /// Whether the engine remembers that it has removed all of these.
    async fn are_removed(&self, copies: &[DockerNetworkId]) -> bool {
        for copy in copies {
            if !self.services.engine.has_removed(copy).await.unwrap_or(false) {
                return false;
            }
        }
        true
    }

    /// Forgets what was missing and is there again.
    fn forget_found(&self, plan: &[MirrorAction]) {
        let is_missing = |network: &NetworkId| {
            plan.iter().any(|action| matches!(action, MirrorAction::Create { network: missing } if missing == network))
        };
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.retain(|network, _| is_missing(network));
    }

    /// Removes all copies but one. The first is kept, unless containers use another.
    async fn remove_surplus(
        &self,
        network: &NetworkId,
        copies: &[DockerNetworkId],
    ) -> Result<(), String> {
        let mut left = copies.len();
        for copy in copies.iter().rev() {
            if left == 1 {
                break;
            }
            match self.replace(copy).await {
                Ok(()) | Err(RemoveNetworkError::NotFound { .. }) => left -= 1,
                Err(RemoveNetworkError::InUse { .. }) => {}
                Err(error) => debug!(copy = copy.short(), "cannot remove a second copy: {error}"),
            }
        }
        let cluster = self.services.agreement.cluster();
        let title = cluster.network_title(network);
        if left > 1 {
            let ids: Vec<_> = copies.iter().map(DockerNetworkId::short).collect();
            return Err(format!(
                "network {title} is on this host {left} times, and each copy has containers; \
                 connect them to one copy and remove the others ({})",
                ids.join(", ")
            ));
        }
        self.note_restored(network, "this host had a second copy of it, which is removed");
        Ok(())
    }

    /// Has the engine remove a copy of a network that stays.
    async fn replace(&self, copy: &DockerNetworkId) -> Result<(), RemoveNetworkError> {
        self.services.in_flight.replacing(copy, true);
        let removed = self.services.engine.remove_network(copy).await;
        self.services.in_flight.replacing(copy, false);
        removed
    }

    /// A crash half way through leaves a network without a copy, which the next comparison makes.
    async fn take_over(&self, network: &NetworkId, docker: &DockerNetworkId) -> Result<(), String> {
        match self.replace(docker).await {
            Ok(()) | Err(RemoveNetworkError::NotFound { .. }) => {
                self.create(network).await?;
                let text = "the address that Docker would give out next is another host's: shoutd \
                            gives out this copy's addresses from now on";
                self.note_restored(network, text);
                Ok(())
            }
            // A container came in between.
            Err(RemoveNetworkError::InUse { .. }) => Ok(()),
            Err(error) => Err(format!(
                "network {} cannot be made anew on this host: {error}",
                network.short()
            )),
        }
    }

    async fn create(&self, id: &NetworkId) -> Result<(), String> {
        let cluster = self.services.agreement.cluster();
        let Some((network, description)) =
            cluster.networks.get(id).and_then(|n| n.description.as_ref().map(|d| (n, d)))
        else {
            return Ok(());
        };
        // Whatever copies are remembered, the engine does not have them: a daemon that was killed
        // while one was made, or was not there when one was removed, never heard. Kept beside the
        // new copy, they would make its removal by a user look like that of one of several.
        let forgotten =
            self.services.local.change(|local| local.bindings.retain(|_, bound| bound != id)).await;
        forgotten.map_err(|error| error.to_string())?;
        self.services.in_flight.mirroring(id, true);
        let created =
            self.services.engine.create_network(&mirror_of(id, network, description)).await;
        self.services.in_flight.mirroring(id, false);
        match created {
            Ok(_) => {
                let text = format!(
                    "made on this host; it was created on {}",
                    cluster.host_name(network.origin)
                );
                self.services.events.note(EventKind::NetworkMade, &description.name, &text);
                Ok(())
            }
            // Somebody made it in the meantime; the next comparison tells who.
            Err(CreateNetworkError::NameTaken { .. }) => Ok(()),
            // A request of a daemon that was killed came through first: see `driver::network`.
            Err(_) if !self.copies_of(id).is_empty() => Ok(()),
            Err(error) => {
                Err(format!("network {} cannot be made on this host: {error}", description.name))
            }
        }
    }

    /// Removes every copy of this host's engine, of a host that leaves: they stay networks of the
    /// cluster.
    ///
    /// # Errors
    /// If the engine does not answer, or does not remove one.
    pub async fn remove_all(&self) -> Result<(), String> {
        let networks = self.services.engine.networks().await.map_err(|error| error.to_string())?;
        for network in networks.iter().filter(|network| network.driver == DRIVER) {
            match self.replace(&network.id).await {
                Ok(()) | Err(RemoveNetworkError::NotFound { .. }) => {}
                Err(error) => {
                    return Err(format!(
                        "network {} cannot be removed from this host: {error}",
                        network.name
                    ));
                }
            }
        }
        Ok(())
    }

    async fn remove(&self, docker: &DockerNetworkId, name: &str) -> Result<(), String> {
        match self.services.engine.remove_network(docker).await {
            Ok(()) | Err(RemoveNetworkError::NotFound { .. }) => {
                let text = "removed from this host, as it is gone from the cluster";
                self.services.events.note(EventKind::NetworkRemoved, name, text);
                Ok(())
            }
            Err(error) => Err(format!(
                "network {name} is gone from the cluster but not from this host: {error}"
            )),
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

/// What the cluster is told of a network that the engine shows.
pub fn description_of(copy: &DockerNetwork) -> Description {
    let described = |config: &IpamConfig| {
        let range = config.ip_range.map(|range| range.trunc());
        Some((config.subnet?, DescribedSubnet { range, gateway: config.gateway }))
    };
    Description {
        name: copy.name.clone(),
        labels: copy.labels.clone(),
        attachable: copy.attachable,
        subnets: copy.ipam.configs.iter().filter_map(described).collect(),
        ipam_options: copy.ipam.options.clone(),
        swarm: None,
    }
}

/// The Docker network that is this network's copy on a host that did not create it.
fn mirror_of(id: &NetworkId, network: &Network, description: &Description) -> NetworkSpec {
    let settings = &network.settings;
    let mut options = settings.options.clone();
    options.insert(NETWORK_OPTION.to_owned(), id.to_string());
    let configs = settings.pools.iter().map(|pool| IpamConfig {
        subnet: Some(pool.subnet),
        // Where it is left out, shoutd's IPAM answers with the one that was agreed on.
        gateway: description
            .subnets
            .get(&pool.subnet)
            .map_or(pool.gateway, |described| described.gateway),
        ip_range: pool.range,
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
        ipam: Ipam {
            driver: DRIVER.to_owned(),
            options: description.ipam_options.clone(),
            configs: configs.collect(),
        },
    }
}
