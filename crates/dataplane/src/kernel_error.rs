//! What an access to a kernel may fail with.

use std::io;
use std::path::PathBuf;

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
    /// This host cannot encrypt.
    #[error("this host was not prepared for encryption: its WireGuard key is missing")]
    NoWireguard,
    /// Another program has the port of WireGuard.
    #[error(
        "UDP port {port} is in use by another program, and WireGuard needs it: stop that one (`ss \
         -ulnp sport = :{port}` names it), or start shoutd with another --wireguard-port"
    )]
    OccupiedPort {
        /// The port.
        port: u16,
    },
    /// WireGuard in user space failed.
    #[error("WireGuard in user space: {error}")]
    Userspace {
        /// The cause.
        error: String,
    },
    /// There are no descriptors left.
    #[error("cannot make an eventfd: {0}")]
    Descriptor(io::Error),
    /// A fault that a test injected.
    #[error("injected fault: {0}")]
    Injected(&'static str),
}
