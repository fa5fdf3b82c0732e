//! Recovers endpoints that are missing from this host's local state because its data directory was
//! rolled back.
//!
//! The kernel still has the ports of these endpoints, and the engine knows the rest. This runs
//! before the daemon acts on its local state. Otherwise it would remove the interfaces of running
//! containers, and give their addresses to others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoutd_core::events::EventKind;
use shoutd_core::local::Endpoint;
use shoutd_core::mirror::DRIVER;
use shoutd_core::recall::{forgotten, restore_endpoint};
use shoutd_core::swarm::SWARM_DRIVER;
use shoutd_core::{DockerNetworkId, EndpointId, NetworkId};
use shoutd_docker::engine::{AttachedEndpoint, EngineError};
use tokio::time::timeout;
use tracing::warn;

use crate::app::clock;
use crate::app::services::Services;

/// How long the first look at the kernel may take.
const LOOK_TIME: Duration = Duration::from_secs(5);

/// How long a running engine may take to list its endpoints. An engine that is still starting has
/// no containers on our networks yet.
const ENGINE_TIME: Duration = Duration::from_secs(8);

/// An endpoint as the engine reports it.
#[derive(Debug)]
struct Found {
    docker: DockerNetworkId,
    id: EndpointId,
    endpoint: Endpoint,
}

/// Compares the kernel with local state once, and asks the engine about endpoints that local state
/// lacks. `name` is this host's name.
pub async fn recall(services: &Services, name: &str) {
    let mut observed = services.plane.watch_observed();
    if timeout(LOOK_TIME, observed.changed()).await.is_err() {
        return;
    }
    let lost = forgotten(&observed.borrow().clone(), &services.local.get());
    if lost.is_empty() {
        return;
    }
    match timeout(ENGINE_TIME, find(services, &lost)).await {
        Ok(Ok(found)) => remember(services, name, found).await,
        Ok(Err(error)) => tell_lost(services, name, lost.len(), &error.to_string()),
        Err(_) => tell_lost(services, name, lost.len(), "the Docker Engine does not answer"),
    }
}

fn tell_lost(services: &Services, name: &str, count: usize, why: &str) {
    let text = format!(
        "this host's memory of its containers was set back, and {count} of their attachments are \
         unknown to it: {why}; start these containers again"
    );
    warn!("{text}");
    services.events.note(EventKind::DataSetBack, name, &text);
}

async fn find(
    services: &Services,
    lost: &BTreeMap<EndpointId, NetworkId>,
) -> Result<Vec<Found>, EngineError> {
    let mut found = Vec::new();
    let networks = services.engine.networks().await?;
    for network in
        networks.iter().filter(|network| [DRIVER, SWARM_DRIVER].contains(&network.driver.as_str()))
    {
        let Some(detail) = services.engine.network(&network.id).await? else { continue };
        for attached in detail.endpoints {
            let Some(id) = lost.get(&attached.endpoint) else { continue };
            found.extend(found_endpoint(services, id, &network.id, attached).await?);
        }
    }
    Ok(found)
}

/// The endpoint with what the engine reports of it. `None` if it is in no container or has no MAC
/// address: then there is nothing to preserve.
async fn found_endpoint(
    services: &Services,
    network: &NetworkId,
    docker: &DockerNetworkId,
    attached: AttachedEndpoint,
) -> Result<Option<Found>, EngineError> {
    let (Some(mac), Some(Ok(container))) = (attached.mac, attached.container.map(|id| id.parse()))
    else {
        return Ok(None);
    };
    let Some(sandbox) =
        services.engine.container_names(&container).await?.and_then(|names| names.sandbox)
    else {
        return Ok(None);
    };
    let addresses = attached.ipv4.map(Into::into).into_iter().chain(attached.ipv6.map(Into::into));
    let endpoint = Endpoint {
        network: network.clone(),
        addresses: addresses.collect(),
        mac,
        sandbox: Some(sandbox),
        multicast_routes: BTreeSet::new(),
        interface_name: None,
        default_route: None,
        created: clock::now(),
        left: None,
        container: None,
    };
    Ok(Some(Found { docker: docker.clone(), id: attached.endpoint, endpoint }))
}

async fn remember(services: &Services, name: &str, found: Vec<Found>) {
    for Found { docker, id, endpoint } in found {
        let cluster = services.agreement.cluster();
        let recalled = services.local.try_change(|local| {
            local.bindings.entry(docker).or_insert_with(|| endpoint.network.clone());
            restore_endpoint(local, &id, endpoint, |network| cluster.multicast_routes(network))
        });
        match recalled.await {
            Ok(()) => {
                let text = format!(
                    "this host's memory of its containers was set back: endpoint {} is known \
                     again, as the engine has it",
                    id.short()
                );
                warn!("{text}");
                services.events.note(EventKind::DataSetBack, name, &text);
            }
            Err(error) => tell_lost(services, name, 1, &error.to_string()),
        }
    }
}
