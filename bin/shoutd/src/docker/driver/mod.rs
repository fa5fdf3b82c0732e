//! The network and IPAM driver.
//!
//! A handler decides by plans of the core (`shoutd_core::driver`), proposes commands to the
//! cluster, changes local state, and awaits conditions, each with a deadline. It touches neither
//! the kernel nor a peer: the tasks that follow the state do that.

mod address;
mod endpoint;
mod naming;
mod network;
mod swarm;

use std::collections::BTreeMap;
use std::time::Instant;

use ipnet::IpNet;
use parking_lot::Mutex;
use shoutd_core::events::EventKind;
use shoutd_core::local::Local;
use shoutd_core::{DockerNetworkId, NetworkId, view};
use shoutd_docker::plugin::{
    AllocateNetwork, CreateEndpoint, CreateNetwork, CreatedInterface, DriverError, EndpointKey,
    GrantedPool, IpamDriver, Join, JoinReply, NetworkDriver, PoolId, ReleaseAddress,
    RequestAddress, RequestPool, Scope,
};
use tokio::sync::watch;

use crate::app::services::Services;

/// The driver of this host.
#[derive(Debug)]
pub struct Driver {
    services: Services,
    /// Whether the engine answers, and its version.
    engine: watch::Receiver<view::Engine>,
    /// Subnets that we chose for networks that Docker is about to create.
    granted: Mutex<BTreeMap<IpNet, Instant>>,
}

impl Driver {
    /// The driver with these services, for this engine.
    pub fn new(services: Services, engine: watch::Receiver<view::Engine>) -> Self {
        Self { services, engine, granted: Mutex::default() }
    }

    /// The network of the cluster that a Docker network belongs to.
    fn network(&self, local: &Local, docker: &DockerNetworkId) -> Result<NetworkId, DriverError> {
        local.bindings.get(docker).cloned().ok_or_else(|| {
            let id = docker.short();
            DriverError::new(format!(
                "shoutd on this host does not know network {id}; remove it and create it again"
            ))
        })
    }
}

impl Driver {
    fn note_refused_network(&self, subject: &str, error: &DriverError) {
        self.services.events.note(EventKind::NetworkRefused, subject, error.message());
    }

    fn note_refused_container(&self, docker: &DockerNetworkId, error: &DriverError) {
        let network = self.services.local.get().bindings.get(docker).cloned();
        let network = network.unwrap_or_else(|| NetworkId::from(docker));
        let cluster = self.services.agreement.cluster();
        self.services.events.note(
            EventKind::ContainerRefused,
            cluster.network_title(&network),
            error.message(),
        );
    }
}

/// An error with its causes, on one line, for Docker.
fn driver_error(error: impl Into<anyhow::Error>) -> DriverError {
    DriverError::new(format!("{:#}", error.into()))
}

impl NetworkDriver for Driver {
    async fn allocate_network(
        &self,
        request: AllocateNetwork,
    ) -> Result<BTreeMap<String, String>, DriverError> {
        let subject = request.network.short().to_owned();
        swarm::allocate(self, request)
            .await
            .inspect_err(|error| self.note_refused_network(&subject, error))
    }

    async fn free_network(&self, network: DockerNetworkId) -> Result<(), DriverError> {
        swarm::free(self, &network).await
    }

    async fn create_network(&self, request: CreateNetwork) -> Result<(), DriverError> {
        let subject = request.network.short().to_owned();
        let created = match request.scope {
            Scope::Local => network::create(self, request).await,
            Scope::Swarm => swarm::create(self, request).await,
        };
        created.inspect_err(|error| self.note_refused_network(&subject, error))
    }

    async fn delete_network(&self, network: DockerNetworkId) -> Result<(), DriverError> {
        network::delete(self, &network).await
    }

    async fn create_endpoint(
        &self,
        request: CreateEndpoint,
    ) -> Result<CreatedInterface, DriverError> {
        let network = request.network.clone();
        endpoint::create(self, request)
            .await
            .inspect_err(|error| self.note_refused_container(&network, error))
    }

    async fn delete_endpoint(&self, endpoint: EndpointKey) -> Result<(), DriverError> {
        endpoint::delete(self, &endpoint.endpoint).await
    }

    async fn join(&self, request: Join) -> Result<JoinReply, DriverError> {
        endpoint::join(self, &request)
            .await
            .inspect_err(|error| self.note_refused_container(&request.network, error))
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
        let subject = request
            .subnet
            .map_or_else(|| "without a subnet".to_owned(), |subnet| subnet.to_string());
        address::request_pool(self, &request)
            .inspect_err(|error| self.note_refused_network(&subject, error))
    }

    async fn release_pool(&self, _: PoolId) -> Result<(), DriverError> {
        // A pool belongs to its network, and ends with it.
        Ok(())
    }

    async fn request_address(&self, request: RequestAddress) -> Result<IpNet, DriverError> {
        address::request(self, &request).await.inspect_err(|error| {
            let text = format!("no address of {}: {}", request.pool, error.message());
            self.services.events.note(EventKind::ContainerRefused, request.pool.as_str(), &text);
        })
    }

    async fn release_address(&self, request: ReleaseAddress) -> Result<(), DriverError> {
        address::release(self, &request).await
    }
}
