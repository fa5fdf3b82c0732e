//! Networks of a Swarm that is no more. When its last manager leaves, Docker tells nobody that its
//! networks are gone, and no engine can be asked to remove them: a user has to say so.

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

/// Where peers ask for this host's part in a Swarm.
const PATH: &str = "/v1/swarm/node";

/// How long a host may take to say what part it has in a Swarm: an engine whose Swarm has no leader
/// takes 20 s for each answer.
const ANSWER_TIME: Duration = Duration::from_secs(25);

/// What a host answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// Its engine does not answer.
    Unknown,
    /// It belongs to no Swarm.
    NoNode,
    /// It belongs to one.
    Node(SwarmNode),
}

/// Forgets a network of a Swarm that none of the hosts belongs to any more, and returns what to
/// tell the user.
///
/// # Errors
/// It is none, or may not be: the Swarm may still be there, or the network is in use.
pub async fn forget(services: &Services, network: &NetworkId) -> Result<String> {
    let cluster = services.agreement.cluster();
    let known =
        cluster.networks.get(network).with_context(|| format!("there is no network {network}"))?;
    let title = cluster.network_title(network).to_owned();
    ensure!(
        known.settings.swarm,
        "network {title} is none of a Swarm's: use docker network rm {title}"
    );
    let users: Vec<_> = known.attached.iter().map(|host| cluster.host_name(*host)).collect();
    ensure!(users.is_empty(), "network {title} is in use on {}", users.join(", "));
    let nodes = nodes(services).await?;
    let swarm = known.description.as_ref().and_then(|said| said.swarm.as_deref());
    let left = possible_nodes(swarm, &nodes);
    ensure!(
        left.is_empty(),
        "network {title} is a Swarm's, and {} may belong to that Swarm: use docker network rm \
         {title} on a manager, or docker swarm leave if the Swarm is no more",
        left.join(", ")
    );
    services.agreement.propose(Command::RemoveNetwork { id: network.clone() }).await?;
    let text = "removed from the cluster, as a user of this host wished: its Swarm is no more";
    services.events.note(EventKind::NetworkRemoved, &title, text);
    Ok(format!("network {title} is removed: its Swarm is no more"))
}

/// The hosts that belong to a Swarm, by name. All have to answer: one that does not may be what is
/// left of it.
async fn nodes(services: &Services) -> Result<BTreeMap<String, SwarmNode>> {
    let cluster = services.agreement.cluster();
    let asked = cluster.hosts.iter().map(async |(id, host)| {
        let answer = match *id == services.agreement.me {
            true => own(services).await,
            false => services
                .peers
                .call_host(*id, host.address, PATH, &(), ANSWER_TIME)
                .await
                .unwrap_or(Answer::Unknown),
        };
        (host.name.clone(), answer)
    });
    let mut nodes = BTreeMap::new();
    for (name, answer) in join_all(asked).await {
        match answer {
            Answer::Unknown => bail!(
                "whether {name} belongs to the Swarm cannot be known now: it, or its engine, does \
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
            debug!("cannot see whether this host belongs to a Swarm: {error}");
            Answer::Unknown
        }
    }
}

/// What peers ask.
pub fn router(services: Services) -> Router {
    Router::new().route(PATH, post(answer)).with_state(Arc::new(services))
}

async fn answer(State(services): State<Arc<Services>>) -> Json<Answer> {
    Json(own(&services).await)
}
