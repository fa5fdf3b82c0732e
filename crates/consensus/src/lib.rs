//! Agreement between hosts: Raft by openraft, kept on disk by redb, carried by `shoutd-peer`.
//!
//! This is the only crate that knows openraft, and no type of it shows: its next version changes
//! most of them.
//!
//! - [`Store`] keeps the log, the vote and the snapshots. What it says is done is on disk.
//! - [`Consensus`] runs the host's part: [`Consensus::found`] or [`Consensus::join`] once, then
//!   [`Consensus::propose`] for each change and [`Consensus::state`] to see it.
//! - [`recover`] and [`restore`] make one host the whole of its cluster, when the others or their
//!   data are lost.
//! - [`LocalStore`] keeps, in a file of its own, what concerns this host alone.

mod admission;
mod backup;
mod calls;
mod clock;
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
mod offline;
mod participation;
mod peer_health;
mod pre_vote;
mod propose;
mod raft;
mod record;
mod removal;
mod removal_notice;
mod rollback;
mod router;
#[cfg(test)]
mod simulation;
mod snapshot_chunks;
mod status;
mod store;
mod wire;

pub use admission::{FoundError, JoinError};
pub use backup::{BackupError, BackupSummary};
pub use logged::STATE_VERSION;
pub use node::{Consensus, Settings, Timeouts};
pub use notice::{Notice, NoticeKind};
pub use offline::{RecoverError, Recovered, RestoreError, Restored, recover, restore};
pub use propose::ProposeError;
pub use status::{ConsensusStatus, PeerStatus, Role};
pub use store::{FILES, LocalStore, Store, StoreError, StoredIdentity, remedy};
