//! What the end-to-end tests share: a cluster on lab hosts, containers, streams, and views of the
//! kernel and the wire. The tests themselves are in `tests/`.

mod capture;
mod checks;
mod cluster;
mod container;
mod datagrams;
mod kernel;
mod network;
mod numbered;
mod sockets;
mod stream;
pub mod swarm;
mod views;

use std::time::Duration;

pub use capture::{Capture, Frame};
pub use checks::{Check, run_checks};
pub use cluster::{Cluster, await_network, await_no_network, ensure_runs};
pub use container::{Container, WITH_IPV6, one_on_each, run_once, takes_sysctls_with_network};
pub use datagrams::{Datagrams, everyone_hears_everyone, listen};
pub use kernel::{left_in_kernel, segments};
pub use network::Network;
pub use numbered::{Hearing, Numbered};
pub use sockets::{GroupSocket, Sources};
pub use stream::{BOTH, LISTEN, Running, Stream, await_more, begin_both};
pub use views::{
    EXIT_PROBLEMS, await_listeners, containers_of, endpoints, is_leader, leased, networks, status,
    view,
};

/// How long something may take that shoutd does by itself, such as a mirror on another host:
/// milliseconds, but its periodic comparison, by which it finds what no event told, comes every 10
/// s, and the machine may be busy.
pub const SOON: Duration = Duration::from_secs(40);
