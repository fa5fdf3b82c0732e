//! What the rest of shoutd knows of a kernel.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use shoutd_core::plane::{Action, Observed};

use crate::forwarding::{ForwardingTables, MembershipSource};

/// A kernel that can be looked at and changed.
pub trait Kernel: Send {
    /// Reads what there is: all segments, and the container's ends of their ports in the host's
    /// namespace and in these sandboxes.
    fn observe(&mut self, sandboxes: &BTreeSet<PathBuf>) -> Result<Observed, KernelError>;

    /// Does one action. If it fails it may have done a part, which the next observation shows.
    fn execute(&mut self, action: &Action) -> Result<(), KernelError>;

    /// The forwarding tables of the same kernel, for another thread.
    fn forwarding(&self) -> Box<dyn ForwardingTables>;

    /// The memberships of the same kernel, for another thread.
    fn memberships(&self) -> Box<dyn MembershipSource>;

    /// Waits until something that was observed may have changed, `wake` can be read, or the time is
    /// over; whichever comes first.
    fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration);
}

/// Something that the kernel did not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// It refused.
    #[error(transparent)]
    Netlink(#[from] shoutd_netlink::Error),
    /// A device is not there.
    #[error("there is no device {device} in namespace {namespace}")]
    NoDevice {
        /// Its name.
        device: String,
        /// Where it should be.
        namespace: String,
    },
    /// The namespace is not there.
    #[error("there is no network namespace {namespace}")]
    NoNamespace {
        /// Its name or path.
        namespace: String,
    },
    /// A device has a name that shoutd needs, but shoutd did not make it.
    #[error("device {device} in namespace {namespace} is not shoutd's: rename or delete it")]
    Foreign {
        /// Its name.
        device: String,
        /// Where it is.
        namespace: String,
    },
    /// The directory of named namespaces cannot be watched.
    #[error("cannot watch {}: {error}", .directory.display())]
    Watch {
        /// The directory.
        directory: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A setting in `/proc/sys/net` cannot be changed.
    #[error("{0}")]
    Setting(io::Error),
    /// There are no descriptors left.
    #[error("cannot make an eventfd: {0}")]
    Descriptor(io::Error),
    /// A test's kernel failed because it was told to.
    #[error("injected fault: {0}")]
    Injected(&'static str),
}
