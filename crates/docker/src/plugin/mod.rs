//! The plugin side: Docker's calls to a network and IPAM driver, and their answers.
//!
//! A *socket plugin* is an HTTP server on a Unix socket under `/run/docker/plugins`. Docker posts
//! `/<Service>.<Method>` with a JSON body and **no** `Content-Type`. The answer has status 200 and
//! a JSON object; for a failure that is `{"Err":"…"}` (network driver) or `{"Error":"…"}` (IPAM
//! driver).
//!
//! Networks of a Swarm need a *managed plugin*, which the engine runs in a container. It contains
//! only [`adapter`], which forwards calls to a second socket of the daemon.
//!
//! A driver implements [`NetworkDriver`] and [`IpamDriver`]; [`router`] makes an HTTP service of
//! them; [`bind`] and [`serve`] serve that on a socket. The router itself answers calls that do not
//! depend on the driver (activation, capabilities, discovery): if `GetCapabilities` fails once, an
//! engine does not try again until it restarts.

mod adapter;
mod call;
mod driver;
mod error;
#[cfg(test)]
mod fuzz;
mod ipam;
mod network;
mod observer;
mod router;
mod scope;
mod server;
mod socket;
mod wire;

pub use adapter::{AdapterLimits, adapter, adapter_with_limits, answers as daemon_answers};
pub use driver::{IpamDriver, NetworkDriver};
pub use error::DriverError;
pub use ipam::{
    AddressPurpose, GLOBAL_ADDRESS_SPACE, GrantedPool, LOCAL_ADDRESS_SPACE, PoolId, ReleaseAddress,
    RequestAddress, RequestPool,
};
pub use network::{
    AddressPool, AllocateNetwork, CreateEndpoint, CreateNetwork, CreatedInterface, EndpointKey,
    Join, JoinReply, StaticRoute,
};
pub use observer::CallObserver;
pub use router::{PluginLimits, observed_router, router, router_with_limits};
pub use scope::Scope;
pub use server::serve;
pub use socket::{BindError, Socket, SocketState, bind};
pub use wire::InvalidRequest;
