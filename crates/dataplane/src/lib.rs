//! Makes the kernel have what it should: observes, compares, mends.
//!
//! [`Kernel`] is all that the rest knows of a kernel; [`LinuxKernel`] is the real one and
//! [`fake::FakeKernel`] one for tests that fails on demand. [`reconcile`] is one round of mending.
//! [`Reconciler`] is the thread that owns a kernel for as long as shoutd runs, and does a round
//! whenever what is desired, or what is there, may have changed.

mod backoff;
pub mod fake;
pub mod fake_forwarding;
mod forwarding;
mod graceful_restart;
mod handle;
mod inside;
mod kernel;
mod linux;
mod mdb_pressure;
mod membership_follower;
mod probe;
mod reconcile;
mod reconciler;
mod replicator;
mod scope;
mod setup_grace;
mod table_cache;
mod underlay;

pub use forwarding::{ForwardingTables, MembershipChange, MembershipSource};
pub use handle::{Generation, ReconcilerHandle, Unsettled};
pub use inside::run_inside;
pub use kernel::{Kernel, KernelError};
pub use linux::{LinuxKernel, listeners};
pub use mdb_pressure::MdbPressure;
pub use membership_follower::AllMemberships;
pub use probe::{Capabilities, Incapable, probe};
pub use reconcile::{ActionFailure, Report, reconcile};
pub use reconciler::Reconciler;
pub use replicator::ForwardingFailure;
pub use scope::Scope;
pub use underlay::{NoInterface, UnderlayInterface, host_routes, underlay_interface};
