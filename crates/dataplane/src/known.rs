//! What the replicator knows of segments' forwarding tables, so that it need not read them with each change.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use shoutd_core::Vni;
use shoutd_core::plane::{Change, Desired, DeviceName, Forwarding, Segment, Tier};

/// What is known of one segment.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) there: There,
    pub(crate) ports: BTreeSet<DeviceName>,
    pub(crate) read_at: Instant,
}

/// What a segment's tables hold.
#[derive(Debug)]
pub(crate) enum There {
    /// All that this wants of it.
    Wanted(Arc<Desired>),
    /// This, as it was read or as changes that were left for newer ones have made it.
    Tables(Forwarding),
}

impl There {
    /// What to do so that there is what is wanted; while not all is known that is wanted, some of what is there stays beside it.
    pub(crate) fn changes_to(&self, vni: Vni, wanted: &Segment, tier: Tier) -> Vec<Change> {
        match self {
            Self::Wanted(before) if !wanted.replication.provisional => match before.segments.get(&vni) {
                Some(before) => Forwarding::changes_between(before, wanted, tier),
                None => Forwarding::default().changes_to(&Forwarding::wanted(wanted, tier)),
            },
            _ => {
                let tables = self.tables(vni, tier);
                tables.changes_to(&Forwarding::wanted_beside(&tables, wanted, tier))
            }
        }
    }

    fn tables(&self, vni: Vni, tier: Tier) -> Cow<'_, Forwarding> {
        match self {
            Self::Wanted(before) => {
                let before = before.segments.get(&vni);
                Cow::Owned(before.map(|before| Forwarding::wanted(before, tier)).unwrap_or_default())
            }
            Self::Tables(tables) => Cow::Borrowed(tables),
        }
    }

    /// What there is after these changes.
    pub(crate) fn changed(self, vni: Vni, changes: &[Change], tier: Tier) -> Self {
        let mut tables = match self {
            Self::Wanted(_) => self.tables(vni, tier).into_owned(),
            Self::Tables(tables) => tables,
        };
        changes.iter().for_each(|change| tables.apply(change));
        Self::Tables(tables)
    }
}
