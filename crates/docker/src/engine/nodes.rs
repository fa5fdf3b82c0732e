//! Nodes of the Swarm.

use hyper::{Method, StatusCode};

use super::{EngineClient, EngineError, QUERY_DEADLINE};

impl EngineClient {
    /// Whether the Swarm of this host, which must be a manager, has a node with this id.
    ///
    /// # Errors
    /// The engine cannot be reached, does not answer in time, is no manager, or the Swarm has no
    /// leader.
    pub async fn has_swarm_node(&self, id: &str) -> Result<bool, EngineError> {
        // It comes from a peer, and becomes a part of a path.
        if id.is_empty() || !id.chars().all(|character| character.is_ascii_alphanumeric()) {
            return Ok(false);
        }
        let operation = format!("inspecting Swarm node {id}");
        let reply = self
            .call(&operation, Method::GET, &format!("/nodes/{id}"), None, QUERY_DEADLINE)
            .await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        reply.expect_success(&operation).map(|_| true)
    }
}
