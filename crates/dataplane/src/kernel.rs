//! The interface to a kernel.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use shoutd_core::plane::{Action, Observed};

use crate::forwarding::{ForwardingTables, MembershipSource};
use crate::kernel_error::KernelError;

/// A kernel to observe and to change.
pub trait Kernel: Send {
    /// Observes all segments, and the container ends of their ports in the host's namespace and in
    /// these sandboxes.
    fn observe(&mut self, sandboxes: &BTreeSet<PathBuf>) -> Result<Observed, KernelError>;

    /// Executes an action. A failed one may have done a part, which the next observation shows.
    fn execute(&mut self, action: &Action) -> Result<(), KernelError>;

    /// The interface to replication and pins of the same kernel, for another thread.
    fn forwarding(&self) -> Box<dyn ForwardingTables>;

    /// The interface to the memberships of the same kernel, for another thread.
    fn memberships(&self) -> Box<dyn MembershipSource>;

    /// Waits until an observed object may have changed, `wake` is readable, or the time is over.
    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration);
}
