//! Which peer gets which part of this host's advertisement.

use std::collections::{BTreeMap, BTreeSet};

use super::{Content, PeerStates};
use crate::cluster::Cluster;
use crate::{HostId, NetworkId};

/// The part of host `me`'s content that each other host gets: a network goes to the hosts that are
/// agreed to have it, and to those that advertise it themselves.
///
/// While it is not agreed that `me` has a network, the network goes to all hosts of the cluster.
/// Without a quorum, the hosts that have the network cannot learn of `me` in another way.
pub fn audience(
    cluster: &Cluster,
    me: HostId,
    content: &Content,
    peers: &PeerStates,
) -> BTreeMap<HostId, Content> {
    let mut audience: BTreeMap<HostId, Content> = BTreeMap::new();
    for (id, network) in content {
        let attached = cluster.networks.get(id).map(|known| &known.attached);
        let is_agreed = attached.is_some_and(|attached| attached.contains(&me));
        for host in cluster.hosts.keys().filter(|host| **host != me) {
            let has_it = attached.is_some_and(|attached| attached.contains(host))
                || peers.hosts.get(host).is_some_and(|peer| peer.networks.contains_key(id));
            if !is_agreed || has_it {
                audience.entry(*host).or_default().insert(id.clone(), network.clone());
            }
        }
    }
    audience
}

/// For each peer, the networks in host `me`'s content that the peer is agreed to have. We expect it
/// to advertise them to us.
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
