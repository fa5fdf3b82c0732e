//! Fuzz target of the engine's calls. The corpus is from engines 20.10 to 29.

use shoutd_core::DockerNetworkId;
use shoutd_fuzz::fuzz;

use super::ipam::{PoolId, ReleaseAddress, RequestAddress, RequestPool};
use super::network::{AllocateNetwork, CreateEndpoint, CreateNetwork, EndpointKey, Join};
use super::wire::FromBody;

/// Parses the input as the body of every call.
#[test]
fn fuzz_plugin() {
    fuzz("plugin", env!("CARGO_MANIFEST_DIR"), |body| {
        let allocated = AllocateNetwork::from_body(body);
        let network = (CreateNetwork::from_body(body), allocated, DockerNetworkId::from_body(body));
        let endpoint =
            (CreateEndpoint::from_body(body), EndpointKey::from_body(body), Join::from_body(body));
        let pool = (RequestPool::from_body(body), PoolId::from_body(body));
        (network, endpoint, pool, RequestAddress::from_body(body), ReleaseAddress::from_body(body))
    });
}
