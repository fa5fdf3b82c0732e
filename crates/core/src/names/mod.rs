//! Resolution of container names across hosts.
//!
//! Docker's resolver answers for the containers of its own host only (`libnetwork/resolver.go`).
//! Each host advertises the names of its containers. From these we derive the lines that we add to
//! each container's hosts file ([`hosts_file`]), and what our resolver may answer ([`Directory`]).

mod hosts_file;
mod name;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

pub use hosts_file::{Cleaned, EngineFacts, HostsFile, hosts_file, without_lines};
pub use name::Name;
use serde::{Deserialize, Serialize};

use crate::NetworkId;
use crate::advertise::PeerStates;
use crate::cluster::Cluster;
use crate::limits::NAMES_PER_ENDPOINT_MAX;
use crate::local::{Endpoint, Local};

/// The address of shoutd's DNS resolver inside a container that was started with `--dns` and this
/// address. It is next to 127.0.0.11, Docker's own resolver.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 12);

/// What an engine tells us of an endpoint's container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointContainer {
    /// Its id.
    pub id: String,
    /// Its name and its aliases on the endpoint's network.
    pub names: BTreeSet<Name>,
    /// The path of its hosts file: the one that the engine made, or one that a user mounted.
    pub hosts_file: Option<PathBuf>,
    /// Whether a user gave it [`RESOLVER`] as a DNS server.
    #[serde(default)]
    pub asks_resolver: bool,
    /// Facts that prove which container the hosts file belongs to; `None` in state written by an
    /// earlier version.
    #[serde(default)]
    pub engine: Option<EngineFacts>,
}

/// The valid DNS names among those that an engine gives, up to [`NAMES_PER_ENDPOINT_MAX`].
pub fn bounded_names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<Name> {
    names.into_iter().filter_map(|name| name.parse().ok()).take(NAMES_PER_ENDPOINT_MAX).collect()
}

/// The names of containers on some networks, and their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// By name, the addresses of all containers with that name, on this host and on others.
    pub addresses: BTreeMap<Name, BTreeSet<IpAddr>>,
    /// The names that containers of other hosts have. Docker's resolver on this host does not know
    /// them, or not all of their addresses.
    pub remote: BTreeSet<Name>,
}

impl Directory {
    /// The names on these networks.
    fn of(networks: &BTreeSet<&NetworkId>, local: &Local, peers: &PeerStates) -> Self {
        let mut directory = Self::default();
        for endpoint in
            local.endpoints.values().filter(|endpoint| networks.contains(&endpoint.network))
        {
            let names = endpoint.container.iter().flat_map(|container| &container.names);
            directory
                .add(names, &endpoint.addresses.iter().map(|address| address.addr()).collect());
        }
        for host in peers.hosts.values() {
            let shared = host.networks.iter().filter(|(id, _)| networks.contains(id));
            for endpoint in shared.flat_map(|(_, network)| network.endpoints.values()) {
                directory.add(&endpoint.names, &endpoint.addresses);
                directory.remote.extend(endpoint.names.iter().cloned());
            }
        }
        directory
    }

    fn add<'a>(&mut self, names: impl IntoIterator<Item = &'a Name>, addresses: &BTreeSet<IpAddr>) {
        for name in names {
            self.addresses.entry(name.clone()).or_default().extend(addresses);
        }
    }
}

/// A container of this host, and the names that it may resolve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnowingContainer {
    /// Its hosts file, if the engine made it.
    pub hosts_file: Option<HostsFile>,
    /// The file that a user mounted in its place, as a path on the host.
    pub foreign_file: Option<PathBuf>,
    /// Its network namespace, if a resolver must run there: the container has [`RESOLVER`] among
    /// its DNS servers.
    pub asks_in: Option<PathBuf>,
    /// The names of containers on its networks, as far as these networks resolve names.
    pub directory: Directory,
}

/// The containers of this host, by id.
pub fn containers(
    cluster: &Cluster,
    local: &Local,
    peers: &PeerStates,
) -> BTreeMap<String, KnowingContainer> {
    let mut found: BTreeMap<&String, (KnowingContainer, BTreeSet<&NetworkId>)> = BTreeMap::new();
    for endpoint in local.endpoints.values() {
        let Some(container) = &endpoint.container else { continue };
        let (knowing, networks) = found.entry(&container.id).or_default();
        // The engine may not have told us of each of its endpoints yet.
        knowing.hosts_file = container.own_hosts_file().or(knowing.hosts_file.take());
        knowing.foreign_file =
            container.foreign_hosts_file().map(Path::to_owned).or(knowing.foreign_file.take());
        let network = cluster.networks.get(&endpoint.network);
        if network.is_some_and(|network| network.resolves_names()) {
            networks.insert(&endpoint.network);
            knowing.asks_in = endpoint.sandbox.clone().filter(|_| container.asks_resolver);
        }
    }
    let known = found.into_iter().map(|(id, (knowing, networks))| {
        let directory = Directory::of(&networks, local, peers);
        (id.clone(), KnowingContainer { directory, ..knowing })
    });
    known.collect()
}

/// The names of an endpoint that are advertised.
pub(crate) fn advertised_names(endpoint: &Endpoint) -> BTreeSet<Name> {
    endpoint.container.as_ref().map(|container| container.names.clone()).unwrap_or_default()
}
