//! Replication: which hosts receive the packets of each group.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::net::IpAddr;

use super::{Memberships, SourceFilter, is_advertised};
use crate::advertise::AdvertisedNetwork;
use crate::limits::REPLICATED_MAX;

/// (S,G), or (\*,G) if the source is `None`.
pub type SourceGroup = (Option<IpAddr>, IpAddr);

/// Another host that has the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote<'a> {
    /// The VTEP.
    pub address: IpAddr,
    /// What it advertises of the network.
    pub advertised: Option<&'a AdvertisedNetwork>,
    /// Whether it is in sync. If not, it is sent every group.
    pub in_sync: bool,
}

impl<'a> Remote<'a> {
    /// Its memberships, if they are known.
    fn memberships(&self) -> Option<&'a Memberships> {
        self.advertised.filter(|_| self.in_sync).map(|network| &network.memberships)
    }

    /// Whether it is sent every group, because it has a multicast router or its memberships are not
    /// known.
    fn takes_everything(&self) -> bool {
        self.memberships().is_none_or(|memberships| memberships.router)
    }
}

/// The VTEPs to which the multicast of one network is sent. Link-local groups have no entries: they
/// go to all hosts.
///
/// An (S,G) set is complete: the kernel looks up (S,G) first and does not add the remotes of (\*,G)
/// (`vxlan_mdb_entry_skb_get`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replication {
    /// The remotes of each (S,G) and (\*,G). If the set is empty, the packets are dropped.
    pub groups: BTreeMap<SourceGroup, BTreeSet<IpAddr>>,
    /// The remotes of all groups without an entry in `groups`.
    pub unregistered: BTreeSet<IpAddr>,
    /// The hosts with members of link-local groups, as far as these are advertised. A tier that
    /// replicates by MAC address cannot tell these groups from others, and must not exclude these
    /// hosts.
    pub link_local: BTreeMap<IpAddr, BTreeSet<IpAddr>>,
    /// Whether some host's memberships are not known, as after a start of its daemon or of this
    /// one. Such a host is sent every group until they are known, which is soon.
    pub provisional: bool,
    /// The number of groups for which there is no room in `groups`. They go to `unregistered`,
    /// which includes all hosts that have members of one of them.
    pub beyond: usize,
}

impl Replication {
    /// The hosts to which the kernel sends a packet; `None` if it goes to every host.
    pub fn receivers(&self, source: IpAddr, group: IpAddr) -> Option<&BTreeSet<IpAddr>> {
        if is_link_local(group) {
            return None;
        }
        let with_source = self.groups.get(&(Some(source), group));
        with_source.or_else(|| self.groups.get(&(None, group))).or(Some(&self.unregistered))
    }
}

/// The replication that sends each host the groups of its members, and nothing else. Hosts that
/// have a router or unknown memberships are sent every group.
pub fn replication(remotes: &[Remote<'_>]) -> Replication {
    replication_within(remotes, REPLICATED_MAX)
}

/// The same with at most `most` entries, (\*,G) and (S,G). Groups beyond go to more hosts than
/// necessary: surplus is better than loss.
pub fn replication_within(remotes: &[Remote<'_>], most: usize) -> Replication {
    let mut unregistered: BTreeSet<IpAddr> = remotes
        .iter()
        .filter(|remote| remote.takes_everything())
        .map(|remote| remote.address)
        .collect();
    let receivers: Vec<(IpAddr, &Memberships)> = remotes
        .iter()
        .filter(|remote| !remote.takes_everything())
        .filter_map(|remote| Some((remote.address, remote.memberships()?)))
        .collect();
    let mut by_group: BTreeMap<IpAddr, Vec<(IpAddr, &SourceFilter)>> = BTreeMap::new();
    let mut link_local: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
    for (address, memberships) in &receivers {
        for (group, filter) in &memberships.groups {
            if !group.is_multicast() || *filter == SourceFilter::Include(BTreeSet::new()) {
                continue;
            }
            if !is_link_local(*group) {
                by_group.entry(*group).or_default().push((*address, filter));
            } else if is_advertised(*group) {
                link_local.entry(*group).or_default().insert(*address);
            }
        }
    }
    let mut groups = BTreeMap::new();
    let (mut beyond, mut receivers_beyond) = (0, BTreeSet::new());
    for (group, filters) in by_group {
        let sources: BTreeSet<IpAddr> = filters
            .iter()
            .flat_map(|(_, filter)| sources(filter))
            .filter(|source| is_source(**source, group))
            .copied()
            .collect();
        if groups.len() + 1 + sources.len() > most {
            beyond += 1;
            receivers_beyond.extend(filters.iter().map(|(address, _)| *address));
            continue;
        }
        for source in iter::once(None).chain(sources.into_iter().map(Some)) {
            let mut to = unregistered.clone();
            for (address, filter) in &filters {
                let selects = match source {
                    Some(source) => filter.admits(source),
                    None => matches!(filter, SourceFilter::Exclude(_)),
                };
                if selects {
                    to.insert(*address);
                }
            }
            groups.insert((source, group), to);
        }
    }
    unregistered.extend(receivers_beyond);
    let provisional = remotes.iter().any(|remote| remote.memberships().is_none());
    Replication { groups, unregistered, link_local, provisional, beyond }
}

/// Whether a group's packets can have this source.
fn is_source(source: IpAddr, group: IpAddr) -> bool {
    !source.is_multicast() && !source.is_unspecified() && source.is_ipv4() == group.is_ipv4()
}

/// The sources in a filter's list.
fn sources(filter: &SourceFilter) -> &BTreeSet<IpAddr> {
    match filter {
        SourceFilter::Include(sources) | SourceFilter::Exclude(sources) => sources,
    }
}

/// Whether a group has link-local scope, and so goes to every host of the network: 224.0.0.0/24
/// (RFC 5771, section 4), and IPv6 scopes up to link-local (RFC 4291, section 2.7).
///
/// The MDB must not have an entry for such a group. Without one, the kernel floods 224.0.0.0/24 and
/// ff02::/16: the entries for all other groups do not apply to them (`vxlan_mdb_entry_skb_get`). An
/// entry for a solicited-node group would break neighbour discovery.
pub fn is_link_local(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets()[..3] == [224, 0, 0],
        IpAddr::V6(group) => group.is_multicast() && group.octets()[1] & 0x0f <= 2,
    }
}
