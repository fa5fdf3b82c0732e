//! Hosts that run an older version of shoutd. The first command of a newer version of agreed state
//! would stop them, so the leader commits it only if every host supports it.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::join_all;
use shoutd_core::HostId;
use shoutd_core::cluster::{Command, STATE_WITHOUT_ENCRYPTION};
use tokio::time::{Duration, Instant};

use crate::ProposeError;
use crate::node::Node;

/// How long a host may take to tell its version.
const DEADLINE: Duration = Duration::from_secs(2);

/// The version of agreed state of a host that does not tell it.
pub(crate) const UNTOLD: u32 = STATE_WITHOUT_ENCRYPTION;

/// Why a command must not be committed yet; `None` if every host supports it.
pub(crate) async fn obstacle(
    node: &Node,
    command: &Command,
    until: Instant,
) -> Option<ProposeError> {
    let version = command.state_version();
    let cluster: Arc<_> = node.cluster();
    if version <= cluster.state_version() {
        return None;
    }
    let deadline = DEADLINE.min(until.saturating_duration_since(Instant::now()));
    let others = cluster.hosts.iter().filter(|(host, _)| **host != node.me());
    let asked = others.map(async |(host, known)| {
        let supported = version_of(node, *host, known.address, deadline).await;
        supported.is_none_or(|supported| supported < version).then(|| match supported {
            Some(_) => format!("{} runs an older version of shoutd", known.name),
            None => format!("{} does not answer, and may run an older version", known.name),
        })
    });
    let unfit: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    (!unfit.is_empty()).then(|| ProposeError::OldHosts(unfit.join(", ")))
}

async fn version_of(
    node: &Node,
    host: HostId,
    address: SocketAddr,
    deadline: Duration,
) -> Option<u32> {
    let answer = node.peer_health.ask_status(host, address, deadline).await;
    answer.ok().map(|answer| answer.supports)
}
