//! The content of advertisements, and what is known of the peers from theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::multicast::Memberships;
use crate::names::Name;
use crate::{EndpointId, HostId, MacAddress, NetworkId};

/// An endpoint of the advertising host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertisedEndpoint {
    /// MAC address of the container's interface.
    pub mac: MacAddress,
    /// The interface's addresses, without prefix lengths.
    pub addresses: BTreeSet<IpAddr>,
    /// Names and aliases of the container.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub names: BTreeSet<Name>,
}

/// What one host has of one network. An empty entry says that the host has the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertisedNetwork {
    /// The host's endpoints on the network.
    pub endpoints: BTreeMap<EndpointId, AdvertisedEndpoint>,
    /// The memberships of these endpoints, merged.
    pub memberships: Memberships,
    /// The largest MTU that this host's underlay allows, in octets. `None` if the network has a
    /// configured MTU, or if the host runs an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// What one host advertises to one peer. The `Arc` makes a change to one network copy only that
/// network.
pub type Content = BTreeMap<NetworkId, Arc<AdvertisedNetwork>>;

/// What one peer advertises.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerState {
    /// Whether `networks` is complete and current. If not, we treat the peer as a receiver of every
    /// group on every network it has.
    pub in_sync: bool,
    /// By network. A network that the peer is agreed to have, but that is missing here, has not
    /// been received yet. We treat the peer as a receiver of every group on it.
    pub networks: Content,
}

/// What all peers advertise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerStates {
    /// By host. We have received nothing from a host that is missing here, and it is not in sync.
    /// The `Arc` makes an advertisement of one host cost nothing for the others.
    pub hosts: BTreeMap<HostId, Arc<PeerState>>,
}

impl PeerStates {
    /// The host that has an endpoint with this MAC address on this network. Hosts that are not in
    /// sync do not count: their containers may have been started elsewhere since.
    pub fn holder_of_mac(&self, network: &NetworkId, mac: MacAddress) -> Option<HostId> {
        for (host, peer) in self.hosts.iter().filter(|(_, peer)| peer.in_sync) {
            if let Some(known) = peer.networks.get(network)
                && known.endpoints.values().any(|endpoint| endpoint.mac == mac)
            {
                return Some(*host);
            }
        }
        None
    }
}
