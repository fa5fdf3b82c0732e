//! The daemon of one host, as a library: `main.rs` parses arguments and runs it.

pub mod advertise;
pub mod api;
pub mod app;
pub mod docker;
pub mod ipam;
pub mod membership;
pub mod metrics;
pub mod names;
pub mod plane;
pub mod probes;
pub mod swarm;
