//! Addresses and subnets.

pub mod host_subnets;
pub mod leases;
pub mod stock;
