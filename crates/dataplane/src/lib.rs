//! The data plane: makes the kernel have what is desired.
//!
//! [`Kernel`] is the interface to a kernel. [`LinuxKernel`] is the real one, and
//! `testing::FakeKernel` (feature `testing`) is one that fails on demand. [`reconcile`] is one
//! round: observe, diff, execute. [`Reconciler`] is the thread that owns a kernel while shoutd
//! runs. It does a round whenever the desired or the observed state may have changed.

mod backoff;
mod forwarding;
mod forwarding_failure;
mod generation;
mod graceful_restart;
mod handle;
mod inside;
mod kernel;
mod kernel_error;
mod linux;
mod mdb_pressure;
mod membership_follower;
mod probe;
mod reconcile;
mod reconciler;
mod replicator;
mod round;
mod scope;
mod setup_grace;
mod table_cache;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod underlay;
mod wireguard;

pub use forwarding::{ForwardingTables, MembershipChange, MembershipSource};
pub use forwarding_failure::ForwardingFailure;
pub use generation::Generation;
pub use handle::{ReconcilerHandle, Unsettled};
pub use inside::run_inside;
pub use kernel::Kernel;
pub use kernel_error::KernelError;
pub use linux::{
    Counting, CountsWanted, EncryptionSetup, Facts, FactsWanted, Keeper, LinuxKernel, PingSockets,
    PingTo, Rated, Subject, TunnelProbes, WireguardTier, facts, group_members,
    kernel_has_wireguard, measure, segment_counters, send_probe,
};
pub use mdb_pressure::MdbPressure;
pub use membership_follower::AllMemberships;
pub use probe::{Capabilities, Incapable, probe};
pub use reconcile::{ActionFailure, Report, SETTING_UP_ENCRYPTION, reconcile};
pub use reconciler::Reconciler;
pub use round::{ReplicatorRound, Round, RoundObserver, RoundOutcome};
pub use scope::Scope;
pub use underlay::{NoInterface, UnderlayInterface, host_routes, underlay_interface};
pub use wireguard::{NoWireguard, check_wireguard};
