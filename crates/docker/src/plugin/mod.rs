//! The plugin side: what Docker asks of a network and address driver, and how it is answered.
//!
//! A *socket plugin* is an HTTP server on a Unix socket under `/run/docker/plugins`. Docker posts
//! `/<Service>.<Method>` with a JSON body and **no** `Content-Type`; an answer is status 200 with a
//! JSON object, which says `{"Err":"…"}` (network driver) or `{"Error":"…"}` (address driver) for a
//! failure.
//!
//! Networks of a Swarm need a *managed plugin*, which the engine runs in a container: [`adapter`]
//! is all that is in there, and hands calls on to a second socket of the daemon.
//!
//! A driver implements [`NetworkDriver`] and [`IpamDriver`]; [`router`] turns them into an HTTP
//! service; [`bind`] and [`serve`] put that on a socket. What does not depend on the driver
//! (activation, capabilities, discovery) the router answers by itself and at once: an engine whose
//! `GetCapabilities` fails once will not try again until it restarts.

mod adapter;
mod call;
mod driver;
#[cfg(test)]
mod fuzz;
mod ipam;
mod network;
mod router;
mod server;
mod socket;
mod wire;

pub use adapter::{AdapterLimits, adapter, adapter_with_limits, answers as daemon_answers};
pub use driver::{DriverError, IpamDriver, NetworkDriver};
pub use ipam::{
    AddressPurpose, GLOBAL_ADDRESS_SPACE, GrantedPool, LOCAL_ADDRESS_SPACE, PoolId, ReleaseAddress,
    RequestAddress, RequestPool,
};
pub use network::{
    AddressPool, AllocateNetwork, CreateEndpoint, CreateNetwork, CreatedInterface, EndpointKey,
    Join, JoinReply, StaticRoute,
};
pub use router::{PluginLimits, Scope, router, router_with_limits};
pub use server::serve;
pub use socket::{BindError, Socket, SocketState, bind};
pub use wire::InvalidRequest;
