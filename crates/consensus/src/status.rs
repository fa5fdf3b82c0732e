//! How agreement fares, for people.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shoutd_core::HostId;

/// What a host does in consensus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It decides the order of commands.
    Leader,
    /// It votes, and follows a leader.
    Follower,
    /// It hears no leader and asks for votes.
    Candidate,
    /// It follows and has no vote. So does a host that belongs to no cluster yet.
    Learner,
    /// Its disk failed it, or it is being shut down: it takes no part.
    Stopped,
}

/// How agreement fares, as this host sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsensusStatus {
    /// This host.
    pub host: HostId,
    /// What it does.
    pub role: Role,
    /// Who leads, as far as it knows.
    pub leader: Option<HostId>,
    /// The leader's term.
    pub term: u64,
    /// Index of the last log entry in its state.
    pub applied: Option<u64>,
    /// Hosts with a vote.
    pub voters: Vec<HostId>,
    /// Hosts without one.
    pub learners: Vec<HostId>,
    /// Milliseconds since it last heard from the leader; on the leader, since a majority of the
    /// voters last answered it. None if that never happened.
    pub leader_heard: Option<u64>,
    /// Why it agrees on nothing, if that is for a reason of its own: its disk, a newer command in
    /// the log, or that it was removed.
    #[serde(default)]
    pub fault: Option<String>,
    /// The hosts that it has lately called or heard from.
    #[serde(rename = "contacts")]
    pub peer_health: Vec<PeerStatus>,
}

/// How this host gets on with another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The other host.
    pub host: HostId,
    /// Whether the last exchange went well.
    pub reachable: bool,
    /// Why it did not.
    pub error: Option<String>,
    /// Milliseconds since that exchange.
    pub millis: u64,
    /// Where it is, if it was found elsewhere than it is agreed to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
}
