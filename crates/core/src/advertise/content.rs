//! What is announced, and what was heard of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::multicast::Memberships;
use crate::names::Name;
use crate::{EndpointId, HostId, MacAddress, NetworkId};

/// One endpoint of the host that announces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertisedEndpoint {
    /// MAC address of the container's interface.
    pub mac: MacAddress,
    /// Its addresses, without prefix lengths.
    pub addresses: BTreeSet<IpAddr>,
    /// Its container's name and aliases.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub names: BTreeSet<Name>,
}

/// What one host has of one network. That it is announced at all says that the host has the
/// network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertisedNetwork {
    /// Its endpoints there.
    pub endpoints: BTreeMap<EndpointId, AdvertisedEndpoint>,
    /// What these listen to, together.
    pub memberships: Memberships,
    /// The largest MTU that this host's underlay has room for, in octets; `None` if the network has
    /// one of its own, or from a host of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// What one host announces to one other. Shared, so that a change to one network copies just that
/// one.
pub type Content = BTreeMap<NetworkId, Arc<AdvertisedNetwork>>;

/// What one other host announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerState {
    /// Whether this is what it has now, as far as can be known. If not, it counts as a listener to
    /// everything on every network it has.
    pub in_sync: bool,
    /// By network. One that it is agreed to have and that is not in it was not heard of yet, and
    /// counts likewise.
    pub networks: Content,
}

/// What all other hosts announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerStates {
    /// By host. One that is not in it was never heard of, and counts as not in sync. Shared, so
    /// that what one host announces costs nothing for the others.
    pub hosts: BTreeMap<HostId, Arc<PeerState>>,
}

impl PeerStates {
    /// The host that has an endpoint with this MAC address on this network; none that is silent, as
    /// its containers may have been started elsewhere since.
    pub fn holder_of_mac(&self, network: &NetworkId, mac: MacAddress) -> Option<HostId> {
        let has_it = |heard: &Arc<PeerState>| {
            let endpoints =
                heard.networks.get(network).into_iter().flat_map(|known| known.endpoints.values());
            heard.in_sync && endpoints.into_iter().any(|endpoint| endpoint.mac == mac)
        };
        self.hosts.iter().find(|(_, heard)| has_it(heard)).map(|(host, _)| *host)
    }
}
