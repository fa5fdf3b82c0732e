//! `DeleteNetwork`, and the removal of a network from the cluster that may follow.

use crate::cluster::Cluster;
use crate::in_flight::Operations;
use crate::local::Local;
use crate::{DockerNetworkId, NetworkId};

/// What `DeleteNetwork` meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deleted {
    /// This host does not know the copy.
    Unknown,
    /// Only the copy is removed; the cluster decided, or still decides, about the network.
    Copy,
    /// A user removed the network here. It is now a pending removal.
    Network(NetworkId),
}

/// Forgets a copy that the engine has removed, with the endpoints and the reservations on its
/// network if it was the last copy.
///
/// It counts as a user's removal of the network if the network would otherwise stay, and neither
/// shoutd nor a Swarm removes the copy: a Swarm removes a network from a node that has no tasks on
/// it, and removes the network itself with `FreeNetwork`. If it was one of several copies, the
/// network stays.
pub fn delete_copy(
    local: &mut Local,
    cluster: &Cluster,
    operations: &Operations,
    copy: &DockerNetworkId,
) -> Deleted {
    let Some(network) = local.bindings.remove(copy) else { return Deleted::Unknown };
    let is_last = !local.bindings.values().any(|other| *other == network);
    if !is_last {
        return Deleted::Copy;
    }
    // An engine does not remove a network with endpoints. Endpoints that we still have are of
    // containers that ended when the engine or shoutd was killed.
    local.endpoints.retain(|_, endpoint| endpoint.network != network);
    local.reservations.remove(&network);
    let known = cluster.networks.get(&network);
    let is_staying = known.is_some_and(|known| !known.removing && !known.settings.swarm);
    if !is_staying || operations.is_mirroring(&network) || operations.is_replacing(copy) {
        return Deleted::Copy;
    }
    local.removals.insert(network.clone());
    Deleted::Network(network)
}

/// How far the removal of a network is that the cluster has agreed to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemovalState {
    /// Other hosts have not released their leases yet.
    Waiting,
    /// The network is gone.
    Gone,
    /// The network stays; with the names of the hosts that use it.
    InUse(Vec<String>),
}

/// How far the removal of a network is.
pub fn removal_state(cluster: &Cluster, network: &NetworkId) -> RemovalState {
    match cluster.networks.get(network) {
        None => RemovalState::Gone,
        Some(known) if known.removing => RemovalState::Waiting,
        Some(known) => RemovalState::InUse(
            known.attached.iter().map(|host| cluster.host_name(*host)).collect(),
        ),
    }
}
