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
    #[cfg(test)]
    Simulated(crate::simulation::Port),
}

impl Calls {
    /// This host's identity.
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Peers(client) => client.identity(),
            #[cfg(test)]
            Self::Simulated(port) => &port.identity,
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
            #[cfg(test)]
            (Self::Simulated(port), host) => {
                port.call(host, address, path, request, deadline).await
            }
        }
    }
}
