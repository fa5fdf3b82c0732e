//! Shared parts of the project's own commands: Debian packages, builds, the terminal, and
//! interrupts.

pub mod interrupt;
pub mod iperf;
pub mod machine;
pub mod programs;
mod service_policy;
pub mod terminal;
