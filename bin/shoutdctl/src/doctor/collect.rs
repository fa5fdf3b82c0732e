//! The facts: what can be told without a daemon, and what a running one tells.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use shoutd_cli::Directories;
use shoutd_core::doctor::{DaemonFacts, Facts, PeerPort};
use shoutd_core::view::Status;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{engine, host};
use crate::control::{self, ControlError};
use crate::presence;

/// How long a peer may take to accept a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// Where things are.
pub struct Sources {
    /// The directory of the control socket.
    pub directories: Directories,
    /// The data directory, unless the daemon names another.
    pub data_directory: PathBuf,
    /// Docker's socket, unless the daemon names another.
    pub docker_socket: PathBuf,
    /// Hosts to connect to.
    pub peer_addresses: Vec<SocketAddr>,
}

impl Sources {
    /// Collects all facts.
    pub async fn facts(mut self) -> Facts {
        let daemon = self.daemon().await;
        let daemon_runs = match &daemon {
            Err(ControlError::NotRunning { .. }) => presence::daemon().is_some(),
            _ => true,
        };
        if let Ok(daemon) = &daemon {
            self.data_directory.clone_from(&daemon.status.data_directory);
            self.docker_socket.clone_from(&daemon.status.docker_socket);
        }
        let (kernel, engine, rules, boot, peers) = tokio::join!(
            host::kernel(),
            engine::engine(&self.docker_socket),
            host::rules(),
            host::boot(),
            join_all(self.peer_addresses.iter().map(|address| peer(*address))),
        );
        let has_state = host::has_state(&self.data_directory);
        Facts {
            kernel,
            subnets: engine::subnets(&self.docker_socket).await,
            engine,
            settings: engine::settings(),
            ports: if daemon_runs { Default::default() } else { host::ports() },
            rules,
            peers,
            disks: host::disks(&self.data_directory, has_state),
            boot,
            namespaces: host::namespaces(),
            has_state,
            daemon: daemon.map_err(|error| format!("{:#}", anyhow::Error::from(error))),
            daemon_runs,
        }
    }

    /// What a running daemon tells.
    async fn daemon(&self) -> Result<DaemonFacts, ControlError> {
        let status: Status = control::get(&self.directories, "/v1/status").await?;
        Ok(DaemonFacts {
            status,
            hosts: control::get(&self.directories, "/v1/hosts").await?,
            networks: control::get(&self.directories, "/v1/networks").await?,
            clocks: control::get(&self.directories, "/v1/clocks").await?,
        })
    }
}

async fn peer(address: SocketAddr) -> PeerPort {
    let failure = match timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {} s", CONNECT_TIME_MAX.as_secs())),
    };
    PeerPort { address, failure }
}
