//! Who gets what: replication and forwarding tables against models that are too simple to be wrong.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod changes;
mod kept;
mod memberships;
mod model;
mod reports;
mod tables;
