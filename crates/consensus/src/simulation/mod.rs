//! Whole clusters in one thread, with a clock of their own and faults by the dozen, the same each
//! time for a seed.
//!
//! What runs is the real thing: the state machine, membership, leases, the way of a command to the
//! leader, what peers say to each other, and openraft. What is simulated is what surrounds it:
//! tasks and time ([`runtime`]), messages ([`net`]), disks ([`disk`], [`store`]), and the rest of
//! the daemon ([`agent`], [`user`]).

mod agent;
mod chance;
mod checks;
mod disk;
mod growth;
mod host;
mod net;
mod runtime;
mod scenario;
mod store;
mod tests;
mod user;

pub(crate) use disk::Disk;
pub(crate) use host::wall_clock;
pub(crate) use net::Port;
pub(crate) use runtime::Runtime;

/// A bug that is put back, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The store says that something is on disk which is not yet.
    AcknowledgesBeforeFsync,
    /// The store does not keep the vote.
    ForgetsVote,
    /// The store drops what a snapshot has before that is on disk.
    PurgesBeforeTheSnapshot,
    /// A host takes addresses that seem free to it.
    ClaimsFromStaleState,
    /// What a command comes to depends on the clock of the host that carries it out.
    AppliesByTheClock,
}
