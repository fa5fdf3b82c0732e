//! Networks of a Docker Swarm.

pub mod follower;
pub mod orphans;
