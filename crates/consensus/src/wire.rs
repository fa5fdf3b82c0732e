//! What hosts say to one another about agreement, next to openraft's own messages.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shoutd_core::cluster::{Outcome, Refusal};
use shoutd_core::{ClusterId, HostId};

use crate::ProposeError;
use crate::logged::Logged;
use crate::removal_notice::RemovalNotice;
use crate::status::ConsensusStatus;

pub(crate) const APPEND: &str = "/v1/raft/append";
pub(crate) const VOTE: &str = "/v1/raft/vote";
pub(crate) const SNAPSHOT: &str = "/v1/raft/snapshot";
pub(crate) const PROPOSE: &str = "/v1/propose";
pub(crate) const JOIN: &str = "/v1/join";
pub(crate) const STATUS: &str = "/v1/status";

/// What a member says to another.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Message<T> {
    /// How often the sender's cluster had been recovered or restored when it came to it.
    pub epoch: u64,
    /// Where the sender is; `None` from older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<Sender>,
    /// How far the sender has known the receiver to be; `None` if it has not, and from older
    /// versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recalled: Option<Progress>,
    pub content: T,
}

/// Where the sender of a message is. Who it is, its connection proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sender {
    /// Where it listens: after a host has moved, this may not be agreed on yet.
    pub address: SocketAddr,
    /// Which run of its daemon it is, drawn at random: two that run at a time have one data
    /// directory, copied.
    #[serde(default)]
    pub run: u64,
}

/// How far a host has come, as it has said itself: what it said is on its disk, and stays there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The term of the vote that it had given.
    pub term: u64,
    /// The last log entry that it had acknowledged in this term.
    pub index: u64,
}

/// How a host fares, and what it knows of the one that asks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StatusAnswer {
    #[serde(flatten)]
    pub status: ConsensusStatus,
    /// Where it is agreed that the asking host is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub your_address: Option<SocketAddr>,
    /// How far the asking host has been known to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub your_progress: Option<Progress>,
}

/// What it is answered: the answer, or that it has no business here any more.
pub(crate) type Answer<T> = Result<T, RemovalNotice>;

/// A host and where to reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Located {
    pub host: HostId,
    pub address: SocketAddr,
}

/// Something for the leader to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Errand {
    /// Get this command agreed on.
    Command(Logged),
    /// Remove this host, from agreed state and from the Raft group.
    Remove(HostId),
}

/// An errand for the leader.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Propose {
    pub errand: Errand,
    /// How long the leader may take, in milliseconds.
    pub within: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Proposed {
    /// It was committed at this index of the log, and applied with this result.
    Done { index: u64, result: Result<Outcome, Refusal> },
    /// Another host leads, if any does.
    NotLeader { leader: Option<Located> },
    /// The leader could not get it agreed on.
    Failed(ProposeError),
}

/// A host that wants to be admitted, or whose name or address is new. Who it is stands in the
/// headers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Join {
    pub name: String,
    pub address: SocketAddr,
    /// The form of agreed state that it understands; see [`STATE_VERSION`](crate::STATE_VERSION).
    pub state: u32,
    /// How long the leader may take, in milliseconds.
    pub within: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Joined {
    /// The host belongs to this cluster, whose leader sends it the log from now on.
    Admitted { cluster: ClusterId, epoch: u64 },
    /// Another host leads, if any does.
    NotLeader { leader: Option<Located> },
    /// The host that was asked belongs to no cluster itself.
    NoCluster,
    /// The caller asked itself.
    Itself,
    /// The cluster's state has a form that the caller does not understand.
    Outdated { state: u32 },
    /// The cluster does not want it.
    Refused(Refusal),
    /// The leader could not get it agreed on.
    Failed(ProposeError),
}
