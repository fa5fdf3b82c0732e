//! What Docker asks of shoutd. Each call becomes a command to the cluster or a change of local state, and nothing else: the kernel is the
//! reconciler's. The one exception is `Join`, which waits until the reconciler has made the interface.

mod address;
mod endpoint;
mod network;
mod sandbox;
mod swarm;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Instant;

use ipnet::IpNet;
use shoutd_core::local::Local;
use shoutd_core::{DockerNetworkId, NetworkId};
use shoutd_docker::plugin::{
    AllocateNetwork, CreateEndpoint, CreateNetwork, CreatedInterface, DriverError, EndpointKey, GrantedPool,
    IpamDriver, Join, JoinReply, NetworkDriver, PoolId, ReleaseAddress, RequestAddress, RequestPool, Scope,
};

use tracing::info;

use crate::parts::Parts;

/// The driver of this host.
#[derive(Debug)]
pub struct Driver {
    parts: Parts,
    /// Subnets given to Docker for networks that it is about to create.
    granted: Mutex<BTreeMap<IpNet, Instant>>,
}

impl Driver {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        Self { parts, granted: Mutex::default() }
    }

    /// Which network of the cluster a Docker network is.
    fn network(&self, local: &Local, docker: &DockerNetworkId) -> Result<NetworkId, DriverError> {
        local.bindings.get(docker).cloned().ok_or_else(|| {
            let id = docker.short();
            DriverError::new(format!("network {id} is not known to shoutd on this host; remove it and create it again"))
        })
    }
}

impl Driver {
    /// Forgets the endpoint that has this address if its container is gone. An engine that was killed gives the address out again without having taken it back.
    async fn evict_gone(&self, network: &NetworkId, address: IpAddr) -> Result<(), DriverError> {
        let local = self.parts.local.get();
        let Some((id, endpoint)) = local.holder(network, address).and_then(|id| local.endpoints.get_key_value(id))
        else {
            return Ok(());
        };
        // One that was never handed to a container is being started.
        let Some(sandbox) = endpoint.sandbox.clone() else {
            return Ok(());
        };
        let is_gone = self.parts.plane.is_gone(id, endpoint);
        if !is_gone && tokio::task::spawn_blocking(move || sandbox::is_inhabited(&sandbox)).await.unwrap_or(true) {
            return Ok(());
        }
        info!(endpoint = id.short(), %address, "its container is gone, and its address is wanted again: it is forgotten");
        let forgotten = self.parts.local.change(|local| {
            local.endpoints.remove(id);
            local.reservations.get_mut(network).and_then(|addresses| addresses.remove(&address))
        });
        forgotten.await.map(|_| ()).map_err(told)
    }
}

/// Any error as Docker is told it: with its causes, on one line.
fn told(error: impl Into<anyhow::Error>) -> DriverError {
    DriverError::new(format!("{:#}", error.into()))
}

impl NetworkDriver for Driver {
    async fn allocate_network(&self, request: AllocateNetwork) -> Result<BTreeMap<String, String>, DriverError> {
        swarm::allocate(self, request).await
    }

    async fn free_network(&self, network: DockerNetworkId) -> Result<(), DriverError> {
        swarm::free(self, &network).await
    }

    async fn create_network(&self, request: CreateNetwork) -> Result<(), DriverError> {
        match request.scope {
            Scope::Local => network::create(self, request).await,
            Scope::Swarm => swarm::create(self, request).await,
        }
    }

    async fn delete_network(&self, network: DockerNetworkId) -> Result<(), DriverError> {
        network::delete(self, &network).await
    }

    async fn create_endpoint(&self, request: CreateEndpoint) -> Result<CreatedInterface, DriverError> {
        endpoint::create(self, request).await
    }

    async fn delete_endpoint(&self, endpoint: EndpointKey) -> Result<(), DriverError> {
        endpoint::delete(self, &endpoint.endpoint).await
    }

    async fn join(&self, request: Join) -> Result<JoinReply, DriverError> {
        endpoint::join(self, &request).await
    }

    async fn leave(&self, endpoint: EndpointKey) -> Result<(), DriverError> {
        endpoint::leave(self, &endpoint.endpoint).await
    }

    async fn endpoint_info(&self, _: EndpointKey) -> Result<BTreeMap<String, String>, DriverError> {
        Ok(BTreeMap::new())
    }
}

impl IpamDriver for Driver {
    async fn request_pool(&self, request: RequestPool) -> Result<GrantedPool, DriverError> {
        address::request_pool(self, &request)
    }

    async fn release_pool(&self, _: PoolId) -> Result<(), DriverError> {
        // A pool is the network's: it goes with it.
        Ok(())
    }

    async fn request_address(&self, request: RequestAddress) -> Result<IpNet, DriverError> {
        address::request(self, &request).await
    }

    async fn release_address(&self, request: ReleaseAddress) -> Result<(), DriverError> {
        address::release(self, &request).await
    }
}
