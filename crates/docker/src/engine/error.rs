//! What can go wrong between shoutd and the engine, in words for whoever has to mend it.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper::StatusCode;
use shoutd_core::id::DockerNetworkId;

use super::ApiVersion;
use crate::one_line;

/// Longest message of an engine that is passed on, in bytes.
const MESSAGE_LIMIT: usize = 1024;

/// Docker's API did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nobody listens on the socket, or it may not be opened.
    #[error("{operation}: cannot reach Docker at {}: {source}; is the Docker Engine running?", socket.display())]
    Connect {
        /// What was being done.
        operation: String,
        /// The engine's socket.
        socket: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The engine took too long. It is starting, overloaded, or waits for a lock that a hanging
    /// plugin holds.
    #[error("{operation}: Docker did not answer within {} s", deadline.as_secs_f32())]
    Deadline {
        /// What was being done.
        operation: String,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The connection broke in the middle of a call: the engine stopped or was killed.
    #[error("{operation}: the connection to Docker broke: {source}")]
    Transport {
        /// What was being done.
        operation: String,
        /// The reason.
        source: hyper::Error,
    },
    /// The engine is older than any that shoutd works with.
    #[error(
        "the Docker Engine speaks API version {found} at most; shoutd needs {} (Docker 20.10) or \
         newer",
        ApiVersion::OLDEST
    )]
    TooOld {
        /// The newest version that the engine speaks.
        found: ApiVersion,
    },
    /// What came is no engine's answer.
    #[error("{operation}: Docker's answer cannot be understood: {reason}")]
    Malformed {
        /// What was being done.
        operation: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The engine understood, and said no.
    #[error("{operation}: Docker refused ({}): {message}", status.as_u16())]
    Refused {
        /// What was being done.
        operation: String,
        /// The HTTP status.
        status: StatusCode,
        /// The engine's own words, on one line.
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
    /// A network of that name is there already, of whichever driver.
    #[error("a Docker network named {name:?} exists already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A subnet overlaps that of another network of this engine.
    #[error("Docker network {name:?} cannot be created: {message}")]
    SubnetOverlap {
        /// The name of the network that was to be created.
        name: String,
        /// The engine's own words.
        message: String,
    },
    /// Anything else.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A network could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveNetworkError {
    /// There is no such network (any more).
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
        /// The engine's own words.
        message: String,
    },
    /// Anything else.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
