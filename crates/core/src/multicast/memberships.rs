//! What is wanted of each group, with the filter algebra of RFC 3376, section 3.2 (RFC 3810,
//! section 4.2, for IPv6).

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
        let mut all = self.clone();
        all.widen(other);
        all
    }

    /// Adds what another receiver wants, at the cost of what that names.
    pub fn widen(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Include(wanted), Self::Include(more)) => wanted.extend(more),
            (Self::Exclude(blocked), Self::Exclude(others)) => {
                blocked.retain(|source| others.contains(source))
            }
            (Self::Exclude(blocked), Self::Include(wanted)) => {
                wanted.iter().for_each(|source| _ = blocked.remove(source));
            }
            (Self::Include(wanted), Self::Exclude(blocked)) => {
                *self = Self::Exclude(blocked - wanted)
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
