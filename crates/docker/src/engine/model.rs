//! Networks and endpoints of an engine, and their JSON.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize};
use shoutd_core::id::{DockerNetworkId, EndpointId, MacAddress};
use shoutd_core::swarm::SwarmNode;
use tracing::warn;

use super::ApiVersion;
use crate::one_line;

/// Limit of the ids of Swarms and nodes, in characters. They have 25.
const SWARM_ID_LENGTH_MAX: usize = 64;

/// How many managers of a Swarm we read. Docker advises against more than seven.
const SWARM_MANAGERS_MAX: usize = 64;

/// Version and Swarm membership of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// The host's name, as the engine reports it.
    pub name: String,
    /// The engine's version, such as `20.10.24+dfsg1`.
    pub version: String,
    /// The API version that we use.
    pub api_version: ApiVersion,
    /// The data directory (`--data-root`): an absolute path, in which the engine has resolved
    /// symbolic links (`getRealPath` in `daemon/daemon.go`).
    pub root: Option<PathBuf>,
    /// Whether the host is an active node of a Swarm.
    pub swarm_active: bool,
    /// The host's node in a Swarm; `None` if it is not in one.
    pub swarm_node: Option<SwarmNode>,
    /// The address at which the other nodes of its Swarm reach this host; `None` outside of a
    /// Swarm.
    pub swarm_address: Option<IpAddr>,
    /// The addresses of the Swarm's managers, this host among them if it is one.
    pub swarm_managers: Vec<IpAddr>,
}

impl EngineInfo {
    /// The id of the Swarm, if this host is a manager and the Swarm currently has a leader. Without
    /// a leader the engine silently omits the Swarm's networks from its list.
    pub fn managed_swarm(&self) -> Option<&str> {
        self.swarm_node.as_ref()?.swarm.as_deref()
    }
}

/// IPAM configuration of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipam {
    /// The IPAM driver: `default`, or the name of a plugin.
    pub driver: String,
    /// Options of the IPAM driver (`--ipam-opt`).
    pub options: BTreeMap<String, String>,
    /// One entry per subnet.
    pub configs: Vec<IpamConfig>,
}

/// One subnet of a network. With the `null` IPAM driver it is `0.0.0.0/0`, which overlaps
/// everything and has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IpamConfig {
    /// The subnet, with host bits zero. The engine always reports it; it is optional in a
    /// [`NetworkSpec`].
    pub subnet: Option<IpNet>,
    /// The gateway's address.
    pub gateway: Option<IpAddr>,
    /// The part of the subnet from which the IPAM driver chooses addresses (`--ip-range`).
    pub ip_range: Option<IpNet>,
    /// Reserved addresses (`--aux-address`), by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
}

/// A network of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerNetwork {
    /// Its id on this engine.
    pub id: DockerNetworkId,
    /// Its name. An engine before 25.0 may have several networks of one name.
    pub name: String,
    /// Its driver, such as `bridge` or `shoutd`.
    pub driver: String,
    /// `local`, `global` or `swarm`.
    pub scope: String,
    /// Created with `--internal`: no external connectivity.
    pub internal: bool,
    /// Created with `--attachable`, which only matters for Swarm networks.
    pub attachable: bool,
    /// Whether it has IPv4. Always true before Docker 28, which does not report it.
    pub enable_ipv4: bool,
    /// Whether it has IPv6.
    pub enable_ipv6: bool,
    /// Its labels, verbatim.
    pub labels: BTreeMap<String, String>,
    /// The driver's options (`-o`), verbatim.
    pub options: BTreeMap<String, String>,
    /// Its IPAM configuration.
    pub ipam: Ipam,
}

/// An endpoint of a network, as the engine reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedEndpoint {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The container; `None` if the endpoint has none (it is being created, or its container
    /// crashed).
    pub container: Option<String>,
    /// The container's name, or the endpoint's if there is no container.
    pub container_name: String,
    /// Its MAC address, if the engine knows it.
    pub mac: Option<MacAddress>,
    /// Its IPv4 address with the prefix length of its subnet.
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 address with the prefix length of its subnet.
    pub ipv6: Option<Ipv6Net>,
}

/// A network and its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkDetail {
    /// The network.
    pub network: DockerNetwork,
    /// Its endpoints on this host.
    pub endpoints: Vec<AttachedEndpoint>,
}

/// A network to create. The driver determines its scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// No external connectivity.
    pub internal: bool,
    /// See [`DockerNetwork::attachable`].
    pub attachable: bool,
    /// Whether it has IPv4. Docker before 28 ignores `false`.
    pub enable_ipv4: bool,
    /// Whether it has IPv6.
    pub enable_ipv6: bool,
    /// Its labels, sent verbatim.
    pub labels: BTreeMap<String, String>,
    /// The driver's options, sent verbatim.
    pub options: BTreeMap<String, String>,
    /// Its IPAM configuration.
    pub ipam: Ipam,
}

/// Reads a JSON `null` as the default: engines write it for empty lists and maps.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InfoJson {
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    server_version: String,
    #[serde(rename = "DockerRootDir", default)]
    root: PathBuf,
    #[serde(default, deserialize_with = "or_default")]
    swarm: SwarmJson,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct SwarmJson {
    #[serde(default)]
    local_node_state: String,
    #[serde(default)]
    control_available: bool,
    #[serde(rename = "NodeID", default)]
    node_id: String,
    #[serde(default)]
    node_addr: String,
    #[serde(default, deserialize_with = "or_default")]
    remote_managers: Vec<SwarmManagerJson>,
    /// Why the Swarm does not answer.
    #[serde(default)]
    error: String,
    #[serde(default, deserialize_with = "or_default")]
    cluster: SwarmClusterJson,
}

#[derive(Deserialize)]
struct SwarmManagerJson {
    #[serde(rename = "NodeID", default)]
    node_id: String,
    /// Address and port.
    #[serde(rename = "Addr", default)]
    addr: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct SwarmClusterJson {
    #[serde(rename = "ID", default)]
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkJson {
    id: DockerNetworkId,
    name: String,
    #[serde(default)]
    driver: String,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    attachable: bool,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6", default)]
    enable_ipv6: bool,
    #[serde(default, deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    options: BTreeMap<String, String>,
    #[serde(rename = "IPAM", default, deserialize_with = "or_default")]
    ipam: IpamJson,
    #[serde(default, deserialize_with = "or_default")]
    containers: BTreeMap<String, ContainerJson>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(rename_all = "PascalCase")]
struct IpamJson {
    #[serde(default)]
    driver: String,
    #[serde(default, deserialize_with = "or_default")]
    options: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    config: Vec<IpamConfigJson>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(rename_all = "PascalCase")]
struct IpamConfigJson {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    subnet: String,
    #[serde(rename = "IPRange", default, skip_serializing_if = "String::is_empty")]
    ip_range: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    gateway: String,
    #[serde(
        rename = "AuxiliaryAddresses",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    auxiliary: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerJson {
    #[serde(default)]
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint: EndpointId,
    #[serde(default)]
    mac_address: String,
    #[serde(rename = "IPv4Address", default)]
    ipv4: String,
    #[serde(rename = "IPv6Address", default)]
    ipv6: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CreateJson<'a> {
    name: &'a str,
    /// Refuse a second network of the same name. Needed before 25.0; since then, engines always
    /// refuse and ignore this member.
    check_duplicate: bool,
    driver: &'a str,
    internal: bool,
    attachable: bool,
    #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    labels: &'a BTreeMap<String, String>,
    options: &'a BTreeMap<String, String>,
    #[serde(rename = "IPAM")]
    ipam: IpamJson,
}

pub(super) fn parse_info(
    api_version: ApiVersion,
    body: &Bytes,
) -> Result<EngineInfo, serde_json::Error> {
    let info: InfoJson = serde_json::from_slice(body)?;
    let swarm = &info.swarm;
    let answers = swarm.control_available && swarm.error.is_empty() && !swarm.cluster.id.is_empty();
    // A node that is locked, or whose Swarm does not answer, is still a node.
    let is_node = !["", "inactive"].contains(&swarm.local_node_state.as_str());
    let managers = swarm.remote_managers.iter().take(SWARM_MANAGERS_MAX);
    let addresses = managers.clone();
    let swarm_node = is_node.then(|| SwarmNode {
        id: one_line(&swarm.node_id, SWARM_ID_LENGTH_MAX),
        swarm: answers.then(|| one_line(&swarm.cluster.id, SWARM_ID_LENGTH_MAX)),
        managers: managers.map(|manager| one_line(&manager.node_id, SWARM_ID_LENGTH_MAX)).collect(),
    });
    Ok(EngineInfo {
        name: one_line(&info.name, 255),
        version: one_line(&info.server_version, 255),
        api_version,
        root: Some(info.root).filter(|root| root.is_absolute()),
        swarm_active: swarm.local_node_state == "active",
        swarm_node,
        swarm_address: swarm.node_addr.parse().ok().filter(|_| is_node),
        swarm_managers: addresses.filter_map(|manager| host_of(&manager.addr)).collect(),
    })
}

/// The address in `192.0.2.1:2377` or `[2001:db8::1]:2377`.
fn host_of(text: &str) -> Option<IpAddr> {
    text.parse::<SocketAddr>().ok().map(|address| address.ip())
}

pub(super) fn parse_networks(body: &Bytes) -> Result<Vec<DockerNetwork>, serde_json::Error> {
    let networks: Vec<NetworkJson> = serde_json::from_slice(body)?;
    Ok(networks.into_iter().map(|network| network.split().0).collect())
}

pub(super) fn parse_network(body: &Bytes) -> Result<NetworkDetail, serde_json::Error> {
    let (network, containers) = serde_json::from_slice::<NetworkJson>(body)?.split();
    let endpoints = containers
        .into_iter()
        .map(|(key, container)| container.checked(&network.name, key))
        .collect();
    Ok(NetworkDetail { network, endpoints })
}

/// The body of `POST /networks/create`.
pub(super) fn create_body(spec: &NetworkSpec) -> Result<Vec<u8>, serde_json::Error> {
    let config = spec.ipam.configs.iter().map(|config| IpamConfigJson {
        subnet: config.subnet.as_ref().map(ToString::to_string).unwrap_or_default(),
        ip_range: config.ip_range.as_ref().map(ToString::to_string).unwrap_or_default(),
        gateway: config.gateway.as_ref().map(ToString::to_string).unwrap_or_default(),
        auxiliary: config
            .auxiliary
            .iter()
            .map(|(name, address)| (name.clone(), address.to_string()))
            .collect(),
    });
    serde_json::to_vec(&CreateJson {
        name: &spec.name,
        check_duplicate: true,
        driver: &spec.driver,
        internal: spec.internal,
        attachable: spec.attachable,
        // Only if it differs from the default, because engines before 28 do not know it.
        enable_ipv4: (!spec.enable_ipv4).then_some(false),
        enable_ipv6: spec.enable_ipv6,
        labels: &spec.labels,
        options: &spec.options,
        ipam: IpamJson {
            driver: spec.ipam.driver.clone(),
            options: spec.ipam.options.clone(),
            config: config.collect(),
        },
    })
}

impl NetworkJson {
    /// The network, and the attached containers by key.
    fn split(self) -> (DockerNetwork, BTreeMap<String, ContainerJson>) {
        let configs =
            self.ipam.config.into_iter().filter_map(|config| config.checked(&self.name)).collect();
        let network = DockerNetwork {
            id: self.id,
            name: self.name,
            driver: self.driver,
            scope: self.scope,
            internal: self.internal,
            attachable: self.attachable,
            enable_ipv4: self.enable_ipv4.unwrap_or(true),
            enable_ipv6: self.enable_ipv6,
            labels: self.labels,
            options: self.options,
            ipam: Ipam { driver: self.ipam.driver, options: self.ipam.options, configs },
        };
        (network, self.containers)
    }
}

impl IpamConfigJson {
    /// The subnet, or `None` with a warning if it is invalid. One bad network of a third-party
    /// driver must not hide all others.
    fn checked(self, network: &str) -> Option<IpamConfig> {
        if self.subnet.is_empty() {
            return None;
        }
        let config = self.parsed();
        if config.is_none() {
            warn!(
                network,
                subnet = self.subnet,
                gateway = self.gateway,
                "ignored an invalid subnet that Docker reports"
            );
        }
        config
    }

    fn parsed(&self) -> Option<IpamConfig> {
        Some(IpamConfig {
            subnet: Some(self.subnet.parse::<IpNet>().ok()?.trunc()),
            gateway: optional(&self.gateway, address)?,
            ip_range: optional(&self.ip_range, |text| text.parse().ok())?,
            auxiliary: self
                .auxiliary
                .iter()
                .map(|(name, text)| Some((name.clone(), address(text)?)))
                .collect::<Option<_>>()?,
        })
    }
}

impl ContainerJson {
    fn checked(self, network: &str, key: String) -> AttachedEndpoint {
        let mac = self.mac_address.parse::<MacAddress>().ok();
        let ipv4 = self.ipv4.parse::<Ipv4Net>().ok();
        let ipv6 = self.ipv6.parse::<Ipv6Net>().ok();
        for (what, text, is_valid) in [
            ("mac", &self.mac_address, mac.is_some()),
            ("ipv4", &self.ipv4, ipv4.is_some()),
            ("ipv6", &self.ipv6, ipv6.is_some()),
        ] {
            if !text.is_empty() && !is_valid {
                warn!(
                    network,
                    container = self.name,
                    what,
                    text,
                    "ignored an invalid address that Docker reports"
                );
            }
        }
        AttachedEndpoint {
            endpoint: self.endpoint,
            // An endpoint without a sandbox has the key "ep-<endpoint id>" and not a container id.
            container: (!key.starts_with("ep-")).then_some(key),
            container_name: self.name,
            mac,
            ipv4,
            ipv6,
        }
    }
}

/// `Some(None)` for an empty text, `None` for one that does not parse.
fn optional<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if text.is_empty() { Some(None) } else { parse(text).map(Some) }
}

/// An address. Older engines write a gateway that they chose themselves with a prefix length.
fn address(text: &str) -> Option<IpAddr> {
    text.split_once('/').map_or(text, |(address, _)| address).parse().ok()
}

#[cfg(test)]
mod tests;
