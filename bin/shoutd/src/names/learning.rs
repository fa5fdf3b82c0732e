//! Learns the names of containers from the engine's API, because plugin calls do not have them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use futures::StreamExt;
use futures::stream;
use shoutd_core::local::Local;
use shoutd_core::names::{EndpointContainer, EngineFacts, RESOLVER, bounded_names};
use shoutd_core::{DockerNetworkId, EndpointId, NetworkId};
use shoutd_docker::engine::{ContainerId, EngineError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::app::services::Services;

/// How many containers are queried at a time: the engine does not answer for one that is starting.
const QUERIES_MAX: usize = 8;

/// Learns names.
#[derive(Debug)]
pub struct Learner {
    /// State and engine.
    pub services: Services,
    /// Changes whenever something may have happened in the engine, and every ten seconds.
    pub compared: watch::Receiver<u64>,
}

impl Learner {
    /// Learns until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                changed = self.compared.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            let learned = tokio::select! {
                learned = self.learn() => learned,
                () = stop.cancelled() => return,
            };
            if let Err(error) = learned {
                debug!("cannot read containers' names now: {error}");
            }
        }
    }

    async fn learn(&self) -> Result<(), EngineError> {
        let local = self.services.local.get();
        let mut unknown: BTreeMap<ContainerId, Vec<EndpointId>> = BTreeMap::new();
        for docker in networks_in_use(&local) {
            let Some(detail) = self.services.engine.network(&docker).await? else { continue };
            for attached in detail.endpoints {
                let Some(container) = attached.container.as_deref().and_then(|id| id.parse().ok())
                else {
                    continue;
                };
                if is_news(&local, &attached.endpoint, &container, &attached.container_name) {
                    unknown.entry(container).or_default().push(attached.endpoint);
                }
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        // Without the root directory we cannot verify hosts files, but still learn the names; then
        // `is_news` queries the container again.
        let root = self.services.engine.engine_info().await.map_or(None, |info| info.root);
        let queries = stream::iter(unknown)
            .map(async |(id, endpoints)| (self.query(&id, root.as_ref()).await, endpoints));
        let answers: Vec<_> = queries.buffer_unordered(QUERIES_MAX).collect().await;
        let changed = self.services.local.change(|local| {
            for (containers, endpoints) in &answers {
                for endpoint in endpoints {
                    if let (Some(container), Some(known)) =
                        (containers.get(endpoint), local.endpoints.get_mut(endpoint))
                    {
                        known.container = Some(container.clone());
                    }
                }
            }
        });
        if let Err(error) = changed.await {
            warn!("{error}");
        }
        Ok(())
    }

    /// Queries a container; returns its names by endpoint. Empty if the container is gone, or is
    /// starting; then it is queried again later.
    async fn query(
        &self,
        id: &ContainerId,
        root: Option<&PathBuf>,
    ) -> BTreeMap<EndpointId, EndpointContainer> {
        let names = match self.services.engine.container_names(id).await {
            Ok(names) => names,
            Err(error) => {
                debug!("{error}");
                None
            }
        };
        let Some(names) = names else { return BTreeMap::new() };
        let facts = root
            .zip(names.process)
            .map(|(root, process)| EngineFacts { root: root.clone(), process });
        let containers = names.aliases.iter().map(|(endpoint, aliases)| {
            let all = std::iter::once(&names.name).chain(aliases).map(String::as_str);
            let container = EndpointContainer {
                id: id.to_string(),
                names: bounded_names(all),
                hosts_file: names.hosts_file.clone(),
                asks_resolver: names.dns_servers.contains(&IpAddr::V4(RESOLVER)),
                engine: facts.clone(),
            };
            (endpoint.clone(), container)
        });
        containers.collect()
    }
}

/// Whether to query an endpoint's container: it is a new one, or was renamed. Aliases do not change
/// during the life of an endpoint.
fn is_news(local: &Local, endpoint: &EndpointId, container: &ContainerId, name: &str) -> bool {
    let Some(known) = local.endpoints.get(endpoint) else { return false };
    let Some(known) = &known.container else { return true };
    let is_named = name.parse().is_ok_and(|name| known.names.contains(&name))
        || name.parse::<shoutd_core::names::Name>().is_err();
    // An earlier version did not record `engine`, which we need to verify the hosts file.
    known.id != container.to_string() || !is_named || known.engine.is_none()
}

fn networks_in_use(local: &Local) -> Vec<DockerNetworkId> {
    let used: BTreeSet<&NetworkId> =
        local.endpoints.values().map(|endpoint| &endpoint.network).collect();
    local
        .bindings
        .iter()
        .filter(|(_, network)| used.contains(network))
        .map(|(docker, _)| docker.clone())
        .collect()
}
