//! The process: its settings, its shared services, and how it starts and ends.

pub mod clock;
pub mod condition;
pub mod daemon;
mod data;
pub mod last_run;
pub mod live_settings;
pub mod local_state;
pub mod log;
pub mod memory;
mod opening;
pub mod preconditions;
pub mod privileges;
pub mod readiness;
pub mod services;
pub mod settings;
pub mod sockets;
pub mod supervision;
