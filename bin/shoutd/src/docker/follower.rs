//! Follows this host's Docker Engine: its networks are kept in step with the cluster's, its subnets
//! are reported, and endpoints that it has forgotten are forgotten too.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use shoutd_core::events::EventKind;
use shoutd_core::view::{self, Membership};
use shoutd_dataplane::UnderlayInterface;
use shoutd_docker::engine::{DockerNetwork, EngineError, GATEWAY_BRIDGE};
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

/// How often everything is compared when nothing has happened: events get lost.
const PERIOD: Duration = Duration::from_secs(10);

/// How long to wait before an engine that went away is looked for again.
const RETRY: Duration = Duration::from_millis(500);

/// How long one look for an engine may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What follows the engine.
#[derive(Debug)]
pub struct EngineFollower {
    /// State, kernel and engine.
    pub services: Services,
    /// Keeps networks in step.
    pub mirrors: Arc<Mirrors>,
    /// The interface of the underlay.
    pub underlay: watch::Receiver<UnderlayInterface>,
    /// For all to see whether the engine answers.
    pub state: watch::Sender<view::Engine>,
    /// Counts the comparisons, for whoever follows the engine, too.
    pub compared: watch::Sender<u64>,
}

impl EngineFollower {
    /// Follows the engine until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let followed = tokio::select! {
                followed = self.follow() => followed,
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

    async fn follow(&self) -> Result<(), EngineError> {
        self.services.engine.wait_until_serving(PATIENCE).await?;
        let info = self.services.engine.engine_info().await?;
        self.ensure_gateway_bridge().await?;
        // Subscribed before the first full look: nothing that happens in between is missed.
        let mut events = self.services.engine.network_events(None).await?;
        let mut cluster = self.services.agreement.watch();
        let mut membership = self.services.agreement.watch_membership();
        let mut tick = tokio::time::interval(PERIOD);
        let mut is_first = true;
        let mut stale = StaleEndpoints::new(self.services.clone());
        let mut overlaps = Overlaps::default();
        // Ends with this engine's connection.
        let mut reviving = JoinSet::new();
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
            // Only now: before it, a network whose copy this host does not remember is of no use
            // yet.
            if is_first {
                is_first = false;
                info!(version = info.version, "serving Docker");
                self.state.send_replace(view::Engine::Serving(info.version.clone()));
                reviving.spawn(restarts::run(self.services.clone()));
            }
        }
    }

    async fn compare(&self) -> Result<(), EngineError> {
        let mut networks = self.mirrors.reconcile().await?;
        // `docker network prune` takes it away whenever no container runs.
        if !networks.iter().any(|network| network.name == GATEWAY_BRIDGE) {
            networks.push(self.ensure_gateway_bridge().await?);
        }
        let underlay = self.underlay.borrow().clone();
        let in_use = host_subnets::in_use(&networks, &underlay, &host_subnets::routes().await);
        self.compared.send_modify(|count| *count = count.wrapping_add(1));
        if let Err(error) = host_subnets::report(&self.services.agreement, in_use).await {
            warn!("cannot report this host's subnets yet: {error}");
        }
        Ok(())
    }

    /// Makes `docker_gwbridge` if it is absent, with the subnet that it had before, which no
    /// network of the cluster overlaps. The engine would choose anew when a container needs it, and
    /// does not know of the networks whose addresses shoutd's IPAM gives out.
    async fn ensure_gateway_bridge(&self) -> Result<DockerNetwork, EngineError> {
        let before = host_subnets::of_gateway_bridge(&self.services.agreement);
        let bridge = self.services.engine.ensure_gateway_bridge(before).await?;
        if bridge.created {
            let text =
                "made, as the containers' way out, so that its subnet is known from the start";
            self.services.events.note(EventKind::NetworkMade, GATEWAY_BRIDGE, text);
        }
        Ok(bridge.network)
    }
}
