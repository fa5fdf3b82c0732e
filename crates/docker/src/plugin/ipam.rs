//! Requests and answers of `IpamDriver` (moby `libnetwork/ipams/remote/api/api.go`, engines 20.10
//! to 29).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};
use shoutd_core::id::MacAddress;

use super::wire::{self, FromBody, InvalidRequest, or_default};

/// The address space of networks with local scope, which all of shoutd's networks have.
pub const LOCAL_ADDRESS_SPACE: &str = "shoutdlocal";
/// The address space of networks with global scope. Docker requires one, but shoutd does not use
/// it.
pub const GLOBAL_ADDRESS_SPACE: &str = "shoutdglobal";

/// Whether the engine must choose the MAC address before it requests an IP address. No: the driver
/// derives the MAC address from the IP address, so that neighbors' ARP entries stay valid when a
/// container is replaced.
const REQUIRES_MAC_ADDRESS: bool = false;

const GATEWAY: &str = "com.docker.network.gateway";
const REQUEST_TYPE: &str = "RequestAddressType";
const ENDPOINT_MAC: &str = "com.docker.network.endpoint.macaddress";
const ENDPOINT_NAME: &str = "com.docker.network.endpoint.name";

/// The driver's id of a granted pool. Docker stores it and uses it in later calls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(String);

impl PoolId {
    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PoolId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_valid =
            (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_valid {
            Ok(Self(text.to_owned()))
        } else {
            Err("a pool id has 1 to 255 visible ASCII characters")
        }
    }
}

/// `RequestPool`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPool {
    /// The address space, normally [`LOCAL_ADDRESS_SPACE`].
    pub address_space: String,
    /// The requested subnet (`--subnet`), with host bits zero; `None` lets the driver choose.
    pub subnet: Option<IpNet>,
    /// The part of the subnet from which to choose addresses (`--ip-range`).
    pub range: Option<IpNet>,
    /// The user's `--ipam-opt` options.
    pub options: BTreeMap<String, String>,
    /// Whether an IPv6 pool is requested.
    pub ipv6: bool,
}

/// The answer to `RequestPool`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedPool {
    /// The driver's id of the pool.
    pub id: PoolId,
    /// Its subnet.
    pub subnet: IpNet,
    /// The gateway's address with the subnet's prefix length. If it is set, Docker does not request
    /// a gateway address, except that of `--gateway`.
    pub gateway: Option<IpNet>,
}

/// What an address is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressPurpose {
    /// The network's gateway.
    Gateway,
    /// An endpoint, or an address that the user reserved (`--aux-address`): Docker does not
    /// distinguish them.
    Endpoint {
        /// The endpoint's MAC address, if the engine chose one.
        mac: Option<MacAddress>,
        /// The container's name (Docker 29 and newer).
        container: Option<String>,
    },
}

/// `RequestAddress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestAddress {
    /// The pool.
    pub pool: PoolId,
    /// The requested address (`--ip`, `--gateway`); `None` lets the driver choose.
    pub address: Option<IpAddr>,
    /// What it is for.
    pub purpose: AddressPurpose,
}

/// `ReleaseAddress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseAddress {
    /// The pool.
    pub pool: PoolId,
    /// The address.
    pub address: IpAddr,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RequestPoolJson {
    #[serde(default, deserialize_with = "or_default")]
    address_space: String,
    #[serde(default, deserialize_with = "or_default")]
    pool: String,
    #[serde(default, deserialize_with = "or_default")]
    sub_pool: String,
    #[serde(default, deserialize_with = "or_default")]
    options: BTreeMap<String, Value>,
    #[serde(default, deserialize_with = "or_default")]
    v6: bool,
}

#[derive(Deserialize)]
struct AddressJson {
    #[serde(rename = "PoolID", default, deserialize_with = "or_default")]
    pool: String,
    #[serde(rename = "Address", default, deserialize_with = "or_default")]
    address: String,
    #[serde(rename = "Options", default, deserialize_with = "or_default")]
    options: BTreeMap<String, Value>,
}

impl FromBody for RequestPool {
    fn from_body(body: &[u8]) -> Result<Self, InvalidRequest> {
        let request: RequestPoolJson = wire::json(body)?;
        Ok(Self {
            subnet: subnet("Pool", &request.pool, request.v6)?,
            range: subnet("SubPool", &request.sub_pool, request.v6)?,
            address_space: request.address_space,
            options: wire::texts(request.options),
            ipv6: request.v6,
        })
    }
}

impl FromBody for PoolId {
    fn from_body(body: &[u8]) -> Result<Self, InvalidRequest> {
        wire::required("PoolID", &wire::json::<AddressJson>(body)?.pool)
    }
}

impl FromBody for RequestAddress {
    fn from_body(body: &[u8]) -> Result<Self, InvalidRequest> {
        let request: AddressJson = wire::json(body)?;
        let [kind, mac, container] = [REQUEST_TYPE, ENDPOINT_MAC, ENDPOINT_NAME].map(|name| {
            request.options.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
        });
        let purpose = if kind == Some(GATEWAY) {
            AddressPurpose::Gateway
        } else {
            AddressPurpose::Endpoint {
                mac: mac.map(|text| wire::required(ENDPOINT_MAC, text)).transpose()?,
                container: container.map(str::to_owned),
            }
        };
        let address = match request.address.as_str() {
            "" => None,
            text => Some(wire::address("Address", text)?),
        };
        Ok(Self { pool: wire::required("PoolID", &request.pool)?, address, purpose })
    }
}

impl FromBody for ReleaseAddress {
    fn from_body(body: &[u8]) -> Result<Self, InvalidRequest> {
        let request: AddressJson = wire::json(body)?;
        Ok(Self {
            pool: wire::required("PoolID", &request.pool)?,
            address: wire::address("Address", &request.address)?,
        })
    }
}

impl GrantedPool {
    pub(super) fn to_wire(&self) -> Value {
        let data = self.gateway.map(|gateway| (GATEWAY.to_owned(), gateway.to_string()));
        json!({
            "PoolID": self.id.as_str(),
            "Pool": self.subnet.to_string(),
            "Data": data.into_iter().collect::<BTreeMap<_, _>>(),
        })
    }
}

/// Parses a subnet, which must be of the request's address family. An empty text is `None`.
fn subnet(
    member: &'static str,
    text: &str,
    is_ipv6: bool,
) -> Result<Option<IpNet>, InvalidRequest> {
    let subnet: Option<IpNet> = wire::optional(member, text)?;
    if subnet.is_some_and(|subnet| subnet.addr().is_ipv6() != is_ipv6) {
        return Err(InvalidRequest::member(member, text, "a subnet of the wrong address family"));
    }
    Ok(subnet.map(|subnet| subnet.trunc()))
}

/// The answer to `RequestAddress`.
pub(super) fn address_to_wire(address: IpNet) -> Value {
    json!({ "Address": address.to_string(), "Data": {} })
}

/// The answer to `GetCapabilities`.
pub(super) fn capabilities() -> Value {
    // Without replay: leases are in agreed state, which survives a restart of the engine.
    json!({ "RequiresMACAddress": REQUIRES_MAC_ADDRESS, "RequiresRequestReplay": false })
}

/// The answer to `GetDefaultAddressSpaces`.
pub(super) fn address_spaces() -> Value {
    json!({
        "LocalDefaultAddressSpace": LOCAL_ADDRESS_SPACE,
        "GlobalDefaultAddressSpace": GLOBAL_ADDRESS_SPACE,
    })
}
