//! The interface to a kernel.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use shoutd_core::plane::{Action, Observed};

use crate::forwarding::{ForwardingTables, MembershipSource};

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

/// An error of a kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A netlink request failed.
    #[error(transparent)]
    Netlink(#[from] shoutd_netlink::Error),
    /// A device does not exist.
    #[error("there is no device {device} in namespace {namespace}")]
    NoDevice {
        /// Its name.
        device: String,
        /// Its namespace.
        namespace: String,
    },
    /// A namespace does not exist.
    #[error("there is no network namespace {namespace}")]
    NoNamespace {
        /// Its name or path.
        namespace: String,
    },
    /// A device has a name that shoutd needs, but another program made it.
    #[error("device {device} in namespace {namespace} is not shoutd's: rename or delete it")]
    Foreign {
        /// Its name.
        device: String,
        /// Its namespace.
        namespace: String,
    },
    /// The directory of named namespaces cannot be watched.
    #[error("cannot watch {}: {error}", .directory.display())]
    Watch {
        /// The directory.
        directory: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// A setting in `/proc/sys/net` cannot be changed.
    #[error("{0}")]
    Setting(io::Error),
    /// There are no descriptors left.
    #[error("cannot make an eventfd: {0}")]
    Descriptor(io::Error),
    /// A fault that a test injected.
    #[error("injected fault: {0}")]
    Injected(&'static str),
}
