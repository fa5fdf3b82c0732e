//! The arguments that `shoutd` and `shoutdctl start` share, defined once: what one takes, the other hands on.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use shoutd_core::address::parse_address;
use shoutd_core::view::{CONTROL_SOCKET, DATA_DIRECTORY, RUN_DIRECTORY};

/// Where a daemon keeps its things.
#[derive(Debug, Clone, Args)]
pub struct Places {
    /// Directory of the control socket
    #[arg(long, value_name = "DIR", default_value = RUN_DIRECTORY, global = true)]
    pub run_dir: PathBuf,
}

impl Places {
    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join(CONTROL_SOCKET)
    }
}

/// How a daemon is started.
#[derive(Debug, Clone, Args)]
pub struct StartArguments {
    /// Address of this host on the network between the hosts, where its peers reach it and where it receives VXLAN [port: 7789]; may be left
    /// out when the host was started before
    #[arg(value_name = "ADVERTISE_ADDRESS", value_parser = parse_address)]
    pub advertise_address: Option<SocketAddr>,

    /// Addresses of hosts that belong to the cluster already, separated by commas; without it the first start founds a cluster
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', value_parser = parse_address)]
    pub peer_addresses: Vec<SocketAddr>,

    /// Directory of what must outlive the daemon
    #[arg(long, value_name = "DIR", default_value = DATA_DIRECTORY)]
    pub data_dir: PathBuf,

    /// Docker's API socket
    #[arg(long, value_name = "PATH", default_value = "/var/run/docker.sock")]
    pub docker_socket: PathBuf,

    /// Where Docker finds this plugin
    #[arg(long, value_name = "PATH", default_value = "/run/docker/plugins/shoutd.sock")]
    pub plugin_socket: PathBuf,
}

impl StartArguments {
    /// The same arguments as a command line, for handing them on.
    pub fn to_command_line(&self, places: &Places) -> Vec<OsString> {
        let mut line: Vec<OsString> = self.advertise_address.iter().map(|address| address.to_string().into()).collect();
        if !self.peer_addresses.is_empty() {
            let peers: Vec<_> = self.peer_addresses.iter().map(SocketAddr::to_string).collect();
            line.push(format!("--peer-addresses={}", peers.join(",")).into());
        }
        let mut path = |option: &str, path: &Path| line.extend([OsString::from(option), path.into()]);
        path("--data-dir", &self.data_dir);
        path("--docker-socket", &self.docker_socket);
        path("--plugin-socket", &self.plugin_socket);
        path("--run-dir", &places.run_dir);
        line
    }
}
