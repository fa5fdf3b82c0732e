//! Group memberships of ports and hosts, and the replication of multicast that follows from them.
//!
//! A port's memberships are read from the bridge ([RFC 3376], [RFC 3810]). A host's memberships are
//! the union of its ports', and are advertised.
//!
//! [RFC 3376]: https://www.rfc-editor.org/rfc/rfc3376
//! [RFC 3810]: https://www.rfc-editor.org/rfc/rfc3810

mod mac;
mod mdb;
mod mdb_usage;
mod memberships;
mod remote_members;
mod replication;
mod reports;

pub use mac::{goes_to_every_host, group_mac, is_advertised};
pub use mdb::{Knowledge, Mdb};
pub use mdb_usage::MdbUsage;
pub use memberships::{Memberships, SourceFilter};
pub use remote_members::RemoteMembers;
pub use replication::{
    Remote, Replication, SourceGroup, is_link_local, replication, replication_within,
};
pub use reports::{Query, Record, RecordKind, Report, Reports, Version};
