//! The daemon's API for `shoutdctl` and for peers.

pub mod clocks;
pub mod control;
pub mod elsewhere;
pub mod events;
#[cfg(test)]
mod fuzz;
pub mod group_members;
pub mod ping;
pub mod rates;
mod removal;
pub mod rollout;
pub mod trace;
pub mod views;
pub mod watch;
pub mod why;
