//! The daemon's metrics, in the formats of Prometheus.
//!
//! What happens is counted in [`Meters`], where it happens. What *is*, such as the number of
//! groups, is read at each scrape, by the [`Collector`].
//! `docs/book/src/operations/monitoring.md` describes each metric.

mod collector;
mod families;
mod format;
mod meters;
mod process;
mod server;
mod snapshot;
#[cfg(test)]
mod tests;
mod titles;

pub use collector::Collector;
pub use meters::{Exchange, Meters};
pub use server::{Served, serve};
