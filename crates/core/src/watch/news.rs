//! One line of `shoutdctl watch`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scene::{SeenContainer, SeenMember};
use crate::events::Event;

/// Something that has changed, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// When the daemon saw it, in milliseconds since 1970.
    pub at: u64,
    /// What has changed.
    #[serde(flatten)]
    pub news: News,
}

/// Something that has changed. `Display` writes it as one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum News {
    /// A watcher begins, or begins again after an interruption, with what there is.
    Watching {
        /// The host's name.
        host: String,
        /// The daemon's version.
        version: String,
        /// Number of hosts of the cluster.
        hosts: usize,
        /// Number of networks of the cluster.
        networks: usize,
        /// Number of containers on the networks of this host, on all hosts.
        containers: usize,
        /// Number of problems of this host. A line for each follows.
        problems: usize,
    },
    /// An event was recorded.
    Event {
        /// The event.
        event: Event,
    },
    /// A problem began.
    Problem {
        /// The problem, in one line.
        problem: String,
    },
    /// A problem is over.
    ProblemEnded {
        /// Its last text.
        problem: String,
    },
    /// A host joined the cluster.
    HostJoined {
        /// Its name.
        host: String,
    },
    /// A host is no longer in the cluster.
    HostLeft {
        /// Its name.
        host: String,
    },
    /// A host answers again.
    HostReachable {
        /// Its name.
        host: String,
    },
    /// A host does not answer.
    HostUnreachable {
        /// Its name.
        host: String,
    },
    /// A network was created.
    NetworkCreated {
        /// Its name.
        network: String,
    },
    /// A network was removed.
    NetworkRemoved {
        /// Its name.
        network: String,
    },
    /// A container was connected to a network of this host.
    ContainerConnected {
        /// The container.
        #[serde(flatten)]
        container: SeenContainer,
    },
    /// The names of a container were learned, or changed.
    ContainerNamed {
        /// The container.
        #[serde(flatten)]
        container: SeenContainer,
    },
    /// A container is no longer on a network of this host.
    ContainerDisconnected {
        /// The container.
        #[serde(flatten)]
        container: SeenContainer,
    },
    /// A host has members of a group.
    GroupJoined {
        /// The host and the group.
        #[serde(flatten)]
        member: SeenMember,
    },
    /// A host has no more members of a group.
    GroupLeft {
        /// The host and the group.
        #[serde(flatten)]
        member: SeenMember,
    },
    /// The watcher was too slow: what began and ended in between is missing.
    Skipped {
        /// How many states were not seen.
        scenes: u64,
    },
    /// There were too many changes at once.
    LeftOut {
        /// How many lines are missing.
        lines: usize,
    },
    /// Nothing has changed, and the daemon is alive.
    Alive,
    /// The daemon does not answer; `shoutdctl` itself says so.
    Silent {
        /// Why, and what to do.
        reason: String,
    },
    /// The daemon answers again.
    Answers,
}

impl News {
    /// Whether something is wrong from now on.
    pub fn is_bad(&self) -> bool {
        matches!(self, Self::Problem { .. } | Self::HostUnreachable { .. } | Self::Silent { .. })
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Watching { host, version, hosts, networks, containers, problems } => write!(
                f,
                "watching {host} (shoutd {version}): hosts {hosts}, networks {networks}, \
                 containers on its networks {containers}, problems {problems}"
            ),
            Self::Event { event: Event { kind, subject, text, count, .. } } => {
                write!(f, "event {kind} {subject}: {text}")?;
                if *count > 1 { write!(f, " ({count} times)") } else { Ok(()) }
            }
            Self::Problem { problem } => write!(f, "PROBLEM {problem}"),
            Self::ProblemEnded { problem } => write!(f, "problem over: {problem}"),
            Self::HostJoined { host } => write!(f, "host {host} joined the cluster"),
            Self::HostLeft { host } => write!(f, "host {host} is no longer in the cluster"),
            Self::HostReachable { host } => write!(f, "host {host} answers again"),
            Self::HostUnreachable { host } => write!(f, "host {host} DOES NOT ANSWER"),
            Self::NetworkCreated { network } => write!(f, "network {network} created"),
            Self::NetworkRemoved { network } => write!(f, "network {network} removed"),
            Self::ContainerConnected { container } => write!(f, "{container} connected"),
            Self::ContainerNamed { container } => {
                write!(f, "{container} is endpoint {}", container.endpoint.short())
            }
            Self::ContainerDisconnected { container } => write!(f, "{container} disconnected"),
            Self::GroupJoined { member } => write!(f, "{member} joined"),
            Self::GroupLeft { member } => write!(f, "{member} left"),
            Self::Skipped { scenes } => write!(
                f,
                "this output was read too slowly: what began and ended in {scenes} steps is \
                 missing"
            ),
            Self::LeftOut { lines } => write!(f, "and {lines} more changes at once"),
            Self::Alive => f.write_str("no change"),
            Self::Silent { reason } => f.write_str(reason),
            Self::Answers => f.write_str("shoutd answers again"),
        }
    }
}

impl fmt::Display for SeenContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, host, names, endpoint, addresses } = self;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let name = if names.is_empty() { endpoint.short().to_owned() } else { names.join(", ") };
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        write!(f, "network {network}: container {name} ({}) on {host}", addresses.join(", "))
    }
}

impl fmt::Display for SeenMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, group, host } = self;
        match group {
            Some(group) => write!(f, "network {network}: group {group} on {host}"),
            None => write!(f, "network {network}: every group (multicast router) on {host}"),
        }
    }
}
