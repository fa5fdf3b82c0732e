//! What `shoutdctl` asks and is told.

pub mod control;
pub mod events;
pub mod group_members;
pub mod rollout;
pub mod views;
