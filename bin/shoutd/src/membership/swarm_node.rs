//! This host's node in a Docker Swarm, by which hosts join without a token.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use shoutd_core::limits::PORT;
use shoutd_docker::engine::{EngineClient, EngineInfo};
use shoutd_peer::SwarmIdentity;

/// How a node of a Swarm starts if it is told nothing else.
#[derive(Debug, Clone)]
pub struct SwarmStart {
    /// The address at which the other nodes reach it.
    pub address: IpAddr,
    /// The other managers. One of them lets this host in.
    pub managers: Vec<SocketAddr>,
    /// Whether this node is a manager. A cluster is founded by one.
    pub is_manager: bool,
    /// The identity of this node.
    pub identity: Arc<SwarmIdentity>,
}

impl SwarmStart {
    /// Asks the engine; `None` if this host is not in a Swarm.
    ///
    /// # Errors
    /// The engine does not answer, or the node's files cannot be used.
    pub async fn read(engine: &EngineClient) -> Result<Option<Self>> {
        let info = engine.engine_info().await.context(
            "this host was not started before, so its address must be given, or be that of a node \
             of a Docker Swarm",
        )?;
        let (true, Some(address)) = (info.swarm_active, info.swarm_address) else {
            return Ok(None);
        };
        let Some(identity) = identity(&info)? else { return Ok(None) };
        let managers = info.swarm_managers.iter().filter(|manager| **manager != address);
        let managers: Vec<_> = managers.map(|manager| SocketAddr::new(*manager, PORT)).collect();
        let is_manager = info.swarm_managers.contains(&address);
        if managers.is_empty() && !is_manager {
            bail!(
                "this host is a worker of a Docker Swarm, but the engine knows no manager: give \
                 this host's address and --peer-addresses"
            );
        }
        Ok(Some(Self { address, managers, is_manager, identity: Arc::new(identity) }))
    }
}

/// The identity of this host's node; `None` if it is not in a Swarm.
///
/// # Errors
/// The node's files cannot be used.
pub fn identity(info: &EngineInfo) -> Result<Option<SwarmIdentity>> {
    let (Some(node), Some(root)) = (&info.swarm_node, &info.root) else { return Ok(None) };
    Ok(Some(SwarmIdentity::read(root, &node.id)?))
}
