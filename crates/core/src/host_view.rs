//! What a host shows of itself, also to the other hosts of the cluster.

use serde::{Deserialize, Serialize};

/// Asks for what another host of the cluster shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskHost {
    /// The host's name or id.
    pub host: String,
    /// What it is to show.
    pub view: HostView,
}

/// What a host shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostView {
    /// Its state and problems: [`Status`](crate::view::Status).
    Status,
    /// The hosts, as it sees them: a list of [`HostRow`](crate::view::HostRow).
    Hosts,
    /// The groups on its networks: a list of [`GroupRow`](crate::view::GroupRow).
    Groups,
    /// Its events, newest first: a list of [`Event`](crate::events::Event).
    Events,
}
