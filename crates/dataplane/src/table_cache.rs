//! What the replicator knows of segments' forwarding tables, so that it need not read them with
//! each change.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use shoutd_core::Vni;
use shoutd_core::plane::{Change, Desired, DeviceName, Forwarding, Segment, Tier};

/// What is known of one segment.
#[derive(Debug)]
pub(crate) struct TableCache {
    pub(crate) there: CachedTables,
    pub(crate) ports: BTreeSet<DeviceName>,
    pub(crate) read_at: Instant,
}

/// What a segment's tables hold.
#[derive(Debug)]
pub(crate) enum CachedTables {
    /// All that this wants of it.
    Wanted(Arc<Desired>),
    /// This, as it was read or as changes that were left for newer ones have made it.
    Tables(Forwarding),
}

impl CachedTables {
    /// What to do so that there is what is wanted, and whether some of what is there may stay
    /// beside it.
    pub(crate) fn changes_to(&self, vni: Vni, wanted: &Segment, tier: Tier) -> (Vec<Change>, bool) {
        if let Some(changes) = self.changes_between(vni, wanted, tier) {
            return (changes, false);
        }
        let tables = self.tables(vni, tier);
        let all = Forwarding::desired_with_retained(&tables, wanted, tier);
        (
            tables.changes_to(&all),
            wanted.replication.provisional || all.has_more_groups_than(wanted),
        )
    }

    /// The same without a look at all there is; `None` if that cannot be had.
    fn changes_between(&self, vni: Vni, wanted: &Segment, tier: Tier) -> Option<Vec<Change>> {
        let Self::Wanted(before) = self else { return None };
        if wanted.replication.provisional {
            return None;
        }
        let Some(before) = before.segments.get(&vni) else {
            return Some(Forwarding::default().changes_to(&Forwarding::wanted(wanted, tier)));
        };
        let keeps = tier == Tier::VxlanMdb && Forwarding::keeps_sources(before, wanted);
        (!keeps).then(|| Forwarding::changes_between(before, wanted, tier))
    }

    fn tables(&self, vni: Vni, tier: Tier) -> Cow<'_, Forwarding> {
        match self {
            Self::Wanted(before) => {
                let before = before.segments.get(&vni);
                Cow::Owned(
                    before.map(|before| Forwarding::wanted(before, tier)).unwrap_or_default(),
                )
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
