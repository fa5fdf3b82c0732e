//! Who is told what.

use std::collections::{BTreeMap, BTreeSet};

use super::{Content, PeerStates};
use crate::cluster::Cluster;
use crate::{HostId, NetworkId};

/// What of its content host `me` announces to each of the others: a network to the hosts that have
/// it too, as was agreed or as they announced it themselves.
///
/// A network of which it is not agreed that `me` has it is announced to all hosts of the cluster:
/// while there is no majority, those that have it can only learn it so.
pub fn audience(
    cluster: &Cluster,
    me: HostId,
    content: &Content,
    heard: &PeerStates,
) -> BTreeMap<HostId, Content> {
    let mut audience: BTreeMap<HostId, Content> = BTreeMap::new();
    let others = || cluster.hosts.keys().filter(|host| **host != me);
    for (id, network) in content {
        let attached = cluster.networks.get(id).map(|known| &known.attached);
        let is_agreed = attached.is_some_and(|attached| attached.contains(&me));
        let has_it = |host: &HostId| {
            attached.is_some_and(|attached| attached.contains(host))
                || heard.hosts.get(host).is_some_and(|heard| heard.networks.contains_key(id))
        };
        for host in others().filter(|host| !is_agreed || has_it(host)) {
            audience.entry(*host).or_default().insert(id.clone(), network.clone());
        }
    }
    audience
}

/// Which of the networks that host `me` has (its content) each other host is agreed to have, and so
/// will announce to it.
pub fn expectations(
    cluster: &Cluster,
    me: HostId,
    content: &Content,
) -> BTreeMap<HostId, BTreeSet<NetworkId>> {
    let mut expected: BTreeMap<HostId, BTreeSet<NetworkId>> = BTreeMap::new();
    for id in content.keys() {
        let attached = cluster.networks.get(id).into_iter().flat_map(|known| &known.attached);
        for host in attached.filter(|host| **host != me && cluster.hosts.contains_key(host)) {
            expected.entry(*host).or_default().insert(id.clone());
        }
    }
    expected
}
