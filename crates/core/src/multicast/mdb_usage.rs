//! Usage of a bridge's MDB.

/// The size of a bridge's MDB and how much of it is in use.
///
/// A bridge whose MDB is full disables snooping and floods multicast to all its ports
/// (`mcast_hash_max`, `br_multicast_new_group`). We would not learn of memberships from then on. So
/// before that happens, the host asks for all groups: surplus is better than loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MdbUsage {
    /// The maximum number of entries.
    pub size: usize,
    /// The number of entries.
    pub taken: usize,
    /// Whether the bridge snoops.
    pub snoops: bool,
}

impl MdbUsage {
    /// Whether the host must ask for all groups, because the MDB is nearly full or the bridge does
    /// not snoop; `before` is the last result. One sixteenth is left for entries that come in the
    /// meantime and for those that are not a container's. The pressure ends when an eighth is free.
    #[must_use]
    pub fn is_crowded(&self, before: bool) -> bool {
        !self.snoops || self.is_full(before)
    }

    /// The same, but only for the number of entries.
    #[must_use]
    pub fn is_full(&self, before: bool) -> bool {
        let enough = if before { self.size / 8 * 7 } else { self.size / 16 * 15 };
        self.taken >= enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_begins_before_the_mdb_is_full_and_ends_when_an_eighth_is_free() {
        for (taken, was_crowded, is_crowded) in
            [(1499, false, false), (1500, false, true), (1400, true, true), (1399, true, false)]
        {
            let usage = MdbUsage { size: 1600, taken, snoops: true };
            assert_eq!(usage.is_crowded(was_crowded), is_crowded, "{usage:?}");
        }
    }

    #[test]
    fn a_bridge_that_does_not_snoop_is_under_pressure() {
        let not_snooping = MdbUsage { size: 1600, taken: 0, snoops: false };
        assert!(not_snooping.is_crowded(false) && !not_snooping.is_full(false));
    }
}
