//! Work that has to be done inside a container's network namespace.

use std::path::Path;

use shoutd_netlink::{Error, Namespace};

/// Runs something inside the network namespace that this file stands for, on a thread that ends
/// with it. Sockets that it opens stay in that namespace.
///
/// # Errors
/// If there is no such namespace, or it cannot be entered.
pub fn run_inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    Namespace::open(namespace)?.run(work)
}
