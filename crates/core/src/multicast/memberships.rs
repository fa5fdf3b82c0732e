//! What is wanted of each group, with the filter algebra of RFC 3376, section 3.2 (RFC 3810, section 4.2, for IPv6).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// From which sources a group is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceFilter {
    /// From these alone.
    Include(BTreeSet<IpAddr>),
    /// From all but these; of an empty set: from all.
    Exclude(BTreeSet<IpAddr>),
}

impl SourceFilter {
    /// Wanted from every source, as IGMPv1, IGMPv2 and MLDv1 ask for it.
    pub fn all() -> Self {
        Self::Exclude(BTreeSet::new())
    }

    /// Whether what this source sends is wanted.
    pub fn admits(&self, source: IpAddr) -> bool {
        match self {
            Self::Include(sources) => sources.contains(&source),
            Self::Exclude(sources) => !sources.contains(&source),
        }
    }

    /// What two receivers want together.
    pub fn union(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Include(a), Self::Include(b)) => Self::Include(a | b),
            (Self::Exclude(a), Self::Exclude(b)) => Self::Exclude(a & b),
            (Self::Exclude(blocked), Self::Include(wanted)) | (Self::Include(wanted), Self::Exclude(blocked)) => {
                Self::Exclude(blocked - wanted)
            }
        }
    }
}

/// What a port, or all ports of a host together, want of one network's multicast.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memberships {
    /// By group.
    pub groups: BTreeMap<IpAddr, SourceFilter>,
    /// Whether there is a multicast router, which is to get every group.
    pub router: bool,
}

impl Memberships {
    /// Adds what another port or host wants.
    pub fn join(&mut self, other: &Self) {
        self.router |= other.router;
        for (group, filter) in &other.groups {
            let entry = self.groups.entry(*group);
            entry.and_modify(|held| *held = held.union(filter)).or_insert_with(|| filter.clone());
        }
    }
}
