//! The daemon's API for `shoutdctl` and for peers.

pub mod control;
pub mod events;
pub mod group_members;
pub mod rollout;
pub mod views;
