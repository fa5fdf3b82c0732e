//! Rollout of a network: whether it is on all hosts, or gone from all.

use crate::cluster::{Cluster, Naming, Network};
use crate::in_flight::Operations;
use crate::local::Local;
use crate::view::NetworkPhase;
use crate::{HostId, NetworkId};

/// Which hosts must report their copies before the rollout is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// None: the network has no copies, or it has no name that hosts could mirror it by.
    None,
    /// All, once they have a copy.
    Present,
    /// All, once they have none.
    Gone,
}

/// The network of this name, or with this id. A network that is being removed counts, too.
pub fn resolve(cluster: &Cluster, wanted: &str) -> Option<NetworkId> {
    let by_id = wanted.parse().ok().filter(|id| cluster.networks.contains_key(id));
    by_id.or_else(|| {
        let mut networks = cluster.networks.iter();
        networks.find(|(_, network)| has_name(network, wanted)).map(|(id, _)| id.clone())
    })
}

fn has_name(network: &Network, name: &str) -> bool {
    network.description.as_ref().is_some_and(|description| description.name == name)
}

/// The phase of a network, as this host sees it.
pub fn phase(cluster: &Cluster, local: &Local, id: Option<&NetworkId>) -> NetworkPhase {
    let Some((id, network)) = id.and_then(|id| cluster.networks.get_key_value(id)) else {
        return NetworkPhase::Unknown;
    };
    if network.removing {
        NetworkPhase::Leaving(sorted_names(cluster, network.leases.values()))
    } else if local.removals.contains(id) {
        NetworkPhase::Asking
    } else if network.description.is_none() {
        NetworkPhase::Nameless
    } else {
        NetworkPhase::There(sorted_names(cluster, network.attached.iter()))
    }
}

/// The names of hosts, sorted, and each once.
fn sorted_names<'a>(cluster: &Cluster, hosts: impl Iterator<Item = &'a HostId>) -> Vec<String> {
    let mut names: Vec<String> = hosts.map(|host| cluster.host_name(*host)).collect();
    names.sort();
    names.dedup();
    names
}

/// Whether the hosts can be asked about a network in this phase, or the answer is already known.
/// `was_known` tells whether the network existed when a user asked for its rollout: if it is gone
/// since, another network of its name replaced it.
pub fn is_ready(phase: &NetworkPhase, is_to_go: bool, was_known: bool) -> bool {
    match phase {
        NetworkPhase::Asking | NetworkPhase::Nameless => false,
        NetworkPhase::Unknown => is_to_go || was_known,
        NetworkPhase::There(_) | NetworkPhase::Leaving(_) => true,
    }
}

/// What to ask the hosts about a network in this phase.
pub fn question(phase: &NetworkPhase, is_to_go: bool) -> Question {
    match phase {
        NetworkPhase::There(_) if !is_to_go => Question::Present,
        NetworkPhase::Leaving(_) | NetworkPhase::Unknown if is_to_go => Question::Gone,
        _ => Question::None,
    }
}

/// Why a network with this id is gone that was created on this host, and which network has its
/// name, if there was one.
pub fn made_room(cluster: &Cluster, operations: &Operations, wanted: &str) -> Option<String> {
    let id = wanted.parse().ok().filter(|id| cluster.naming(id) == Naming::Lost)?;
    let why = operations.yielded(&id)?;
    Some(match cluster.network_named(&why.name) {
        Some((there, network)) => {
            let subnets: Vec<_> =
                network.settings.pools.iter().map(|pool| pool.subnet.to_string()).collect();
            format!("{why}; that one is {} with subnet {}", there.short(), subnets.join(", "))
        }
        None => why.to_string(),
    })
}
