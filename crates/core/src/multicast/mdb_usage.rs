//! How full the table of a bridge's groups is.

/// What a bridge has room for, and what of it is taken.
///
/// A bridge whose table is full stops to look who wants what, and sends everything to all its ports
/// (`mcast_hash_max`, `br_multicast_new_group`): what is joined from then on, nobody would hear of.
/// So before that comes to pass the host has everything sent to it: surplus instead of loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MdbUsage {
    /// Entries that there is room for.
    pub size: usize,
    /// Entries there are.
    pub taken: usize,
    /// Whether the bridge looks who wants what.
    pub snoops: bool,
}

impl MdbUsage {
    /// Whether it is so full, or known so little, that everything is wanted; `before` is what this
    /// said the last time. One sixteenth is left for what comes meanwhile, and for entries that are
    /// no container's; and it ends only when an eighth is free.
    #[must_use]
    pub fn is_crowded(&self, before: bool) -> bool {
        !self.snoops || self.is_full(before)
    }

    /// The same, for its entries alone.
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
    fn it_is_crowded_before_it_is_full_and_until_there_is_room_again() {
        let room = |taken| MdbUsage { size: 1600, taken, snoops: true };
        assert!(!room(1499).is_crowded(false));
        assert!(room(1500).is_crowded(false) && room(1400).is_crowded(true));
        assert!(!room(1399).is_crowded(true));
    }

    #[test]
    fn a_bridge_that_does_not_look_knows_nothing() {
        let quiet = MdbUsage { size: 1600, taken: 0, snoops: false };
        assert!(quiet.is_crowded(false) && !quiet.is_full(false));
    }
}
