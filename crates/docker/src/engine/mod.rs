//! Client of the Docker Engine API (20.10 to 29), over the engine's Unix socket.
//!
//! We use `hyper` directly and no Docker client library, because the libraries lack what shoutd
//! needs: one deadline over a *whole* call (head and body), a size limit of every answer, and
//! `CheckDuplicate`, without which an engine before 25.0 creates a second network of the same name
//! (see [`EngineClient::create_network`]).
//!
//! Each call opens its own connection and first gets the engine's API version from `/_ping`. That
//! costs about a millisecond, and leaves no state that an upgrade or restart of the engine could
//! make stale.
//!
//! Never call the engine inside a plugin call (see the crate's documentation).

mod connection;
mod containers;
mod describe;
mod error;
mod events;
#[cfg(test)]
mod fuzz;
mod model;
mod networks;
mod nodes;
mod plugins;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use connection::ApiVersion;
use connection::{Connection, Content};
pub use containers::{ContainerId, ContainerNames, InvalidId, Started, StoppedContainer};
pub use describe::Description;
pub use error::{CreateNetworkError, EngineError, RemoveNetworkError};
pub use events::{EventTime, NetworkAction, NetworkEvent, NetworkEvents};
use hyper::Method;
pub use model::{
    AttachedEndpoint, DockerNetwork, EngineInfo, Ipam, IpamConfig, NetworkDetail, NetworkSpec,
};
pub use networks::{GATEWAY_BRIDGE, GatewayBridge, LeadingOut};
pub use plugins::ManagedPlugin;
use tokio::time::{Instant, sleep_until, timeout_at};

/// The engine's default socket.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Deadline of a query. The engine answers in milliseconds; under load, or while it holds the lock
/// of a starting container, in seconds. If its Swarm has no leader, it waits 20 s for one before it
/// answers `/networks` or `/info` (`swarmRequestTimeout`).
const QUERY_DEADLINE: Duration = Duration::from_secs(25);

/// Deadline of creating or removing a network. The engine calls drivers, runs `iptables` for
/// bridges, and waits 15 s for a plugin that does not answer.
const CHANGE_DEADLINE: Duration = Duration::from_secs(60);

/// Pause between attempts to reach an engine that does not run yet.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Client of one Docker Engine. Cheap to clone; holds no connection between calls.
#[derive(Debug, Clone)]
pub struct EngineClient {
    socket: PathBuf,
}

impl Default for EngineClient {
    fn default() -> Self {
        Self::new(DEFAULT_SOCKET)
    }
}

impl EngineClient {
    /// A client of the engine on the Unix socket `socket`. Does not connect yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The engine's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until the engine's API answers, for at most `patience`.
    ///
    /// A starting engine accepts connections long before it answers, because it first restarts
    /// containers. So this waits for an answer.
    ///
    /// # Errors
    /// The last failure, after `patience`; [`EngineError::TooOld`] at once.
    pub async fn wait_until_serving(&self, patience: Duration) -> Result<(), EngineError> {
        let deadline = Instant::now() + patience;
        loop {
            let failure = match timeout_at(deadline, self.connect("waiting for the engine")).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error @ EngineError::TooOld { .. })) => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => {
                    return Err(EngineError::Deadline {
                        operation: "waiting for the engine".into(),
                        deadline: patience,
                    });
                }
            };
            let next = Instant::now() + RETRY_PAUSE;
            if next >= deadline {
                return Err(failure);
            }
            sleep_until(next).await;
        }
    }

    /// Version and Swarm membership of the engine.
    ///
    /// # Errors
    /// The engine cannot be reached, does not answer in time, or sends an invalid answer.
    pub async fn engine_info(&self) -> Result<EngineInfo, EngineError> {
        let operation = "reading the engine's information";
        let reply = self.call(operation, Method::GET, "/info", None, QUERY_DEADLINE).await?;
        model::parse_info(reply.api_version, &reply.expect_success(operation)?)
            .map_err(|source| EngineError::malformed(operation, source))
    }

    async fn connect(&self, operation: &str) -> Result<Connection, EngineError> {
        Connection::open(&self.socket, operation).await
    }

    /// Connects, negotiates the version, sends the request and reads the answer, all within
    /// `deadline`.
    async fn call(
        &self,
        operation: &str,
        method: Method,
        path: &str,
        body: Option<Content>,
        deadline: Duration,
    ) -> Result<connection::Reply, EngineError> {
        let work = async {
            let mut connection = self.connect(operation).await?;
            connection.exchange(operation, method, path, body).await
        };
        tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
            Err(EngineError::Deadline { operation: operation.to_owned(), deadline })
        })
    }
}
