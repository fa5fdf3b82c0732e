//! Networks of a Swarm that no longer exists. When its last manager leaves, Docker does not report
//! that the networks are gone, and no engine can remove them; so a user must do it with
//! `shoutdctl network rm`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use shoutd_core::NetworkId;
use shoutd_core::cluster::Command;
use shoutd_core::events::EventKind;
use shoutd_core::swarm::{SwarmNode, possible_nodes};
use tracing::debug;

use crate::app::services::Services;

/// Path at which peers ask for this host's Swarm node.
const PATH: &str = "/v1/swarm/node";

/// How long a host may take to answer: an engine whose Swarm has no leader takes 20 s.
const ANSWER_TIME: Duration = Duration::from_secs(25);

/// A host's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// Its engine does not answer.
    Unknown,
    /// It is not a node of a Swarm.
    NoNode,
    /// It is this node of a Swarm.
    Node(SwarmNode),
}

/// Removes a network of a Swarm that no longer exists. Returns the message for the user.
///
/// # Errors
/// It is not a Swarm network, its Swarm may still exist, or it is in use.
pub async fn forget(services: &Services, network: &NetworkId) -> Result<String> {
    let cluster = services.agreement.cluster();
    let known =
        cluster.networks.get(network).with_context(|| format!("there is no network {network}"))?;
    let title = cluster.network_title(network).to_owned();
    ensure!(
        known.settings.swarm,
        "network {title} is not a Swarm network; use docker network rm {title}"
    );
    let users: Vec<_> = known.attached.iter().map(|host| cluster.host_name(*host)).collect();
    ensure!(users.is_empty(), "network {title} is in use on {}", users.join(", "));
    let nodes = nodes(services).await?;
    let swarm = known.description.as_ref().and_then(|said| said.swarm.as_deref());
    let left = possible_nodes(swarm, &nodes);
    ensure!(
        left.is_empty(),
        "the Swarm of network {title} may still exist on {}; use docker network rm {title} on a \
         manager, or docker swarm leave if the Swarm no longer exists",
        left.join(", ")
    );
    services.agreement.propose(Command::RemoveNetwork { id: network.clone() }).await?;
    let text = "removed from the cluster by a user of this host; its Swarm no longer exists";
    services.events.note(EventKind::NetworkRemoved, &title, text);
    Ok(format!("removed network {title}, whose Swarm no longer exists"))
}

/// The hosts that are nodes of a Swarm, by name. All hosts must answer: one that does not may be
/// the last node of the Swarm.
async fn nodes(services: &Services) -> Result<BTreeMap<String, SwarmNode>> {
    let cluster = services.agreement.cluster();
    let asked = cluster.hosts.iter().map(async |(id, host)| {
        let answer = if *id == services.agreement.me {
            own(services).await
        } else {
            let answer = services.peers.call_host(*id, host.address, PATH, &(), ANSWER_TIME).await;
            answer.unwrap_or(Answer::Unknown)
        };
        (host.name.clone(), answer)
    });
    let mut nodes = BTreeMap::new();
    for (name, answer) in join_all(asked).await {
        match answer {
            Answer::Unknown => bail!(
                "cannot check whether {name} is a node of the Swarm: the host or its engine does \
                 not answer (shoutdctl hosts)"
            ),
            Answer::NoNode => {}
            Answer::Node(node) => _ = nodes.insert(name, node),
        }
    }
    Ok(nodes)
}

async fn own(services: &Services) -> Answer {
    match services.engine.engine_info().await {
        Ok(info) => info.swarm_node.map_or(Answer::NoNode, Answer::Node),
        Err(error) => {
            debug!("cannot check whether this host is a node of a Swarm: {error}");
            Answer::Unknown
        }
    }
}

/// The routes for peers.
pub fn router(services: Services) -> Router {
    Router::new().route(PATH, post(answer)).with_state(Arc::new(services))
}

async fn answer(State(services): State<Arc<Services>>) -> Json<Answer> {
    Json(own(&services).await)
}
