//! Calls for managed plugins, which the engine runs in containers.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::connection::Content;
use super::error::EngineError;
use super::{CHANGE_DEADLINE, EngineClient, QUERY_DEADLINE};
use crate::one_line;

/// Deadline of creating a plugin: the engine unpacks and stores some tens of MiB.
const CREATE_DEADLINE: Duration = Duration::from_secs(180);

/// How long the engine waits for each call of a plugin, in seconds. Docker's default.
const CALL_TIMEOUT: u8 = 30;

/// A managed plugin of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedPlugin {
    /// The description in its `config.json`.
    pub description: String,
    /// Whether it runs, as far as the engine knows.
    pub enabled: bool,
}

#[derive(Deserialize)]
struct PluginJson {
    #[serde(rename = "Enabled", default)]
    enabled: bool,
    #[serde(rename = "Config", default)]
    config: ConfigJson,
}

#[derive(Deserialize, Default)]
struct ConfigJson {
    #[serde(rename = "Description", default)]
    description: String,
}

impl EngineClient {
    /// The managed plugin of this name; `None` if there is none.
    ///
    /// # Errors
    /// The engine cannot be reached, does not answer in time, or sends an invalid answer.
    pub async fn plugin(&self, name: &str) -> Result<Option<ManagedPlugin>, EngineError> {
        let operation = format!("inspecting Docker plugin {name}");
        let reply = self
            .call(&operation, Method::GET, &format!("/plugins/{name}/json"), None, QUERY_DEADLINE)
            .await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        parse_plugin(&reply.expect_success(&operation)?)
            .map(Some)
            .map_err(|source| EngineError::malformed(&operation, source))
    }

    /// Creates a managed plugin from a tar archive with `config.json` and `rootfs/`. Does not
    /// start it.
    ///
    /// # Errors
    /// As [`plugin`](Self::plugin), or the engine refuses it.
    pub async fn create_plugin(&self, name: &str, archive: Vec<u8>) -> Result<(), EngineError> {
        let operation = format!("creating Docker plugin {name}");
        let path = format!("/plugins/create?name={name}");
        let reply = self
            .call(&operation, Method::POST, &path, Some(Content::tar(archive)), CREATE_DEADLINE)
            .await?;
        reply.expect_success(&operation).map(|_| ())
    }

    /// Starts a managed plugin, now and whenever the engine starts. The engine stops it again if it
    /// does not answer on its socket within about 20 s.
    ///
    /// # Errors
    /// As [`plugin`](Self::plugin), or the plugin does not start.
    pub async fn enable_plugin(&self, name: &str) -> Result<(), EngineError> {
        self.change_plugin(
            "enabling",
            Method::POST,
            name,
            &format!("/enable?timeout={CALL_TIMEOUT}"),
        )
        .await
    }

    /// Stops a managed plugin.
    ///
    /// # Errors
    /// As [`plugin`](Self::plugin); [`EngineError::Refused`] while its networks are in use on this
    /// host.
    pub async fn disable_plugin(&self, name: &str) -> Result<(), EngineError> {
        self.change_plugin("disabling", Method::POST, name, "/disable").await
    }

    /// Removes a managed plugin that is disabled.
    ///
    /// # Errors
    /// As [`plugin`](Self::plugin), or the plugin is enabled.
    pub async fn remove_plugin(&self, name: &str) -> Result<(), EngineError> {
        self.change_plugin("removing", Method::DELETE, name, "").await
    }

    async fn change_plugin(
        &self,
        verb: &str,
        method: Method,
        name: &str,
        rest: &str,
    ) -> Result<(), EngineError> {
        let operation = format!("{verb} Docker plugin {name}");
        let reply = self
            .call(&operation, method, &format!("/plugins/{name}{rest}"), None, CHANGE_DEADLINE)
            .await?;
        reply.expect_success(&operation).map(|_| ())
    }
}

pub(super) fn parse_plugin(body: &[u8]) -> Result<ManagedPlugin, serde_json::Error> {
    let plugin: PluginJson = serde_json::from_slice(body)?;
    Ok(ManagedPlugin {
        description: one_line(&plugin.config.description, 1024),
        enabled: plugin.enabled,
    })
}
