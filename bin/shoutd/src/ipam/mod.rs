//! IPAM: subnets, leases and stock.

pub mod claimer;
pub mod claims;
pub mod host_subnets;
pub mod leases;
pub mod stock;
