//! Whole hosts on one machine.
//!
//! A [`Lab`] is an underlay (a bridge in a network namespace of its own) and a number of [`Host`]s
//! on it. Each host has network, mount, process, UTS and IPC namespaces of its own, hence its own
//! interfaces, netfilter rules, `/run`, `/etc`, `/var/lib` and processes, and in them its own
//! containerd, Docker Engine and `shoutd`. Engines of several versions can be mixed
//! ([`EngineSource`]).
//!
//! A lab belongs to the process that made it: when that process ends, however it ends, a *keeper*
//! process takes the lab down. [`Lab::detach`] lets a lab live on until [`Lab::down`].
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let lab = shoutd_lab::Lab::up("example", 3)?;
//! let host = lab.host(1)?;
//! println!("{}", host.docker(["run", "--rm", "debian", "ip", "address"])?);
//! # Ok(()) }
//! ```

pub mod helper;

mod build_directory;
mod daemon;
mod debian;
mod engine;
mod guest;
mod host;
mod image;
mod lab;
mod layout;
mod process;
mod source;
mod virtual_host;
mod wait;

pub use debian::newer_frr;
pub use guest::run_on_older_kernel;
pub use host::Host;
pub use image::{IMAGE, libraries};
pub use lab::{Lab, LabOptions, LabSummary};
pub use layout::{MAX_HOSTS, STATE_ROOT};
pub use process::{Output, Process};
pub use source::EngineSource;
pub use virtual_host::{VirtualHost, VirtualHosts};
pub use wait::{PATIENCE, wait_until};
