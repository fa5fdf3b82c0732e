//! IPAM: subnets, leases and stock.

pub mod host_subnets;
pub mod leases;
pub mod stock;
