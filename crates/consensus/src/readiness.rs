//! The Raft membership as plain data, and which of its members are ready to vote.

use std::collections::BTreeSet;

use shoutd_core::HostId;

use crate::members::Members;
use crate::node::Node;
use crate::raft::{Metrics, host};

/// Log entries that a host may lack and still get a vote: it receives them in a moment.
const LAG_MAX: u64 = 200;

/// The current Raft membership.
pub(crate) fn members(metrics: &Metrics) -> Members {
    let membership = metrics.membership_config.membership();
    Members {
        voters: membership
            .get_joint_config()
            .iter()
            .map(|ids| ids.iter().copied().filter_map(host).collect())
            .collect(),
        addresses: membership
            .nodes()
            .filter_map(|(id, node)| Some((host(*id)?, node.addr.clone())))
            .collect(),
    }
}

/// The members that answer and have nearly all of the log, with this host, which leads.
pub(crate) fn ready(node: &Node, metrics: &Metrics) -> BTreeSet<HostId> {
    let least = metrics.last_log_index.unwrap_or(0).saturating_sub(LAG_MAX);
    let replication = metrics.replication.iter().flatten();
    let caught_up =
        replication.filter(|(_, matched)| matched.is_some_and(|matched| matched.index >= least));
    caught_up
        .filter_map(|(id, _)| host(*id))
        .filter(|id| *id == node.me() || node.peer_health.is_reachable(*id))
        .chain([node.me()])
        .collect()
}
