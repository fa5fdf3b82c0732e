//! Docker's, shoutd's and the kernel's view of all hosts, and where they differ.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;
use shoutd_e2e::{endpoints, left_in_kernel, networks, segments};
use shoutd_lab::Host;

/// Characters of an endpoint's id in the names of devices.
const SHORT: usize = 12;

/// Container name and address by endpoint id.
type Members = BTreeMap<String, (String, String)>;

/// The state of all hosts at one time.
pub struct Audit {
    hosts: Vec<HostAudit>,
}

/// The state of one host.
struct HostAudit {
    host: Host,
    /// `shoutdctl networks`.
    networks: Vec<Value>,
    /// `shoutdctl endpoints`.
    endpoints: Vec<Value>,
    /// Docker's networks by name, with their endpoints.
    docker: BTreeMap<String, Members>,
    /// Containers by name: whether each runs, and whether all its networks still exist.
    containers: BTreeMap<String, (bool, bool)>,
    /// The ports in the namespaces of segments, by VNI.
    ports: BTreeMap<u64, BTreeSet<String>>,
    /// The remotes of each segment's tunnel, by VNI.
    remotes: BTreeMap<u64, BTreeSet<String>>,
    /// Devices in the host's own namespace that should not be there.
    strays: Vec<String>,
}

impl Audit {
    /// Reads the state of all hosts.
    pub fn take(hosts: &[Host]) -> Result<Self> {
        Ok(Self { hosts: hosts.iter().map(HostAudit::take).collect::<Result<_>>()? })
    }

    /// The containers on each network.
    pub fn members(&self) -> BTreeMap<String, Vec<(Host, String)>> {
        let mut members: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for audit in &self.hosts {
            for (network, endpoints) in &audit.docker {
                let containers =
                    endpoints.values().map(|(name, _)| (audit.host.clone(), name.clone()));
                members.entry(network.clone()).or_default().extend(containers);
            }
        }
        members
    }

    /// All differences, one line each.
    pub fn differences(&self, should_run: &BTreeSet<(u8, String)>) -> Vec<String> {
        let mut differences = Vec::new();
        let Some((first, others)) = self.hosts.split_first() else { return differences };
        for other in others {
            if other.networks != first.networks {
                differences.push(format!(
                    "{} knows other networks: {:?}, {:?}",
                    other.host.name(),
                    other.networks,
                    first.networks
                ));
            }
            if other.endpoints != first.endpoints {
                differences.push(format!(
                    "{} knows other endpoints: {:?}, {:?}",
                    other.host.name(),
                    other.endpoints,
                    first.endpoints
                ));
            }
        }
        differences.extend(shared_addresses(&first.endpoints));
        for audit in &self.hosts {
            let name = audit.host.name();
            let mut found: Vec<_> = audit.networks_differ().into_iter().collect();
            found.extend(audit.endpoints_differ());
            found.extend(audit.kernel_differs());
            found.extend(self.remotes_differ(audit));
            found.extend(audit.down(should_run));
            differences.extend(found.into_iter().map(|difference| format!("{name}: {difference}")));
        }
        differences
    }

    /// Each tunnel must lead exactly to the other hosts that have endpoints on its network.
    fn remotes_differ(&self, audit: &HostAudit) -> Vec<String> {
        let mut differences = Vec::new();
        for (vni, remotes) in &audit.remotes {
            let others =
                self.hosts.iter().filter(|other| other.host.number() != audit.host.number());
            let wanted: BTreeSet<_> = others
                .filter(|other| other.ports.contains_key(vni))
                .map(|other| other.host.address().to_string())
                .collect();
            if wanted != *remotes {
                differences
                    .push(format!("the tunnel of {vni} leads to {remotes:?}, not {wanted:?}"));
            }
        }
        differences
    }
}

/// No two endpoints of a network may share an address.
fn shared_addresses(endpoints: &[Value]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let addresses = endpoints.iter().flat_map(|row| {
        let addresses = row["addresses"].as_array().into_iter().flatten();
        addresses.map(|address| format!("{} {}", row["network"], address))
    });
    addresses
        .filter(|address| !seen.insert(address.clone()))
        .map(|address| format!("twice: {address}"))
        .collect()
}

impl HostAudit {
    fn take(host: &Host) -> Result<Self> {
        let docker = docker_networks(host)?;
        let mut ports = BTreeMap::new();
        let mut remotes = BTreeMap::new();
        for segment in segments(host)? {
            let vni = segment.trim_start_matches("shout-").parse().context("a VNI")?;
            let script =
                format!("ip -netns {segment} -brief link | grep -o '^shp[0-9a-f]*' || true");
            ports.insert(vni, host.sh(&script)?.lines().map(str::to_owned).collect());
            let script = format!(
                "bridge -netns {segment} fdb show dev shoutvx0 | grep '^00:00:00:00:00:00' | grep \
                 -o 'dst [^ ]*' | cut -c5- || true"
            );
            remotes.insert(vni, host.sh(&script)?.lines().map(str::to_owned).collect());
        }
        // Each segment has its uplink there.
        let uplinks: Vec<String> = ports.keys().map(|vni: &u64| format!(" shg{vni}@")).collect();
        let is_stray = |line: &String| {
            line.starts_with("device") && !uplinks.iter().any(|uplink| line.contains(uplink))
        };
        let strays = left_in_kernel(host)?.into_iter().filter(is_stray).collect();
        let containers = containers(host)?;
        Ok(Self {
            networks: networks(host)?,
            endpoints: endpoints(host)?,
            docker,
            containers,
            ports,
            remotes,
            strays,
            host: host.clone(),
        })
    }

    /// Docker must have exactly the agreed networks.
    fn networks_differ(&self) -> Option<String> {
        let agreed: BTreeSet<_> =
            self.networks.iter().filter_map(|row| row["name"].as_str()).collect();
        let docker: BTreeSet<_> = self.docker.keys().map(String::as_str).collect();
        let leaving = self
            .networks
            .iter()
            .any(|row| !row["removal_waits_for"].is_null() || row["name"].is_null());
        (agreed != docker || agreed.len() != self.networks.len() || leaving)
            .then(|| format!("Docker has {docker:?}, and agreed is {:?}", self.networks))
    }

    /// shoutd must have Docker's endpoints with the same addresses, and must know which networks
    /// this host has.
    fn endpoints_differ(&self) -> Vec<String> {
        let name = self.host.name();
        let own = self.endpoints.iter().filter(|row| row["host"] == name.as_str());
        let known: BTreeSet<_> = own
            .map(|row| {
                let [network, id, address] = [&row["network"], &row["id"], &row["addresses"][0]]
                    .map(|value| value.as_str().unwrap_or_default().to_owned());
                (network, id, address)
            })
            .collect();
        let docker: BTreeSet<_> = self
            .docker
            .iter()
            .flat_map(|(network, endpoints)| {
                endpoints
                    .iter()
                    .map(|(id, (_, address))| (network.clone(), id.clone(), address.clone()))
            })
            .collect();
        let mut differences: Vec<_> = known
            .difference(&docker)
            .map(|one| format!("Docker has no endpoint {one:?}"))
            .collect();
        differences
            .extend(docker.difference(&known).map(|one| format!("shoutd has no endpoint {one:?}")));
        for row in &self.networks {
            let hosts = row["hosts"].as_array().into_iter().flatten();
            let is_attached = hosts.into_iter().any(|host| *host == name.as_str());
            let has_endpoints = known.iter().any(|(network, ..)| row["name"] == network.as_str());
            if is_attached != has_endpoints {
                differences
                    .push(format!("attached: {is_attached}, endpoints: {has_endpoints}, in {row}"));
            }
        }
        differences
    }

    /// The kernel must have a segment for each network with endpoints here, a port for each
    /// endpoint, and nothing else.
    fn kernel_differs(&self) -> Vec<String> {
        let mut wanted: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        for (network, endpoints) in &self.docker {
            let row = self.networks.iter().find(|row| row["name"] == network.as_str());
            let Some(vni) =
                row.and_then(|row| row["vni"].as_u64()).filter(|_| !endpoints.is_empty())
            else {
                continue;
            };
            wanted.insert(
                vni,
                endpoints
                    .keys()
                    .map(|id| format!("shp{}", id.get(..SHORT).unwrap_or(id)))
                    .collect(),
            );
        }
        let mut differences: Vec<_> = self.strays.clone();
        if wanted != self.ports {
            differences.push(format!(
                "the kernel has the ports {:?}, and should have {wanted:?}",
                self.ports
            ));
        }
        differences
    }

    /// Containers that should run and do not, although their networks exist.
    fn down(&self, should_run: &BTreeSet<(u8, String)>) -> Vec<String> {
        let own = should_run.iter().filter(|(number, _)| *number == self.host.number());
        own.map(|(_, name)| name)
            .filter(|name| matches!(self.containers.get(*name), None | Some((false, true))))
            .map(|name| format!("container {name} should run"))
            .collect()
    }
}

/// Docker's networks with driver shoutd, and their endpoints.
fn docker_networks(host: &Host) -> Result<BTreeMap<String, Members>> {
    let ids =
        host.docker(["network", "ls", "--quiet", "--no-trunc", "--filter", "driver=shoutd"])?;
    let mut found = BTreeMap::new();
    for id in ids.lines() {
        let inspected: Value =
            serde_json::from_str(&host.docker(["network", "inspect", id])?).context("inspect")?;
        let network = &inspected[0];
        let name = network["Name"].as_str().context("a name")?.to_owned();
        let containers = network["Containers"].as_object().into_iter().flatten();
        let endpoints = containers.filter_map(|(_, container)| {
            let address = container["IPv4Address"].as_str()?.split('/').next()?.to_owned();
            Some((
                container["EndpointID"].as_str()?.to_owned(),
                (container["Name"].as_str()?.to_owned(), address),
            ))
        });
        let name = if found.contains_key(&name) { format!("{name} (again)") } else { name };
        found.insert(name, endpoints.collect());
    }
    Ok(found)
}

/// Docker's containers: whether each runs, and whether all its networks exist.
fn containers(host: &Host) -> Result<BTreeMap<String, (bool, bool)>> {
    let networks = host.docker(["network", "ls", "--quiet", "--no-trunc"])?;
    let networks: BTreeSet<_> = networks.lines().collect();
    let mut found = BTreeMap::new();
    for name in host.docker(["ps", "--all", "--format", "{{.Names}}"])?.lines() {
        let format = "{{.State.Running}}{{range .NetworkSettings.Networks}} {{.NetworkID}}{{end}}";
        let Ok(printed) = host.docker(["container", "inspect", "--format", format, name]) else {
            continue;
        };
        let mut words = printed.split_whitespace();
        let runs = words.next() == Some("true");
        found.insert(name.to_owned(), (runs, words.all(|id| networks.contains(id))));
    }
    Ok(found)
}
