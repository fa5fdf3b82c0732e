//! The arguments that `shoutd` and `shoutdctl start` share: `shoutdctl start` passes them on.

mod file;
#[cfg(test)]
mod fuzz;
mod hide;
mod refuse;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
pub use file::{TOKEN_FILE_BYTES_MAX, read_at_most};
pub use hide::hide_token;
pub use refuse::refuse;
use shoutd_core::address::parse_address;
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
}

impl Directories {
    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join(CONTROL_SOCKET)
    }
}

/// The arguments of the daemon.
#[derive(Debug, Clone, Args)]
pub struct StartArguments {
    /// Address of this host on the network between the hosts, at which its peers reach it and it
    /// receives VXLAN [port: 7789], or a network such as 192.0.2.0/24, in which it has an address;
    /// optional if the host was started before
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
    #[arg(long, value_name = "TOKEN", env = TOKEN_VARIABLE, hide_env_values = true)]
    pub token: Option<String>,

    /// File with the token; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,

    /// How multicast is replicated to the hosts with members: vxlan-mdb, multicast-fdb or flood;
    /// by default, the best that the kernel supports
    #[arg(long, value_name = "TIER")]
    pub replication: Option<Tier>,

    /// Do not probe the tunnels to the other hosts: tunnels that do not carry are not noticed
    #[arg(long)]
    pub no_tunnel_probes: bool,

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
}

/// The option with the interface whose address is advertised.
const INTERFACE_OPTION: &str = "--advertise-interface";

/// The option that turns tunnel probes off.
const NO_PROBES_OPTION: &str = "--no-tunnel-probes";

/// The option with the address of the metrics.
const METRICS_OPTION: &str = "--metrics-address";

/// Default of `--docker-socket`.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// Default of `--plugin-socket`.
pub const PLUGIN_SOCKET: &str = "/run/docker/plugins/shoutd.sock";

/// Environment variable with the token. Every user of the host can read a command line, but only
/// root the environment of a process of root.
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

    /// These arguments as a command line, without the token: every user could read it there.
    pub fn to_command_line(&self, directories: &Directories) -> Vec<OsString> {
        let mut line: Vec<OsString> = match self.address_rule() {
            Some(AddressRule::Address(address)) => vec![address.to_string().into()],
            Some(AddressRule::Network(network)) => vec![network.to_string().into()],
            Some(AddressRule::Interface(name)) => vec![format!("{INTERFACE_OPTION}={name}").into()],
            None => Vec::new(),
        };
        if !self.peer_addresses.is_empty() {
            let peers: Vec<_> = self.peer_addresses.iter().map(SocketAddr::to_string).collect();
            line.push(format!("--peer-addresses={}", peers.join(",")).into());
        }
        if let Some(tier) = self.replication {
            line.push(format!("--replication={}", tier.name()).into());
        }
        if self.no_tunnel_probes {
            line.push(NO_PROBES_OPTION.into());
        }
        if let Some(address) = self.metrics_address {
            line.push(format!("{METRICS_OPTION}={address}").into());
        }
        let mut path =
            |option: &str, path: &Path| line.extend([OsString::from(option), path.into()]);
        path("--data-dir", &self.data_dir);
        path("--docker-socket", &self.docker_socket);
        path("--plugin-socket", &self.plugin_socket);
        path("--run-dir", &directories.run_dir);
        line
    }
}
