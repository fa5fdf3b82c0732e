//! The decisions of shoutd, as pure functions and plain data.
//!
//! This crate does no I/O, reads no clock and draws no random numbers: time, entropy and
//! observations are arguments. So the same code runs in the daemon, in property tests and in the
//! simulation.
//!
//! There are three kinds of state: what the hosts *agree* on ([`cluster`]), what one host remembers
//! of its own engine ([`local`]), and what the kernel really has ([`plane`]). [`plane::desired`]
//! derives from the first two what the kernel should have, and [`plane::diff`] plans the steps to
//! get there.

pub mod address;
pub mod advertise;
pub mod cluster;
pub mod configuration;
pub mod descriptors;
pub mod doctor;
pub mod driver;
pub mod encryption;
pub mod events;
pub mod explain;
pub mod founding;
pub mod health;
pub mod host_view;
pub mod id;
pub mod in_flight;
pub mod joining;
pub mod last_run;
pub mod limits;
pub mod local;
pub mod metrics_address;
pub mod mirror;
pub mod missing;
pub mod multicast;
pub mod names;
pub mod no_groups;
pub mod own_address;
pub mod ping;
pub mod plane;
pub mod rates;
pub mod recall;
pub mod removal;
pub mod restarts;
pub mod rollout;
pub mod sessions;
pub mod stale;
pub mod stock;
pub mod swarm;
pub mod traffic;
pub mod trust;
pub mod tunnel;
pub mod tunnel_keys;
pub mod view;
pub mod watch;

pub use id::{
    ClusterId, DockerNetworkId, EndpointId, Fingerprint, HostId, InvalidId, MacAddress, NetworkId,
    TokenHash, Vni,
};
