//! Shared parts of the project's own commands and tests: Debian packages, builds, the terminal,
//! interrupts, and the shell blocks of the book.

pub mod book;
pub mod interrupt;
pub mod iperf;
pub mod machine;
pub mod programs;
mod service_policy;
pub mod terminal;
