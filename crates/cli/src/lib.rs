//! The arguments that `shoutd` and `shoutdctl start` share, defined once: what one takes, the other
//! hands on.

mod file;
#[cfg(test)]
mod fuzz;
mod hide;
mod refuse;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use shoutd_core::address::parse_address;
use shoutd_core::plane::Tier;
use shoutd_core::view::{CONTROL_SOCKET, DATA_DIRECTORY, RUN_DIRECTORY};

pub use file::{TOKEN_FILE_BYTES_MAX, read_at_most};
pub use hide::hide_token;
pub use refuse::refuse;

/// Exit code of a daemon that found another one at work with its data directory: `EX_TEMPFAIL` of
/// `sysexits.h`.
pub const EXIT_OTHER_RUNS: u8 = 75;

/// The exit code of a daemon whose host was removed from its cluster: to start it again does not
/// help (`EX_NOPERM` of sysexits.h).
pub const EXIT_REMOVED: u8 = 77;

/// Exit code of `shoutdctl status` where there are problems. 1 and 2 are for a daemon that cannot
/// be asked and a wrong command line.
pub const EXIT_PROBLEMS: u8 = 3;

/// Where a daemon keeps its things.
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

/// How a daemon is started.
#[derive(Debug, Clone, Args)]
pub struct StartArguments {
    /// Address of this host on the network between the hosts, where its peers reach it and where it
    /// receives VXLAN [port: 7789]; may be left out when the host was started before
    #[arg(value_name = "ADVERTISE_ADDRESS", value_parser = parse_address)]
    pub advertise_address: Option<SocketAddr>,

    /// Addresses of hosts that belong to the cluster already, separated by commas; without it the
    /// first start founds a cluster
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', value_parser = parse_address)]
    pub peer_addresses: Vec<SocketAddr>,

    /// Token that lets this host into the cluster; `shoutdctl token show` on a member prints it. It
    /// is taken off the command line at once, where everybody could read it; --token-file never
    /// shows it
    #[arg(long, value_name = "TOKEN", env = TOKEN_VARIABLE, hide_env_values = true)]
    pub token: Option<String>,

    /// File with the token; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,

    /// How multicast is sent to the hosts that listen, if not in the best way that this kernel can:
    /// vxlan-mdb, multicast-fdb or flood
    #[arg(long, value_name = "WAY")]
    pub replication: Option<Tier>,

    /// Directory of what must outlive the daemon
    #[arg(long, value_name = "DIR", default_value = DATA_DIRECTORY)]
    pub data_dir: PathBuf,

    /// Docker's API socket
    #[arg(long, value_name = "PATH", default_value = DOCKER_SOCKET)]
    pub docker_socket: PathBuf,

    /// Where Docker finds this plugin
    #[arg(long, value_name = "PATH", default_value = PLUGIN_SOCKET)]
    pub plugin_socket: PathBuf,
}

/// Where Docker's API is, unless another place is named.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// Where Docker finds this plugin, unless another place is named.
pub const PLUGIN_SOCKET: &str = "/run/docker/plugins/shoutd.sock";

/// Environment variable with the token. A command line can be read by everybody on the host; this
/// one's environment by root alone.
pub const TOKEN_VARIABLE: &str = "SHOUTD_TOKEN";

impl StartArguments {
    /// The token that was given, in one way or the other.
    ///
    /// # Errors
    /// The file cannot be read, or is none with a token.
    pub fn token_text(&self) -> std::io::Result<Option<String>> {
        match (&self.token, &self.token_file) {
            (Some(text), _) => Ok(Some(text.trim().to_owned())),
            (None, Some(path)) => file::read_token(path).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The same arguments as a command line, for handing them on; but for the token, which does not
    /// belong on one.
    pub fn to_command_line(&self, directories: &Directories) -> Vec<OsString> {
        let mut line: Vec<OsString> =
            self.advertise_address.iter().map(|address| address.to_string().into()).collect();
        if !self.peer_addresses.is_empty() {
            let peers: Vec<_> = self.peer_addresses.iter().map(SocketAddr::to_string).collect();
            line.push(format!("--peer-addresses={}", peers.join(",")).into());
        }
        if let Some(tier) = self.replication {
            line.push(format!("--replication={}", tier.name()).into());
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
