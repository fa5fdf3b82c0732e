//! The difference between two versions of an advertisement's content.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AdvertisedEndpoint, AdvertisedNetwork, Content, InvalidAdvertisement};
use crate::limits::{
    ADVERTISED_ADDRESSES_MAX, ADVERTISED_SOURCES_MAX, MTU_MIN, NAMES_PER_ENDPOINT_MAX,
};
use crate::multicast::SourceFilter;
use crate::{EndpointId, NetworkId};

/// A change to a host's advertisement. On the wire, `null` removes an item.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Delta {
    networks: BTreeMap<NetworkId, Option<NetworkDelta>>,
}

/// A change to one network. Applied to a network that does not exist, it creates it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct NetworkDelta {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    endpoints: BTreeMap<EndpointId, Option<AdvertisedEndpoint>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<IpAddr, Option<SourceFilter>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    router: Option<bool>,
    /// 0 removes the MTU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
}

/// How many more items fit into a delta.
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
    /// The change from `old` to `new`, and whether it is complete. It has at most `items_max`
    /// items: networks, endpoints, addresses, names, groups and sources each count as one.
    pub fn between(old: &Content, new: &Content, items_max: usize) -> (Self, bool) {
        let mut budget = DeltaBudget { left: items_max, was_short: false };
        let mut networks = BTreeMap::new();
        for (id, network) in new {
            let known = old.get(id);
            if known.is_some_and(|known| Arc::ptr_eq(known, network) || known == network) {
                continue;
            }
            if !budget.take(1) {
                break;
            }
            let empty = AdvertisedNetwork::default();
            let delta =
                NetworkDelta::between(known.map_or(&empty, |known| known), network, &mut budget);
            networks.insert(id.clone(), Some(delta));
        }
        for id in old.keys().filter(|id| !new.contains_key(*id)) {
            if !budget.take(1) {
                break;
            }
            networks.insert(id.clone(), None);
        }
        (Self { networks }, !budget.was_short)
    }

    /// Whether the delta changes nothing.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// The networks that the sender no longer has, or no longer advertises to this peer.
    pub fn withdrawn(&self) -> impl Iterator<Item = &NetworkId> {
        self.networks.iter().filter(|(_, delta)| delta.is_none()).map(|(id, _)| id)
    }

    /// The networks that the delta changes.
    pub fn networks(&self) -> impl Iterator<Item = &NetworkId> {
        self.networks.keys()
    }

    /// Applies the change to `content`.
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

    /// Checks a delta that was received from a peer.
    ///
    /// # Errors
    /// If the delta contains something that no host can have.
    pub fn check(&self) -> Result<(), InvalidAdvertisement> {
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
                    Some(endpoint) if endpoint.addresses.len() > ADVERTISED_ADDRESSES_MAX => {
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
                if filter.as_ref().is_some_and(|filter| sources(filter) > ADVERTISED_SOURCES_MAX) {
                    return invalid(format!(
                        "the group {group} with more than {ADVERTISED_SOURCES_MAX} sources"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl NetworkDelta {
    fn between(old: &AdvertisedNetwork, new: &AdvertisedNetwork, budget: &mut DeltaBudget) -> Self {
        let router =
            Some(new.memberships.router).filter(|router| *router != old.memberships.router);
        let endpoints = changes(&old.endpoints, &new.endpoints, budget, endpoint_weight);
        let groups =
            changes(&old.memberships.groups, &new.memberships.groups, budget, filter_weight);
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

/// New items come first: it is more urgent to add a receiver than to remove one.
fn changes<K: Ord + Clone, V: PartialEq + Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    budget: &mut DeltaBudget,
    weight: fn(&V) -> usize,
) -> BTreeMap<K, Option<V>> {
    let changed = new.iter().filter(|(key, value)| old.get(key) != Some(value));
    let mut changes = BTreeMap::new();
    for (key, value) in changed {
        if !budget.take(weight(value)) {
            return changes;
        }
        changes.insert(key.clone(), Some(value.clone()));
    }
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        if !budget.take(1) {
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

fn invalid(what: String) -> Result<(), InvalidAdvertisement> {
    Err(InvalidAdvertisement::Invalid { what })
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

/// How many items a network has: itself, its endpoints with their addresses and names, its groups
/// with their sources.
pub(super) fn network_weight(network: &AdvertisedNetwork) -> usize {
    let endpoints: usize = network.endpoints.values().map(endpoint_weight).sum();
    let groups: usize = network.memberships.groups.values().map(filter_weight).sum();
    1 + endpoints + groups
}

/// How many items the content of an advertisement has.
pub(super) fn weight(content: &Content) -> usize {
    content.values().map(|network| network_weight(network)).sum()
}
