//! To which hosts a host must send which group.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Memberships, SourceFilter, is_announced};
use crate::advertise::AdvertisedNetwork;
use crate::limits::REPLICATED_MAX;

/// A source, or all that have no entry of their own, and a group.
pub type SourceGroup = (Option<IpAddr>, IpAddr);

/// Another host that has the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote<'a> {
    /// Its VTEP.
    pub address: IpAddr,
    /// What it announced of the network.
    pub announced: Option<&'a AdvertisedNetwork>,
    /// Whether that is what it has now. If not it is sent everything.
    pub in_sync: bool,
}

impl<'a> Remote<'a> {
    /// What it listens to, if that is known.
    fn memberships(&self) -> Option<&'a Memberships> {
        self.announced.filter(|_| self.in_sync).map(|network| &network.memberships)
    }

    /// Whether it is sent every group: it routes multicast, or it is not known what it listens to.
    fn takes_everything(&self) -> bool {
        self.memberships().is_none_or(|memberships| memberships.router)
    }
}

/// The VTEPs to which the multicast of one network is sent. Link-local groups are not among its
/// groups: they go to all.
///
/// The sets are whole: one with a source stands for itself and is not added to that of its group,
/// for so the kernel looks them up (`vxlan_mdb_entry_skb_get`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replication {
    /// By source and group. A set can be empty: then what is sent there goes nowhere.
    pub groups: BTreeMap<SourceGroup, BTreeSet<IpAddr>>,
    /// Those to which groups go that are not in `groups`.
    pub unregistered: BTreeSet<IpAddr>,
    /// Who listens to link-local groups, as far as that is announced: what is narrowed must not be
    /// narrowed for them, where a way to send cannot tell them from other groups.
    pub link_local: BTreeMap<IpAddr, BTreeSet<IpAddr>>,
    /// Whether it is not known what some host listens to, as after a start of this host's daemon or
    /// of that one's: it is sent everything until it is known, which is soon.
    pub provisional: bool,
    /// Groups for which there is no room in `groups`: they go where `unregistered` does, in which
    /// are all hosts that want one of them.
    pub beyond: usize,
}

impl Replication {
    /// The hosts to which a packet goes, as the kernel looks them up; `None` if it goes to every
    /// host.
    pub fn receivers(&self, source: IpAddr, group: IpAddr) -> Option<&BTreeSet<IpAddr>> {
        if is_link_local(group) {
            return None;
        }
        let with_source = self.groups.get(&(Some(source), group));
        with_source.or_else(|| self.groups.get(&(None, group))).or(Some(&self.unregistered))
    }
}

/// What must be sent where, so that each of these hosts gets what it listens to and, but for
/// routers and hosts of which that is not known, nothing else.
pub fn replication(remotes: &[Remote<'_>]) -> Replication {
    replication_within(remotes, REPLICATED_MAX)
}

/// The same with so many entries, groups and sources, at the most. For what is beyond that, surplus
/// is better than loss.
pub fn replication_within(remotes: &[Remote<'_>], most: usize) -> Replication {
    let mut unregistered: BTreeSet<IpAddr> = remotes
        .iter()
        .filter(|remote| remote.takes_everything())
        .map(|remote| remote.address)
        .collect();
    let listeners: Vec<(IpAddr, &Memberships)> = remotes
        .iter()
        .filter(|remote| !remote.takes_everything())
        .filter_map(|remote| Some((remote.address, remote.memberships()?)))
        .collect();
    let wants =
        |(_, filter): &(&IpAddr, &SourceFilter)| **filter != SourceFilter::Include(BTreeSet::new());
    let mut by_group: BTreeMap<IpAddr, Vec<(IpAddr, &SourceFilter)>> = BTreeMap::new();
    let mut link_local: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
    for (address, memberships) in &listeners {
        for (group, filter) in memberships.groups.iter().filter(wants) {
            if group.is_multicast() && !is_link_local(*group) {
                by_group.entry(*group).or_default().push((*address, filter));
            } else if group.is_multicast() && is_announced(*group) {
                link_local.entry(*group).or_default().insert(*address);
            }
        }
    }
    let mut groups = BTreeMap::new();
    let (mut beyond, mut want_those) = (0, BTreeSet::new());
    for (group, filters) in by_group {
        let is_source = |source: &&IpAddr| {
            !source.is_multicast()
                && !source.is_unspecified()
                && source.is_ipv4() == group.is_ipv4()
        };
        let sources: BTreeSet<IpAddr> = filters
            .iter()
            .flat_map(|(_, filter)| named(filter))
            .filter(is_source)
            .copied()
            .collect();
        if groups.len() + 1 + sources.len() > most {
            beyond += 1;
            want_those.extend(filters.iter().map(|(address, _)| *address));
            continue;
        }
        let to = |admits: &dyn Fn(&SourceFilter) -> bool| {
            let listening =
                filters.iter().filter(|(_, filter)| admits(filter)).map(|(address, _)| *address);
            listening.chain(unregistered.iter().copied()).collect::<BTreeSet<IpAddr>>()
        };
        groups.insert((None, group), to(&|filter| matches!(filter, SourceFilter::Exclude(_))));
        for source in sources {
            groups.insert((Some(source), group), to(&|filter| filter.admits(source)));
        }
    }
    unregistered.extend(want_those);
    let provisional = remotes.iter().any(|remote| remote.memberships().is_none());
    Replication { groups, unregistered, link_local, provisional, beyond }
}

/// The sources that a filter names.
fn named(filter: &SourceFilter) -> &BTreeSet<IpAddr> {
    match filter {
        SourceFilter::Include(sources) | SourceFilter::Exclude(sources) => sources,
    }
}

/// Whether a group stays on its link, and so goes to every host of the network: 224.0.0.0/24 (RFC
/// 5771, section 4), and IPv6 scopes up to link-local (RFC 4291, section 2.7). The kernel looks no
/// entries up for 224.0.0.0/24 and ff02::/16; an entry for neighbour discovery's groups would break
/// it.
pub fn is_link_local(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets()[..3] == [224, 0, 0],
        IpAddr::V6(group) => group.is_multicast() && group.octets()[1] & 0x0f <= 2,
    }
}
