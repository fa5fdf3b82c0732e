//! The difference between two contents.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AdvertisedEndpoint, AdvertisedNetwork, Content, InvalidAdvertisement};
use crate::limits::{
    ANNOUNCED_ADDRESSES_MAX, ANNOUNCED_SOURCES_MAX, MTU_MIN, NAMES_PER_ENDPOINT_MAX,
};
use crate::multicast::SourceFilter;
use crate::{EndpointId, NetworkId};

/// A change to what a host announces. `null` on the wire stands for what is not there any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Delta {
    networks: BTreeMap<NetworkId, Option<NetworkDelta>>,
}

/// A change to one network; of nothing, it makes the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct NetworkDelta {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    endpoints: BTreeMap<EndpointId, Option<AdvertisedEndpoint>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<IpAddr, Option<SourceFilter>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    router: Option<bool>,
    /// Zero stands for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
}

/// How much fits into a delta still.
struct DeltaBudget {
    left: usize,
    was_short: bool,
}

impl DeltaBudget {
    fn take(&mut self, items: usize) -> bool {
        self.was_short |= items > self.left;
        if !self.was_short {
            self.left -= items;
        }
        !self.was_short
    }
}

impl Delta {
    /// What makes `new` of `old`, and whether that is all of it: a delta has so many items at the
    /// most, counted in networks, endpoints, addresses, names, groups and sources.
    pub fn between(old: &Content, new: &Content, items_max: usize) -> (Self, bool) {
        let mut room = DeltaBudget { left: items_max, was_short: false };
        let mut networks = BTreeMap::new();
        for (id, network) in new {
            let known = old.get(id);
            if known.is_some_and(|known| Arc::ptr_eq(known, network) || known == network) {
                continue;
            }
            if !room.take(1) {
                break;
            }
            let empty = AdvertisedNetwork::default();
            let delta =
                NetworkDelta::between(known.map_or(&empty, |known| known), network, &mut room);
            networks.insert(id.clone(), Some(delta));
        }
        for id in old.keys().filter(|id| !new.contains_key(*id)) {
            if !room.take(1) {
                break;
            }
            networks.insert(id.clone(), None);
        }
        (Self { networks }, !room.was_short)
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// The networks that the sender does not have any more, or not for this peer.
    pub fn withdrawn(&self) -> impl Iterator<Item = &NetworkId> {
        self.networks.iter().filter(|(_, delta)| delta.is_none()).map(|(id, _)| id)
    }

    /// The networks that it changes.
    pub fn networks(&self) -> impl Iterator<Item = &NetworkId> {
        self.networks.keys()
    }

    /// Makes the change.
    pub fn apply(&self, content: &mut Content) {
        for (id, delta) in &self.networks {
            match delta {
                Some(delta) => delta.apply(Arc::make_mut(content.entry(id.clone()).or_default())),
                None => {
                    content.remove(id);
                }
            }
        }
    }

    /// Checks what has come from another host.
    ///
    /// # Errors
    /// What is in it that no host can have.
    pub fn check(&self) -> Result<(), InvalidAdvertisement> {
        let invalid = |what: String| Err(InvalidAdvertisement::Invalid { what });
        for delta in self.networks.values().flatten() {
            for (id, endpoint) in &delta.endpoints {
                match endpoint {
                    Some(endpoint) if !endpoint.mac.is_unicast() => {
                        return invalid(format!(
                            "endpoint {} with the MAC address {}",
                            id.short(),
                            endpoint.mac
                        ));
                    }
                    Some(endpoint) if endpoint.addresses.len() > ANNOUNCED_ADDRESSES_MAX => {
                        let count = endpoint.addresses.len();
                        return invalid(format!("endpoint {} with {count} addresses", id.short()));
                    }
                    Some(endpoint) if endpoint.names.len() > NAMES_PER_ENDPOINT_MAX => {
                        return invalid(format!(
                            "endpoint {} with {} names",
                            id.short(),
                            endpoint.names.len()
                        ));
                    }
                    _ => {}
                }
            }
            if let Some(mtu) = delta.mtu.filter(|mtu| (1..MTU_MIN).contains(mtu)) {
                return invalid(format!("an MTU of {mtu}, less than {MTU_MIN}"));
            }
            for (group, filter) in &delta.groups {
                if !group.is_multicast() {
                    return invalid(format!("the group {group}"));
                }
                if filter.as_ref().is_some_and(|filter| sources(filter) > ANNOUNCED_SOURCES_MAX) {
                    return invalid(format!(
                        "the group {group} with more than {ANNOUNCED_SOURCES_MAX} sources"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl NetworkDelta {
    fn between(old: &AdvertisedNetwork, new: &AdvertisedNetwork, room: &mut DeltaBudget) -> Self {
        let router =
            Some(new.memberships.router).filter(|router| *router != old.memberships.router);
        let endpoints = changes(&old.endpoints, &new.endpoints, room, endpoint_weight);
        let groups = changes(&old.memberships.groups, &new.memberships.groups, room, filter_weight);
        let mtu = (new.mtu != old.mtu).then(|| new.mtu.unwrap_or_default());
        Self { endpoints, groups, router, mtu }
    }

    fn apply(&self, network: &mut AdvertisedNetwork) {
        apply(&self.endpoints, &mut network.endpoints);
        apply(&self.groups, &mut network.memberships.groups);
        if let Some(router) = self.router {
            network.memberships.router = router;
        }
        if let Some(mtu) = self.mtu {
            network.mtu = Some(mtu).filter(|mtu| *mtu != 0);
        }
    }
}

/// What is new comes first: to be heard is more urgent than not to be.
fn changes<K: Ord + Clone, V: PartialEq + Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    room: &mut DeltaBudget,
    weight: fn(&V) -> usize,
) -> BTreeMap<K, Option<V>> {
    let changed = new.iter().filter(|(key, value)| old.get(key) != Some(value));
    let mut changes = BTreeMap::new();
    for (key, value) in changed {
        if !room.take(weight(value)) {
            return changes;
        }
        changes.insert(key.clone(), Some(value.clone()));
    }
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        if !room.take(1) {
            return changes;
        }
        changes.insert(key.clone(), None);
    }
    changes
}

fn apply<K: Ord + Clone, V: Clone>(changes: &BTreeMap<K, Option<V>>, to: &mut BTreeMap<K, V>) {
    for (key, value) in changes {
        match value {
            Some(value) => to.insert(key.clone(), value.clone()),
            None => to.remove(key),
        };
    }
}

fn sources(filter: &SourceFilter) -> usize {
    match filter {
        SourceFilter::Include(sources) | SourceFilter::Exclude(sources) => sources.len(),
    }
}

fn endpoint_weight(endpoint: &AdvertisedEndpoint) -> usize {
    1 + endpoint.addresses.len() + endpoint.names.len()
}

fn filter_weight(filter: &SourceFilter) -> usize {
    1 + sources(filter)
}

/// How much a network is: itself, its endpoints and their addresses, the groups and their sources.
pub(super) fn network_weight(network: &AdvertisedNetwork) -> usize {
    let endpoints: usize = network.endpoints.values().map(endpoint_weight).sum();
    let groups: usize = network.memberships.groups.values().map(filter_weight).sum();
    1 + endpoints + groups
}

/// How much a content is.
pub(super) fn weight(content: &Content) -> usize {
    content.values().map(|network| network_weight(network)).sum()
}
