//! Who listens to what: group memberships of ports and hosts.
//!
//! A port's memberships are read from the bridge ([RFC 3376], [RFC 3810]); a host's are the union of its ports', and are what it announces.

mod memberships;

pub use memberships::{Memberships, SourceFilter};
