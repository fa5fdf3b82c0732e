//! Names of containers, across hosts.
//!
//! Docker's resolver answers for the containers of its own host (`libnetwork/resolver.go`) and
//! knows nothing of others. Each host announces the names of its containers; from these follows
//! what each container's hosts file should have beside what Docker and the container itself wrote
//! there ([`hosts_file`]), and what a resolver may answer it ([`Directory`]).

mod hosts_file;
mod name;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use hosts_file::{Cleaned, EngineFacts, HostsFile, hosts_file, without_lines};
pub use name::Name;

use crate::NetworkId;
use crate::advertise::PeerStates;
use crate::cluster::Cluster;
use crate::limits::NAMES_PER_ENDPOINT_MAX;
use crate::local::{Endpoint, Local};

/// Where shoutd answers questions of DNS inside a container that was started with `--dns` and this
/// address: next to 127.0.0.11, where Docker's own resolver is.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 12);

/// What an engine tells of the container of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointContainer {
    /// Its id.
    pub id: String,
    /// Its name and its aliases on the endpoint's network.
    pub names: BTreeSet<Name>,
    /// Its hosts file as the engine names it: the one that the engine made, or one that a user
    /// mounted there.
    pub hosts_file: Option<PathBuf>,
    /// Whether a user gave it [`RESOLVER`] as a DNS server.
    #[serde(default)]
    pub asks_resolver: bool,
    /// What proves whose the hosts file is; `None` in what an earlier version wrote down.
    #[serde(default)]
    pub engine: Option<EngineFacts>,
}

/// The names that an engine tells, as far as they are names in the DNS, and not too many.
pub fn bounded_names<'a>(told: impl IntoIterator<Item = &'a str>) -> BTreeSet<Name> {
    told.into_iter().filter_map(|name| name.parse().ok()).take(NAMES_PER_ENDPOINT_MAX).collect()
}

/// The names of networks' containers, and where these are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// By name, the addresses of all containers that have it, on this host and on others.
    pub addresses: BTreeMap<Name, BTreeSet<IpAddr>>,
    /// The names that a container of another host has: what Docker's resolver here cannot answer,
    /// or not wholly.
    pub remote: BTreeSet<Name>,
}

impl Directory {
    /// What containers on these networks may know.
    fn of(networks: &BTreeSet<&NetworkId>, local: &Local, heard: &PeerStates) -> Self {
        let mut directory = Self::default();
        for endpoint in
            local.endpoints.values().filter(|endpoint| networks.contains(&endpoint.network))
        {
            let names = endpoint.container.iter().flat_map(|container| &container.names);
            directory
                .add(names, &endpoint.addresses.iter().map(|address| address.addr()).collect());
        }
        for host in heard.hosts.values() {
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

/// A container of this host, and what it may know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnowingContainer {
    /// Its hosts file, if the engine made it.
    pub hosts_file: Option<HostsFile>,
    /// A file that a user mounted in its place, as the host sees it.
    pub foreign_file: Option<PathBuf>,
    /// Its network namespace, if a resolver is to answer in there: it has [`RESOLVER`] among its
    /// DNS servers.
    pub asks_in: Option<PathBuf>,
    /// The names of the containers on the networks that it is on and whose names are to be
    /// resolved.
    pub directory: Directory,
}

/// The containers of this host by their ids.
pub fn containers(
    cluster: &Cluster,
    local: &Local,
    heard: &PeerStates,
) -> BTreeMap<String, KnowingContainer> {
    let is_resolved =
        |id: &NetworkId| cluster.networks.get(id).is_some_and(|known| known.resolves_names());
    let mut found: BTreeMap<&String, (KnowingContainer, BTreeSet<&NetworkId>)> = BTreeMap::new();
    for endpoint in local.endpoints.values() {
        let Some(container) = &endpoint.container else { continue };
        let (knowing, networks) = found.entry(&container.id).or_default();
        // The engine may not have been asked yet about each of its endpoints.
        knowing.hosts_file = container.own_hosts_file().or(knowing.hosts_file.take());
        knowing.foreign_file =
            container.foreign_hosts_file().map(Path::to_owned).or(knowing.foreign_file.take());
        if is_resolved(&endpoint.network) {
            networks.insert(&endpoint.network);
            knowing.asks_in = endpoint.sandbox.clone().filter(|_| container.asks_resolver);
        }
    }
    let known = found.into_iter().map(|(id, (knowing, networks))| {
        let directory = Directory::of(&networks, local, heard);
        (id.clone(), KnowingContainer { directory, ..knowing })
    });
    known.collect()
}

/// What is announced of an endpoint's names.
pub(crate) fn announced_names(endpoint: &Endpoint) -> BTreeSet<Name> {
    endpoint.container.as_ref().map(|container| container.names.clone()).unwrap_or_default()
}
