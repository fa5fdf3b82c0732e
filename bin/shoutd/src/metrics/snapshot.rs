//! The state that is read at a scrape, as plain data.

use shoutd_core::plane::Dropped;
use shoutd_core::sessions::{Session, WireguardView};
use shoutd_core::traffic::Traffic;
use shoutd_core::tunnel::Carriage;

use super::process::Process;

/// The state of this host at one time.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Current problems.
    pub problems: usize,
    /// Whether this host is a member of a cluster.
    pub is_member: bool,
    /// Hosts of the cluster.
    pub hosts: usize,
    /// Networks of the cluster.
    pub networks_agreed: usize,
    /// Raft on this host.
    pub raft: Raft,
    /// The other hosts.
    pub peers: Vec<Peer>,
    /// The networks on this host, up to a limit.
    pub networks: Vec<Network>,
    /// Networks on this host beyond the limit.
    pub networks_left_out: usize,
    /// Networks on this host whose counters could not be read, or not in time.
    pub networks_unread: usize,
    /// This host's end of the encrypted networks; `None` if no network was ever encrypted.
    pub wireguard: Option<WireguardView>,
    /// What the underlay filter has dropped.
    pub underlay: Dropped,
    /// How often something else removed the underlay filter.
    pub filter_losses: u64,
    /// What the process uses.
    pub process: Option<Process>,
    /// How long all of this took, in seconds.
    pub took: f64,
}

/// Raft on this host.
#[derive(Debug, Clone, Default)]
pub struct Raft {
    /// The position of this host's role in [`ROLES`].
    pub role: usize,
    /// The leader's term.
    pub term: u64,
    /// The index of the last log entry that was applied.
    pub applied: Option<u64>,
    /// Voters.
    pub voters: usize,
    /// Learners.
    pub learners: usize,
    /// Seconds since the last contact with the leader or, on the leader, with a majority.
    pub contact_age: Option<f64>,
}

/// The values of the label `role`.
pub const ROLES: [&str; 5] = ["leader", "follower", "candidate", "learner", "stopped"];

/// Another host.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The value of the label `peer`.
    pub title: String,
    /// Whether the last exchange over TCP succeeded; `None` if there was none lately.
    pub is_reachable: Option<bool>,
    /// Whether this host is in sync with it; `None` if they share no network.
    pub in_sync: Option<bool>,
    /// Seconds since its last advertisement.
    pub advertised_age: Option<f64>,
    /// The tunnel from it and to it; `None` if they share no network or do not probe.
    pub tunnel: Option<[Carriage; 2]>,
    /// The same of the tunnel that carries encrypted networks.
    pub encrypted_tunnel: Option<[Carriage; 2]>,
    /// WireGuard's session with it; `None` if there is none to have.
    pub session: Option<Session>,
    /// Probes that came from it.
    pub probes_received: u64,
}

/// A network on this host.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// The value of the label `network`.
    pub title: String,
    /// Containers of this host.
    pub endpoints: usize,
    /// Other hosts that have the network.
    pub remotes: usize,
    /// Groups with members on this host.
    pub local_groups: usize,
    /// Whether this host has a multicast router on the network, or asks for all groups.
    pub takes_everything: bool,
    /// Groups with members on other hosts.
    pub remote_groups: usize,
    /// Memberships of other hosts: pairs of a group and a host.
    pub receivers: usize,
    /// Replication entries, (\*,G) and (S,G).
    pub entries: usize,
    /// Groups for which there is no room among them.
    pub groups_beyond: usize,
    /// Learned MAC addresses.
    pub learned: usize,
    /// What the kernel has counted since the daemon started; `None` if it could not be read.
    pub traffic: Option<Traffic>,
}
