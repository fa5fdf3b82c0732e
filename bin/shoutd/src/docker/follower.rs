//! Follows this host's Docker Engine: keeps its networks in step with the cluster, reports its
//! subnets, and forgets endpoints that it no longer has.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use ipnet::IpNet;
use shoutd_core::driver::choose_subnet;
use shoutd_core::events::EventKind;
use shoutd_core::view::{self, Membership};
use shoutd_dataplane::UnderlayInterface;
use shoutd_docker::engine::{DockerNetwork, EngineError, LeadingOut};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::services::Services;
use crate::docker::mirrors::Mirrors;
use crate::docker::restarts;
use crate::docker::stale_endpoints::StaleEndpoints;
use crate::ipam::host_subnets;
use crate::ipam::host_subnets::Overlaps;

/// Interval of a full comparison without an event, because events may get lost.
const PERIOD: Duration = Duration::from_secs(10);

/// Pause before we connect again to an engine that went away.
const RETRY: Duration = Duration::from_millis(500);

/// Deadline of one attempt to connect to the engine.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the engine is asked whether it answers.
const BEAT: Duration = Duration::from_secs(5);

/// How long it may take. It answers in milliseconds, and under load in seconds.
const HANGING: Duration = Duration::from_secs(10);

/// Follows the engine.
#[derive(Debug)]
pub struct EngineFollower {
    /// State, kernel and engine.
    pub services: Services,
    /// Keeps networks in step.
    pub mirrors: Arc<Mirrors>,
    /// The interface of the underlay.
    pub underlay: watch::Receiver<UnderlayInterface>,
    /// Publishes whether the engine answers.
    pub state: watch::Sender<view::Engine>,
    /// Counts the comparisons, for tasks that act after each.
    pub compared: watch::Sender<u64>,
}

impl EngineFollower {
    /// Follows the engine until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let followed = tokio::select! {
                followed = self.follow() => followed,
                hangs = self.until_it_hangs() => Err(hangs),
                () = stop.cancelled() => return,
            };
            if let Err(error) = followed {
                let was_serving = matches!(*self.state.borrow(), view::Engine::Serving(_));
                if was_serving {
                    warn!("{error}");
                }
                self.state.send_replace(view::Engine::Absent(error.to_string()));
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Returns once the engine does not answer. Otherwise an engine that hangs would go unnoticed:
    /// its events just stay away.
    async fn until_it_hangs(&self) -> EngineError {
        let mut beat = tokio::time::interval(BEAT);
        loop {
            beat.tick().await;
            if let Err(error) = self.services.engine.wait_until_serving(HANGING).await {
                return error;
            }
        }
    }

    async fn follow(&self) -> Result<(), EngineError> {
        self.services.engine.wait_until_serving(PATIENCE).await?;
        let info = self.services.engine.engine_info().await?;
        self.ensure_gateway_bridge(LeadingOut::Docker).await?;
        // Subscribe before the first comparison, so that no event in between is missed.
        let mut events = self.services.engine.network_events(None).await?;
        let mut cluster = self.services.agreement.watch();
        let mut membership = self.services.agreement.watch_membership();
        let mut tick = tokio::time::interval(PERIOD);
        let mut is_first = true;
        let mut stale = StaleEndpoints::new(self.services.clone());
        let mut overlaps = Overlaps::default();
        // Aborted when the connection to this engine ends.
        let mut restarting = JoinSet::new();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error),
                    None => return Err(EngineError::EventsEnded),
                },
                changed = cluster.changed() => if changed.is_err() { return Ok(()) },
                changed = membership.changed() => if changed.is_err() { return Ok(()) },
                _ = tick.tick() => stale.forget().await,
            }
            if self.services.agreement.membership() != Membership::Member {
                continue;
            }
            self.compare().await?;
            overlaps.note(&self.services.agreement, &self.services.events);
            // Only after the first comparison: before it, a network may be without a binding, and
            // calls for it fail.
            if is_first {
                is_first = false;
                info!(version = info.version, "serving Docker");
                self.state.send_replace(view::Engine::Serving(info.version.clone()));
                restarting.spawn(restarts::run(self.services.clone()));
            }
        }
    }

    async fn compare(&self) -> Result<(), EngineError> {
        let mut networks = self.mirrors.reconcile().await?;
        // `docker network prune` removes them while no container is attached.
        if !networks.iter().any(|network| is(network, LeadingOut::Docker)) {
            networks.push(self.ensure_gateway_bridge(LeadingOut::Docker).await?);
        }
        let way_out = networks.iter().position(|network| is(network, LeadingOut::Shoutd));
        if way_out.and_then(|at| networks.get(at)).is_none_or(|found| self.is_in_the_way(found)) {
            way_out.map(|at| networks.remove(at));
            let made = self.ensure_way_out(&networks).await;
            networks.extend(made);
        }
        let underlay = self.underlay.borrow().clone();
        let in_use = host_subnets::in_use(&networks, &underlay, &host_subnets::routes().await);
        self.compared.send_modify(|count| *count = count.wrapping_add(1));
        if let Err(error) = host_subnets::report(&self.services.agreement, in_use).await {
            warn!("cannot report this host's subnets yet: {error}");
        }
        Ok(())
    }

    /// Creates a bridge that leads out if it is absent, with its previous subnet, which no network
    /// of the cluster overlaps. The engine itself would choose a new subnet, and does not know the
    /// subnets of networks with shoutd's IPAM.
    async fn ensure_gateway_bridge(&self, which: LeadingOut) -> Result<DockerNetwork, EngineError> {
        let before = host_subnets::of_gateway_bridge(&self.services.agreement, which);
        let bridge = self.services.engine.ensure_gateway_bridge(which, before).await?;
        if bridge.created {
            let text = match which {
                LeadingOut::Docker => {
                    "created for containers that publish ports, so that its subnet is known in \
                     advance"
                }
                LeadingOut::Shoutd => "created for the containers' external connectivity",
            };
            self.services.events.note(EventKind::NetworkMade, which.name(), text);
        }
        Ok(bridge.network)
    }

    /// Whether a network that shoutd had the engine make has a subnet that overlaps a network of
    /// the cluster. The engine chose it, and knows only this host.
    fn is_in_the_way(&self, network: &DockerNetwork) -> bool {
        let cluster = self.services.agreement.cluster();
        let mut subnets = network.ipam.configs.iter().filter_map(|config| config.subnet);
        network.leads_out_for_shoutd()
            && subnets.any(|subnet| cluster.has_overlapping_network(subnet))
    }

    /// Makes the way out of shoutd's networks, with a subnet that neither a network of the cluster
    /// nor one of these others of the engine overlaps. A host that has just joined has not told the
    /// cluster of the latter yet.
    async fn make_way_out(&self, others: &[DockerNetwork]) -> Result<DockerNetwork, EngineError> {
        let network = self.ensure_gateway_bridge(LeadingOut::Shoutd).await?;
        let agreement = &self.services.agreement;
        let underlay = self.underlay.borrow().clone();
        let in_use = host_subnets::in_use(others, &underlay, &host_subnets::routes().await);
        let in_use = in_use.into_iter().map(|reported| reported.subnet).collect();
        let free = choose_subnet(&agreement.cluster(), agreement.me, &in_use);
        match free.filter(|_| self.is_in_the_way(&network)) {
            Some(free) => {
                let subnet = Some(IpNet::V4(free));
                let engine = &self.services.engine;
                let replaced = engine.replace_gateway_bridge(LeadingOut::Shoutd, network, subnet);
                Ok(replaced.await?.network)
            }
            None => Ok(network),
        }
    }

    /// The way out of shoutd's networks. Without it, Docker gives containers its own.
    async fn ensure_way_out(&self, others: &[DockerNetwork]) -> Option<DockerNetwork> {
        match self.make_way_out(others).await {
            Ok(network) => Some(network),
            Err(error) => {
                warn!("containers get Docker's way out, as a second interface: {error}");
                None
            }
        }
    }
}

fn is(network: &DockerNetwork, which: LeadingOut) -> bool {
    network.name == which.name()
}
