//! What a host sees at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::events::Event;
use crate::{EndpointId, HostId, NetworkId};

/// What a host sees at one moment, as far as `shoutdctl watch` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scene {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Counts the scenes that differ.
    pub number: u64,
    /// The host's name.
    pub host: String,
    /// The daemon's version.
    pub version: String,
    /// Its recorded events, newest first.
    pub events: Vec<Event>,
    /// Its problems, one line each.
    pub problems: Vec<String>,
    /// The hosts of the cluster.
    pub hosts: BTreeMap<HostId, SeenHost>,
    /// The networks of the cluster that have a name.
    pub networks: BTreeMap<NetworkId, String>,
    /// The containers on the networks of this host, of all hosts.
    pub containers: BTreeMap<EndpointId, SeenContainer>,
    /// The hosts with members of groups, on the networks of this host.
    pub members: BTreeSet<SeenMember>,
}

impl Scene {
    /// Whether a watcher would see no difference.
    pub fn shows_the_same(&self, other: &Self) -> bool {
        let (at, number) = (other.at, other.number);
        *other == Self { at, number, ..self.clone() }
    }
}

/// A host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenHost {
    /// Its name.
    pub name: String,
    /// Whether it answers this host.
    pub reachable: bool,
}

/// A container on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SeenContainer {
    /// The name of the network.
    pub network: String,
    /// The name of its host.
    pub host: String,
    /// Its names, with its aliases on the network; empty if they are not known.
    pub names: BTreeSet<String>,
    /// Its endpoint's id.
    pub endpoint: EndpointId,
    /// Its addresses on the network.
    pub addresses: BTreeSet<IpAddr>,
}

/// A host with members of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct SeenMember {
    /// The name of the network.
    pub network: String,
    /// The group; `None` is every group, which multicast routers get.
    pub group: Option<IpAddr>,
    /// The name of the host.
    pub host: String,
}
