//! `shoutdctl network inspect`.

use anyhow::Result;
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use shoutd_cli::Directories;
use shoutd_core::view::{EndpointRow, Endpoints, GroupRow, NetworkRow};

use super::lists::network;
use crate::control;

/// Show networks with their endpoints and groups.
#[derive(Debug, Clone, Args)]
pub struct Inspect {
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// A network with its endpoints and groups, as JSON.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Inspected {
    #[serde(flatten)]
    network: NetworkRow,
    /// Endpoints on all hosts that answered.
    endpoints: Vec<EndpointRow>,
    /// Hosts that did not answer.
    unanswered: Vec<String>,
    /// Groups and their members, if this host has the network.
    groups: Vec<GroupRow>,
}

impl Inspect {
    /// Prints the networks as JSON, like `docker network inspect`.
    ///
    /// # Errors
    /// A network does not exist, or the daemon does not answer.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let endpoints: Endpoints = control::get(directories, "/v1/endpoints").await?;
        let groups: Vec<GroupRow> = control::get(directories, "/v1/groups").await?;
        let mut inspected = Vec::new();
        for wanted in &self.networks {
            let network = network(directories, wanted).await?;
            let title = network.name.clone().unwrap_or_else(|| network.id.short().to_owned());
            inspected.push(Inspected {
                endpoints: endpoints
                    .endpoints
                    .iter()
                    .filter(|row| row.network == title)
                    .cloned()
                    .collect(),
                unanswered: endpoints.unanswered.clone(),
                groups: groups.iter().filter(|row| row.network == title).cloned().collect(),
                network,
            });
        }
        println!("{}", serde_json::to_string_pretty(&inspected)?);
        Ok(())
    }
}
