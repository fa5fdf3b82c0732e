//! The decisions of shoutd, as pure functions and plain data.
//!
//! Nothing here does I/O, reads a clock or draws random numbers: time, entropy and observations are
//! arguments. That is what lets the same code run in the daemon, in property tests and in a
//! simulation.
//!
//! Three kinds of state have three homes: what the hosts *agree* on ([`cluster`]), what one host
//! remembers of its own engine ([`local`]), and what the kernel really has ([`plane`]). One
//! function, [`plane::desired`], turns the first two into what the kernel should have;
//! [`plane::diff`] says what to do about the rest.

pub mod address;
pub mod advertise;
pub mod cluster;
pub mod descriptors;
pub mod events;
pub mod health;
pub mod id;
pub mod joining;
pub mod last_run;
pub mod limits;
pub mod local;
pub mod mirror;
pub mod multicast;
pub mod names;
pub mod plane;
pub mod removal;
pub mod stale;
pub mod stock;
pub mod swarm;
pub mod view;

pub use id::{
    ClusterId, DockerNetworkId, EndpointId, Fingerprint, HostId, InvalidId, MacAddress, NetworkId,
    TokenHash, Vni,
};
