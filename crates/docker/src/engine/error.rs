//! Errors of calls to the engine, worded for the administrator who must fix them.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper::StatusCode;
use shoutd_core::id::DockerNetworkId;

use super::ApiVersion;
use crate::one_line;

/// Limit of an engine's error message that we pass on, in bytes.
const MESSAGE_LIMIT: usize = 1024;

/// A call of Docker's API failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing listens on the socket, or we may not open it.
    #[error(
        "{operation}: cannot reach Docker at {}: {source}; is the Docker Engine running?",
        socket.display()
    )]
    Connect {
        /// The failed operation.
        operation: String,
        /// The engine's socket.
        socket: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The engine took too long. It is starting, overloaded, or waits for a lock that a hanging
    /// plugin holds.
    #[error("{operation}: Docker did not answer within {} s", deadline.as_secs_f32())]
    Deadline {
        /// The failed operation.
        operation: String,
        /// The deadline.
        deadline: Duration,
    },
    /// The connection closed during a call: the engine stopped or was killed.
    #[error("{operation}: the connection to Docker broke: {source}")]
    Transport {
        /// The failed operation.
        operation: String,
        /// The cause.
        source: hyper::Error,
    },
    /// The engine is older than the oldest that shoutd supports.
    #[error(
        "the Docker Engine supports only API versions up to {found}; shoutd needs {} (Docker \
         20.10) or newer",
        ApiVersion::OLDEST
    )]
    TooOld {
        /// The newest version that the engine supports.
        found: ApiVersion,
    },
    /// The engine sent an invalid answer.
    #[error("{operation}: Docker sent an invalid answer: {reason}")]
    Malformed {
        /// The failed operation.
        operation: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The engine returned an error.
    #[error("{operation}: Docker refused ({}): {message}", status.as_u16())]
    Refused {
        /// The failed operation.
        operation: String,
        /// The HTTP status.
        status: StatusCode,
        /// The engine's message, on one line.
        message: String,
    },
    /// The engine closed the stream of events: it stops, or was killed.
    #[error("Docker closed the stream of network events")]
    EventsEnded,
}

impl EngineError {
    pub(super) fn malformed(operation: &str, reason: impl Display) -> Self {
        Self::Malformed {
            operation: operation.to_owned(),
            reason: one_line(&reason.to_string(), MESSAGE_LIMIT),
        }
    }

    pub(super) fn refused(operation: &str, status: StatusCode, message: &str) -> Self {
        Self::Refused {
            operation: operation.to_owned(),
            status,
            message: one_line(message, MESSAGE_LIMIT),
        }
    }
}

/// A network could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateNetworkError {
    /// A network of that name already exists, with any driver.
    #[error("a Docker network named {name:?} already exists")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A subnet overlaps that of another network of this engine.
    #[error("Docker network {name:?} cannot be created: {message}")]
    SubnetOverlap {
        /// The name of the network.
        name: String,
        /// The engine's message.
        message: String,
    },
    /// Any other error.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A network could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveNetworkError {
    /// There is no such network.
    #[error("Docker has no network {}", id.short())]
    NotFound {
        /// The network.
        id: DockerNetworkId,
    },
    /// Containers are attached to it.
    #[error("Docker network {} is in use: {message}", id.short())]
    InUse {
        /// The network.
        id: DockerNetworkId,
        /// The engine's message.
        message: String,
    },
    /// Any other error.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
