//! Committing a command, as the leader, and waiting until it is applied here.

use openraft::error::RaftError;
use shoutd_core::HostId;
use shoutd_core::cluster::{Command, Outcome};
use tokio::time::{Instant, timeout_at};

use crate::node::Node;
use crate::wire::Proposed;
use crate::{ProposeError, obstacle, old_hosts};

/// Commits a command if this host leads.
pub(crate) async fn write_until(node: &Node, command: Command, until: Instant) -> Proposed {
    if let Some(obstacle) = old_hosts::obstacle(node, &command, until).await {
        return Proposed::Failed(obstacle);
    }
    let deadline = until.saturating_duration_since(Instant::now());
    let written = timeout_at(until, async {
        tokio::select! {
            // A committed entry takes precedence over news of another leader.
            biased;
            written = node.raft.client_write(command.into()) => Some(written),
            () = other_leader_than(node, node.me()) => None,
        }
    });
    match written.await {
        Ok(Some(Ok(response))) => {
            // Only openraft's own entries have no result.
            Proposed::Done {
                index: response.log_id.index,
                result: response.data.0.unwrap_or(Ok(Outcome::Done)),
            }
        }
        // `ForwardToLeader`; the other variant concerns membership changes only.
        Ok(Some(Err(RaftError::APIError(_))) | None) => {
            // This host must not name itself: the caller would only ask it again.
            let leader = node.leader().filter(|leader| *leader != node.me());
            Proposed::NotLeader { leader: leader.and_then(|leader| node.located(leader)) }
        }
        Ok(Some(Err(RaftError::Fatal(_)))) => Proposed::Failed(ProposeError::Stopped),
        Err(_) => Proposed::Failed(obstacle::why_not(node, None, deadline)),
    }
}

/// Resolves when this host learns of a new leader that is not `leader`.
pub(crate) async fn other_leader_than(node: &Node, leader: HostId) {
    let mut metrics = node.raft.metrics();
    let before = metrics.borrow_and_update().current_leader;
    let other = metrics.wait_for(|metrics| {
        let now = metrics.current_leader;
        now != before && now.is_some_and(|now| now != leader.get())
    });
    if other.await.is_err() {
        // openraft has stopped. The call that this races against reports that.
        std::future::pending::<()>().await;
    }
}

pub(crate) async fn wait_applied(node: &Node, index: u64) -> Result<(), ProposeError> {
    let mut applied = node.published.applied.clone();
    applied.wait_for(|applied| *applied > index).await.map(drop).map_err(|_| ProposeError::Stopped)
}
