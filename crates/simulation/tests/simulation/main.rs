//! Deterministic simulation: whole clusters in one thread, with a simulated clock and many faults,
//! reproducible by a seed.
//!
//! Real are the state machine, the membership, the leases, the forwarding of commands to the
//! leader, the messages between peers, and openraft. Simulated are their surroundings: tasks and
//! time ([`runtime`]), messages ([`net`]), disks ([`disk`], [`store`]), and the rest of the daemon
//! ([`agent`], [`user`]). `shoutd_consensus::testing` is what joins the two.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "tests say what they expect by failing"
)]

mod agent;
mod chance;
mod checks;
mod disk;
mod growth;
mod host;
mod net;
mod runtime;
mod scenario;
mod seeds;
mod store;
mod user;

/// A bug that a test puts back, to check that the simulation finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The store acknowledges writes that are not on disk yet.
    AcknowledgesBeforeFsync,
    /// The store loses the vote.
    ForgetsVote,
    /// The store purges log entries before the snapshot that includes them is on disk.
    PurgesBeforeTheSnapshot,
    /// A host takes addresses that are free as far as it knows, without claiming them.
    ClaimsFromStaleState,
    /// The result of a command depends on the clock of the host that applies it.
    AppliesByTheClock,
}
