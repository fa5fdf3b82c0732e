//! What a simulation of whole clusters replaces in consensus, and how it drives a host. Only with
//! the feature `testing`; `crates/simulation` is the only user.
//!
//! A simulation replaces four things:
//!
//! - tasks, time and random numbers: [`Executor`], set by [`set_executor`] for a thread;
//! - calls to other hosts: [`Transport`];
//! - this host's own records on disk: [`Records`];
//! - the log and the state machine: it implements openraft's storage traits for [`Types`].
//!
//! [`Node`] is a host's Raft node with these in place. All else in it is what the daemon runs.

mod node;
mod runtime;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::BoxFuture;
pub use node::{Node, Surroundings};
pub(crate) use runtime::wall_clock;
pub use runtime::{ElectionChance, Executor, Joined, Runtime, Work, set_executor};
use shoutd_core::{ClusterId, HostId};
use shoutd_peer::{CallError, Identity};

pub use crate::logged::{Logged, Unknown, disclose, enclose};
pub use crate::raft::{
    Answer, Entry, LogId, Snapshot, SnapshotMeta, StorageError, StoredMembership, Types, Vote,
    config,
};
pub use crate::removal_notice::RemovalNotice;
pub use crate::store::{Published, vote_at_start};
pub use crate::wire::APPEND;
use crate::{StoreError, StoredIdentity};

/// The calls of one host to others, in place of `shoutd_peer::Client`.
pub trait Transport: Debug + Send + Sync {
    /// The identity of the calling host.
    fn identity(&self) -> &Identity;

    /// Posts a body of JSON to the host `to`, or, without an id, to whichever host has the address.
    /// Returns the body of the answer.
    ///
    /// # Errors
    /// As `shoutd_peer::Client::call`.
    fn call<'a>(
        &'a self,
        to: Option<HostId>,
        address: SocketAddr,
        path: &'a str,
        body: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, CallError>>;
}

/// What a host records on disk besides its log and its state, in place of the file of agreed state.
pub trait Records: Debug + Send + Sync {
    /// The recorded identity.
    fn identity(&self) -> StoredIdentity;

    /// The notice by which this host knows that it has left the cluster.
    fn removal_notice(&self) -> Option<RemovalNotice>;

    /// Records the cluster that this host belongs to from now on, unless it belongs to one already.
    /// Returns the recorded identity.
    ///
    /// # Errors
    /// The disk fails.
    fn record_cluster(
        &self,
        cluster: ClusterId,
        founder: bool,
        epoch: u64,
    ) -> BoxFuture<'_, Result<StoredIdentity, StoreError>>;

    /// Records that this host has left its cluster.
    ///
    /// # Errors
    /// The disk fails.
    fn record_removal_notice(&self, notice: RemovalNotice)
    -> BoxFuture<'_, Result<(), StoreError>>;

    /// Why the disk cannot be used now; `None` if it can.
    fn fault(&self) -> Option<String>;

    /// The id of the log entry at this index; `None` if there is none.
    fn log_id_at(&self, index: u64) -> Option<LogId>;
}
