//! Names of containers across hosts: learnt from this host's engine, announced with the endpoints,
//! and given to this host's containers.
//!
//! What each container may know is decided in [`shoutd_core::names`].

mod answer;
mod hosts;
mod learning;
mod leftovers;
mod proof;
mod resolver;

pub use hosts::HostsFiles;
pub use learning::Learner;
pub use resolver::Resolvers;
