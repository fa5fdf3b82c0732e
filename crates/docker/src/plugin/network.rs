//! Requests and answers of `NetworkDriver` (moby `libnetwork/drivers/remote/api/api.go`, engines
//! 20.10 to 29).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use serde_json::{Value, json};
use shoutd_core::id::{DockerNetworkId, EndpointId, MacAddress};

use super::scope::Scope;
use super::wire::{self, FromBody, InvalidRequest, or_default};

/// Prefix of the options that the engine adds.
const ENGINE_PREFIX: &str = "com.docker.network.";
/// The map of `-o` options in a network's options.
const GENERIC: &str = "com.docker.network.generic";

/// `AllocateNetwork`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocateNetwork {
    /// The Swarm's id of the network, which the engines of all its nodes use.
    pub network: DockerNetworkId,
    /// The user's `-o` options.
    pub options: BTreeMap<String, String>,
    /// The IPv4 subnets.
    pub ipv4: Vec<AddressPool>,
    /// The IPv6 subnets.
    pub ipv6: Vec<AddressPool>,
}

/// `CreateNetwork`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateNetwork {
    /// Whether the network belongs to this engine or to a Swarm. This depends on the plugin's
    /// socket; it is not in the call.
    pub scope: Scope,
    /// The engine's id of the network.
    pub network: DockerNetworkId,
    /// The user's `-o` options.
    pub options: BTreeMap<String, String>,
    /// Created with `--internal`.
    pub internal: bool,
    /// Whether it has IPv4; always true before Docker 28.
    pub enable_ipv4: bool,
    /// Whether it has IPv6.
    pub enable_ipv6: bool,
    /// The IPv4 subnets. With the `null` IPAM driver there is one, `0.0.0.0/0`.
    pub ipv4: Vec<AddressPool>,
    /// The IPv6 subnets.
    pub ipv6: Vec<AddressPool>,
}

/// A subnet that an IPAM driver granted for a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPool {
    /// Its address space, such as `LocalDefault`, or shoutd's own.
    pub address_space: String,
    /// The subnet, with host bits zero.
    pub subnet: IpNet,
    /// The gateway's address, of the same family.
    pub gateway: Option<IpAddr>,
    /// Addresses that the user reserved (`--aux-address`), by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
}

/// `CreateEndpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateEndpoint {
    /// The network.
    pub network: DockerNetworkId,
    /// The engine's id of the endpoint.
    pub endpoint: EndpointId,
    /// The IPv4 address from the IPAM driver, with the subnet's prefix length. shoutd may still
    /// have an earlier endpoint with this address.
    pub ipv4: Option<Ipv4Net>,
    /// The IPv6 address from the IPAM driver.
    pub ipv6: Option<Ipv6Net>,
    /// The requested MAC address; `None` lets the driver choose.
    pub mac: Option<MacAddress>,
    /// The user's `--driver-opt` options of this endpoint, and the engine's options that are
    /// strings (such as `com.docker.network.endpoint.sysctls`).
    pub options: BTreeMap<String, String>,
}

/// The answer to `CreateEndpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreatedInterface {
    /// The endpoint's MAC address. The answer contains it only if Docker requested none: an engine
    /// treats an address in the answer, even the same one, as an attempt to change it, and the
    /// container fails (`SetMacAddress` in `driver.go`).
    pub mac: MacAddress,
}

/// An endpoint of a network, in `Leave`, `DeleteEndpoint` and `EndpointOperInfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointKey {
    /// The network.
    pub network: DockerNetworkId,
    /// The endpoint.
    pub endpoint: EndpointId,
}

/// `Join`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// The network.
    pub network: DockerNetworkId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The path of the container's sandbox, such as `/var/run/docker/netns/0123456789ab`. It
    /// identifies the sandbox; before Docker 28 the file may not exist yet.
    pub sandbox: String,
    /// Whether the container publishes ports (`-p`, `-P`).
    pub publishes: bool,
}

/// The answer to `Join`. Without a gateway, and unless `without_gateway` is set, Docker attaches
/// `docker_gwbridge`, for the default route and published ports (libnetwork `default_gateway.go`,
/// `needDefaultGW`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinReply {
    /// Name of the interface in the engine's network namespace, at most 15 bytes (`IFNAMSIZ`).
    pub interface: String,
    /// Prefix of the interface's name in the container; libnetwork adds a number.
    pub container_prefix: String,
    /// The whole name instead, at most 15 bytes. Engines ignore it before moby#52866, of 2026.
    pub container_name: Option<String>,
    /// The gateway of the container's IPv4 default route.
    pub gateway: Option<Ipv4Addr>,
    /// Routes in the container.
    pub routes: Vec<StaticRoute>,
    /// Whether Docker must not attach `docker_gwbridge`.
    pub without_gateway: bool,
}

/// A route in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticRoute {
    /// The destination.
    pub destination: IpNet,
    /// The router; `None` for a connected route.
    pub next_hop: Option<IpAddr>,
}

/// Members that several calls share.
#[derive(Deserialize)]
struct KeyJson {
    #[serde(rename = "NetworkID", default, deserialize_with = "or_default")]
    network: String,
    #[serde(rename = "EndpointID", default, deserialize_with = "or_default")]
    endpoint: String,
}

impl KeyJson {
    fn checked(&self) -> Result<EndpointKey, InvalidRequest> {
        Ok(EndpointKey {
            network: wire::required("NetworkID", &self.network)?,
            endpoint: wire::required("EndpointID", &self.endpoint)?,
        })
    }
}

#[derive(Deserialize)]
struct CreateNetworkJson {
    #[serde(rename = "NetworkID", default, deserialize_with = "or_default")]
    network: String,
    #[serde(rename = "Options", default, deserialize_with = "or_default")]
    options: BTreeMap<String, Value>,
    #[serde(rename = "IPv4Data", default, deserialize_with = "or_default")]
    ipv4: Vec<PoolJson>,
    #[serde(rename = "IPv6Data", default, deserialize_with = "or_default")]
    ipv6: Vec<PoolJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PoolJson {
    #[serde(default, deserialize_with = "or_default")]
    address_space: String,
    #[serde(default, deserialize_with = "or_default")]
    pool: String,
    #[serde(default, deserialize_with = "or_default")]
    gateway: String,
    #[serde(default, deserialize_with = "or_default")]
    aux_addresses: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct CreateEndpointJson {
    #[serde(flatten)]
    key: KeyJson,
    #[serde(rename = "Interface", default, deserialize_with = "or_default")]
    interface: InterfaceJson,
    #[serde(rename = "Options", default, deserialize_with = "or_default")]
    options: BTreeMap<String, Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct InterfaceJson {
    #[serde(rename = "Address", deserialize_with = "or_default")]
    ipv4: String,
    #[serde(rename = "AddressIPv6", deserialize_with = "or_default")]
    ipv6: String,
    #[serde(rename = "MacAddress", deserialize_with = "or_default")]
    mac: String,
}

#[derive(Deserialize)]
struct JoinJson {
    #[serde(flatten)]
    key: KeyJson,
    #[serde(rename = "SandboxKey", default, deserialize_with = "or_default")]
    sandbox: String,
    #[serde(rename = "Options", default, deserialize_with = "or_default")]
    options: BTreeMap<String, Value>,
}

impl FromBody for CreateNetwork {
    fn from_body(body: &[u8]) -> Result<Self, InvalidRequest> {
        let mut request: CreateNetworkJson = wire::json(body)?;
        let internal = flag(&request.options, "internal").unwrap_or(false);
        let enable_ipv4 = flag(&request.options, "enable_ipv4").unwrap_or(true);
        let enable_ipv6 = flag(&request.options, "enable_ipv6").unwrap_or(false);
        let options = match request.options.remove(GENERIC) {
            Some(Value::Object(generic)) => wire::texts(generic.into_iter().collect()),
            Some(Value::Null) | None => BTreeMap::new(),
            Some(other) => {
                return Err(InvalidRequest::member(
                    GENERIC,
                    &other.to_string(),
                    "not a map of options",
                ));
            }
        };
        Ok(Self {
            scope: Scope::Local,
            network: wire::required("NetworkID", &request.network)?,
            options,
            internal,
            enable_ipv4,
            enable_ipv6,
            ipv4: request
                .ipv4
                .into_iter()
                .map(|pool| pool.checked(true))
                .collect::<Result<_, _>>()?,
            ipv6: request
                .ipv6
                .into_iter()
                .map(|pool| pool.checked(false))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl FromBody for AllocateNetwork {
    fn from_body(body: &[u8]) -> Result<Self, InvalidRequest> {
        let request: CreateNetworkJson = wire::json(body)?;
        // The Swarm sends all subnets as IPv4Data (moby/swarmkit,
        // manager/allocator/cnmallocator/networkallocator.go).
        let pools = request.ipv4.into_iter().chain(request.ipv6).map(|pool| {
            let is_ipv4 = !pool.pool.contains(':');
            pool.checked(is_ipv4)
        });
        let pools: Vec<AddressPool> = pools.collect::<Result<_, _>>()?;
        let (ipv4, ipv6) = pools.into_iter().partition(|pool| pool.subnet.addr().is_ipv4());
        let network = wire::required("NetworkID", &request.network)?;
        Ok(Self { network, options: wire::texts(request.options), ipv4, ipv6 })
    }
}

/// An option that the engine adds, as a boolean or as text.
fn flag(options: &BTreeMap<String, Value>, name: &str) -> Option<bool> {
    match options.get(&format!("{ENGINE_PREFIX}{name}")) {
        Some(Value::Bool(on)) => Some(*on),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    }
}

fn check_family(
    member: &'static str,
    address: IpAddr,
    is_ipv4: bool,
) -> Result<(), InvalidRequest> {
    if address.is_ipv4() == is_ipv4 {
        return Ok(());
    }
    Err(InvalidRequest::member(member, &address.to_string(), "an address of the wrong family"))
}

impl PoolJson {
    fn checked(self, ipv4: bool) -> Result<AddressPool, InvalidRequest> {
        let subnet = wire::required::<IpNet>("Pool", &self.pool)?.trunc();
        check_family("Pool", subnet.addr(), ipv4)?;
        let gateway = match self.gateway.as_str() {
            "" => None,
            text => Some(wire::address("Gateway", text)?),
        };
        if let Some(gateway) = gateway {
            check_family("Gateway", gateway, ipv4)?;
        }
        let mut auxiliary = BTreeMap::new();
        for (name, text) in self.aux_addresses {
            let address = wire::address("AuxAddresses", &text)?;
            check_family("AuxAddresses", address, ipv4)?;
            auxiliary.insert(name, address);
        }
        Ok(AddressPool { address_space: self.address_space, subnet, gateway, auxiliary })
    }
}

impl FromBody for CreateEndpoint {
    fn from_body(body: &[u8]) -> Result<Self, InvalidRequest> {
        let request: CreateEndpointJson = wire::json(body)?;
        let EndpointKey { network, endpoint } = request.key.checked()?;
        let mac: Option<MacAddress> = wire::optional("MacAddress", &request.interface.mac)?;
        if let Some(mac) = mac.filter(|mac| !mac.is_unicast()) {
            return Err(InvalidRequest::member(
                "MacAddress",
                &mac.to_string(),
                "not a unicast address",
            ));
        }
        Ok(Self {
            network,
            endpoint,
            ipv4: wire::optional("Address", &request.interface.ipv4)?,
            ipv6: wire::optional("AddressIPv6", &request.interface.ipv6)?,
            mac,
            // The driver does not need the engine's other options, such as lists of ports.
            options: wire::texts(
                request.options.into_iter().filter(|(_, value)| value.is_string()).collect(),
            ),
        })
    }
}

impl FromBody for EndpointKey {
    fn from_body(body: &[u8]) -> Result<Self, InvalidRequest> {
        wire::json::<KeyJson>(body)?.checked()
    }
}

impl FromBody for DockerNetworkId {
    fn from_body(body: &[u8]) -> Result<Self, InvalidRequest> {
        wire::required("NetworkID", &wire::json::<KeyJson>(body)?.network)
    }
}

impl FromBody for Join {
    fn from_body(body: &[u8]) -> Result<Self, InvalidRequest> {
        let request: JoinJson = wire::json(body)?;
        let EndpointKey { network, endpoint } = request.key.checked()?;
        if request.sandbox.is_empty() || request.sandbox.len() > 4096 {
            return Err(InvalidRequest::member("SandboxKey", &request.sandbox, "not a path"));
        }
        // The engine passes the sandbox's options, so that each of its networks has these.
        let ports = request.options.get(&format!("{ENGINE_PREFIX}portmap"));
        let publishes = ports.and_then(Value::as_array).is_some_and(|ports| !ports.is_empty());
        Ok(Self { network, endpoint, sandbox: request.sandbox, publishes })
    }
}

impl CreatedInterface {
    /// The answer, which depends on the requested MAC address.
    pub(super) fn to_wire(self, requested: Option<MacAddress>) -> Value {
        let mac = if requested.is_none() { self.mac.to_string() } else { String::new() };
        json!({ "Interface": { "Address": "", "AddressIPv6": "", "MacAddress": mac } })
    }
}

impl JoinReply {
    pub(super) fn to_wire(&self) -> Value {
        let routes: Vec<Value> = self
            .routes
            .iter()
            .map(|StaticRoute { destination, next_hop }| {
                json!({
                    "Destination": destination.to_string(),
                    "RouteType": if next_hop.is_some() { 0 } else { 1 },
                    "NextHop": next_hop.map(|router| router.to_string()).unwrap_or_default(),
                })
            })
            .collect();
        json!({
            "InterfaceName": {
                "SrcName": self.interface,
                "DstName": self.container_name.as_deref().unwrap_or_default(),
                "DstPrefix": self.container_prefix,
            },
            "Gateway": self.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
            "GatewayIPv6": "",
            "StaticRoutes": routes,
            "DisableGatewayService": self.without_gateway,
        })
    }
}
