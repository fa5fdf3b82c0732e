//! What was found.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is checked.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The kernel's version, and the features that shoutd needs.
    Kernel,
    /// Docker's version and configuration.
    Docker,
    /// Whether port 7789 is free on this host.
    Ports,
    /// Whether this host's firewall accepts port 7789.
    Firewall,
    /// Whether the other hosts answer on TCP.
    Peers,
    /// Whether VXLAN arrives, in both directions and at full size.
    Tunnels,
    /// Whether this host can encrypt networks.
    Wireguard,
    /// The difference between the hosts' clocks.
    Clocks,
    /// Subnets that overlap.
    Subnets,
    /// Free disk space.
    Disk,
    /// Whether shoutd starts before Docker at boot.
    Boot,
    /// What an earlier installation left.
    Leftovers,
    /// The daemon's own problems.
    Daemon,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Docker => "docker",
            Self::Ports => "ports",
            Self::Firewall => "firewall",
            Self::Peers => "peers",
            Self::Tunnels => "tunnels",
            Self::Wireguard => "wireguard",
            Self::Clocks => "clocks",
            Self::Subnets => "subnets",
            Self::Disk => "disk",
            Self::Boot => "boot",
            Self::Leftovers => "leftovers",
            Self::Daemon => "daemon",
        })
    }
}

/// How bad it is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// It is as it should be.
    Ok,
    /// It was not checked, for lack of something.
    NotChecked,
    /// shoutd works, but not in every respect.
    Warning,
    /// shoutd does not work, or soon will not.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::NotChecked => "not checked",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        })
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// What was checked.
    pub check: Check,
    /// How bad it is.
    pub level: Level,
    /// What was found, in one line.
    pub text: String,
    /// What to do; for [`Level::NotChecked`], how to have it checked.
    pub remedy: Option<String>,
}

impl Finding {
    /// It is as it should be.
    pub(super) fn ok(check: Check, text: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, text: text.into(), remedy: None }
    }

    /// Something with a remedy.
    pub(super) fn new(
        check: Check,
        level: Level,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, level, text: text.into(), remedy: Some(remedy.into()) }
    }
}

/// The worst level of the findings, on which the exit code depends. What was not checked does not
/// count.
pub fn worst(findings: &[Finding]) -> Level {
    let levels = findings.iter().map(|finding| finding.level);
    levels.filter(|level| *level != Level::NotChecked).max().unwrap_or(Level::Ok)
}
