//! The entries of one segment's forwarding tables that follow from advertisements: the remotes of
//! groups and the pins of endpoints. Flood entries are not among them. These tables change whenever
//! a receiver joins or leaves on any host, so they are kept and compared apart from the devices.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{Change, DeviceName, Segment, Tier};
use crate::MacAddress;
use crate::limits::{KEPT_SOURCES_MAX, LEASES_PER_NETWORK_MAX, REPLICATED_MAX};
use crate::multicast::{Replication, SourceGroup, goes_to_every_host, group_mac, is_link_local};

/// A destination of a group's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// No host. An entry with this destination drops the group's packets. Without an entry, the
    /// kernel would send them to the remotes of a wider entry.
    Nowhere,
    /// The host with this VTEP.
    Host(IpAddr),
}

/// The group filter of the MAC address tier: drops packets to groups without receivers before they
/// reach the VXLAN device. Link-local groups always pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Filter {
    /// There is no filter; every group passes.
    #[default]
    Off,
    /// Only these groups pass.
    On(BTreeSet<IpAddr>),
    /// The filter is not as shoutd installs it, so we do not know what passes.
    Broken,
}

impl Filter {
    /// Whether packets to this group certainly pass.
    pub fn passes(&self, group: IpAddr) -> bool {
        match self {
            Self::Off => true,
            Self::On(admitted) => is_link_local(group) || admitted.contains(&group),
            Self::Broken => false,
        }
    }

    /// The groups that pass, if these are known and not all.
    fn admitted(&self) -> Option<&BTreeSet<IpAddr>> {
        match self {
            Self::On(admitted) => Some(admitted),
            Self::Off | Self::Broken => None,
        }
    }
}

/// The entries of one segment's forwarding tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// The VXLAN device's MDB. (\*,G) with an unspecified group applies to all other groups of its
    /// family.
    pub groups: BTreeMap<SourceGroup, BTreeSet<Destination>>,
    /// The VXLAN device's FDB entries for groups' MAC addresses.
    pub group_macs: BTreeMap<MacAddress, BTreeSet<IpAddr>>,
    /// The VXLAN device's FDB entries for endpoints' MAC addresses.
    pub remote_macs: BTreeMap<MacAddress, IpAddr>,
    /// The bridge's FDB: the port of each endpoint. For endpoints of other hosts it is the VXLAN
    /// device.
    pub ports: BTreeMap<MacAddress, DeviceName>,
    /// The group filter.
    pub filter: Filter,
}

/// The keys of the catch-all entries, which apply to all groups without an entry of their own.
pub const UNREGISTERED: [SourceGroup; 2] =
    [(None, IpAddr::V4(Ipv4Addr::UNSPECIFIED)), (None, IpAddr::V6(Ipv6Addr::UNSPECIFIED))];

impl Forwarding {
    /// The desired entries of a segment, without retained ones.
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
                wanted.group_macs = desired_macs(replication);
                wanted.filter = desired_filter(replication);
            }
            Tier::Flood => {}
        }
        wanted
    }

    /// The desired entries of a segment together with retained ones: entries of `found` that are
    /// not desired but must stay.
    ///
    /// An (S,G) entry shadows (\*,G), and the kernel adds and removes its remotes one at a time. So
    /// while the entry is incomplete, some members of (\*,G) lose packets of S. To avoid that, the
    /// entry stays when the last host stops selecting S: with (\*,G)'s remotes, as long as (\*,G)
    /// has members, and at most [`KEPT_SOURCES_MAX`] entries per group.
    ///
    /// While the replication is provisional, entries of groups without known members stay;
    /// otherwise a restarted daemon would remove them all. Such an entry gets the remotes of the
    /// wider entry, to which its packets would go if it were removed. Pins to hosts that may not be
    /// in sync stay too. Without its pin, any container could take over an endpoint's MAC address.
    /// On a network without learning, only the pin tells where the endpoint is.
    pub fn desired_with_retained(found: &Self, segment: &Segment, tier: Tier) -> Self {
        Self::desired_with_retained_within(
            found,
            segment,
            tier,
            (REPLICATED_MAX, LEASES_PER_NETWORK_MAX),
        )
    }

    /// The same with limits for the number of group entries and of pins, retained ones included.
    /// Desired entries are not limited.
    pub fn desired_with_retained_within(
        found: &Self,
        segment: &Segment,
        tier: Tier,
        most: (usize, usize),
    ) -> Self {
        let mut wanted = Self::wanted(segment, tier);
        let replication = &segment.replication;
        if tier == Tier::VxlanMdb {
            wanted.retain_groups(found, replication, most.0);
        }
        if !replication.provisional {
            return wanted;
        }
        if tier == Tier::MulticastFdb {
            let surplus = found
                .group_macs
                .keys()
                .filter(|mac| !wanted.group_macs.contains_key(mac) && !goes_to_every_host(**mac));
            let kept: Vec<MacAddress> =
                surplus.take(most.0.saturating_sub(wanted.group_macs.len())).copied().collect();
            wanted.group_macs.extend(kept.into_iter().map(|mac| (mac, segment.remotes.clone())));
            wanted.group_macs.retain(|_, remotes| !remotes.is_empty());
        }
        wanted.retain_pins(found, segment, most.1);
        wanted
    }

    /// Adds retained MDB entries, each with the remotes of the wider entry. While the replication
    /// is provisional, all entries are retained; otherwise only (S,G) entries of groups with (\*,G)
    /// members.
    fn retain_groups(&mut self, found: &Self, replication: &Replication, most: usize) {
        let mut sources: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let surplus = found.groups.keys().filter(|key| {
            if self.groups.contains_key(key) {
                return false;
            }
            if replication.provisional {
                return true;
            }
            let kept = sources.entry(key.1).or_default();
            *kept += 1;
            *kept <= KEPT_SOURCES_MAX && is_retained_source(replication, **key)
        });
        let kept: Vec<SourceGroup> =
            surplus.take(most.saturating_sub(self.groups.len())).copied().collect();
        for key in kept {
            let wider = replication.groups.get(&(None, key.1)).unwrap_or(&replication.unregistered);
            self.groups.insert(key, destinations(wider));
        }
    }

    /// Whether this has more group entries than a segment desires.
    pub fn has_more_groups_than(&self, segment: &Segment) -> bool {
        self.groups.len() > segment.replication.groups.len() + UNREGISTERED.len()
    }

    /// Whether (S,G) entries of `before` that `after` does not desire are retained.
    pub fn keeps_sources(before: &Segment, after: &Segment) -> bool {
        let (before, after) = (&before.replication, &after.replication);
        // (S,G) keys come last.
        let mut with_source = before.groups.keys().rev().take_while(|(source, _)| source.is_some());
        !Arc::ptr_eq(before, after)
            && with_source
                .any(|key| !after.groups.contains_key(key) && is_retained_source(after, *key))
    }

    /// Adds retained pins: those to hosts that may not be in sync, unless the MAC address is
    /// desired at another place.
    fn retain_pins(&mut self, found: &Self, segment: &Segment, most: usize) {
        // `unregistered` contains every host that is not in sync. It also contains hosts with a
        // multicast router; their pins stay longer than necessary, which does no harm.
        let unregistered = &segment.replication.unregistered;
        let room = most.saturating_sub(self.remote_macs.len());
        let surplus = found.remote_macs.iter().filter(|(mac, host)| {
            !self.ports.contains_key(mac)
                && (!segment.remotes.contains(host) || unregistered.contains(host))
        });
        let kept: BTreeMap<MacAddress, IpAddr> =
            surplus.take(room).map(|(mac, host)| (*mac, *host)).collect();
        self.ports
            .extend(kept.keys().filter_map(|mac| Some((*mac, found.ports.get(mac)?.clone()))));
        self.remote_macs.extend(kept);
    }

    /// The changes from the desired entries of `before` to those of `after`. Each group is compared
    /// once; only groups that differ cost more.
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

    /// The changes to the desired entries, in an order in which no host loses what it had and still
    /// needs. All additions precede all removals. Additions begin with the narrowest entries, and
    /// removals with the widest: the entry to which a group's packets fall back has its final
    /// remotes before the narrower entry is removed. A filter that is broken or no longer desired
    /// is removed before everything else. A new filter is installed among the removals.
    pub fn changes_to(&self, wanted: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.filter != Filter::Off
            && (self.filter == Filter::Broken || wanted.filter == Filter::Off)
        {
            changes.push(Change::Unfilter);
        }
        // (S,G) first; the catch-all entries last.
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
        // In descending order, so that the catch-all entries come last.
        let of_kind = wanted.groups.iter().rev().filter(|(key, _)| key.0.is_some() == with_source);
        for (key, destinations) in of_kind {
            let there = self.groups.get(key);
            if there == Some(destinations) {
                continue;
            }
            // A new entry gets its remotes one by one, and replaces the fallback from the first one
            // on. Until it is complete, remotes that are still missing lose packets. So remotes
            // that receive these packets by the fallback now come first.
            let served = self.fallback(*key).filter(|_| there.is_none());
            let (first, last) =
                partition(destinations, |to| served.is_none_or(|served| served.contains(to)));
            let missing =
                first.chain(last).filter(|to| there.is_none_or(|there| !there.contains(to)));
            changes.extend(missing.map(|to| Change::Group { key: *key, to: *to, add: true }));
        }
    }

    /// The destinations to which packets go if they have no entry with this key: those of the next
    /// wider entry. `None` if there is none, so that the packets go to every host.
    fn fallback(&self, (source, group): SourceGroup) -> Option<&BTreeSet<Destination>> {
        let of_group = self.groups.get(&(None, group)).filter(|_| source.is_some());
        of_group.or_else(|| {
            let catch_all = UNREGISTERED
                .iter()
                .find(|(_, all)| all.is_ipv4() == group.is_ipv4() && *all != group)?;
            self.groups.get(catch_all)
        })
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
        // In ascending order, so that the catch-all entries come first.
        for (key, destinations) in &self.groups {
            let still = wanted.groups.get(key);
            if still == Some(destinations) {
                continue;
            }
            // An entry loses its remotes one by one, and the fallback applies only after the last.
            // Until then, remotes that were already removed lose packets. So remotes that will
            // receive these packets by the fallback are removed last.
            let served = wanted.fallback(*key).filter(|_| still.is_none());
            let (last, first) =
                partition(destinations, |to| served.is_none_or(|served| served.contains(to)));
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

    /// Applies a change to this model of the tables.
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
                remove_from(&mut self.group_macs, mac, remote);
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

/// Whether an (S,G) entry stays although no host selects S: (\*,G) has members.
fn is_retained_source(replication: &Replication, (source, group): SourceGroup) -> bool {
    source.is_some()
        && replication.groups.get(&(None, group)).is_some_and(|receivers| !receivers.is_empty())
}

/// The remotes of each group MAC address, except those that must go to every host.
fn desired_macs(replication: &Replication) -> BTreeMap<MacAddress, BTreeSet<IpAddr>> {
    let mut macs: BTreeMap<MacAddress, BTreeSet<IpAddr>> = BTreeMap::new();
    for ((_, group), remotes) in &replication.groups {
        let mac = group_mac(*group);
        if !goes_to_every_host(mac) {
            // Groups beyond the limit have no entry, and may share the MAC address. Their receivers
            // are in `unregistered`.
            macs.entry(mac).or_default().extend(remotes.iter().chain(&replication.unregistered));
        }
    }
    for (group, receivers) in &replication.link_local {
        if let Some(remotes) = macs.get_mut(&group_mac(*group)) {
            remotes.extend(receivers);
        }
    }
    // An FDB entry needs a remote. Groups without receivers are dropped by the filter instead.
    macs.retain(|_, remotes| !remotes.is_empty());
    macs
}

/// The filter: groups with receivers pass. All groups pass if a host must get every group.
fn desired_filter(replication: &Replication) -> Filter {
    if replication.provisional || !replication.unregistered.is_empty() {
        return Filter::Off;
    }
    Filter::On(replication.groups.keys().map(|(_, group)| *group).collect())
}

/// Calls `on_difference` for each key whose values differ in two tables, with both values.
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

/// The destinations for which this holds, and the others.
fn partition(
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
    /// The bridge port of each endpoint of the network.
    fn pinned_ports(&self) -> BTreeMap<MacAddress, DeviceName> {
        let remote = self.remote_macs.keys().map(|mac| (*mac, DeviceName::tunnel()));
        remote.chain(self.ports.iter().map(|(name, port)| (port.mac, name.clone()))).collect()
    }
}
