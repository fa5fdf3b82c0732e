//! An address or a MAC address that Docker requests again, while this host still has an endpoint
//! with it: an engine that was killed reuses it without `DeleteEndpoint`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::local::Local;
use crate::{EndpointId, MacAddress, NetworkId};

/// What an endpoint must have alone on its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// An address.
    Address(IpAddr),
    /// A MAC address.
    Mac(MacAddress),
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(formatter, "address {address}"),
            Self::Mac(mac) => write!(formatter, "MAC address {mac}"),
        }
    }
}

/// The endpoint of this network that has what is wanted, and its sandbox. `None` if there is none,
/// or if it has no sandbox: then its container is still being started.
pub fn rival(local: &Local, network: &NetworkId, wanted: Wanted) -> Option<(EndpointId, PathBuf)> {
    let holder = match wanted {
        Wanted::Address(address) => local.holder(network, address),
        Wanted::Mac(mac) => local.holder_of_mac(network, mac),
    }?;
    let sandbox = local.endpoints.get(holder)?.sandbox.clone()?;
    Some((holder.clone(), sandbox))
}
