//! The real kernel: hosts made of network namespaces, real frames, real damage.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it expects by failing")]

mod adoption;
mod guard;
mod mending;
mod multicast;
mod probing;
mod support;
mod traffic;
