//! What the forwarding tables of one segment hold for the sake of announcements, beside the flood
//! entries: where groups are sent, and where endpoints' MAC addresses are. It changes with every
//! join of a receiver anywhere, so it is kept apart from devices and compared on its own.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{Change, DeviceName, Segment, Tier};
use crate::MacAddress;
use crate::limits::{KEPT_SOURCES_MAX, LEASES_PER_NETWORK_MAX, REPLICATED_MAX};
use crate::multicast::{Replication, SourceGroup, goes_to_every_host, group_mac, is_link_local};

/// Where a group goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// Nowhere: what keeps an entry without any host from falling back to a wider one.
    Nowhere,
    /// To the host with this VTEP.
    Host(IpAddr),
}

/// What keeps groups that nobody listens to off the tunnel where the VXLAN device cannot: a filter
/// before it. Link-local groups pass in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Filter {
    /// There is none: every group passes.
    #[default]
    Off,
    /// These groups pass, and no others.
    On(BTreeSet<IpAddr>),
    /// There is one that is not as shoutd makes it, and nobody knows what passes.
    Broken,
}

impl Filter {
    /// Whether packets to this group pass for certain.
    pub fn passes(&self, group: IpAddr) -> bool {
        match self {
            Self::Off => true,
            Self::On(admitted) => is_link_local(group) || admitted.contains(&group),
            Self::Broken => false,
        }
    }

    /// The groups that pass, if that is known and not all do.
    fn admitted(&self) -> Option<&BTreeSet<IpAddr>> {
        match self {
            Self::On(admitted) => Some(admitted),
            Self::Off | Self::Broken => None,
        }
    }
}

/// What there is of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Entries of the VXLAN device's multicast database. An unspecified group without a source
    /// stands for all groups of its family.
    pub groups: BTreeMap<SourceGroup, BTreeSet<Destination>>,
    /// Entries of the VXLAN device's forwarding table for addresses of groups.
    pub group_macs: BTreeMap<MacAddress, BTreeSet<IpAddr>>,
    /// Entries of the VXLAN device's forwarding table for endpoints' addresses.
    pub remote_macs: BTreeMap<MacAddress, IpAddr>,
    /// Entries of the bridge's forwarding table: the port that an endpoint is behind, the tunnel
    /// for those of other hosts.
    pub ports: BTreeMap<MacAddress, DeviceName>,
    /// Which groups come to the VXLAN device at all.
    pub filter: Filter,
}

/// Groups without entries of their own, of each family.
pub const UNREGISTERED: [SourceGroup; 2] =
    [(None, IpAddr::V4(Ipv4Addr::UNSPECIFIED)), (None, IpAddr::V6(Ipv6Addr::UNSPECIFIED))];

impl Forwarding {
    /// What a segment should have.
    pub fn wanted(segment: &Segment, tier: Tier) -> Self {
        let mut wanted = Self {
            remote_macs: segment.remote_macs.clone(),
            ports: segment.pinned_ports(),
            ..Self::default()
        };
        let replication = &segment.replication;
        match tier {
            Tier::VxlanMdb => {
                let groups = replication.groups.iter().map(|(key, remotes)| (*key, remotes));
                let all = groups.chain(UNREGISTERED.map(|key| (key, &replication.unregistered)));
                wanted.groups = all.map(|(key, remotes)| (key, destinations(remotes))).collect();
            }
            Tier::MulticastFdb => {
                wanted.group_macs = wanted_macs(replication);
                wanted.filter = wanted_filter(replication);
            }
            Tier::Flood => {}
        }
        wanted
    }

    /// What a segment should have where this is there: some of what is there, and not wanted, stays
    /// beside what is.
    ///
    /// The kernel makes an entry of several hosts one host after the other, and so takes it away,
    /// and meanwhile the others miss what is sent. So an entry for a source that nobody names any
    /// more stays for as long as anybody listens to its group, and sends as the group's own does.
    ///
    /// While not everything is known, entries of groups stay of which nobody is known to want them,
    /// with all hosts to which their packets would go without them; a daemon that starts anew would
    /// take every one away. Likewise endpoints' addresses that are at a host of which it is not
    /// known what it has: without them it would be anybody's to take its endpoints' place, or,
    /// where nothing is learnt, nobody would know where they are.
    pub fn desired_with_retained(found: &Self, segment: &Segment, tier: Tier) -> Self {
        Self::wanted_beside_within(found, segment, tier, (REPLICATED_MAX, LEASES_PER_NETWORK_MAX))
    }

    /// The same with so many entries of groups, and of endpoints, at the most, unless more are
    /// wanted: as many as there can be wanted.
    pub fn wanted_beside_within(
        found: &Self,
        segment: &Segment,
        tier: Tier,
        most: (usize, usize),
    ) -> Self {
        let mut wanted = Self::wanted(segment, tier);
        let replication = &segment.replication;
        if tier == Tier::VxlanMdb {
            wanted.keep_groups(found, replication, most.0);
        }
        if !replication.provisional {
            return wanted;
        }
        if tier == Tier::MulticastFdb {
            let is_surplus = |mac: &&MacAddress| {
                !wanted.group_macs.contains_key(*mac) && !goes_to_every_host(**mac)
            };
            let surplus = found.group_macs.keys().filter(is_surplus);
            let kept: Vec<MacAddress> =
                surplus.take(most.0.saturating_sub(wanted.group_macs.len())).copied().collect();
            wanted.group_macs.extend(kept.into_iter().map(|mac| (mac, segment.remotes.clone())));
            wanted.group_macs.retain(|_, remotes| !remotes.is_empty());
        }
        wanted.keep_pins(found, segment, most.1);
        wanted
    }

    /// Wants entries that are there to stay, with the hosts to which their packets would go without
    /// them: all while not everything is known, and those for sources of groups that anybody
    /// listens to.
    fn keep_groups(&mut self, found: &Self, replication: &Replication, most: usize) {
        let mut sources: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let mut is_kept = |key: &SourceGroup| {
            if replication.provisional {
                return true;
            }
            let kept = sources.entry(key.1).or_default();
            *kept += 1;
            *kept <= KEPT_SOURCES_MAX && has_lasting_sources(replication, *key)
        };
        let surplus =
            found.groups.keys().filter(|key| !self.groups.contains_key(key) && is_kept(key));
        let kept: Vec<SourceGroup> =
            surplus.take(most.saturating_sub(self.groups.len())).copied().collect();
        for key in kept {
            let wider = replication.groups.get(&(None, key.1)).unwrap_or(&replication.unregistered);
            self.groups.insert(key, destinations(wider));
        }
    }

    /// Whether this has entries of groups that a segment does not want.
    pub fn has_more_groups_than(&self, segment: &Segment) -> bool {
        self.groups.len() > segment.replication.groups.len() + UNREGISTERED.len()
    }

    /// Whether entries stay that `before` wants and `after` does not.
    pub fn keeps_sources(before: &Segment, after: &Segment) -> bool {
        let (before, after) = (&before.replication, &after.replication);
        // Those with a source come last.
        let with_source = || before.groups.keys().rev().take_while(|(source, _)| source.is_some());
        !Arc::ptr_eq(before, after)
            && with_source()
                .any(|key| !after.groups.contains_key(key) && has_lasting_sources(after, *key))
    }

    /// Wants endpoints' addresses to stay where they are found, if that is at a host of which it is
    /// not known what it has, and they are not wanted elsewhere.
    fn keep_pins(&mut self, found: &Self, segment: &Segment, most: usize) {
        let is_known = |host: &IpAddr| {
            segment.remotes.contains(host) && !segment.replication.unregistered.contains(host)
        };
        let room = most.saturating_sub(self.remote_macs.len());
        let surplus = found
            .remote_macs
            .iter()
            .filter(|(mac, host)| !self.ports.contains_key(mac) && !is_known(host));
        let kept: BTreeMap<MacAddress, IpAddr> =
            surplus.take(room).map(|(mac, host)| (*mac, *host)).collect();
        self.ports
            .extend(kept.keys().filter_map(|mac| Some((*mac, found.ports.get(mac)?.clone()))));
        self.remote_macs.extend(kept);
    }

    /// What to do where what `before` wants is there, so that there is what `after` wants. It costs
    /// a look at each group and no more, but for those that differ.
    pub fn changes_between(before: &Segment, after: &Segment, tier: Tier) -> Vec<Change> {
        if tier != Tier::VxlanMdb {
            return Self::wanted(before, tier).changes_to(&Self::wanted(after, tier));
        }
        let (mut old, mut new) = (Self::default(), Self::default());
        if !Arc::ptr_eq(&before.replication, &after.replication) {
            differing(&before.replication.groups, &after.replication.groups, |key, was, is| {
                old.groups.extend(was.map(|remotes| (*key, destinations(remotes))));
                new.groups.extend(is.map(|remotes| (*key, destinations(remotes))));
            });
        }
        if before.replication.unregistered != after.replication.unregistered {
            for (side, segment) in [(&mut old, before), (&mut new, after)] {
                let all = destinations(&segment.replication.unregistered);
                side.groups.extend(UNREGISTERED.map(|key| (key, all.clone())));
            }
        }
        differing(&before.remote_macs, &after.remote_macs, |mac, was, is| {
            old.remote_macs.extend(was.map(|remote| (*mac, *remote)));
            new.remote_macs.extend(is.map(|remote| (*mac, *remote)));
        });
        (old.ports, new.ports) = (before.pinned_ports(), after.pinned_ports());
        old.changes_to(&new)
    }

    /// What to do, in this order, so that there is what is wanted: all additions before any
    /// removal, and narrower entries before the wider ones that they would otherwise fall back to,
    /// so that no host misses what it had and still wants.
    pub fn changes_to(&self, wanted: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.filter != Filter::Off
            && (self.filter == Filter::Broken || wanted.filter == Filter::Off)
        {
            changes.push(Change::Unfilter);
        }
        // With a source first, the unspecified groups, which hold back all others, last.
        self.add_groups(wanted, true, &mut changes);
        self.add_groups(wanted, false, &mut changes);
        for (mac, remotes) in &wanted.group_macs {
            let there = self.group_macs.get(mac);
            let missing =
                remotes.iter().filter(|remote| there.is_none_or(|there| !there.contains(remote)));
            changes.extend(missing.map(|remote| Change::GroupMac {
                mac: *mac,
                remote: *remote,
                add: true,
            }));
        }
        if let (Some(there), Some(wanted)) = (self.filter.admitted(), wanted.filter.admitted()) {
            changes.extend(
                wanted.difference(there).map(|group| Change::Admit { group: *group, add: true }),
            );
        }
        for (mac, remote) in &wanted.remote_macs {
            if self.remote_macs.get(mac) != Some(remote) {
                changes.push(Change::PinRemote { mac: *mac, remote: *remote });
            }
        }
        for (mac, port) in &wanted.ports {
            if self.ports.get(mac) != Some(port) {
                changes.push(Change::PinPort { mac: *mac, port: port.clone() });
            }
        }
        self.remove(wanted, &mut changes);
        changes
    }

    fn add_groups(&self, wanted: &Self, with_source: bool, changes: &mut Vec<Change>) {
        // In descending order, so that the unspecified groups come last.
        let of_kind = wanted.groups.iter().rev().filter(|(key, _)| key.0.is_some() == with_source);
        for (key, destinations) in of_kind {
            let there = self.groups.get(key);
            if there == Some(destinations) {
                continue;
            }
            // While a new entry is made, those that are not in it yet get nothing. So those that
            // get its packets now come first; the others have nothing to miss.
            let served = self.fallback(*key).filter(|_| there.is_none());
            let (first, last) =
                divided(destinations, |to| served.is_none_or(|served| served.contains(to)));
            let missing =
                first.chain(last).filter(|to| there.is_none_or(|there| !there.contains(to)));
            changes.extend(missing.map(|to| Change::Group { key: *key, to: *to, add: true }));
        }
    }

    /// Where the packets of an entry go while it is not there; `None` if they go to every host.
    fn fallback(&self, (source, group): SourceGroup) -> Option<&BTreeSet<Destination>> {
        let of_group = self.groups.get(&(None, group)).filter(|_| source.is_some());
        let is_of_family =
            |(_, all): &&SourceGroup| all.is_ipv4() == group.is_ipv4() && *all != group;
        of_group
            .or_else(|| UNREGISTERED.iter().find(is_of_family).and_then(|all| self.groups.get(all)))
    }

    fn remove(&self, wanted: &Self, changes: &mut Vec<Change>) {
        match (self.filter.admitted(), wanted.filter.admitted()) {
            (Some(there), Some(wanted)) => {
                changes.extend(
                    there
                        .difference(wanted)
                        .map(|group| Change::Admit { group: *group, add: false }),
                );
            }
            (None, Some(admitted)) => changes.push(Change::Filter { admitted: admitted.clone() }),
            (_, None) => {}
        }
        // In ascending order: the unspecified groups, to which others would fall back, first.
        for (key, destinations) in &self.groups {
            let still = wanted.groups.get(key);
            if still == Some(destinations) {
                continue;
            }
            // While an entry is taken away, those that are out of it already get nothing. So those
            // that get its packets without it, too, are last in it.
            let served = wanted.fallback(*key).filter(|_| still.is_none());
            let (last, first) =
                divided(destinations, |to| served.is_none_or(|served| served.contains(to)));
            let surplus =
                first.chain(last).filter(|to| still.is_none_or(|still| !still.contains(to)));
            changes.extend(surplus.map(|to| Change::Group { key: *key, to: *to, add: false }));
        }
        for (mac, remotes) in &self.group_macs {
            let Some(still) = wanted.group_macs.get(mac) else {
                changes.push(Change::ReleaseGroupMac { mac: *mac });
                continue;
            };
            let surplus = remotes.difference(still);
            changes.extend(surplus.map(|remote| Change::GroupMac {
                mac: *mac,
                remote: *remote,
                add: false,
            }));
        }
        for (mac, remote) in
            self.remote_macs.iter().filter(|(mac, _)| !wanted.remote_macs.contains_key(mac))
        {
            changes.push(Change::UnpinRemote { mac: *mac, remote: *remote });
        }
        for (mac, port) in self.ports.iter().filter(|(mac, _)| !wanted.ports.contains_key(mac)) {
            changes.push(Change::UnpinPort { mac: *mac, port: port.clone() });
        }
    }

    /// What there is after a change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Group { key, to, add: true } => {
                self.groups.entry(*key).or_default().insert(*to);
            }
            Change::Group { key, to, add: false } => remove_from(&mut self.groups, key, to),
            Change::GroupMac { mac, remote, add: true } => {
                self.group_macs.entry(*mac).or_default().insert(*remote);
            }
            Change::GroupMac { mac, remote, add: false } => {
                remove_from(&mut self.group_macs, mac, remote)
            }
            Change::ReleaseGroupMac { mac } => {
                self.group_macs.remove(mac);
            }
            Change::Filter { admitted } => self.filter = Filter::On(admitted.clone()),
            Change::Unfilter => self.filter = Filter::Off,
            Change::Admit { group, add } => {
                if let Filter::On(admitted) = &mut self.filter {
                    _ = if *add { admitted.insert(*group) } else { admitted.remove(group) };
                }
            }
            Change::PinRemote { mac, remote } => {
                self.remote_macs.insert(*mac, *remote);
            }
            Change::UnpinRemote { mac, .. } => {
                self.remote_macs.remove(mac);
            }
            Change::PinPort { mac, port } => {
                self.ports.insert(*mac, port.clone());
            }
            Change::UnpinPort { mac, .. } => {
                self.ports.remove(mac);
            }
        }
    }
}

/// Whether an entry for a source stays though nobody names it: somebody listens to the group
/// whatever the source.
fn has_lasting_sources(replication: &Replication, (source, group): SourceGroup) -> bool {
    source.is_some()
        && replication.groups.get(&(None, group)).is_some_and(|listeners| !listeners.is_empty())
}

/// Where each address of groups is to be sent, of those that need not go to every host.
fn wanted_macs(replication: &Replication) -> BTreeMap<MacAddress, BTreeSet<IpAddr>> {
    let mut macs: BTreeMap<MacAddress, BTreeSet<IpAddr>> = BTreeMap::new();
    for ((_, group), remotes) in &replication.groups {
        let mac = group_mac(*group);
        if !goes_to_every_host(mac) {
            // A group without an entry may have the same address.
            macs.entry(mac).or_default().extend(remotes.iter().chain(&replication.unregistered));
        }
    }
    for (group, listeners) in &replication.link_local {
        if let Some(remotes) = macs.get_mut(&group_mac(*group)) {
            remotes.extend(listeners);
        }
    }
    // An entry without hosts cannot be made; its groups are kept back, as those that nobody listens
    // to.
    macs.retain(|_, remotes| !remotes.is_empty());
    macs
}

/// Which groups pass to the tunnel: those that somebody listens to; all, if somebody gets what is
/// sent to any group.
fn wanted_filter(replication: &Replication) -> Filter {
    if replication.provisional || !replication.unregistered.is_empty() {
        return Filter::Off;
    }
    Filter::On(replication.groups.keys().map(|(_, group)| *group).collect())
}

/// Passes on the keys whose values differ in two tables, with both.
fn differing<K: Ord, V: PartialEq>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    mut on_difference: impl FnMut(&K, Option<&V>, Option<&V>),
) {
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((was, _)), Some((is, _))) => was.cmp(is),
        };
        let was = if order == Ordering::Greater { None } else { old.next() };
        let is = if order == Ordering::Less { None } else { new.next() };
        let values = (was.map(|(_, value)| value), is.map(|(_, value)| value));
        if let Some((key, _)) = was.or(is)
            && values.0 != values.1
        {
            on_difference(key, values.0, values.1);
        }
    }
}

fn remove_from<K: Ord, V: Ord>(table: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = table.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            table.remove(key);
        }
    }
}

/// Those for which this holds, and the others.
fn divided(
    all: &BTreeSet<Destination>,
    holds: impl Fn(&Destination) -> bool + Copy,
) -> (impl Iterator<Item = &Destination>, impl Iterator<Item = &Destination>) {
    (all.iter().filter(move |to| holds(to)), all.iter().filter(move |to| !holds(to)))
}

fn destinations(remotes: &BTreeSet<IpAddr>) -> BTreeSet<Destination> {
    if remotes.is_empty() {
        return BTreeSet::from([Destination::Nowhere]);
    }
    remotes.iter().map(|remote| Destination::Host(*remote)).collect()
}

impl Segment {
    /// The port that each endpoint of the network is behind, as this host's bridge sees it.
    fn pinned_ports(&self) -> BTreeMap<MacAddress, DeviceName> {
        let remote = self.remote_macs.keys().map(|mac| (*mac, DeviceName::tunnel()));
        remote.chain(self.ports.iter().map(|(name, port)| (port.mac, name.clone()))).collect()
    }
}
