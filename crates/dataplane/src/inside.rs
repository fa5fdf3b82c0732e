//! Running code in a container's network namespace.

use std::path::Path;

use shoutd_netlink::{Error, Namespace};

/// Runs `work` in the network namespace with this file, on a thread that ends with it. Sockets that
/// it opens stay in that namespace.
///
/// # Errors
/// There is no such namespace, or it cannot be entered.
pub fn run_inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    Namespace::open(namespace)?.run(work)
}
