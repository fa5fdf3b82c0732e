//! Names of containers, across hosts.
//!
//! Docker's resolver answers for the containers of its own host (`libnetwork/resolver.go`) and knows nothing of others. Each host announces the names of its containers; from these follows what
//! each container's hosts file should have beside what Docker and the container itself wrote there ([`hosts_file`]), and what a resolver may answer it ([`Directory`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::announce::Heard;
use crate::cluster::Cluster;
use crate::limits::{HOSTS_LINES_MAX, NAMES_PER_ENDPOINT_MAX};
use crate::local::{Endpoint, Local};
use crate::plane::resolves_names;
use crate::{InvalidId, NetworkId};

/// Octets of a name (RFC 1035, section 2.3.4), without the dot at its end.
const NAME_BYTES_MAX: usize = 253;

/// Octets of a label (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// Where shoutd answers questions of DNS inside a container that was started with `--dns` and this address: next to 127.0.0.11, where Docker's own resolver is.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 12);

/// What ends each line that shoutd keeps in a hosts file. A line without it is somebody else's.
const MARK: &str = "# shoutd";

/// The name of a container, or one of its aliases on a network: letters, digits, hyphens and underscores in labels between dots, in lower case, as names in the DNS do not differ by case (RFC 4343).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let is_label = |label: &str| {
            let sound = label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_');
            (1..=LABEL_BYTES_MAX).contains(&label.len()) && sound && !label.starts_with('-')
        };
        // Addresses are no names: what asks for one means the address.
        let is_name = text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label) && text.parse::<IpAddr>().is_err();
        if is_name && !text.eq_ignore_ascii_case("localhost") {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(InvalidId::new(text, "a name of a container"))
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an engine tells of the container of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointContainer {
    /// Its id.
    pub id: String,
    /// Its name and its aliases on the endpoint's network.
    pub names: BTreeSet<Name>,
    /// Its hosts file, as the host sees it.
    pub hosts_file: Option<PathBuf>,
    /// Whether a user gave it [`RESOLVER`] as a DNS server.
    #[serde(default)]
    pub asks_resolver: bool,
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
    /// The names that a container of another host has: what Docker's resolver here cannot answer, or not wholly.
    pub remote: BTreeSet<Name>,
}

impl Directory {
    /// What containers on these networks may know.
    fn of(networks: &BTreeSet<&NetworkId>, local: &Local, heard: &Heard) -> Self {
        let mut directory = Self::default();
        for endpoint in local.endpoints.values().filter(|endpoint| networks.contains(&endpoint.network)) {
            let names = endpoint.container.iter().flat_map(|container| &container.names);
            directory.add(names, &endpoint.addresses.iter().map(|address| address.addr()).collect());
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

    /// The lines of a hosts file for the names that other hosts' containers have, one for each address, but for names that the file has already.
    fn lines(&self, taken: &BTreeSet<String>) -> Vec<String> {
        let mut names: BTreeMap<IpAddr, Vec<&str>> = BTreeMap::new();
        for name in self.remote.iter().filter(|name| !taken.contains(name.as_str())) {
            for address in self.addresses.get(name).into_iter().flatten() {
                names.entry(*address).or_default().push(name.as_str());
            }
        }
        let lines = names.into_iter().map(|(address, names)| format!("{address}\t{} {MARK}", names.join(" ")));
        lines.take(HOSTS_LINES_MAX).collect()
    }
}

/// A container of this host, and what it may know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnowingContainer {
    /// Its hosts file, as the host sees it.
    pub hosts_file: Option<PathBuf>,
    /// Its network namespace, if a resolver is to answer in there: it has [`RESOLVER`] among its DNS servers.
    pub asks_in: Option<PathBuf>,
    /// The names of the containers on the networks that it is on and whose names are to be resolved.
    pub directory: Directory,
}

/// The containers of this host by their ids.
pub fn containers(cluster: &Cluster, local: &Local, heard: &Heard) -> BTreeMap<String, KnowingContainer> {
    // In networks of a Swarm Docker's resolver knows all hosts.
    let is_resolved = |id: &NetworkId| {
        let settings = cluster.networks.get(id).map(|known| &known.settings);
        settings.is_some_and(|settings| !settings.swarm && resolves_names(&settings.options))
    };
    let mut found: BTreeMap<&String, (KnowingContainer, BTreeSet<&NetworkId>)> = BTreeMap::new();
    for endpoint in local.endpoints.values() {
        let Some(container) = &endpoint.container else { continue };
        let (knowing, networks) = found.entry(&container.id).or_default();
        knowing.hosts_file = container.hosts_file.clone();
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

/// What a hosts file (hosts(5)) should be that is `now` like this: with all lines that are not shoutd's as they are, and then shoutd's own. `None` if it is so already.
///
/// Names that somebody else's line has are left to it, such as the container's own, or one of `--add-host`.
pub fn hosts_file(now: &str, directory: &Directory) -> Option<String> {
    let is_own = |line: &&str| line.trim_end().ends_with(MARK);
    let foreign = || now.lines().filter(|line| !is_own(line));
    let taken = foreign().flat_map(|line| {
        let entry = line.split('#').next().unwrap_or_default();
        entry.split_whitespace().skip(1).map(str::to_ascii_lowercase)
    });
    let own = directory.lines(&taken.collect());
    if now.lines().filter(is_own).eq(own.iter().map(String::as_str)) {
        return None;
    }
    let lines = foreign().map(str::to_owned).chain(own);
    Some(lines.map(|line| line + "\n").collect())
}

/// What is announced of an endpoint's names.
pub(crate) fn announced_names(endpoint: &Endpoint) -> BTreeSet<Name> {
    endpoint.container.as_ref().map(|container| container.names.clone()).unwrap_or_default()
}
