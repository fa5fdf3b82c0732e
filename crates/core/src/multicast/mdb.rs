//! From a bridge's multicast database to memberships.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Memberships, SourceFilter, is_announced};

/// What a bridge knows of a group behind one port, from one entry of its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// The group is wanted from all sources but those with a blocked entry.
    Exclude,
    /// The group is wanted from sources with an entry that is not blocked, and no others.
    Include,
    /// This source's packets are let through.
    Source {
        /// The source.
        source: IpAddr,
        /// Whether they are held back instead.
        blocked: bool,
    },
}

/// The memberships of all ports of one bridge, with what they come to together kept up to date.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mdb {
    groups: BTreeMap<IpAddr, Group>,
    routers: BTreeSet<u32>,
    /// Groups, and sources of groups, each once whatever the number of ports that have it: so many
    /// places the kernel's own table has taken.
    entries: usize,
    /// Whether everything is wanted, as no more can be known of what is.
    everything: bool,
    /// The groups of which an entry changed since it was worked out what all ports together want of
    /// them: each is worked out once, however many entries of it come at a time.
    unjoined: BTreeSet<IpAddr>,
    joined: Memberships,
    /// The groups of which something else is wanted since this was last asked.
    changed: BTreeSet<IpAddr>,
}

/// One group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Group {
    ports: BTreeMap<u32, PortGroup>,
    /// On how many ports there is each entry: that without a source, and that of each source.
    counts: BTreeMap<Option<IpAddr>, usize>,
}

impl Group {
    /// Changes what there is behind one port.
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

/// One group behind one port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct PortGroup {
    /// Whether there is an entry without a source, and which kind it is of.
    exclude: Option<bool>,
    /// Entries with a source; whether it is blocked.
    sources: BTreeMap<IpAddr, bool>,
}

impl PortGroup {
    /// Whether there is the entry of this source, or that without one.
    fn has(&self, source: Option<IpAddr>) -> bool {
        source.map_or(self.exclude.is_some(), |source| self.sources.contains_key(&source))
    }

    /// What is wanted; `None` if nothing is.
    fn filter(&self) -> Option<SourceFilter> {
        let with = |blocked: bool| {
            self.sources
                .iter()
                .filter(|(_, found)| **found == blocked)
                .map(|(source, _)| *source)
                .collect()
        };
        if self.exclude == Some(true) {
            return Some(SourceFilter::Exclude(with(true)));
        }
        let wanted: BTreeSet<IpAddr> = with(false);
        (!wanted.is_empty()).then_some(SourceFilter::Include(wanted))
    }
}

impl Mdb {
    /// What all ports together want.
    pub fn memberships(&mut self) -> &Memberships {
        self.join_all();
        &self.joined
    }

    /// How many entries there are on all ports together, each counted once.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Takes in that a port has an entry, new or changed.
    pub fn learn(&mut self, port: u32, group: IpAddr, knowledge: Knowledge) {
        match knowledge {
            Knowledge::Exclude => {
                self.change(port, group, None, |entry| entry.exclude = Some(true))
            }
            Knowledge::Include => {
                self.change(port, group, None, |entry| entry.exclude = Some(false))
            }
            Knowledge::Source { source, blocked } => {
                self.change(port, group, Some(source), |entry| {
                    _ = entry.sources.insert(source, blocked)
                });
            }
        }
    }

    /// Takes in that a port has an entry no longer: that of a source, or that without one.
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
        self.unjoined.insert(group);
    }

    /// Takes in whether there is a multicast router behind a port.
    pub fn set_router(&mut self, port: u32, is_router: bool) {
        if is_router {
            self.routers.insert(port);
        } else {
            self.routers.remove(&port);
        }
        self.join_routers();
    }

    /// Takes in whether everything is wanted, as by a multicast router, since the bridge cannot
    /// tell what is.
    pub fn set_everything(&mut self, everything: bool) {
        self.everything = everything;
        self.join_routers();
    }

    /// The ports behind which there are multicast routers.
    pub fn routers(&self) -> &BTreeSet<u32> {
        &self.routers
    }

    /// Whether a port has joined this group.
    pub fn is_member(&self, port: u32, group: IpAddr) -> bool {
        self.groups.get(&group).is_some_and(|group| group.ports.contains_key(&port))
    }

    fn join_routers(&mut self) {
        self.joined.router = self.everything || !self.routers.is_empty();
    }

    /// Takes what changed as what is otherwise than in the database that this one was read in place
    /// of, and what had changed in that.
    pub fn note_changes_since(&mut self, mut before: Self) {
        before.join_all();
        self.join_all();
        let (old, new) = (&before.joined.groups, &self.joined.groups);
        let differs = |group: &&IpAddr| old.get(*group) != new.get(*group);
        let differing: BTreeSet<IpAddr> =
            old.keys().chain(new.keys()).filter(differs).copied().collect();
        self.changed = &differing | &before.changed;
    }

    /// The groups of which something else is wanted since this was last asked, each with what is
    /// wanted now; `None` if nothing is.
    pub fn take_changes(&mut self) -> Vec<(IpAddr, Option<SourceFilter>)> {
        self.join_all();
        let changed = std::mem::take(&mut self.changed).into_iter();
        changed.map(|group| (group, self.joined.groups.get(&group).cloned())).collect()
    }

    /// How many entries there are behind each port: groups, and sources of groups.
    pub fn entries_per_port(&self) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::new();
        for (port, group) in self.groups.values().flat_map(|group| &group.ports) {
            *counts.entry(*port).or_default() +=
                group.sources.len() + usize::from(group.exclude.is_some());
        }
        counts
    }

    fn join_all(&mut self) {
        std::mem::take(&mut self.unjoined).into_iter().for_each(|group| self.join(group));
    }

    /// Works out anew what all ports together want of a group, if other hosts are to know.
    fn join(&mut self, group: IpAddr) {
        if !is_announced(group) {
            return;
        }
        let ports = self.groups.get(&group).into_iter().flat_map(|group| group.ports.values());
        let filters = ports.filter_map(PortGroup::filter);
        let wanted = filters.reduce(|mut all, filter| {
            all.widen(&filter);
            all
        });
        if self.joined.groups.get(&group) == wanted.as_ref() {
            return;
        }
        self.changed.insert(group);
        match wanted {
            Some(filter) => self.joined.groups.insert(group, filter),
            None => self.joined.groups.remove(&group),
        };
    }
}
