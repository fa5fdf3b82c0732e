//! Calls for networks: list, inspect, create, remove, and `docker_gwbridge`.

use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use ipnet::IpNet;
use serde::Deserialize;
use shoutd_core::id::DockerNetworkId;

use super::connection::{Content, Reply};
use super::error::{CreateNetworkError, EngineError, RemoveNetworkError};
use super::model::{self, DockerNetwork, Ipam, IpamConfig, NetworkDetail, NetworkSpec};
use super::{CHANGE_DEADLINE, EngineClient, QUERY_DEADLINE};

/// The bridge network to which Docker attaches a container if no network of it has a gateway. The
/// name is fixed in libnetwork (`default_gateway_linux.go`, `libnGWNetwork`).
pub const GATEWAY_BRIDGE: &str = "docker_gwbridge";

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

    /// Creates `docker_gwbridge` if it does not exist, in the same way as the engine when the first
    /// container needs it (libnetwork `createGWNetwork`, the same from 20.10 to 29). So its subnet
    /// is known before we claim subnets for networks. It gets `subnet` if that is free; otherwise
    /// the engine chooses.
    ///
    /// # Errors
    /// As [`create_network`](Self::create_network). It is not an error if another process creates
    /// it at the same time.
    pub async fn ensure_gateway_bridge(
        &self,
        subnet: Option<IpNet>,
    ) -> Result<GatewayBridge, EngineError> {
        if let Some(network) = self.gateway_bridge().await? {
            return Ok(GatewayBridge { network, created: false });
        }
        let created = match self.create_network(&gateway_bridge_spec(subnet)).await {
            // Another network of this engine has taken the subnet.
            Err(CreateNetworkError::SubnetOverlap { .. }) if subnet.is_some() => {
                self.create_network(&gateway_bridge_spec(None)).await
            }
            result => result,
        };
        let created = match created {
            Ok(_) => true,
            Err(CreateNetworkError::NameTaken { .. }) => false,
            Err(CreateNetworkError::Engine(error)) => return Err(error),
            Err(error @ CreateNetworkError::SubnetOverlap { .. }) => {
                return Err(EngineError::refused(
                    "creating docker_gwbridge",
                    StatusCode::FORBIDDEN,
                    &error.to_string(),
                ));
            }
        };
        let network = self.gateway_bridge().await?;
        let network = network.ok_or_else(|| {
            EngineError::malformed(
                "creating docker_gwbridge",
                "it was created, but is missing in the list of networks",
            )
        })?;
        Ok(GatewayBridge { network, created })
    }

    async fn gateway_bridge(&self) -> Result<Option<DockerNetwork>, EngineError> {
        Ok(self.networks().await?.into_iter().find(|network| network.name == GATEWAY_BRIDGE))
    }
}

fn gateway_bridge_spec(subnet: Option<IpNet>) -> NetworkSpec {
    let option =
        |name: &str, value: &str| (format!("com.docker.network.bridge.{name}"), value.to_owned());
    NetworkSpec {
        name: GATEWAY_BRIDGE.to_owned(),
        driver: "bridge".to_owned(),
        internal: false,
        attachable: false,
        enable_ipv4: true,
        enable_ipv6: false,
        labels: BTreeMap::new(),
        options: BTreeMap::from([
            option("name", GATEWAY_BRIDGE),
            option("enable_icc", "false"),
            option("enable_ip_masquerade", "true"),
        ]),
        ipam: Ipam {
            driver: "default".to_owned(),
            options: BTreeMap::new(),
            configs: subnet
                .map(|_| IpamConfig { subnet, ..IpamConfig::default() })
                .into_iter()
                .collect(),
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
