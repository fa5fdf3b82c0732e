//! Forgets endpoints that the engine no longer has: shoutd misses calls while it does not run, and
//! an engine that was killed does not call.

use std::collections::BTreeSet;
use std::time::Instant;

use shoutd_core::events::EventKind;
use shoutd_core::local::Local;
use shoutd_core::stale::{Listing, Times, Unlisted, copies_to_list, suspects};
use shoutd_core::{DockerNetworkId, EndpointId};
use shoutd_docker::engine::EngineError;
use tracing::warn;

use crate::app::clock;
use crate::app::services::Services;
use crate::ipam::leases;

/// Compares this host's endpoints with those of its engine.
#[derive(Debug)]
pub struct StaleEndpoints {
    services: Services,
    unlisted: Unlisted,
    begun: Instant,
}

impl StaleEndpoints {
    /// Starts with no comparison made.
    pub fn new(services: Services) -> Self {
        Self { services, unlisted: Unlisted::default(), begun: Instant::now() }
    }

    /// Compares once, and forgets those that are stale.
    pub async fn forget(&mut self) {
        let local = self.services.local.get();
        let suspects = suspects(&local, |id, endpoint| self.services.plane.interface(id, endpoint));
        let listing = self.listing(&local, &suspects).await;
        let now = Times { wall: clock::now(), steady: self.begun.elapsed() };
        let stale = self.unlisted.stale(&local, &suspects, &listing, now);
        if stale.is_empty() {
            return;
        }
        let cluster = self.services.agreement.cluster();
        let forgotten = self.services.local.change(|local| {
            for endpoint in &stale {
                local.forget(endpoint, now.wall, |network| cluster.multicast_routes(network));
            }
        });
        if let Err(error) = forgotten.await {
            warn!("{error}");
            return;
        }
        for endpoint in &stale {
            let text = "the engine no longer has it";
            self.services.events.note(EventKind::EndpointForgotten, endpoint.short(), text);
        }
        leases::settle(&self.services.agreement, &self.services.local).await;
    }

    /// What the engine lists on the networks of these endpoints. A network for which it does not
    /// answer, such as a Swarm's without a leader, is left out; the others are still compared.
    async fn listing(&self, local: &Local, endpoints: &BTreeSet<EndpointId>) -> Listing {
        let mut listing = Listing::default();
        for (network, copies) in copies_to_list(local, endpoints) {
            match self.listed(&copies).await {
                Ok(listed) => {
                    listing.networks.insert(network);
                    listing.endpoints.extend(listed);
                }
                Err(error) => {
                    warn!("cannot compare the endpoints of a network with the engine's: {error}");
                }
            }
        }
        listing
    }

    /// The endpoints that the engine lists on these copies of a network. A copy that it does not
    /// have has none.
    async fn listed(&self, copies: &[DockerNetworkId]) -> Result<Vec<EndpointId>, EngineError> {
        let mut listed = Vec::new();
        for docker in copies {
            let detail = self.services.engine.network(docker).await?;
            listed.extend(
                detail
                    .into_iter()
                    .flat_map(|detail| detail.endpoints)
                    .map(|attached| attached.endpoint),
            );
        }
        Ok(listed)
    }
}
