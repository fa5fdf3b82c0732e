//! The rows of `shoutdctl groups`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use shoutd_core::advertise::AdvertisedNetwork;
use shoutd_core::multicast::SourceFilter;
use shoutd_core::view::{GroupRow, MemberHost};

use super::Advertiser;

/// Hosts with members, by network, group (`None` for a multicast router, which gets every group)
/// and source filter.
type Rows = BTreeMap<(String, Option<IpAddr>, FilterKey), Vec<MemberHost>>;

/// A source filter, ordered with EXCLUDE before INCLUDE.
type FilterKey = (bool, BTreeSet<IpAddr>);

fn key(filter: &SourceFilter) -> FilterKey {
    match filter {
        SourceFilter::Exclude(sources) => (false, sources.clone()),
        SourceFilter::Include(sources) => (true, sources.clone()),
    }
}

impl Advertiser {
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
        let row = |((network, group, (is_include, sources)), hosts)| GroupRow {
            network,
            group,
            sources: if is_include {
                SourceFilter::Include(sources)
            } else {
                SourceFilter::Exclude(sources)
            },
            hosts,
        };
        rows.into_iter().map(row).collect()
    }
}

fn add(rows: &mut Rows, title: &str, network: &AdvertisedNetwork, host: &MemberHost) {
    let groups =
        network.memberships.groups.iter().map(|(group, filter)| (Some(*group), key(filter)));
    let router = network.memberships.router.then(|| (None, key(&SourceFilter::all())));
    for (group, filter) in router.into_iter().chain(groups) {
        rows.entry((title.to_owned(), group, filter)).or_default().push(host.clone());
    }
}
