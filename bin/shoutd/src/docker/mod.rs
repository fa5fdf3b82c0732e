//! This host's Docker Engine: its calls to the plugin, and its networks and containers.

pub mod driver;
pub mod follower;
pub mod in_flight;
pub mod mirror_spec;
pub mod mirrors;
pub mod pending_removals;
pub mod recall;
pub mod restarts;
pub mod sandbox;
pub mod stale_endpoints;
