//! Replication and forwarding tables, compared with models that are too simple to be wrong.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod changes;
mod memberships;
mod model;
mod reports;
mod retained;
mod tables;
