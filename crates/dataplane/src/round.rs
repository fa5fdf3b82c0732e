//! What the rounds of the reconciler and the replicator did, for metrics.

use std::fmt::Debug;
use std::time::Duration;

/// The result of a round of the reconciler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoundOutcome {
    /// At least one action was done.
    Changed,
    /// There was nothing to do, or all of it failed.
    Unchanged,
    /// The kernel could not be observed.
    Unreadable,
}

/// A round of the reconciler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// Its result.
    pub outcome: RoundOutcome,
    /// How long it took.
    pub took: Duration,
    /// Actions that were done.
    pub done: usize,
    /// Actions that failed, or were not tried again yet after a failure.
    pub failed: usize,
}

/// A round of the replicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicatorRound {
    /// How long it took.
    pub took: Duration,
    /// Changes of entries that were made.
    pub made: usize,
    /// Changes that failed, and tables that could not be read.
    pub failed: usize,
}

/// Is told of each round, on the thread that did it. It must not block.
pub trait RoundObserver: Debug + Send + Sync {
    /// The reconciler has done a round.
    fn reconciled(&self, round: &Round);
    /// The replicator has done a round.
    fn replicated(&self, round: &ReplicatorRound);
}

/// Counts nothing.
impl RoundObserver for () {
    fn reconciled(&self, _: &Round) {}

    fn replicated(&self, _: &ReplicatorRound) {}
}
