//! The settings of encryption: the cluster's default for new networks, and a host's WireGuard.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::limits::{ENCRYPTION_PORT, PORT};
use crate::plane::requests_encryption;

/// A text that names no value of the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("give {0}")]
pub struct UnknownValue(&'static str);

/// Which new networks are encrypted. The cluster agrees on it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Encrypt {
    /// Those whose creator asks for it.
    #[default]
    OnRequest,
    /// All.
    Always,
}

impl Encrypt {
    /// What the cluster has agreed on.
    pub fn of(cluster: &Cluster) -> Self {
        if cluster.encryption.always { Self::Always } else { Self::OnRequest }
    }
}

impl fmt::Display for Encrypt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnRequest => "on-request",
            Self::Always => "always",
        })
    }
}

impl FromStr for Encrypt {
    type Err = UnknownValue;

    fn from_str(text: &str) -> Result<Self, UnknownValue> {
        let known = [Self::OnRequest, Self::Always].into_iter();
        let mut found = known.filter(|value| value.to_string() == text);
        found.next().ok_or(UnknownValue("always or on-request"))
    }
}

/// Which WireGuard a host uses.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum WireguardChoice {
    /// The kernel's, if it has one, and a process otherwise.
    #[default]
    Auto,
    /// The kernel's.
    Kernel,
    /// A process of its own.
    Userspace,
}

impl fmt::Display for WireguardChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

impl FromStr for WireguardChoice {
    type Err = UnknownValue;

    fn from_str(text: &str) -> Result<Self, UnknownValue> {
        let known = [Self::Auto, Self::Kernel, Self::Userspace].into_iter();
        let mut found = known.filter(|value| value.to_string() == text);
        found.next().ok_or(UnknownValue("auto, kernel or userspace"))
    }
}

/// The lowest port of WireGuard: its process may not bind lower ones once it serves.
const WIREGUARD_PORT_MIN: u16 = 1024;

/// Text that is not a port for WireGuard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "give a UDP port from {WIREGUARD_PORT_MIN} to {max} other than {PORT}, which VXLAN has",
    max = u16::MAX
)]
pub struct InvalidPort;

/// Parses the UDP port of WireGuard.
///
/// # Errors
/// It is no port, or WireGuard cannot have it.
pub fn parse_wireguard_port(text: &str) -> Result<u16, InvalidPort> {
    let port = text.parse().map_err(|_| InvalidPort)?;
    if port < WIREGUARD_PORT_MIN || port == PORT { Err(InvalidPort) } else { Ok(port) }
}

/// Encryption in `shoutdctl status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EncryptionStatus {
    /// Which new networks are encrypted, as the cluster agreed: `always` or `on-request`.
    pub encrypt: Encrypt,
    /// Which WireGuard this host uses: `auto`, `kernel` or `userspace`.
    pub wireguard: WireguardChoice,
    /// The UDP port of this host's WireGuard.
    pub wireguard_port: u16,
}

impl Default for EncryptionStatus {
    fn default() -> Self {
        Self {
            encrypt: Encrypt::default(),
            wireguard: WireguardChoice::default(),
            wireguard_port: ENCRYPTION_PORT,
        }
    }
}

/// The request of `shoutdctl start` to set the cluster's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetEncrypt {
    /// Which new networks are encrypted.
    pub encrypt: Encrypt,
}

/// Whether a network with these options would be plain although this host was started to have all
/// new networks encrypted. The cluster then has not agreed on that yet.
pub fn would_be_plain(
    cluster: &Cluster,
    wish: Option<Encrypt>,
    options: &BTreeMap<String, String>,
) -> bool {
    wish == Some(Encrypt::Always) && !cluster.encryption.always && !requests_encryption(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_parsed_by_the_names_that_are_shown() {
        for value in [Encrypt::OnRequest, Encrypt::Always] {
            assert_eq!(value.to_string().parse(), Ok(value));
            assert_eq!(serde_json::to_value(value).unwrap(), value.to_string());
        }
        for value in [WireguardChoice::Auto, WireguardChoice::Kernel, WireguardChoice::Userspace] {
            assert_eq!(value.to_string().parse(), Ok(value));
            assert_eq!(serde_json::to_value(value).unwrap(), value.to_string());
        }
        let error = "never".parse::<Encrypt>().unwrap_err().to_string();
        assert_eq!(error, "give always or on-request");
        let error = "".parse::<WireguardChoice>().unwrap_err().to_string();
        assert_eq!(error, "give auto, kernel or userspace");
    }

    #[test]
    fn wireguard_has_a_port_that_nothing_else_needs() {
        assert_eq!(parse_wireguard_port("1024"), Ok(1024));
        assert_eq!(parse_wireguard_port("65535"), Ok(65535));
        for text in ["", "0", "1023", "7789", "65536", "-1", "udp"] {
            assert_eq!(parse_wireguard_port(text), Err(InvalidPort), "{text}");
        }
        let told = "give a UDP port from 1024 to 65535 other than 7789, which VXLAN has";
        assert_eq!(InvalidPort.to_string(), told);
    }

    #[test]
    fn a_network_is_held_back_while_the_cluster_has_not_agreed_to_encrypt_it() {
        let mut cluster = Cluster::default();
        let none = BTreeMap::new();
        let asks = BTreeMap::from([("encrypted".to_owned(), String::new())]);
        assert!(would_be_plain(&cluster, Some(Encrypt::Always), &none));
        assert!(!would_be_plain(&cluster, Some(Encrypt::Always), &asks));
        assert!(!would_be_plain(&cluster, Some(Encrypt::OnRequest), &none));
        assert!(!would_be_plain(&cluster, None, &none));
        cluster.encryption.always = true;
        assert!(!would_be_plain(&cluster, Some(Encrypt::Always), &none));
    }
}
