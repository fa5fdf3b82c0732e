//! What is known of a host.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::plane::Tier;
use crate::view::{HostRow, NetworkRow, Status};

/// What is known of a host. `Err` says why something is not known.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The kernel.
    pub kernel: KernelFacts,
    /// Its Docker Engine.
    pub engine: Result<EngineFacts, String>,
    /// Docker's `daemon.json`.
    pub settings: SettingsFacts,
    /// The ports.
    pub ports: PortFacts,
    /// The firewall rules of the host, as programs print them, or why there are none.
    pub rules: Vec<Result<RulesText, String>>,
    /// Whether a TCP connection to each of these addresses can be made, or why not.
    pub peers: Vec<PeerPort>,
    /// The disks with the data directory and the log.
    pub disks: Vec<DiskFacts>,
    /// How shoutd is started at boot.
    pub boot: Boot,
    /// Subnets in use on the host by something other than shoutd, or why they are not known.
    pub subnets: Result<Vec<UsedSubnet>, String>,
    /// Names of network namespaces that shoutd has made.
    pub namespaces: Vec<String>,
    /// Whether the data directory has the state of a host.
    pub has_state: bool,
    /// What the daemon tells, or why it tells nothing.
    pub daemon: Result<DaemonFacts, String>,
    /// Whether a daemon runs, although it may not answer.
    pub daemon_runs: bool,
}

/// The kernel of a host.
#[derive(Debug, Clone)]
pub struct KernelFacts {
    /// Its release, such as `6.1.0-18-amd64`.
    pub release: String,
    /// The best tier that it can do, or which required feature it lacks and what to do.
    pub tier: Result<Tier, String>,
    /// Whether it has WireGuard.
    pub wireguard: bool,
    /// Why WireGuard cannot run in user space, if so.
    pub userspace: Result<(), String>,
}

/// A Docker Engine that answers.
#[derive(Debug, Clone)]
pub struct EngineFacts {
    /// Its version.
    pub version: String,
    /// Whether the host is an active node of a Swarm.
    pub swarm: bool,
}

/// Docker's `daemon.json`.
#[derive(Debug, Clone)]
pub struct SettingsFacts {
    /// Its path.
    pub file: PathBuf,
    /// What it has.
    pub content: Settings,
}

/// What `daemon.json` has.
#[derive(Debug, Clone)]
pub enum Settings {
    /// There is no such file.
    Absent,
    /// It cannot be read, and why.
    Unreadable(String),
    /// It is not valid JSON, and why.
    Invalid(String),
    /// It is valid.
    Valid {
        /// Whether Docker may change firewall rules, as it does by default.
        iptables: bool,
    },
}

/// The ports of this host.
#[derive(Debug, Clone, Default)]
pub struct PortFacts {
    /// Why TCP port 7789 cannot be bound, if so.
    pub tcp: Option<String>,
    /// Why UDP port 7789 cannot be bound, if so.
    pub udp: Option<String>,
}

/// Firewall rules as a program prints them.
#[derive(Debug, Clone)]
pub struct RulesText {
    /// The program.
    pub program: String,
    /// Its output.
    pub text: String,
}

/// Whether a host answers on TCP.
#[derive(Debug, Clone)]
pub struct PeerPort {
    /// Its address.
    pub address: SocketAddr,
    /// Why it does not answer, if so.
    pub failure: Option<String>,
}

/// Free disk space.
#[derive(Debug, Clone)]
pub struct DiskFacts {
    /// The directory.
    pub directory: PathBuf,
    /// Free octets, or why that is not known.
    pub free: Result<u64, String>,
    /// Whether the state of the host is there.
    pub holds_state: bool,
}

/// How shoutd is started at boot.
#[derive(Debug, Clone)]
pub enum Boot {
    /// The host does not run systemd.
    NoSystemd,
    /// systemd does not answer, and why.
    Unknown(String),
    /// What systemd knows of `shoutd.service`.
    Unit {
        /// Whether it exists.
        exists: bool,
        /// Whether it is enabled.
        enabled: bool,
        /// Whether it is ordered before `docker.service`.
        before_docker: bool,
    },
}

/// A subnet in use on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedSubnet {
    /// The subnet.
    pub subnet: IpNet,
    /// Its user.
    pub user: String,
    /// Whether it is a network of Docker, whose subnet a user can choose.
    pub docker: bool,
}

/// What a running daemon tells.
#[derive(Debug, Clone)]
pub struct DaemonFacts {
    /// Its status.
    pub status: Status,
    /// The hosts of the cluster.
    pub hosts: Vec<HostRow>,
    /// The networks of the cluster.
    pub networks: Vec<NetworkRow>,
    /// The clocks of the other hosts that answer.
    pub clocks: Vec<ClockFacts>,
}

/// The clock of another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockFacts {
    /// The host's name.
    pub name: String,
    /// How far it is ahead of the queried host's, in milliseconds; negative if it is behind.
    pub ahead: i64,
    /// How much more or less it can be, in milliseconds: half of the time that the answer took.
    pub uncertain: u64,
}
