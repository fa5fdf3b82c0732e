//! Cluster membership, and access to agreed state.

pub mod agreement;
pub mod authority;
pub mod encrypt;
pub mod encryption;
pub mod enrollment;
pub mod formation;
pub mod leaving;
pub mod renewal;
pub mod swarm_node;
pub mod tokens;
pub mod tunnel_keys;
