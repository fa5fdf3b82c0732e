//! Calls for networks: list, inspect, create, remove, and bridges that lead out.

use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use ipnet::IpNet;
use serde::Deserialize;
use shoutd_core::id::DockerNetworkId;
use shoutd_core::plane::WAY_OUT_BRIDGE;

use super::connection::{Content, Reply};
use super::error::{CreateNetworkError, EngineError, RemoveNetworkError};
use super::model::{self, DockerNetwork, Ipam, IpamConfig, NetworkDetail, NetworkSpec};
use super::{CHANGE_DEADLINE, EngineClient, QUERY_DEADLINE};

/// The bridge network to which Docker attaches a container if no network of it has a gateway. The
/// name is fixed in libnetwork (`default_gateway_linux.go`, `libnGWNetwork`).
pub const GATEWAY_BRIDGE: &str = "docker_gwbridge";

/// The label of a network that shoutd has the engine make for itself, and its value.
const OWN_LABEL: (&str, &str) = ("shoutd.purpose", "way out of shoutd's networks");

/// The prefix length of the range from which Docker's IPAM gives out addresses of
/// [`WAY_OUT_BRIDGE`].
const RANGE_PREFIX: u8 = 29;
/// The longest prefix of a subnet that gets such a range. In a smaller subnet Docker's IPAM gives
/// out all addresses.
const SHARED_PREFIX_MAX: u8 = 28;

/// A bridge network that leads out, to be made by [`EngineClient::ensure_gateway_bridge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeadingOut {
    /// Docker's own: [`GATEWAY_BRIDGE`].
    Docker,
    /// That of shoutd's networks: [`WAY_OUT_BRIDGE`]. Docker's IPAM gives out only the lowest
    /// addresses of its subnet, so that shoutd can use the others.
    Shoutd,
}

impl LeadingOut {
    /// The name of the network and of its bridge.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => GATEWAY_BRIDGE,
            Self::Shoutd => WAY_OUT_BRIDGE,
        }
    }
}

/// Result of [`EngineClient::ensure_gateway_bridge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayBridge {
    /// The network, with its subnets.
    pub network: DockerNetwork,
    /// Whether we created it.
    pub created: bool,
}

impl EngineClient {
    /// All networks of the engine, of every driver and scope, without their endpoints.
    ///
    /// # Errors
    /// The engine cannot be reached, does not answer in time, or sends an invalid answer.
    pub async fn networks(&self) -> Result<Vec<DockerNetwork>, EngineError> {
        let operation = "listing Docker's networks";
        let reply = self.call(operation, Method::GET, "/networks", None, QUERY_DEADLINE).await?;
        model::parse_networks(&reply.expect_success(operation)?)
            .map_err(|source| EngineError::malformed(operation, source))
    }

    /// A network and its endpoints on this host; `None` if there is no such network.
    ///
    /// An endpoint appears here only some time after the driver has answered `Join`, so a missing
    /// endpoint is no proof that it was deleted.
    ///
    /// # Errors
    /// As [`networks`](Self::networks).
    pub async fn network(
        &self,
        id: &DockerNetworkId,
    ) -> Result<Option<NetworkDetail>, EngineError> {
        let operation = format!("inspecting Docker network {}", id.short());
        let reply = self
            .call(&operation, Method::GET, &format!("/networks/{id}"), None, QUERY_DEADLINE)
            .await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        model::parse_network(&reply.expect_success(&operation)?)
            .map(Some)
            .map_err(|source| EngineError::malformed(&operation, source))
    }

    /// Creates a network and returns its id. The engine calls the network's drivers, including
    /// shoutd, before this returns.
    ///
    /// The engine refuses a name that exists. But before 25.0 it checks and creates in two steps,
    /// so two simultaneous creates of one name may both succeed.
    ///
    /// # Errors
    /// [`CreateNetworkError::NameTaken`] and [`CreateNetworkError::SubnetOverlap`] if the engine
    /// reports that; else as [`networks`](Self::networks). After [`EngineError::Deadline`] and
    /// [`EngineError::Transport`] the network may exist.
    pub async fn create_network(
        &self,
        spec: &NetworkSpec,
    ) -> Result<DockerNetworkId, CreateNetworkError> {
        #[derive(Deserialize)]
        struct Created {
            #[serde(rename = "Id")]
            id: DockerNetworkId,
        }
        let operation = format!("creating Docker network {:?}", spec.name);
        let body = model::create_body(spec)
            .map_err(|source| EngineError::malformed(&operation, source))?;
        let reply = self
            .call(
                &operation,
                Method::POST,
                "/networks/create",
                Some(Content::json(body)),
                CHANGE_DEADLINE,
            )
            .await?;
        if !reply.status.is_success() {
            return Err(create_error(spec, &operation, &reply));
        }
        let created: Created = serde_json::from_slice(&reply.body)
            .map_err(|source| EngineError::malformed(&operation, source))?;
        Ok(created.id)
    }

    /// Removes a network. The engine calls its driver before this returns.
    ///
    /// # Errors
    /// [`RemoveNetworkError::NotFound`] and [`RemoveNetworkError::InUse`] if the engine reports
    /// that; else as [`networks`](Self::networks).
    pub async fn remove_network(&self, id: &DockerNetworkId) -> Result<(), RemoveNetworkError> {
        let operation = format!("removing Docker network {}", id.short());
        let reply = self
            .call(&operation, Method::DELETE, &format!("/networks/{id}"), None, CHANGE_DEADLINE)
            .await?;
        if reply.status.is_success() {
            return Ok(());
        }
        let message = reply.message();
        Err(match reply.status {
            // A missing plugin has the same status, and then the network still exists.
            StatusCode::NOT_FOUND if !message.contains("plugin") => {
                RemoveNetworkError::NotFound { id: id.clone() }
            }
            // Other 403s are for predefined networks. A future engine may correct the status to
            // 409.
            StatusCode::FORBIDDEN | StatusCode::CONFLICT
                if message.contains("active endpoints") =>
            {
                RemoveNetworkError::InUse {
                    id: id.clone(),
                    message: crate::one_line(&message, 1024),
                }
            }
            _ => reply.into_error(&operation).into(),
        })
    }

    /// Creates a bridge network that leads out if it does not exist, in the same way as the engine
    /// creates `docker_gwbridge` when the first container needs it (libnetwork `createGWNetwork`,
    /// the same from 20.10 to 29). So its subnet is known before we claim subnets for networks. It
    /// gets `subnet` if that is free; otherwise the engine chooses. An existing network of a user
    /// stays as it is.
    ///
    /// # Errors
    /// As [`create_network`](Self::create_network). It is not an error if another process creates
    /// it at the same time.
    pub async fn ensure_gateway_bridge(
        &self,
        which: LeadingOut,
        subnet: Option<IpNet>,
    ) -> Result<GatewayBridge, EngineError> {
        if let Some(network) = self.named(which).await? {
            if !lacks_range(&network) {
                return Ok(GatewayBridge { network, created: false });
            }
            // shoutd was interrupted between the two steps below.
            return self.with_range(which, network).await;
        }
        let created = match self.create_network(&spec(which, subnet)).await {
            // Another network of this engine has taken the subnet.
            Err(CreateNetworkError::SubnetOverlap { .. }) if subnet.is_some() => {
                self.create_network(&spec(which, None)).await
            }
            result => result,
        };
        let created = self.was_created(which, created)?;
        let network = self.existing(which).await?;
        if lacks_range(&network) {
            return self.with_range(which, network).await;
        }
        Ok(GatewayBridge { network, created })
    }

    /// Creates a network again, with the subnet that the engine chose and with an `--ip-range`. The
    /// engine accepts a range only together with a subnet.
    async fn with_range(
        &self,
        which: LeadingOut,
        network: DockerNetwork,
    ) -> Result<GatewayBridge, EngineError> {
        let subnet = network.ipam.configs.first().and_then(|config| config.subnet);
        self.replace_gateway_bridge(which, network, subnet).await
    }

    /// Replaces a network that leads out by one with this subnet, unless a container is attached to
    /// it. Call it only for a network of ours ([`DockerNetwork::leads_out_for_shoutd`]).
    ///
    /// # Errors
    /// As [`create_network`](Self::create_network).
    pub async fn replace_gateway_bridge(
        &self,
        which: LeadingOut,
        network: DockerNetwork,
        subnet: Option<IpNet>,
    ) -> Result<GatewayBridge, EngineError> {
        match self.remove_network(&network.id).await {
            Ok(()) | Err(RemoveNetworkError::NotFound { .. }) => {}
            // A user has attached a container. The network can be used as it is.
            Err(RemoveNetworkError::InUse { .. }) => {
                return Ok(GatewayBridge { network, created: false });
            }
            Err(RemoveNetworkError::Engine(error)) => return Err(error),
        }
        let created = self.create_network(&spec(which, subnet)).await;
        let created = self.was_created(which, created)?;
        Ok(GatewayBridge { network: self.existing(which).await?, created })
    }

    /// Removes the way out of shoutd's networks, unless it is a user's own network of that name or
    /// a container is attached to it.
    ///
    /// # Errors
    /// As [`networks`](Self::networks).
    pub async fn remove_way_out(&self) -> Result<(), EngineError> {
        let network = self.named(LeadingOut::Shoutd).await?;
        let Some(network) = network.filter(DockerNetwork::leads_out_for_shoutd) else {
            return Ok(());
        };
        match self.remove_network(&network.id).await {
            Ok(())
            | Err(RemoveNetworkError::NotFound { .. } | RemoveNetworkError::InUse { .. }) => Ok(()),
            Err(RemoveNetworkError::Engine(error)) => Err(error),
        }
    }

    /// Whether we created the network, and not another process at the same time.
    fn was_created(
        &self,
        which: LeadingOut,
        created: Result<DockerNetworkId, CreateNetworkError>,
    ) -> Result<bool, EngineError> {
        match created {
            Ok(_) => Ok(true),
            Err(CreateNetworkError::NameTaken { .. }) => Ok(false),
            Err(CreateNetworkError::Engine(error)) => Err(error),
            Err(error @ CreateNetworkError::SubnetOverlap { .. }) => Err(EngineError::refused(
                &format!("creating {}", which.name()),
                StatusCode::FORBIDDEN,
                &error.to_string(),
            )),
        }
    }

    async fn existing(&self, which: LeadingOut) -> Result<DockerNetwork, EngineError> {
        self.named(which).await?.ok_or_else(|| {
            EngineError::malformed(
                &format!("creating {}", which.name()),
                "it was created, but is missing in the list of networks",
            )
        })
    }

    async fn named(&self, which: LeadingOut) -> Result<Option<DockerNetwork>, EngineError> {
        Ok(self.networks().await?.into_iter().find(|network| network.name == which.name()))
    }
}

impl DockerNetwork {
    /// Whether shoutd had the engine make this network as its way out; not a user's of that name.
    pub fn leads_out_for_shoutd(&self) -> bool {
        let (label, value) = OWN_LABEL;
        self.labels.get(label).is_some_and(|text| text == value)
    }
}

/// Whether this is a network of ours whose `--ip-range` is missing.
fn lacks_range(network: &DockerNetwork) -> bool {
    let config = network.ipam.configs.first();
    let needs_one = config.is_some_and(|config| {
        config.ip_range.is_none()
            && config.subnet.is_some_and(|subnet| subnet.prefix_len() <= SHARED_PREFIX_MAX)
    });
    network.leads_out_for_shoutd() && needs_one
}

/// The IPAM configuration of [`WAY_OUT_BRIDGE`]: the first address is the gateway, and the range
/// has the lowest addresses.
fn shared(subnet: IpNet) -> IpamConfig {
    let range = IpNet::new(subnet.network(), RANGE_PREFIX).ok();
    let range = range.filter(|_| subnet.prefix_len() <= SHARED_PREFIX_MAX);
    let gateway = subnet.hosts().next();
    IpamConfig { subnet: Some(subnet), gateway, ip_range: range, ..IpamConfig::default() }
}

fn spec(which: LeadingOut, subnet: Option<IpNet>) -> NetworkSpec {
    let (label, purpose) = OWN_LABEL;
    let label = (label.to_owned(), purpose.to_owned());
    let (labels, config) = match which {
        LeadingOut::Docker => {
            (BTreeMap::new(), subnet.map(|_| IpamConfig { subnet, ..IpamConfig::default() }))
        }
        LeadingOut::Shoutd => (BTreeMap::from([label]), subnet.map(shared)),
    };
    let option =
        |name: &str, value: &str| (format!("com.docker.network.bridge.{name}"), value.to_owned());
    NetworkSpec {
        name: which.name().to_owned(),
        driver: "bridge".to_owned(),
        internal: false,
        attachable: false,
        enable_ipv4: true,
        enable_ipv6: false,
        labels,
        options: BTreeMap::from([
            option("name", which.name()),
            option("enable_icc", "false"),
            option("enable_ip_masquerade", "true"),
        ]),
        ipam: Ipam {
            driver: "default".to_owned(),
            options: BTreeMap::new(),
            configs: config.into_iter().collect(),
        },
    }
}

fn create_error(spec: &NetworkSpec, operation: &str, reply: &Reply) -> CreateNetworkError {
    let message = reply.message();
    // The status of "Pool overlaps with other one on this address space" differs between versions.
    if reply.status == StatusCode::CONFLICT && message.contains("already exists") {
        CreateNetworkError::NameTaken { name: spec.name.clone() }
    } else if reply.status.is_client_error() && message.contains("Pool overlaps") {
        CreateNetworkError::SubnetOverlap {
            name: spec.name.clone(),
            message: crate::one_line(&message, 1024),
        }
    } else {
        EngineError::refused(operation, reply.status, &message).into()
    }
}
