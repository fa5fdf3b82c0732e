//! The messages of consensus between hosts, other than openraft's own.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shoutd_core::cluster::{Outcome, Refusal};
use shoutd_core::{ClusterId, HostId};

use crate::logged::Logged;
use crate::old_hosts;
use crate::propose_error::ProposeError;
use crate::removal_notice::RemovalNotice;
use crate::status::ConsensusStatus;

/// The path of openraft's messages from the leader.
pub const APPEND: &str = "/v1/raft/append";
pub(crate) const VOTE: &str = "/v1/raft/vote";
pub(crate) const SNAPSHOT: &str = "/v1/raft/snapshot";
pub(crate) const PROPOSE: &str = "/v1/propose";
pub(crate) const JOIN: &str = "/v1/join";
pub(crate) const STATUS: &str = "/v1/status";

/// The envelope of a message to another host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Message<T> {
    /// The sender's epoch.
    pub epoch: u64,
    /// The sender's address and run; `None` from older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<Sender>,
    /// The furthest progress that the sender knows of the receiver; `None` if it knows none, and
    /// from older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recalled: Option<Progress>,
    pub content: T,
}

/// The sender's address and run. Its connection proves its host id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sender {
    /// The address that it listens on. After a host has moved, agreed state may not have it yet.
    pub address: SocketAddr,
    /// A random number drawn at each start of the daemon. Two runs of one host at the same time
    /// mean that its data directory was copied.
    #[serde(default)]
    pub run: u64,
}

/// How far a host's log and vote have come, by what it has acknowledged. Raft requires that this is
/// on its disk and stays there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The term of its vote.
    pub term: u64,
    /// The last log entry that it acknowledged in this term.
    pub index: u64,
}

/// A host's status, and what it knows of the caller.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StatusAnswer {
    #[serde(flatten)]
    pub status: ConsensusStatus,
    /// The caller's address in agreed state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub your_address: Option<SocketAddr>,
    /// The furthest progress that the host knows of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub your_progress: Option<Progress>,
    /// The version of agreed state that the host supports. Those without encryption do not tell.
    #[serde(default = "untold")]
    pub supports: u32,
}

fn untold() -> u32 {
    old_hosts::UNTOLD
}

/// The answer to a message, or a notice that the caller has left the cluster.
pub(crate) type Answer<T> = Result<T, RemovalNotice>;

/// A host and its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Located {
    pub host: HostId,
    pub address: SocketAddr,
}

/// A task for the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Errand {
    /// Commit this command.
    Command(Logged),
    /// Remove this host from agreed state and from the Raft membership.
    Remove(HostId),
}

/// Asks the leader to do an errand.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Propose {
    pub errand: Errand,
    /// How long the leader may take, in milliseconds.
    pub within: u64,
}

/// The answer to [`Propose`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Proposed {
    /// The command was committed at this log index, and applied with this result.
    Done { index: u64, result: Result<Outcome, Refusal> },
    /// This host does not lead. The leader, if this host knows one.
    NotLeader { leader: Option<Located> },
    /// The leader could not commit it.
    Failed(ProposeError),
}

/// Asks to admit a host, or to record its new name or address. The request's headers identify
/// it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Join {
    pub name: String,
    pub address: SocketAddr,
    /// The version of agreed state that it supports; see [`STATE_VERSION`](crate::STATE_VERSION).
    pub state: u32,
    /// How long the leader may take, in milliseconds.
    pub within: u64,
}

/// The answer to [`Join`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Joined {
    /// The host is a member of this cluster. The leader sends it the log from now on.
    Admitted { cluster: ClusterId, epoch: u64 },
    /// This host does not lead. The leader, if this host knows one.
    NotLeader { leader: Option<Located> },
    /// The called host belongs to no cluster.
    NoCluster,
    /// The caller called itself.
    Itself,
    /// The cluster's state has a version that the caller does not support.
    Outdated { state: u32 },
    /// The cluster refuses the host.
    Refused(Refusal),
    /// The leader could not commit it.
    Failed(ProposeError),
}
