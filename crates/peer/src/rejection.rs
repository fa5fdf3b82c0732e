//! A server's typed refusals.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use shoutd_core::{ClusterId, HostId};

/// Why a peer refused a request. Sent as the JSON body of a response with an error status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum Rejection {
    /// Caller and host belong to different clusters.
    #[error("this host belongs to cluster {has}, the caller to {caller}")]
    OtherCluster {
        /// The cluster of the host that was asked.
        has: ClusterId,
        /// The cluster of the caller.
        caller: ClusterId,
    },
    /// The address belongs to another host now, or this host lost its data and has a new id.
    #[error("this is host {is}, not {wanted}")]
    OtherHost {
        /// The host that received the request.
        is: HostId,
        /// The host that was meant.
        wanted: HostId,
    },
    /// The caller did not prove to be a member of this host's cluster, and the path is for members
    /// only.
    #[error("this host does not accept the caller as a member of its cluster: {reason}")]
    Unauthenticated {
        /// Why not.
        reason: String,
    },
    /// The caller was removed from the cluster.
    #[error(
        "host {host} was removed from the cluster: stop shoutd on it, delete its data directory, \
         and let it join again"
    )]
    Removed {
        /// The caller.
        host: HostId,
    },
    /// Caller and host use different protocols.
    #[error(
        "this host speaks protocol {speaks}, the caller {caller}: run the same version of shoutd \
         on both"
    )]
    OtherProtocol {
        /// The protocol of the host that was asked.
        speaks: u32,
        /// The protocol of the caller.
        caller: u32,
    },
    /// `shoutd` does not send such requests.
    #[error("the request is malformed: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// The host has reached a limit. The caller may retry.
    #[error("the host is busy: {reason}")]
    Busy {
        /// Which limit.
        reason: String,
    },
    /// Anything else, in words.
    #[error("{reason}")]
    Failed {
        /// The words.
        reason: String,
    },
}

impl Rejection {
    fn status(&self) -> StatusCode {
        match self {
            Self::OtherCluster { .. } | Self::OtherHost { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
            Self::Removed { .. } => StatusCode::FORBIDDEN,
            Self::OtherProtocol { .. } => StatusCode::NOT_IMPLEMENTED,
            Self::Malformed { .. } => StatusCode::BAD_REQUEST,
            Self::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        (self.status(), axum::Json(self)).into_response()
    }
}
