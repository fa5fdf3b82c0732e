//! Keeps the networks of this host's engine in step with the cluster, through the engine's API.
//!
//! It never runs inside a plugin call: the engine would deadlock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use parking_lot::Mutex;
use shoutd_consensus::ProposeError;
use shoutd_core::cluster::{Command, Refusal};
use shoutd_core::events::EventKind;
use shoutd_core::in_flight::Yielded;
use shoutd_core::mirror::{DRIVER, EngineNetwork, MirrorAction, plan_mirrors};
use shoutd_core::missing::{Evidence, Missing, MissingCopies};
use shoutd_core::{DockerNetworkId, NetworkId};
use shoutd_docker::engine::{CreateNetworkError, DockerNetwork, EngineError, RemoveNetworkError};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::app::services::Services;
use crate::docker::mirror_spec::{as_engine_network, description_of, mirror_of};
use crate::membership::agreement::AgreementError;

/// The mirrors of this host.
#[derive(Debug)]
pub struct Mirrors {
    services: Services,
    problems: Mutex<BTreeMap<NetworkId, String>>,
    missing: Mutex<MissingCopies>,
    /// Zero of the times in `missing`.
    begin: Instant,
    /// Networks that the engine had at the last comparison, ready for containers.
    copies: watch::Sender<BTreeSet<NetworkId>>,
}

impl Mirrors {
    /// Starts with no comparison made.
    pub fn new(services: Services) -> Self {
        Self {
            services,
            problems: Mutex::default(),
            missing: Mutex::default(),
            begin: Instant::now(),
            copies: watch::Sender::default(),
        }
    }

    /// Why networks of the cluster are not on this host, one line each.
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().values().cloned().collect()
    }

    /// Why this network is not on this host.
    pub fn problem(&self, network: &NetworkId) -> Option<String> {
        self.problems.lock().get(network).cloned()
    }

    /// Follows which networks this host's engine has, ready for containers.
    pub fn watch_copies(&self) -> watch::Receiver<BTreeSet<NetworkId>> {
        self.copies.subscribe()
    }

    /// Compares once, and repairs differences. Returns the engine's networks as they were before.
    ///
    /// # Errors
    /// The engine does not list its networks.
    pub async fn reconcile(&self) -> Result<Vec<DockerNetwork>, EngineError> {
        if let Err(error) = self.services.removals.settle().await {
            warn!("{error}");
        }
        // Read the engine before agreed state: see `plan_mirrors`.
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
        self.missing.lock().retain(&plan);
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

    /// Records an event when a problem appears or changes.
    fn note(&self, problems: BTreeMap<NetworkId, String>) {
        let mut known = self.problems.lock();
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
                    // A user may have removed it since the comparison.
                    if !local.removals.contains(&network) {
                        local.bindings.insert(docker, network.clone());
                    }
                });
                bound.await.map_err(|error| (network.clone(), error.to_string()))?;
                self.note_restored(&network, "found its copy on this host again");
                Ok(())
            }
            MirrorAction::TakeOver { network, docker } => {
                let result = self.take_over(&network, &docker).await;
                result.map_err(|problem| (network, problem))
            }
            // A host that was rolled back may not know of a network that the cluster has.
            MirrorAction::Remove { .. } if self.services.agreement.consensus().is_rolled_back() => {
                Ok(())
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
                    "its creation on this host was never completed; removed from the cluster";
                self.services.events.note(EventKind::NetworkRemoved, network.short(), text);
                Ok(())
            }
            MirrorAction::NameTaken { network, name } => {
                let driver = networks
                    .iter()
                    .find(|other| other.name == name)
                    .map_or("another", |other| other.driver.as_str());
                let problem = format!(
                    "network {name} cannot be created on this host, which already has a Docker \
                     network of that name (driver {driver}); remove that with: docker network rm \
                     {name}"
                );
                Err((network, problem))
            }
        }
    }

    /// Proposes the name of a network that was created here to the cluster.
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
                info!(network = copy.name, "a network of this host was added to the cluster");
                Ok(())
            }
            Err(AgreementError::Propose(ProposeError::Refused(
                refusal @ Refusal::NameTaken { .. },
            ))) => self.yield_name(network, copy, &refusal).await,
            Err(error) => {
                Err(format!("cannot add the name of network {} to the cluster: {error}", copy.name))
            }
        }
    }

    /// Two hosts created networks of the same name at the same time, and the other host was first.
    /// Replaces this host's network with a mirror of the other, unless containers use it.
    async fn yield_name(
        &self,
        network: &NetworkId,
        copy: &DockerNetwork,
        refusal: &Refusal,
    ) -> Result<(), String> {
        if self.services.local.get().is_attached(network) {
            return Err(format!(
                "network {} of this host is separate from that of the cluster: {refusal}; stop \
                 its containers to replace it",
                copy.name
            ));
        }
        let cluster = self.services.agreement.cluster();
        let pools = cluster
            .networks
            .get(network)
            .map(|known| known.settings.pools.as_slice())
            .unwrap_or_default();
        let subnets = pools.iter().map(|pool| pool.subnet).collect();
        let why = Yielded { name: copy.name.clone(), subnets, refusal: refusal.to_string() };
        // Recorded before the removal: as soon as the cluster has dropped the network, containers
        // that wait for its name are given this reason.
        self.services.in_flight.yielding(network, why);
        let removed =
            self.services.agreement.propose(Command::RemoveNetwork { id: network.clone() }).await;
        removed.map_err(|error| error.to_string())?;
        self.services.in_flight.not_creating(network);
        let text =
            format!("{refusal}: the network that was created on this host is replaced by that one");
        self.services.events.note(EventKind::NetworkRefused, &copy.name, &text);
        self.remove(&copy.id, &copy.name).await
    }

    /// Creates a missing copy, unless a user may be removing it.
    async fn create_missing(&self, network: &NetworkId) -> Result<(), String> {
        // An engine before 25 could get two networks of one name. The event of the creation
        // triggers the next comparison.
        if self.services.in_flight.is_creating() {
            debug!(
                network = network.short(),
                "a network is being created here, perhaps of the same name"
            );
            return Ok(());
        }
        match self.missing(network).await {
            Missing::Leaving => {
                debug!(
                    network = network.short(),
                    "its copy has just disappeared: a removal may be in flight"
                );
                Ok(())
            }
            Missing::Unheard => {
                self.create(network).await?;
                let text = "its copy was removed while shoutd was not running; it is a network of \
                            all hosts, so it was created again";
                self.note_restored(network, text);
                Ok(())
            }
            Missing::Lost => self.create(network).await,
        }
    }

    /// Why the engine has no copy.
    async fn missing(&self, network: &NetworkId) -> Missing {
        let remembered = self.services.local.get().copies_of(network);
        let are_removed = !remembered.is_empty() && self.are_removed(&remembered).await;
        let remembered_after = self.services.local.get().copies_of(network);
        let evidence = Evidence { remembered, are_removed, remembered_after };
        self.missing.lock().why(network, &evidence, self.begin.elapsed())
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

    /// Removes all copies but one. The first is kept, unless containers use another.
    async fn remove_surplus(
        &self,
        network: &NetworkId,
        copies: &[DockerNetworkId],
    ) -> Result<(), String> {
        let cluster = self.services.agreement.cluster();
        let title = cluster.network_title(network);
        let mut left = copies.len();
        for copy in copies.iter().rev() {
            if left == 1 {
                break;
            }
            match self.replace(copy).await {
                Ok(()) | Err(RemoveNetworkError::NotFound { .. }) => left -= 1,
                Err(RemoveNetworkError::InUse { .. }) => {}
                Err(error) => {
                    return Err(format!(
                        "cannot remove a surplus copy ({}) of network {title}: {error}",
                        copy.short()
                    ));
                }
            }
        }
        if left > 1 {
            let ids: Vec<_> = copies.iter().map(DockerNetworkId::short).collect();
            return Err(format!(
                "this host has {left} copies of network {title}, and each has containers; connect \
                 them to one copy and remove the others ({})",
                ids.join(", ")
            ));
        }
        self.note_restored(network, "this host had a second copy, which was removed");
        Ok(())
    }

    /// Removes a copy of a network that stays in the cluster.
    async fn replace(&self, copy: &DockerNetworkId) -> Result<(), RemoveNetworkError> {
        self.services.in_flight.replacing(copy, true);
        let removed = self.services.engine.remove_network(copy).await;
        self.services.in_flight.replacing(copy, false);
        removed
    }

    /// Replaces a copy with a mirror, which has shoutd's IPAM. After a crash in between, the next
    /// comparison creates the mirror.
    async fn take_over(&self, network: &NetworkId, docker: &DockerNetworkId) -> Result<(), String> {
        match self.replace(docker).await {
            Ok(()) | Err(RemoveNetworkError::NotFound { .. }) => {
                self.create(network).await?;
                let text = "the next address that Docker would assign belongs to another host; \
                            from now on shoutd assigns this copy's addresses";
                self.note_restored(network, text);
                Ok(())
            }
            // A container was attached in between.
            Err(RemoveNetworkError::InUse { .. }) => Ok(()),
            Err(error) => Err(format!(
                "network {} cannot be created again on this host: {error}",
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
        // The engine does not have the copies that we remember: an earlier daemon was killed during
        // a creation, or missed a removal. If we kept them, a user's removal of the new copy would
        // look like that of one of several copies.
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
                    "created its copy on this host; the network is from {}",
                    cluster.host_name(network.origin)
                );
                self.services.events.note(EventKind::NetworkMade, &description.name, &text);
                Ok(())
            }
            // It was created concurrently; the next comparison handles that.
            Err(CreateNetworkError::NameTaken { .. }) => Ok(()),
            // The request of an earlier daemon, which was killed, was first: see `driver::network`.
            Err(_) if !self.services.local.get().copies_of(id).is_empty() => Ok(()),
            Err(error) => {
                Err(format!("network {} cannot be created on this host: {error}", description.name))
            }
        }
    }

    /// Removes all copies from this host's engine, when the host leaves. The networks stay in the
    /// cluster.
    ///
    /// # Errors
    /// The engine does not answer, or does not remove one.
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
        // By `replace`, so that the plugin does not treat the engine's `DeleteNetwork` call as a
        // user's wish to remove the network from the cluster, which may have it after all.
        match self.replace(docker).await {
            Ok(()) | Err(RemoveNetworkError::NotFound { .. }) => {
                let text = "removed from this host, because it was removed from the cluster";
                self.services.events.note(EventKind::NetworkRemoved, name, text);
                Ok(())
            }
            Err(error) => Err(format!(
                "network {name} was removed from the cluster, but cannot be removed from this \
                 host: {error}"
            )),
        }
    }
}
