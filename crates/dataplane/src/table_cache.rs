//! The replicator's cache of segments' tables, so that it need not read them for each change.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use shoutd_core::Vni;
use shoutd_core::plane::{Change, Desired, DeviceName, Forwarding, Segment, Tier};

/// The cached tables of one segment.
#[derive(Debug)]
pub(crate) struct TableCache {
    pub(crate) there: CachedTables,
    pub(crate) ports: BTreeSet<DeviceName>,
    pub(crate) read_at: Instant,
}

/// The contents of a segment's tables.
#[derive(Debug)]
pub(crate) enum CachedTables {
    /// Exactly the entries of this desired state.
    Wanted(Arc<Desired>),
    /// These entries, as read, or as changed by a round that was preempted.
    Tables(Forwarding),
}

impl CachedTables {
    /// The changes to reach the desired entries, and whether the tables may keep more than those.
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

    /// The same from two desired states, without the tables; `None` if that is not possible.
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

    /// The contents after these changes.
    pub(crate) fn changed(self, vni: Vni, changes: &[Change], tier: Tier) -> Self {
        let mut tables = match self {
            Self::Wanted(_) => self.tables(vni, tier).into_owned(),
            Self::Tables(tables) => tables,
        };
        changes.iter().for_each(|change| tables.apply(change));
        Self::Tables(tables)
    }
}
