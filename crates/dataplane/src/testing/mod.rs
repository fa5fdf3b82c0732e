//! A kernel for tests that fails on demand.

mod forwarding;
mod kernel;

pub use forwarding::FakeForwarding;
pub use kernel::{FakeKernel, Fault};
