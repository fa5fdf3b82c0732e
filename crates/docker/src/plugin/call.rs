//! The names of Docker's calls, and what is answered without a driver.

use serde_json::{Value, json};

use super::driver::DriverError;
use super::ipam;

/// A call that needs the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DriverCall {
    CreateNetwork,
    DeleteNetwork,
    CreateEndpoint,
    DeleteEndpoint,
    Join,
    Leave,
    EndpointInfo,
    RequestPool,
    ReleasePool,
    RequestAddress,
    ReleaseAddress,
}

/// What a path asks for.
#[derive(Debug)]
pub(super) enum Call {
    /// The driver has to do something.
    Driver(DriverCall),
    /// The answer is always the same.
    Fixed(Result<Value, DriverError>),
}

impl Call {
    /// The call that a path such as `/NetworkDriver.Join` names; `None` for one that is not known.
    pub(super) fn from_path(path: &str) -> Option<Self> {
        use DriverCall::{
            CreateEndpoint, CreateNetwork, DeleteEndpoint, DeleteNetwork, EndpointInfo, Join, Leave, ReleaseAddress,
            ReleasePool, RequestAddress, RequestPool,
        };
        let local_scope = || {
            let message = "shoutd networks have local scope: create them with \"docker network create --driver shoutd\" \
                           and without --scope; shoutd itself takes them to every host";
            Self::Fixed(Err(DriverError::new(message)))
        };
        Some(match path {
            "/Plugin.Activate" => Self::Fixed(Ok(json!({ "Implements": ["NetworkDriver", "IpamDriver"] }))),
            "/NetworkDriver.GetCapabilities" => {
                // GwAllocChecker (28 and newer) is left out: networks always take a gateway address, or the user says which.
                Self::Fixed(Ok(json!({ "Scope": "local", "ConnectivityScope": "local" })))
            }
            "/NetworkDriver.AllocateNetwork" | "/NetworkDriver.FreeNetwork" => local_scope(),
            "/NetworkDriver.CreateNetwork" => Self::Driver(CreateNetwork),
            "/NetworkDriver.DeleteNetwork" => Self::Driver(DeleteNetwork),
            "/NetworkDriver.CreateEndpoint" => Self::Driver(CreateEndpoint),
            "/NetworkDriver.DeleteEndpoint" => Self::Driver(DeleteEndpoint),
            "/NetworkDriver.EndpointOperInfo" => Self::Driver(EndpointInfo),
            "/NetworkDriver.Join" => Self::Driver(Join),
            "/NetworkDriver.Leave" => Self::Driver(Leave),
            // Published ports are docker_gwbridge's, and of other nodes shoutd knows by itself.
            "/NetworkDriver.ProgramExternalConnectivity"
            | "/NetworkDriver.RevokeExternalConnectivity"
            | "/NetworkDriver.DiscoverNew"
            | "/NetworkDriver.DiscoverDelete" => Self::Fixed(Ok(json!({}))),
            "/IpamDriver.GetCapabilities" => Self::Fixed(Ok(ipam::capabilities())),
            "/IpamDriver.GetDefaultAddressSpaces" => Self::Fixed(Ok(ipam::address_spaces())),
            "/IpamDriver.RequestPool" => Self::Driver(RequestPool),
            "/IpamDriver.ReleasePool" => Self::Driver(ReleasePool),
            "/IpamDriver.RequestAddress" => Self::Driver(RequestAddress),
            "/IpamDriver.ReleaseAddress" => Self::Driver(ReleaseAddress),
            _ => return None,
        })
    }
}
