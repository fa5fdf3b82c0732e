//! What the end-to-end tests share: a cluster on lab hosts, containers, streams, and views of the
//! kernel and the wire. The tests themselves are in `tests/`.

mod capture;
mod checks;
mod cluster;
mod container;
mod datagrams;
mod kernel;
mod largest;
mod network;
mod numbered;
mod programs;
mod sockets;
mod stream;
pub mod swarm;
mod views;

use std::time::Duration;

pub use capture::{Capture, Frame};
pub use checks::{Check, Up, run_checks, run_groups};
pub use cluster::{Cluster, await_network, await_no_network, ensure_runs, live_restore};
pub use container::{Container, WITH_IPV6, one_on_each, run_once, takes_sysctls_with_network};
pub use datagrams::{Datagrams, all_receive_from_all, start_receiver};
pub use kernel::{left_in_kernel, segments};
pub use largest::carries_up_to;
pub use network::Network;
pub use numbered::{Numbered, NumberedReceiver};
pub use programs::test_program;
pub use sockets::{GroupSocket, Sources, inside_host};
pub use stream::{BOTH, JOIN_BOTH, Running, Stream, await_more, begin_both};
pub use views::{
    EXIT_PROBLEMS, await_members, containers_of, endpoints, is_leader, leased, networks, status,
    view,
};

/// How long something may take that shoutd does by itself, such as making a mirror. It takes
/// milliseconds, but the periodic comparison, which finds what events missed, runs every 10 s, and
/// the machine may be busy.
pub const SOON: Duration = Duration::from_secs(40);
