//! The rows of `shoutdctl groups`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use shoutd_core::HostId;
use shoutd_core::advertise::{AdvertisedNetwork, PeerStates};
use shoutd_core::multicast::SourceFilter;
use shoutd_core::view::{GroupRow, MemberHost};

use super::Advertiser;

/// The hosts with members, by row.
type Rows = BTreeMap<Key, Vec<MemberHost>>;

/// What a row is about. The rows are in the order of these fields.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    network: String,
    /// `None` for a multicast router, which gets every group.
    group: Option<IpAddr>,
    filter: FilterKey,
}

/// A source filter, ordered with EXCLUDE before INCLUDE.
type FilterKey = (bool, BTreeSet<IpAddr>);

fn filter_key(filter: &SourceFilter) -> FilterKey {
    match filter {
        SourceFilter::Exclude(sources) => (false, sources.clone()),
        SourceFilter::Include(sources) => (true, sources.clone()),
    }
}

impl Advertiser {
    /// What all peers advertise.
    pub fn peer_states(&self) -> Arc<PeerStates> {
        self.heard.borrow().clone()
    }

    /// Something came from this host through the tunnel.
    pub fn note_tunnelled(&self, host: HostId) {
        let now = self.now();
        self.state().inbound.note_tunnelled(host, now);
    }

    /// The memberships that this host and its peers advertise on the networks of this host.
    pub fn groups(&self) -> Vec<GroupRow> {
        let cluster = self.agreement.cluster();
        let (own, heard) = (self.state().content.clone(), self.heard.borrow().clone());
        let own_host = [(self.agreement.me, true, &own)];
        let others =
            heard.hosts.iter().map(|(host, heard)| (*host, heard.in_sync, &heard.networks));
        let mut rows = Rows::new();
        for (host, in_sync, networks) in own_host.into_iter().chain(others) {
            let host =
                MemberHost { name: cluster.host_name(host), in_sync, containers: Vec::new() };
            for (id, network) in networks.iter().filter(|(id, _)| own.contains_key(*id)) {
                let title = cluster.networks.get(id).map_or(id.short(), |known| known.title(id));
                add(&mut rows, title, network, &host);
            }
        }
        rows.into_iter().map(|(key, hosts)| row(key, hosts)).collect()
    }
}

fn row(key: Key, hosts: Vec<MemberHost>) -> GroupRow {
    let Key { network, group, filter: (is_include, sources) } = key;
    let sources =
        if is_include { SourceFilter::Include(sources) } else { SourceFilter::Exclude(sources) };
    GroupRow { network, group, sources, hosts }
}

fn add(rows: &mut Rows, title: &str, network: &AdvertisedNetwork, host: &MemberHost) {
    let groups =
        network.memberships.groups.iter().map(|(group, filter)| (Some(*group), filter_key(filter)));
    let router = network.memberships.router.then(|| (None, filter_key(&SourceFilter::all())));
    for (group, filter) in router.into_iter().chain(groups) {
        let key = Key { network: title.to_owned(), group, filter };
        rows.entry(key).or_default().push(host.clone());
    }
}
