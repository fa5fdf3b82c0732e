//! Consensus: Raft (openraft), with redb on disk and `shoutd-peer` as transport. This is the only
//! crate that uses openraft, and it does not expose openraft's types: the next version changes most
//! of them.
//!
//! - [`Store`] keeps the log, the vote and the snapshots. A write is durable when it returns.
//! - [`Consensus`] is one host's Raft node: [`Consensus::found`] or [`Consensus::join`] once, then
//!   [`Consensus::propose`] for each change and [`Consensus::state`] to observe agreed state.
//! - [`recover`] and [`restore`] make one host the only one of its cluster, when the others or
//!   their data are lost.
//! - [`LocalStore`] keeps this host's own state, in a file of its own.
//!
//! With the feature `testing`, which no program of shoutd has, the module `testing` lets a
//! simulation replace what surrounds a node.

mod admission;
mod backup;
mod calls;
mod clock;
mod commit;
mod consensus;
mod duplicate_identity;
mod fork;
#[cfg(test)]
mod fuzz;
mod logged;
mod maintenance;
mod members;
mod network;
mod node;
mod notice;
mod obstacle;
mod offline;
mod old_hosts;
mod participation;
mod peer_health;
mod pre_vote;
mod propose;
mod propose_error;
mod raft;
mod readiness;
mod record;
mod removal;
mod removal_notice;
mod rollback;
mod rollback_check;
mod router;
mod snapshot_chunks;
mod status;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod wire;

pub use admission::{FoundError, JoinError};
pub use backup::{BackupError, BackupSummary};
pub use consensus::Consensus;
pub use logged::STATE_VERSION;
pub use node::{Settings, Timeouts};
pub use notice::{Notice, NoticeKind};
pub use offline::{RecoverError, Recovered, RestoreError, Restored, recover, restore};
pub use propose_error::ProposeError;
pub use status::{ConsensusStatus, PeerStatus, Role};
pub use store::{FILES, LocalStore, Store, StoreError, StoredIdentity, remedy};
