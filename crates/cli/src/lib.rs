//! The arguments that `shoutd` and `shoutdctl start` share: `shoutdctl start` passes them on.

mod configuration;
mod file;
mod file_layer;
#[cfg(test)]
mod fuzz;
mod hide;
mod last_start;
mod log;
mod refuse;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};
pub use configuration::{Configuration, ConfigurationError};
pub use file::{TOKEN_FILE_BYTES_MAX, read_at_most};
pub use hide::hide_token;
pub use last_start::{LastStart, LastStartError};
pub use log::LogFilter;
pub use refuse::refuse;
use shoutd_core::address::parse_address;
use shoutd_core::encryption::{Encrypt, WireguardChoice, parse_wireguard_port};
use shoutd_core::metrics_address::MetricsAddress;
use shoutd_core::own_address::AddressRule;
use shoutd_core::plane::{DeviceName, Tier};
use shoutd_core::view::{CONTROL_SOCKET, DATA_DIRECTORY, RUN_DIRECTORY};

/// Exit code of a daemon when another one already uses its data directory (`EX_TEMPFAIL` of
/// `sysexits.h`).
pub const EXIT_OTHER_RUNS: u8 = 75;

/// Exit code of a daemon whose host was removed from its cluster (`EX_NOPERM` of `sysexits.h`). A
/// restart does not help.
pub const EXIT_REMOVED: u8 = 77;

/// Exit code of `shoutdctl status` if there are problems. 1 is for a daemon that does not answer, 2
/// for a wrong command line.
pub const EXIT_PROBLEMS: u8 = 3;

/// The directories that daemon and command share.
#[derive(Debug, Clone, Args)]
pub struct Directories {
    /// Directory of the control socket
    #[arg(long, value_name = "DIR", default_value = RUN_DIRECTORY, global = true)]
    pub run_dir: PathBuf,

    /// Configuration file [default: /etc/shoutd/shoutd.toml, if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

impl Directories {
    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join(CONTROL_SOCKET)
    }
}

/// Docker network plugin for multicast between containers on different hosts
#[derive(Debug, Clone, Parser)]
#[command(name = "shoutd", version, after_help = SETTINGS_HELP)]
pub struct DaemonArguments {
    /// What may also be in the environment and in the configuration file.
    #[command(flatten)]
    pub start: StartArguments,
    /// Where the daemon and shoutdctl meet.
    #[command(flatten)]
    pub directories: Directories,
    /// Check the configuration, say what is wrong with it, and end
    #[arg(long)]
    pub check_config: bool,
}

/// Where settings may be.
pub const SETTINGS_HELP: &str = "Each option is also a variable of the environment (--log is \
    SHOUTD_LOG, --metrics-address is SHOUTD_METRICS_ADDRESS) and a key of the configuration file \
    (log, metrics-address). The command line has precedence over the environment, and that over \
    the file.";

/// The arguments of the daemon.
#[derive(Debug, Clone, Args)]
pub struct StartArguments {
    /// Address of this host on the network between the hosts, at which its peers reach it and it
    /// receives VXLAN [port: 7789], or a network such as 192.0.2.0/24, in which it has an address;
    /// optional if the host was started before, or is a node of a Docker Swarm
    #[arg(value_name = "ADVERTISE_ADDRESS", value_parser = str::parse::<AddressRule>)]
    pub advertise_address: Option<AddressRule>,

    /// Interface whose address this host advertises, such as eth1, instead of an address. With an
    /// interface or a network, a host whose address changes goes on with the new one by itself
    #[arg(long, value_name = "NAME", conflicts_with = "advertise_address")]
    pub advertise_interface: Option<DeviceName>,

    /// Addresses of members of the cluster to join, separated by commas; without it, the first
    /// start founds a new cluster
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', value_parser = parse_address)]
    pub peer_addresses: Vec<SocketAddr>,

    /// Token that lets this host join the cluster; `shoutdctl token show` on a member prints it.
    /// Every user of this host can read a command line: the token is removed from it at once, and
    /// with --token-file it never appears there
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,

    /// File with the token; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,

    /// How multicast is replicated to the hosts with members: vxlan-mdb, multicast-fdb or flood;
    /// by default, the best that the kernel supports
    #[arg(long, value_name = "TIER")]
    pub replication: Option<Tier>,

    /// Whether to probe the tunnels to the other hosts. Without probes, tunnels that do not carry
    /// are not noticed [default: on]
    #[arg(long, value_name = "SWITCH", value_enum)]
    pub tunnel_probes: Option<Switch>,

    /// Which new networks of the cluster are encrypted between the hosts: always for all,
    /// on-request for those with the option encrypted. The cluster agrees on it; without this
    /// option, it stays as it is
    #[arg(long, value_name = "WHEN", value_parser = str::parse::<Encrypt>)]
    pub encrypt: Option<Encrypt>,

    /// Which WireGuard encrypts: kernel, userspace for a process of shoutd's own, or auto for the
    /// kernel's if it has one [default: auto]
    #[arg(long, value_name = "KIND", value_parser = str::parse::<WireguardChoice>)]
    pub wireguard: Option<WireguardChoice>,

    /// UDP port at which this host receives what is encrypted [default: 7792]. The other hosts
    /// learn it
    #[arg(long, value_name = "PORT", value_parser = parse_wireguard_port)]
    pub wireguard_port: Option<u16>,

    /// Whether this host, if it is a manager of a Docker Swarm, lets the Swarm's nodes join without
    /// a token
    #[arg(long, value_name = "SWITCH", value_enum, default_value_t = Switch::On)]
    pub swarm_join: Switch,

    /// Address at which this host serves its metrics to Prometheus, or none [default:
    /// 127.0.0.1:7790]. Whoever reaches it can read them
    #[arg(long, value_name = "ADDRESS", value_parser = str::parse::<MetricsAddress>)]
    pub metrics_address: Option<MetricsAddress>,

    /// Directory of the daemon's persistent data
    #[arg(long, value_name = "DIR", default_value = DATA_DIRECTORY)]
    pub data_dir: PathBuf,

    /// Docker's API socket
    #[arg(long, value_name = "PATH", default_value = DOCKER_SOCKET)]
    pub docker_socket: PathBuf,

    /// Plugin socket at which Docker calls shoutd
    #[arg(long, value_name = "PATH", default_value = PLUGIN_SOCKET)]
    pub plugin_socket: PathBuf,

    /// What the daemon logs: error, warn, info, debug or trace, also by module, such as
    /// info,shoutd_dataplane=debug
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: LogFilter,

    /// Whether the daemon logs lines for people, or JSON objects, one a line
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// A setting that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is on.
    #[value(alias = "true")]
    On,
    /// It is off.
    #[value(alias = "false")]
    Off,
}

/// What log lines look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Default of `--docker-socket`.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// Default of `--plugin-socket`.
pub const PLUGIN_SOCKET: &str = "/run/docker/plugins/shoutd.sock";

/// Environment variable with the token, as of every setting. Every user of the host can read a
/// command line, but only root the environment of a process of root.
pub const TOKEN_VARIABLE: &str = "SHOUTD_TOKEN";

impl StartArguments {
    /// The token from `--token`, the environment or `--token-file`.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or is not valid UTF-8.
    pub fn token_text(&self) -> std::io::Result<Option<String>> {
        match (&self.token, &self.token_file) {
            (Some(text), _) => Ok(Some(text.trim().to_owned())),
            (None, Some(path)) => file::read_token(path).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// How this host finds its advertise address; `None` if it is as at its last start.
    pub fn address_rule(&self) -> Option<AddressRule> {
        let interface = self.advertise_interface.clone().map(AddressRule::Interface);
        interface.or_else(|| self.advertise_address.clone())
    }
}
