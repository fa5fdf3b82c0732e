//! The transport of calls to other hosts, which a simulation can replace.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoutd_core::HostId;
use shoutd_peer::{CallError, Client, Identity};

/// The transport.
#[derive(Debug, Clone)]
pub(crate) enum Calls {
    /// The client of `shoutd-peer`.
    Peers(Client),
    /// A simulated network.
    #[cfg(feature = "testing")]
    Simulated(std::sync::Arc<dyn crate::testing::Transport>),
}

impl Calls {
    /// This host's identity.
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Peers(client) => client.identity(),
            #[cfg(feature = "testing")]
            Self::Simulated(transport) => transport.identity(),
        }
    }

    /// Calls the host with this id, or, without an id, whichever host has this address.
    pub async fn call<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        host: Option<HostId>,
        address: SocketAddr,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        match (self, host) {
            (Self::Peers(client), Some(host)) => {
                client.call_host(host, address, path, request, deadline).await
            }
            (Self::Peers(client), None) => client.call(address, path, request, deadline).await,
            #[cfg(feature = "testing")]
            (Self::Simulated(transport), host) => {
                let body =
                    serde_json::to_vec(request).map_err(|error| malformed(address, &error))?;
                let answer = transport.call(host, address, path, body, deadline).await?;
                serde_json::from_slice(&answer).map_err(|error| malformed(address, &error))
            }
        }
    }
}

#[cfg(feature = "testing")]
fn malformed(address: SocketAddr, error: &serde_json::Error) -> CallError {
    CallError::Malformed { address, reason: error.to_string() }
}
