//! Learns the names of containers from the engine, which tells no plugin of them.

use std::collections::BTreeMap;
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

/// How many containers are asked about at a time: an engine does not answer for one that is being
/// started.
const QUESTIONS_MAX: usize = 8;

/// What learns names.
#[derive(Debug)]
pub struct Learner {
    /// State and engine.
    pub services: Services,
    /// Changes whenever something may have happened in the engine, and every ten seconds.
    pub compared: watch::Receiver<u64>,
}

impl Learner {
    /// Learns until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                changed = self.compared.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            let learnt = tokio::select! {
                learnt = self.learn() => learnt,
                () = stop.cancelled() => return,
            };
            if let Err(error) = learnt {
                debug!("cannot learn containers' names now: {error}");
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
        // Names are worth knowing also without; what proves whose the hosts files are is asked
        // again then.
        let root = self.services.engine.engine_info().await.map_or(None, |info| info.root);
        let ask = async |(id, endpoints)| (self.ask(&id, root.as_ref()).await, endpoints);
        let asked = stream::iter(unknown).map(ask);
        let told: Vec<_> = asked.buffer_unordered(QUESTIONS_MAX).collect().await;
        let changed = self.services.local.change(|local| {
            for (told, endpoints) in &told {
                for endpoint in endpoints {
                    if let (Some(container), Some(known)) =
                        (told.get(endpoint), local.endpoints.get_mut(endpoint))
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

    /// What the engine tells of a container, by its endpoints. Nothing if it is gone, or being
    /// started: then there will be another look.
    async fn ask(
        &self,
        id: &ContainerId,
        root: Option<&PathBuf>,
    ) -> BTreeMap<EndpointId, EndpointContainer> {
        let told = match self.services.engine.container_names(id).await {
            Ok(told) => told,
            Err(error) => {
                debug!("{error}");
                None
            }
        };
        let Some(told) = told else { return BTreeMap::new() };
        let facts = root
            .zip(told.process)
            .map(|(root, process)| EngineFacts { root: root.clone(), process });
        let container = |aliases: &Vec<String>| EndpointContainer {
            id: id.to_string(),
            names: bounded_names(std::iter::once(&told.name).chain(aliases).map(String::as_str)),
            hosts_file: told.hosts_file.clone(),
            asks_resolver: told.dns_servers.contains(&IpAddr::V4(RESOLVER)),
            engine: facts.clone(),
        };
        told.aliases
            .iter()
            .map(|(endpoint, aliases)| (endpoint.clone(), container(aliases)))
            .collect()
    }
}

/// Whether it is to be asked what an endpoint's container is called: it is another one, or was
/// renamed. Aliases do not change as long as the endpoint is there.
fn is_news(local: &Local, endpoint: &EndpointId, container: &ContainerId, name: &str) -> bool {
    let Some(known) = local.endpoints.get(endpoint) else { return false };
    let Some(known) = &known.container else { return true };
    let is_named = name.parse().is_ok_and(|name| known.names.contains(&name))
        || name.parse::<shoutd_core::names::Name>().is_err();
    // An earlier version did not ask what proves whose the hosts file is.
    known.id != container.to_string() || !is_named || known.engine.is_none()
}

fn networks_in_use(local: &Local) -> Vec<DockerNetworkId> {
    let is_used =
        |network: &NetworkId| local.endpoints.values().any(|endpoint| endpoint.network == *network);
    local
        .bindings
        .iter()
        .filter(|(_, network)| is_used(network))
        .map(|(docker, _)| docker.clone())
        .collect()
}
