//! The client of the Docker Engine API (20.10 to 29), over the engine's Unix socket.
//!
//! It speaks HTTP/1.1 by `hyper` itself and uses no client library, because shoutd needs what the
//! libraries do not give: one deadline over a *whole* call (head and body), a bound on every
//! answer, and `CheckDuplicate`, without which an engine before 25.0 makes a second network of the
//! same name (see [`EngineClient::create_network`]).
//!
//! Each call opens a connection of its own and asks `/_ping` first which API version the engine
//! speaks. That costs about a millisecond, and there is no state that an upgraded or restarted
//! engine could make stale.
//!
//! Never use it inside a plugin call (see the crate's first page).

mod connection;
mod containers;
mod error;
mod events;
#[cfg(test)]
mod fuzz;
mod model;
mod networks;
mod plugins;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use tokio::time::{Instant, sleep_until, timeout_at};

pub use connection::ApiVersion;
use connection::{Connection, Content};
pub use containers::{ContainerId, ContainerNames, InvalidId, Started, StoppedContainer};
pub use error::{CreateNetworkError, EngineError, RemoveNetworkError};
pub use events::{EventTime, NetworkAction, NetworkEvent, NetworkEvents};
pub use model::{
    AttachedEndpoint, DockerNetwork, EngineInfo, Ipam, IpamConfig, NetworkDetail, NetworkSpec,
};
pub use networks::{GATEWAY_BRIDGE, GatewayBridge};
pub use plugins::ManagedPlugin;

/// Where the engine listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// How long the engine may take to answer a question. It answers in milliseconds; under load, or
/// while it holds a lock for a container that is starting, in seconds. One whose Swarm has no
/// leader waits 20 s for it before it lists networks or tells of itself (`swarmRequestTimeout`).
const QUERY_DEADLINE: Duration = Duration::from_secs(25);

/// How long the engine may take to create or remove a network. It calls drivers meanwhile, runs
/// `iptables` for bridges, and gives a plugin that is away 15 s.
const CHANGE_DEADLINE: Duration = Duration::from_secs(60);

/// The pause between two attempts to reach an engine that is not there yet.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A client of one Docker engine. Cheap to clone; holds no connection between calls.
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
    /// A client of the engine that listens on the Unix socket `socket`. Connects to nothing yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket it talks to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until the engine answers its API, at most `patience`.
    ///
    /// An engine that is starting accepts connections long before it answers (it restarts
    /// containers in between), so this returns only when it has answered.
    ///
    /// # Errors
    /// The reason of the last failure when `patience` is over; [`EngineError::TooOld`] at once.
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

    /// Who the engine is.
    ///
    /// # Errors
    /// The engine cannot be reached, does not answer in time, or answers what is not an engine's
    /// answer.
    pub async fn engine_info(&self) -> Result<EngineInfo, EngineError> {
        let operation = "asking the engine about itself";
        let reply = self.call(operation, Method::GET, "/info", None, QUERY_DEADLINE).await?;
        model::parse_info(reply.api_version, &reply.expect_success(operation)?)
            .map_err(|source| EngineError::malformed(operation, source))
    }

    async fn connect(&self, operation: &str) -> Result<Connection, EngineError> {
        Connection::open(&self.socket, operation).await
    }

    /// One whole call: connects, negotiates, sends, reads the answer; all within `deadline`.
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
