//! Explains why nothing was committed.

use std::time::Duration;

use shoutd_core::HostId;
use shoutd_peer::CallError;

use crate::ProposeError;
use crate::clock::millis;
use crate::node::Node;

/// Why an errand has not reached the leader, or why the leader could not do it.
pub(crate) enum Obstacle {
    Call(HostId, CallError),
    Leader(ProposeError),
}

/// Checks that this host can take part in consensus.
pub(crate) fn check_able(node: &Node) -> Result<(), ProposeError> {
    if let Some(line) = node.removed() {
        return Err(ProposeError::Removed(line));
    }
    if node.raft.metrics().borrow().running_state.is_err() {
        return Err(ProposeError::Stopped);
    }
    node.record.fault().map_or(Ok(()), |fault| Err(ProposeError::Disk(fault)))
}

/// Explains why nothing was committed.
pub(crate) fn why_not(node: &Node, trouble: Option<Obstacle>, deadline: Duration) -> ProposeError {
    if let Err(unable) = check_able(node) {
        return unable;
    }
    let voters = node.voters();
    let missing: Vec<_> =
        voters.iter().copied().filter(|voter| node.peer_health.is_unreachable(*voter)).collect();
    let quorum = voters.len() / 2 + 1;
    if voters.len() - missing.len() < quorum {
        let mut names: Vec<_> = missing.iter().map(|host| name_of_voter(node, *host)).collect();
        names.sort();
        let text = format!(
            "no leader: {} of {} voters unreachable ({})",
            missing.len(),
            voters.len(),
            names.join(", ")
        );
        return ProposeError::NoLeader(text);
    }
    match trouble {
        Some(Obstacle::Leader(error)) => error,
        Some(Obstacle::Call(leader, error)) => ProposeError::NoLeader(format!(
            "the leader {} does not answer: {error}",
            node.peer_health.name(leader)
        )),
        None if node.leader().is_none() => ProposeError::NoLeader(format!(
            "no leader: the {} voters have not elected one yet",
            voters.len()
        )),
        None => ProposeError::TimedOut(millis(deadline)),
    }
}

/// A voter's name for messages; also explains a voter that was removed while its vote could not
/// be taken.
fn name_of_voter(node: &Node, host: HostId) -> String {
    match node.cluster().admissions.removed.get(&host) {
        Some(removed) => format!(
            "{}, which was removed but still has its vote: start it once more, or see \
             shoutdctl recover",
            removed.name
        ),
        None => node.peer_health.name(host),
    }
}
