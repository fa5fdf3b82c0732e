//! The paths of Docker's calls, and the answers that do not need the driver.

use serde_json::{Value, json};

use super::error::DriverError;
use super::ipam;
use super::scope::Scope;

/// A call that needs the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DriverCall {
    Network(NetworkCall),
    Ipam(IpamCall),
}

impl DriverCall {
    /// Its method, as in its path.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Network(call) => match call {
                NetworkCall::AllocateNetwork => "NetworkDriver.AllocateNetwork",
                NetworkCall::FreeNetwork => "NetworkDriver.FreeNetwork",
                NetworkCall::CreateNetwork => "NetworkDriver.CreateNetwork",
                NetworkCall::DeleteNetwork => "NetworkDriver.DeleteNetwork",
                NetworkCall::CreateEndpoint => "NetworkDriver.CreateEndpoint",
                NetworkCall::DeleteEndpoint => "NetworkDriver.DeleteEndpoint",
                NetworkCall::Join => "NetworkDriver.Join",
                NetworkCall::Leave => "NetworkDriver.Leave",
                NetworkCall::EndpointInfo => "NetworkDriver.EndpointOperInfo",
            },
            Self::Ipam(call) => match call {
                IpamCall::RequestPool => "IpamDriver.RequestPool",
                IpamCall::ReleasePool => "IpamDriver.ReleasePool",
                IpamCall::RequestAddress => "IpamDriver.RequestAddress",
                IpamCall::ReleaseAddress => "IpamDriver.ReleaseAddress",
            },
        }
    }
}

/// A call of `/NetworkDriver`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NetworkCall {
    AllocateNetwork,
    FreeNetwork,
    CreateNetwork,
    DeleteNetwork,
    CreateEndpoint,
    DeleteEndpoint,
    Join,
    Leave,
    EndpointInfo,
}

/// A call of `/IpamDriver`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IpamCall {
    RequestPool,
    ReleasePool,
    RequestAddress,
    ReleaseAddress,
}

/// A call, by its path.
#[derive(Debug)]
pub(super) enum Call {
    /// The driver answers it.
    Driver(DriverCall),
    /// The answer is always the same.
    Fixed(Result<Value, DriverError>),
}

/// The refusal of calls that Docker makes for networks of a Swarm only.
const LOCAL_SCOPE: &str = "shoutd networks have local scope: create them with \"docker network \
                           create --driver shoutd\" and without --scope; shoutd itself creates \
                           them on every host";

/// The calls that a managed plugin answers without the daemon: if `GetCapabilities` fails once, the
/// engine does not try again until it restarts.
pub(super) fn swarm_answer(path: &str) -> Option<Value> {
    match path {
        "/Plugin.Activate" => Some(json!({ "Implements": ["NetworkDriver"] })),
        "/NetworkDriver.GetCapabilities" => {
            Some(json!({ "Scope": "global", "ConnectivityScope": "global" }))
        }
        _ => None,
    }
}

impl Call {
    /// The call with a path such as `/NetworkDriver.Join`; `None` for an unknown path.
    pub(super) fn from_path(path: &str, scope: Scope) -> Option<Self> {
        use DriverCall::{Ipam, Network};
        use IpamCall::{ReleaseAddress, ReleasePool, RequestAddress, RequestPool};
        use NetworkCall::{
            AllocateNetwork, CreateEndpoint, CreateNetwork, DeleteEndpoint, DeleteNetwork,
            EndpointInfo, FreeNetwork, Join, Leave,
        };
        if let (Scope::Swarm, Some(answer)) = (scope, swarm_answer(path)) {
            return Some(Self::Fixed(Ok(answer)));
        }
        Some(match path {
            "/Plugin.Activate" => {
                Self::Fixed(Ok(json!({ "Implements": ["NetworkDriver", "IpamDriver"] })))
            }
            "/NetworkDriver.GetCapabilities" => {
                // Without GwAllocChecker (28 and newer): every network has a gateway address.
                Self::Fixed(Ok(json!({ "Scope": "local", "ConnectivityScope": "local" })))
            }
            "/NetworkDriver.AllocateNetwork" | "/NetworkDriver.FreeNetwork"
                if scope == Scope::Local =>
            {
                Self::Fixed(Err(DriverError::new(LOCAL_SCOPE)))
            }
            "/NetworkDriver.AllocateNetwork" => Self::Driver(Network(AllocateNetwork)),
            "/NetworkDriver.FreeNetwork" => Self::Driver(Network(FreeNetwork)),
            "/NetworkDriver.CreateNetwork" => Self::Driver(Network(CreateNetwork)),
            "/NetworkDriver.DeleteNetwork" => Self::Driver(Network(DeleteNetwork)),
            "/NetworkDriver.CreateEndpoint" => Self::Driver(Network(CreateEndpoint)),
            "/NetworkDriver.DeleteEndpoint" => Self::Driver(Network(DeleteEndpoint)),
            "/NetworkDriver.EndpointOperInfo" => Self::Driver(Network(EndpointInfo)),
            "/NetworkDriver.Join" => Self::Driver(Network(Join)),
            "/NetworkDriver.Leave" => Self::Driver(Network(Leave)),
            // docker_gwbridge has the published ports, and shoutd finds the other nodes by itself.
            "/NetworkDriver.ProgramExternalConnectivity"
            | "/NetworkDriver.RevokeExternalConnectivity"
            | "/NetworkDriver.DiscoverNew"
            | "/NetworkDriver.DiscoverDelete" => Self::Fixed(Ok(json!({}))),
            // A Swarm itself allocates the addresses of its networks.
            _ if scope == Scope::Swarm && path.starts_with("/IpamDriver.") => return None,
            "/IpamDriver.GetCapabilities" => Self::Fixed(Ok(ipam::capabilities())),
            "/IpamDriver.GetDefaultAddressSpaces" => Self::Fixed(Ok(ipam::address_spaces())),
            "/IpamDriver.RequestPool" => Self::Driver(Ipam(RequestPool)),
            "/IpamDriver.ReleasePool" => Self::Driver(Ipam(ReleasePool)),
            "/IpamDriver.RequestAddress" => Self::Driver(Ipam(RequestAddress)),
            "/IpamDriver.ReleaseAddress" => Self::Driver(Ipam(ReleaseAddress)),
            _ => return None,
        })
    }
}
