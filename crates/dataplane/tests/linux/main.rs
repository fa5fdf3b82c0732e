//! The real kernel: hosts in network namespaces, real frames, real damage.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by failing"
)]

mod cluster;
mod counts;
mod encryption;
mod followed;
mod graceful_restart;
mod igmp_mld_filter;
mod limits;
mod mdb_pressures;
mod mending;
mod multicast;
mod overruns;
mod pins;
mod probes;
mod probing;
mod queriers;
mod routers;
mod stamps;
mod support;
mod tiers;
mod traffic;
mod way_out;
