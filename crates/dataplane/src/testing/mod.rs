//! A kernel for tests that fails on demand.

mod forwarding;
mod kernel;
mod way_out;

pub use forwarding::FakeForwarding;
pub use kernel::{FakeKernel, Fault};
