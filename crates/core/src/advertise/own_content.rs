//! What this host advertises.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::delta::{network_weight, weight};
use super::{AdvertisedEndpoint, AdvertisedNetwork, Content};
use crate::cluster::Cluster;
use crate::limits::{ADVERTISED_GROUPS_MAX, ADVERTISED_ITEMS_MAX, ADVERTISED_SOURCES_MAX};
use crate::local::Local;
use crate::multicast::{Memberships, SourceFilter};
use crate::names::advertised_names;
use crate::plane::{Underlay, advertised_mtu};
use crate::{NetworkId, Vni};

/// A network with more memberships on this host than can be advertised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverLimit {
    /// The network's name.
    pub network: String,
    /// How many groups its containers on this host are members of.
    pub groups: usize,
}

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, groups } = self;
        write!(
            f,
            "network {network}: the containers of this host are members of {groups} groups, more \
             than can be advertised "
        )?;
        write!(
            f,
            "({ADVERTISED_GROUPS_MAX} per network, {ADVERTISED_ITEMS_MAX} items in total): all of \
             its multicast is sent here"
        )
    }
}

/// What this host has of the networks on which it has endpoints. A network that exceeds the limits
/// is advertised as a receiver of all groups, and is listed.
pub fn own_content(
    cluster: &Cluster,
    local: &Local,
    memberships: &BTreeMap<Vni, Memberships>,
    underlay: Underlay,
) -> (Content, Vec<OverLimit>) {
    let mut networks: BTreeMap<NetworkId, AdvertisedNetwork> = BTreeMap::new();
    for (id, endpoint) in &local.endpoints {
        if !cluster.networks.contains_key(&endpoint.network) {
            continue;
        }
        let addresses: BTreeSet<_> = endpoint.addresses.iter().map(IpNet::addr).collect();
        let advertised =
            AdvertisedEndpoint { mac: endpoint.mac, addresses, names: advertised_names(endpoint) };
        networks
            .entry(endpoint.network.clone())
            .or_default()
            .endpoints
            .insert(id.clone(), advertised);
    }
    let mut over_limit = Vec::new();
    for (id, advertised) in &mut networks {
        let Some(known) = cluster.networks.get(id) else { continue };
        advertised.mtu = advertised_mtu(known, underlay);
        let Some(wanted) = memberships.get(&known.vni) else { continue };
        if wanted.groups.len() > ADVERTISED_GROUPS_MAX {
            over_limit.push(OverLimit {
                network: known.title(id).to_owned(),
                groups: wanted.groups.len(),
            });
            advertised.memberships.router = true;
        } else {
            advertised.memberships =
                Memberships { groups: bounded_groups(wanted), router: wanted.router };
        }
    }
    let mut content: Content =
        networks.into_iter().map(|(id, network)| (id, Arc::new(network))).collect();
    over_limit.extend(shrink(cluster, &mut content));
    (content, over_limit)
}

/// The groups, with source filters of bounded size. A filter that exceeds the bound is widened,
/// never narrowed. A container can send a report for any address, and the bridge adds it to its
/// MDB; we drop unicast addresses here, because peers refuse an advertisement that contains one.
fn bounded_groups(wanted: &Memberships) -> BTreeMap<std::net::IpAddr, SourceFilter> {
    let groups = wanted.groups.iter().filter(|(group, _)| group.is_multicast());
    groups.map(|(group, filter)| (*group, bounded(filter))).collect()
}

/// A source filter with at most [`ADVERTISED_SOURCES_MAX`] sources that admits all that `filter`
/// admits.
fn bounded(filter: &SourceFilter) -> SourceFilter {
    match filter {
        SourceFilter::Include(sources) if sources.len() > ADVERTISED_SOURCES_MAX => {
            SourceFilter::all()
        }
        SourceFilter::Exclude(sources) => {
            SourceFilter::Exclude(sources.iter().take(ADVERTISED_SOURCES_MAX).copied().collect())
        }
        SourceFilter::Include(_) => filter.clone(),
    }
}

/// Widens the networks with the most items until the total fits.
fn shrink(cluster: &Cluster, content: &mut Content) -> Vec<OverLimit> {
    let mut total = weight(content);
    if total <= ADVERTISED_ITEMS_MAX {
        return Vec::new();
    }
    let mut over_limit = Vec::new();
    let mut largest: Vec<_> = content.iter_mut().collect();
    largest.sort_by_key(|(_, network)| Reverse(network_weight(network)));
    for (id, network) in largest {
        if total <= ADVERTISED_ITEMS_MAX {
            break;
        }
        total -= network_weight(network);
        let title = cluster.networks.get(id).map_or(id.short(), |known| known.title(id)).to_owned();
        over_limit.push(OverLimit { network: title, groups: network.memberships.groups.len() });
        let network = Arc::make_mut(network);
        network.memberships = Memberships { groups: BTreeMap::new(), router: true };
        total += network_weight(network);
    }
    over_limit
}
