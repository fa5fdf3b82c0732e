//! Memberships of a bridge, from its MDB.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Memberships, SourceFilter, is_advertised};

/// What one MDB entry of a bridge says of a group on one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// EXCLUDE mode: all sources but those with a blocked entry.
    Exclude,
    /// INCLUDE mode: only sources with an entry that is not blocked.
    Include,
    /// An (S,G) entry.
    Source {
        /// The source.
        source: IpAddr,
        /// Whether its packets are blocked.
        blocked: bool,
    },
}

/// The memberships of all ports of a bridge, and their union, which is updated incrementally.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mdb {
    groups: BTreeMap<IpAddr, Group>,
    routers: BTreeSet<u32>,
    /// The number of (\*,G) and (S,G) entries, each counted once for all ports. The kernel's table
    /// counts in the same way.
    entries: usize,
    /// Whether the host must get all groups, because not all memberships are known.
    everything: bool,
    /// Groups with changed entries whose union is out of date. The union is computed once per
    /// group, no matter how many of its entries change.
    outdated: BTreeSet<IpAddr>,
    union: Memberships,
    /// Groups whose union changed since the last [`Mdb::take_changes`].
    changed: BTreeSet<IpAddr>,
}

/// A group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Group {
    ports: BTreeMap<u32, PortGroup>,
    /// The number of ports with the (\*,G) entry (`None`), and with each (S,G) entry.
    counts: BTreeMap<Option<IpAddr>, usize>,
}

impl Group {
    /// Changes the entries of one port.
    fn change(&mut self, port: u32, source: Option<IpAddr>, change: impl FnOnce(&mut PortGroup)) {
        let entry = self.ports.entry(port).or_default();
        let was = entry.has(source);
        change(entry);
        let is = entry.has(source);
        if *entry == PortGroup::default() {
            self.ports.remove(&port);
        }
        if is && !was {
            *self.counts.entry(source).or_default() += 1;
        } else if was
            && !is
            && let Some(count) = self.counts.get_mut(&source)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&source);
            }
        }
    }
}

/// A group on one port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct PortGroup {
    /// The filter mode of the (\*,G) entry; true is EXCLUDE. `None` if there is no such entry.
    exclude: Option<bool>,
    /// The (S,G) entries; true is blocked.
    sources: BTreeMap<IpAddr, bool>,
}

impl PortGroup {
    /// Whether there is the entry of this source, or the (\*,G) entry.
    fn has(&self, source: Option<IpAddr>) -> bool {
        source.map_or(self.exclude.is_some(), |source| self.sources.contains_key(&source))
    }

    /// The port's source filter; `None` if it has no members.
    fn filter(&self) -> Option<SourceFilter> {
        let is_exclude = self.exclude == Some(true);
        // In mode EXCLUDE the blocked sources count, in mode INCLUDE the others.
        let sources: BTreeSet<IpAddr> = self
            .sources
            .iter()
            .filter(|(_, is_blocked)| **is_blocked == is_exclude)
            .map(|(source, _)| *source)
            .collect();
        if is_exclude {
            return Some(SourceFilter::Exclude(sources));
        }
        (!sources.is_empty()).then_some(SourceFilter::Include(sources))
    }
}

impl Mdb {
    /// The union of all ports' memberships.
    pub fn memberships(&mut self) -> &Memberships {
        self.update_union();
        &self.union
    }

    /// The number of entries, each counted once for all ports.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Adds or changes a port's entry.
    pub fn learn(&mut self, port: u32, group: IpAddr, knowledge: Knowledge) {
        match knowledge {
            Knowledge::Exclude => {
                self.change(port, group, None, |entry| entry.exclude = Some(true));
            }
            Knowledge::Include => {
                self.change(port, group, None, |entry| entry.exclude = Some(false));
            }
            Knowledge::Source { source, blocked } => {
                self.change(port, group, Some(source), |entry| {
                    _ = entry.sources.insert(source, blocked);
                });
            }
        }
    }

    /// Removes a port's entry: (S,G), or (\*,G) without a source.
    pub fn forget(&mut self, port: u32, group: IpAddr, source: Option<IpAddr>) {
        self.change(port, group, source, |entry| match source {
            Some(source) => _ = entry.sources.remove(&source),
            None => entry.exclude = None,
        });
    }

    fn change(
        &mut self,
        port: u32,
        group: IpAddr,
        source: Option<IpAddr>,
        change: impl FnOnce(&mut PortGroup),
    ) {
        let found = self.groups.entry(group).or_default();
        let before = found.counts.len();
        found.change(port, source, change);
        self.entries = self.entries + found.counts.len() - before;
        if found.ports.is_empty() {
            self.groups.remove(&group);
        }
        self.outdated.insert(group);
    }

    /// Sets whether there is a multicast router on a port.
    pub fn set_router(&mut self, port: u32, is_router: bool) {
        if is_router {
            self.routers.insert(port);
        } else {
            self.routers.remove(&port);
        }
        self.update_router();
    }

    /// Sets whether the host must get all groups, because the bridge does not know all memberships.
    pub fn set_everything(&mut self, everything: bool) {
        self.everything = everything;
        self.update_router();
    }

    /// The ports with multicast routers.
    pub fn routers(&self) -> &BTreeSet<u32> {
        &self.routers
    }

    /// Whether a port is a member of this group.
    pub fn is_member(&self, port: u32, group: IpAddr) -> bool {
        self.groups.get(&group).is_some_and(|group| group.ports.contains_key(&port))
    }

    /// The source filter of a group on one port; `None` if it is not a member.
    pub fn filter_of(&self, port: u32, group: IpAddr) -> Option<SourceFilter> {
        self.groups.get(&group)?.ports.get(&port)?.filter()
    }

    /// Whether any port has joined this group.
    pub fn has_members(&self, group: IpAddr) -> bool {
        self.groups.contains_key(&group)
    }

    fn update_router(&mut self) {
        self.union.router = self.everything || !self.routers.is_empty();
    }

    /// Call this after a new dump of the MDB, with the database that this one replaces. Records the
    /// groups whose union differs as changed, and takes over the changes that `before` has
    /// recorded.
    pub fn note_changes_since(&mut self, mut before: Self) {
        before.update_union();
        self.update_union();
        let (old, new) = (&before.union.groups, &self.union.groups);
        let differing: BTreeSet<IpAddr> = old
            .keys()
            .chain(new.keys())
            .filter(|group| old.get(*group) != new.get(*group))
            .copied()
            .collect();
        self.changed = &differing | &before.changed;
    }

    /// The groups whose union changed since the last call, with the new one; `None` if there are no
    /// members.
    pub fn take_changes(&mut self) -> Vec<(IpAddr, Option<SourceFilter>)> {
        self.update_union();
        let changed = std::mem::take(&mut self.changed).into_iter();
        changed.map(|group| (group, self.union.groups.get(&group).cloned())).collect()
    }

    /// The number of (\*,G) and (S,G) entries of each port.
    pub fn entries_per_port(&self) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::new();
        for (port, group) in self.groups.values().flat_map(|group| &group.ports) {
            *counts.entry(*port).or_default() +=
                group.sources.len() + usize::from(group.exclude.is_some());
        }
        counts
    }

    fn update_union(&mut self) {
        std::mem::take(&mut self.outdated).into_iter().for_each(|group| self.update_group(group));
    }

    /// Recomputes the union of a group, if it is advertised.
    fn update_group(&mut self, group: IpAddr) {
        if !is_advertised(group) {
            return;
        }
        let ports = self.groups.get(&group).into_iter().flat_map(|group| group.ports.values());
        let filters = ports.filter_map(PortGroup::filter);
        let wanted = filters.reduce(|mut all, filter| {
            all.widen(&filter);
            all
        });
        if self.union.groups.get(&group) == wanted.as_ref() {
            return;
        }
        self.changed.insert(group);
        match wanted {
            Some(filter) => self.union.groups.insert(group, filter),
            None => self.union.groups.remove(&group),
        };
    }
}
