//! Memberships and source filters, which are merged as in RFC 3376, section 3.2 (RFC 3810, section
//! 4.2, for IPv6).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The sources of a group that a member selects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceFilter {
    /// These sources.
    Include(BTreeSet<IpAddr>),
    /// All sources but these.
    Exclude(BTreeSet<IpAddr>),
}

impl SourceFilter {
    /// All sources, as IGMPv1, IGMPv2 and MLDv1 ask for.
    pub fn all() -> Self {
        Self::Exclude(BTreeSet::new())
    }

    /// Whether this source is selected.
    pub fn admits(&self, source: IpAddr) -> bool {
        match self {
            Self::Include(sources) => sources.contains(&source),
            Self::Exclude(sources) => !sources.contains(&source),
        }
    }

    /// The filter of two members together.
    pub fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.widen(other);
        all
    }

    /// Adds the filter of another member.
    pub fn widen(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Include(wanted), Self::Include(more)) => wanted.extend(more),
            (Self::Exclude(blocked), Self::Exclude(others)) => {
                blocked.retain(|source| others.contains(source));
            }
            (Self::Exclude(blocked), Self::Include(wanted)) => {
                wanted.iter().for_each(|source| _ = blocked.remove(source));
            }
            (Self::Include(wanted), Self::Exclude(blocked)) => {
                *self = Self::Exclude(blocked - wanted);
            }
        }
    }
}

/// The memberships of a port, or of all ports of a host, on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memberships {
    /// The source filter of each group.
    pub groups: BTreeMap<IpAddr, SourceFilter>,
    /// Whether there is a multicast router, which gets every group.
    pub router: bool,
}
