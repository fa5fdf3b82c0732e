//! The answers of the control socket, as JSON: what `shoutdctl` shows.
//!
//! Users and their scripts depend on them. Fields may be added, but not renamed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::encryption::EncryptionStatus;
use crate::events::Event;
use crate::metrics_address::MetricsAddress;
use crate::multicast::SourceFilter;
use crate::sessions::{PeerWireguard, WireguardView};
use crate::tunnel::TunnelState;
use crate::{ClusterId, EndpointId, Fingerprint, HostId, MacAddress, NetworkId, Vni};

/// Whether the daemon is a member of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "state", content = "detail")]
pub enum Membership {
    /// It belongs to no cluster yet, with the reason.
    Joining(String),
    /// It has no token and waits for an administrator's approval.
    AwaitingApproval {
        /// The fingerprint of its key.
        host: Fingerprint,
        /// The fingerprint of the cluster that it wants to join.
        cluster: Fingerprint,
    },
    /// It belongs to a cluster.
    Member,
}

/// A host that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applicant {
    /// The fingerprint of its key.
    pub fingerprint: Fingerprint,
    /// The name that it gives itself.
    pub name: String,
    /// The address of its request.
    pub address: IpAddr,
}

/// `shoutdctl token show` and `rotate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// The token, if this host has it: only the host that made it does.
    pub token: Option<String>,
    /// Seconds until it expires; `None` if it does not.
    pub expires_in: Option<u64>,
    /// How many more hosts it admits; `None` for no limit.
    pub uses: Option<u32>,
    /// The advertise address of this host.
    pub peer_address: SocketAddr,
    /// The fingerprint of the cluster. A host that waits for approval shows it too.
    pub cluster: Option<Fingerprint>,
}

/// The request of `shoutdctl token rotate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateToken {
    /// Seconds until the new token expires; `None` if it does not.
    pub lifetime: Option<u64>,
    /// How many hosts it admits; `None` for no limit.
    pub uses: Option<u32>,
}

/// The request of `shoutdctl approve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approve {
    /// The fingerprint of the host's key.
    pub fingerprint: Fingerprint,
}

/// The request of `shoutdctl remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveHost {
    /// A host's name or id.
    pub host: String,
    /// Whether to remove it even if it runs and has containers, or is the host that got the
    /// request.
    #[serde(default)]
    pub force: bool,
    /// Whether to replace the certificate authority too, so that the keys on the host's disk are
    /// useless.
    #[serde(default)]
    pub revoke: bool,
}

/// The request of `shoutdctl start` to a member: check which hosts are at these addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckPeers {
    /// The peer addresses that the user gave.
    pub addresses: Vec<SocketAddr>,
}

/// The request of `shoutdctl start` to a daemon that waits for approval.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferToken {
    /// The token.
    pub token: String,
}

impl fmt::Debug for OfferToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OfferToken")
    }
}

/// What was done, as text for users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// One line.
    pub message: String,
}

/// `shoutdctl status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// This host.
    pub host: HostId,
    /// This host's name.
    pub name: String,
    /// Its advertise address.
    pub address: SocketAddr,
    /// How it finds this address, such as `interface eth1`; `None` if the address is fixed.
    #[serde(default)]
    pub address_rule: Option<String>,
    /// MTU of the interface with this address, in octets.
    pub underlay_mtu: u16,
    /// Maximum age of its agreed state: milliseconds since its last contact with the leader or, on
    /// the leader, with a quorum; `None` if there was none.
    pub agreed_ago: Option<u64>,
    /// Its tier of replication: `vxlan-mdb`, `multicast-fdb` or `flood`.
    pub replication: String,
    /// Whether it probes its tunnels.
    #[serde(default)]
    pub tunnel_probes: bool,
    /// Where it serves its metrics; `None` if it is older than that.
    #[serde(default)]
    pub metrics_address: Option<MetricsAddress>,
    /// Encryption of networks.
    #[serde(default)]
    pub encryption: EncryptionStatus,
    /// Whether it is a member of a cluster.
    pub membership: Membership,
    /// The cluster's id.
    pub cluster: Option<ClusterId>,
    /// `leader`, `follower`, `candidate`, `learner` or `stopped`. `no-quorum` for a leader that
    /// lost its quorum.
    pub role: String,
    /// The leader, if one is known.
    pub leader: Option<HostId>,
    /// The leader's name, if one is known.
    #[serde(default)]
    pub leader_name: Option<String>,
    /// Number of hosts of the cluster.
    pub hosts: usize,
    /// Number of networks of the cluster.
    pub networks: usize,
    /// Its end of the encrypted networks; `None` if no network of the cluster was ever encrypted.
    #[serde(default)]
    pub wireguard: Option<WireguardView>,
    /// Number of endpoints on this host.
    pub endpoints: usize,
    /// The Docker Engine, or why it is not served.
    pub docker: Engine,
    /// The path of the engine's API socket.
    #[serde(default)]
    pub docker_socket: PathBuf,
    /// The data directory.
    #[serde(default)]
    pub data_directory: PathBuf,
    /// The path of the plugin's socket.
    #[serde(default)]
    pub plugin_socket: PathBuf,
    /// The peer addresses that it was started with, now or before.
    #[serde(default)]
    pub peer_addresses: Vec<SocketAddr>,
    /// Current problems, one line each.
    pub problems: Vec<String>,
    /// The last events, newest first.
    #[serde(default)]
    pub events: Vec<Event>,
}

/// The state of the host's Docker Engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "state", content = "detail")]
pub enum Engine {
    /// It answers; with its version.
    Serving(String),
    /// It does not answer, or is not served; with the reason.
    Absent(String),
}

/// A row of `shoutdctl hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostRow {
    /// Its id.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// Its advertise address.
    pub address: SocketAddr,
    /// `leader`, `voter` or `learner`.
    pub role: String,
    /// Whether the queried daemon reaches it.
    pub reachable: bool,
    /// Whether it is the queried host.
    pub this_host: bool,
    /// Whether the queried host is in sync with it; `None` if they share no network. If false, it
    /// is sent all multicast.
    #[serde(default)]
    pub in_sync: Option<bool>,
    /// Milliseconds since its last advertisement; `None` if there was none.
    #[serde(default)]
    pub heard_ago: Option<u64>,
    /// Whether the tunnel between it and the queried host carries; `None` if they share no network
    /// that is not encrypted.
    #[serde(default)]
    pub tunnel: Option<TunnelState>,
    /// The same of the tunnel that carries encrypted networks.
    #[serde(default)]
    pub encrypted_tunnel: Option<TunnelState>,
    /// Its end of the encrypted networks; `None` on the queried host itself, and if it has not
    /// published one.
    #[serde(default)]
    pub wireguard: Option<PeerWireguard>,
}

/// A row of `shoutdctl groups`: the hosts with members of a group with this source filter, on the
/// networks that the queried host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupRow {
    /// Name of the network.
    pub network: String,
    /// The group; `None` is every group, which multicast routers get.
    pub group: Option<IpAddr>,
    /// The source filter.
    pub sources: SourceFilter,
    /// The hosts with members.
    pub hosts: Vec<MemberHost>,
}

/// A host with members of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberHost {
    /// Its name.
    pub name: String,
    /// Whether it is in sync; if not, it is sent every group.
    pub in_sync: bool,
    /// The containers that are members: their names or endpoint ids, if the host tells.
    #[serde(default)]
    pub containers: Vec<String>,
}

/// A row of `shoutdctl networks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkRow {
    /// Its id.
    pub id: NetworkId,
    /// Its name; `None` while its creation is not finished.
    pub name: Option<String>,
    /// Its VXLAN network identifier.
    pub vni: Vni,
    /// Its subnets.
    #[schemars(with = "Vec<String>")]
    pub subnets: Vec<IpNet>,
    /// Its `-o` options.
    pub options: BTreeMap<String, String>,
    /// Whether it is `--internal`.
    pub internal: bool,
    /// Whether its traffic between hosts is encrypted.
    #[serde(default)]
    pub encrypted: bool,
    /// Whether it is a Docker Swarm network.
    #[serde(default)]
    pub swarm: bool,
    /// Name of its origin.
    pub origin: String,
    /// Names of the hosts that have containers on it.
    pub hosts: Vec<String>,
    /// Number of leases: the containers' addresses, and the hosts' stock.
    pub addresses: usize,
    /// Names of the hosts for which its removal waits; `None` if it is not being removed.
    pub removal_waits_for: Option<Vec<String>>,
}

impl NetworkRow {
    /// Whether this is its name, its id, or a prefix of its id as tables show it.
    pub fn is_called(&self, wanted: &str) -> bool {
        self.name.as_deref() == Some(wanted)
            || self.id.as_str() == wanted
            || (wanted.len() >= self.id.short().len() && self.id.as_str().starts_with(wanted))
    }
}

/// A container that is a member of a group, as its host tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupMemberRow {
    /// The network.
    pub network: NetworkId,
    /// The group; `None` for a multicast router, which gets every group.
    pub group: Option<IpAddr>,
    /// The container's name, or the short id of its endpoint.
    pub container: String,
}

/// A row of `shoutdctl endpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointRow {
    /// Name of the network.
    pub network: String,
    /// Name of the host.
    pub host: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its id.
    pub id: EndpointId,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Name of its container, if its engine tells us.
    pub container: Option<String>,
}

/// `shoutdctl endpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoints {
    /// The endpoints of the hosts that answered.
    pub endpoints: Vec<EndpointRow>,
    /// Names of the hosts that did not answer, whose endpoints are missing.
    pub unanswered: Vec<String>,
}

/// The request of `shoutdctl network wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitNetwork {
    /// The network's name or id.
    pub network: String,
    /// Whether to wait until it is gone from all hosts, instead of present on all.
    pub gone: bool,
    /// Maximum time to wait, in milliseconds.
    pub patience: u64,
}

/// The request of `shoutdctl network rm` if no engine knows the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetNetwork {
    /// The network.
    pub network: NetworkId,
}

/// The rollout of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStanding {
    /// Its id, if it is known.
    pub id: Option<NetworkId>,
    /// Its phase in the cluster.
    pub phase: NetworkPhase,
    /// Its state on each host, if it was queried.
    pub hosts: Vec<HostCopy>,
    /// The tunnels of the queried host that do not carry, one line each.
    #[serde(default)]
    pub tunnel_problems: Vec<String>,
    /// Why it went, if it was created on this host and another network had its name before.
    #[serde(default)]
    pub made_room: Option<String>,
}

/// The phase of a network in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase", content = "hosts")]
pub enum NetworkPhase {
    /// There is no network with this name or id.
    Unknown,
    /// It is agreed, but the origin has not described it yet.
    Nameless,
    /// It is a network of the cluster; with the names of the hosts that have containers on it.
    There(Vec<String>),
    /// A user removed it on this host, and the removal is pending.
    Asking,
    /// It is being removed; with the names of the hosts that still hold something of it.
    Leaving(Vec<String>),
}

/// A network's state on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCopy {
    /// The host's name.
    pub host: String,
    /// Whether its engine has the network.
    pub state: CopyState,
    /// What prevents that, if known.
    pub problem: Option<String>,
}

/// Whether a host's engine has a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyState {
    /// The engine has it, ready for containers.
    Present,
    /// The engine does not have it.
    Absent,
    /// The host does not answer.
    Unreachable,
}

/// The answer to a request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The error, in one line.
    pub error: String,
}

/// The default directory of the control socket.
pub const RUN_DIRECTORY: &str = "/run/shoutd";
/// The default data directory.
pub const DATA_DIRECTORY: &str = "/var/lib/shoutd";
/// Name of the control socket in the run directory.
pub const CONTROL_SOCKET: &str = "control.sock";
/// Name of the file, in the data directory, with the options of the daemon's last start.
pub const START_FILE: &str = "start.json";
