//! The traits that a driver implements.

use std::collections::BTreeMap;
use std::future::Future;

use ipnet::IpNet;
use shoutd_core::id::DockerNetworkId;

use super::error::DriverError;
use super::ipam::{GrantedPool, PoolId, ReleaseAddress, RequestAddress, RequestPool};
use super::network::{
    AllocateNetwork, CreateEndpoint, CreateNetwork, CreatedInterface, EndpointKey, Join, JoinReply,
};
/// Docker's `NetworkDriver`.
///
/// Every method must be idempotent: Docker repeats a call if the connection broke, and the driver
/// may have done a part of it. Each call runs in its own task. The task continues if Docker closes
/// the connection, and is dropped at the call's deadline (see
/// [`PluginLimits`](super::PluginLimits)); a driver that must not be interrupted uses shorter
/// deadlines. No method may call Docker's API: the engine holds locks while it waits.
pub trait NetworkDriver: Send + Sync + 'static {
    /// Registers a Swarm's network, on the leader of the Swarm; called again by a new leader.
    /// Returns the options that the Swarm keeps instead of the user's.
    fn allocate_network(
        &self,
        request: AllocateNetwork,
    ) -> impl Future<Output = Result<BTreeMap<String, String>, DriverError>> + Send;

    /// Forgets a Swarm's network, on the leader of the Swarm. Docker only logs an error.
    fn free_network(
        &self,
        network: DockerNetworkId,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Creates a network. The call has neither its name nor its labels, and the engine lists it
    /// only after the answer.
    fn create_network(
        &self,
        request: CreateNetwork,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Removes a network. Docker only logs an error, and removes the network anyway.
    fn delete_network(
        &self,
        network: DockerNetworkId,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Creates an endpoint. After an error Docker does not call
    /// [`delete_endpoint`](Self::delete_endpoint).
    fn create_endpoint(
        &self,
        request: CreateEndpoint,
    ) -> impl Future<Output = Result<CreatedInterface, DriverError>> + Send;

    /// Removes an endpoint. Docker only logs an error.
    fn delete_endpoint(
        &self,
        endpoint: EndpointKey,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Attaches an endpoint to a container's sandbox. When the driver answers, the interface must
    /// be in the engine's network namespace; libnetwork then moves and renames it, and sets its
    /// addresses.
    fn join(&self, request: Join) -> impl Future<Output = Result<JoinReply, DriverError>> + Send;

    /// Detaches an endpoint from its sandbox. After that, libnetwork moves the interface back and
    /// gives it its original name.
    fn leave(&self, endpoint: EndpointKey) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Information on an endpoint, by name. Docker asks for it, but shows it nowhere.
    fn endpoint_info(
        &self,
        endpoint: EndpointKey,
    ) -> impl Future<Output = Result<BTreeMap<String, String>, DriverError>> + Send;
}

/// Docker's `IpamDriver`. The rules of [`NetworkDriver`] apply.
///
/// A starting engine calls it before the cluster may be reachable, so it must answer from local
/// state.
pub trait IpamDriver: Send + Sync + 'static {
    /// Reserves a pool (a subnet) for a network that Docker is about to create.
    fn request_pool(
        &self,
        request: RequestPool,
    ) -> impl Future<Output = Result<GrantedPool, DriverError>> + Send;

    /// Releases a pool.
    fn release_pool(&self, pool: PoolId) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Reserves an address; returns it with the prefix length of its pool's subnet.
    fn request_address(
        &self,
        request: RequestAddress,
    ) -> impl Future<Output = Result<IpNet, DriverError>> + Send;

    /// Releases an address.
    fn release_address(
        &self,
        request: ReleaseAddress,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;
}
