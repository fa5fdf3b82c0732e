//! What a driver must do for Docker.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;

use ipnet::IpNet;
use shoutd_core::id::DockerNetworkId;

use super::ipam::{GrantedPool, PoolId, ReleaseAddress, RequestAddress, RequestPool};
use super::network::{
    AllocateNetwork, CreateEndpoint, CreateNetwork, CreatedInterface, EndpointKey, Join, JoinReply,
};
use crate::one_line;

/// Longest message that Docker is given, in bytes.
const MESSAGE_LIMIT: usize = 2048;

/// Why a driver did not do what Docker asked, in one line for the user at the `docker` command.
/// Docker puts `remote: ` or the like before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverError(String);

impl DriverError {
    /// An error with this message. Line ends become spaces, and more than 2048 bytes are cut.
    pub fn new(message: impl AsRef<str>) -> Self {
        let line = one_line(message.as_ref(), MESSAGE_LIMIT);
        // To Docker an empty message is no error at all.
        Self(if line.is_empty() { "shoutd failed without saying why".to_owned() } else { line })
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DriverError {}

/// Docker's `NetworkDriver`.
///
/// Every method must be idempotent: Docker repeats a call whose connection broke, with an id that
/// may be half known already. Each runs in a task of its own, which goes on when Docker hangs up
/// and is dropped when the call's deadline is over (see [`PluginLimits`](super::PluginLimits)); a
/// driver that must not be stopped midway keeps shorter deadlines of its own. None may call
/// Docker's API: the engine holds locks while it waits.
pub trait NetworkDriver: Send + Sync + 'static {
    /// Takes note of a Swarm's network, on the node that leads the Swarm; again when another does.
    /// Returns the options that the Swarm keeps in place of the user's.
    fn allocate_network(
        &self,
        request: AllocateNetwork,
    ) -> impl Future<Output = Result<BTreeMap<String, String>, DriverError>> + Send;

    /// Forgets a Swarm's network, on the node that leads the Swarm. An error is logged by Docker
    /// and changes nothing.
    fn free_network(
        &self,
        network: DockerNetworkId,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Makes a network. The engine lists it only after this was answered, and does not say its name
    /// or labels.
    fn create_network(
        &self,
        request: CreateNetwork,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Removes a network. An error is logged by Docker and changes nothing: the engine removes it
    /// all the same.
    fn delete_network(
        &self,
        network: DockerNetworkId,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Makes an endpoint. After an error Docker does not call
    /// [`delete_endpoint`](Self::delete_endpoint).
    fn create_endpoint(
        &self,
        request: CreateEndpoint,
    ) -> impl Future<Output = Result<CreatedInterface, DriverError>> + Send;

    /// Removes an endpoint. An error is logged by Docker and changes nothing.
    fn delete_endpoint(
        &self,
        endpoint: EndpointKey,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Hands an endpoint's interface over to a container's sandbox. The interface must be in the
    /// engine's network namespace when this is answered; libnetwork moves and renames it, and sets
    /// its addresses.
    fn join(&self, request: Join) -> impl Future<Output = Result<JoinReply, DriverError>> + Send;

    /// Takes an endpoint out of its sandbox. libnetwork moves the interface back afterwards, under
    /// its first name.
    fn leave(&self, endpoint: EndpointKey) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// What there is to tell about an endpoint, by name. Docker shows it nowhere; it only asks.
    fn endpoint_info(
        &self,
        endpoint: EndpointKey,
    ) -> impl Future<Output = Result<BTreeMap<String, String>, DriverError>> + Send;
}

/// Docker's `IpamDriver`. The same rules as for [`NetworkDriver`].
///
/// An engine that starts calls it before anything else works, so it must answer from what this host
/// knows.
pub trait IpamDriver: Send + Sync + 'static {
    /// Reserves a pool (a subnet) for a network that Docker is about to create.
    fn request_pool(
        &self,
        request: RequestPool,
    ) -> impl Future<Output = Result<GrantedPool, DriverError>> + Send;

    /// Gives a pool back.
    fn release_pool(&self, pool: PoolId) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Reserves an address; returns it with the prefix length of its pool's subnet.
    fn request_address(
        &self,
        request: RequestAddress,
    ) -> impl Future<Output = Result<IpNet, DriverError>> + Send;

    /// Gives an address back.
    fn release_address(
        &self,
        request: ReleaseAddress,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;
}
