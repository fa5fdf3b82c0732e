//! The status of consensus, for users.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shoutd_core::HostId;

/// A host's role in Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It orders the commands.
    Leader,
    /// It votes, and follows a leader.
    Follower,
    /// It has no leader and asks for votes.
    Candidate,
    /// It follows a leader without a vote. Also a host that belongs to no cluster yet.
    Learner,
    /// Its disk failed, or it is shutting down: it takes no part.
    Stopped,
}

/// The status of consensus, as this host sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsensusStatus {
    /// This host.
    pub host: HostId,
    /// Its role.
    pub role: Role,
    /// The leader, as far as it knows.
    pub leader: Option<HostId>,
    /// The leader's term.
    pub term: u64,
    /// The index of the last log entry that it applied.
    pub applied: Option<u64>,
    /// The voters.
    pub voters: Vec<HostId>,
    /// The learners.
    pub learners: Vec<HostId>,
    /// Milliseconds since it last received a message from the leader; on the leader, since a
    /// majority of the voters last answered. `None` if that never happened.
    pub leader_heard: Option<u64>,
    /// Why this host itself takes no part: its disk, a newer command in the log, or its removal.
    #[serde(default)]
    pub fault: Option<String>,
    /// The hosts that it lately called, or received messages from.
    #[serde(rename = "contacts")]
    pub peer_health: Vec<PeerStatus>,
}

/// Whether another host answers this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The other host.
    pub host: HostId,
    /// Whether the last exchange succeeded.
    pub reachable: bool,
    /// Why it failed.
    pub error: Option<String>,
    /// Milliseconds since that exchange.
    pub millis: u64,
    /// Its address, if it was found at another than agreed state has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
}
