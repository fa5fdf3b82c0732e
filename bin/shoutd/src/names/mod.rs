//! Names of containers across hosts: learned from this host's engine, advertised with the
//! endpoints, and resolved for this host's containers.
//!
//! [`shoutd_core::names`] decides which names a container may know.

mod answer;
mod hosts;
mod in_place;
mod learning;
mod leftovers;
mod proof;
mod resolver;

pub use hosts::HostsFiles;
pub use learning::Learner;
pub use resolver::Resolvers;
