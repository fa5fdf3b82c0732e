//! Numbers of desired states.

/// Numbers the desired states that were applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub(crate) u64);
