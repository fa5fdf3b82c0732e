//! The agreed part of encryption: which networks are encrypted, and each host's end of the
//! encrypted underlay.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::{Cluster, Command, Outcome, Refusal};
use crate::plane::{refuses_encryption, requests_encryption};
use crate::{HostId, InvalidId};

/// The version of agreed state without encryption and replaced authorities, which every build
/// supports.
pub const STATE_WITHOUT_ENCRYPTION: u32 = 2;

/// The version of agreed state with encryption and replaced authorities.
pub const STATE_WITH_ENCRYPTION: u32 = 3;

/// What the hosts agree on about encryption.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Encryption {
    /// Whether a network was ever encrypted. From then on, every host publishes its end.
    pub wanted: bool,
    /// Whether new networks are encrypted even if their creator does not ask for it.
    pub always: bool,
    /// The hosts' ends. A host without one cannot have encrypted networks.
    pub ends: BTreeMap<HostId, TunnelEnd>,
    /// How often users asked for other preshared keys. The keys themselves are not agreed: each
    /// pair of hosts has its own ([`crate::tunnel_keys`]).
    pub rotation: u64,
}

impl Encryption {
    /// Whether nobody has asked for encryption.
    pub fn is_unused(&self) -> bool {
        *self == Self::default()
    }
}

/// A host's end of the encrypted underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelEnd {
    /// Its WireGuard public key.
    pub key: TunnelKey,
    /// The UDP port at its advertise address.
    pub port: u16,
}

/// A WireGuard public key: a point of Curve25519 (RFC 7748), as text in base64, as `wg` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelKey([u8; 32]);

impl TunnelKey {
    /// The key with these octets.
    pub fn new(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    /// Its octets.
    pub fn octets(&self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Display for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for TunnelKey {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let octets = BASE64_STANDARD.decode(text).ok().and_then(|octets| octets.try_into().ok());
        octets.map(Self).ok_or_else(|| InvalidId::new(text, "a WireGuard key (base64)"))
    }
}

impl Serialize for TunnelKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TunnelKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Command {
    /// The lowest version of agreed state whose builds apply this command. Older ones must not
    /// skip it: they would take an encrypted network for a plain one, or trust an authority that
    /// was replaced.
    pub fn state_version(&self) -> u32 {
        let is_new = match self {
            Self::CreateNetwork { settings, .. } => requests_encryption(&settings.options),
            Self::SetEncryption { .. }
            | Self::PublishTunnelEnd { .. }
            | Self::ReplaceAuthority { .. }
            | Self::RotateTunnelKeys { .. } => true,
            _ => false,
        };
        if is_new { STATE_WITH_ENCRYPTION } else { STATE_WITHOUT_ENCRYPTION }
    }
}

impl Cluster {
    /// The lowest version of agreed state whose builds understand this state.
    pub fn state_version(&self) -> u32 {
        let is_old = self.encryption.is_unused() && self.admissions.former_authorities.is_empty();
        if is_old { STATE_WITHOUT_ENCRYPTION } else { STATE_WITH_ENCRYPTION }
    }

    /// Whether a new network with these options is encrypted.
    pub(super) fn encrypts(&self, options: &BTreeMap<String, String>) -> Result<bool, Refusal> {
        let is_requested = requests_encryption(options);
        match refuses_encryption(options) {
            Some(name) if self.encryption.always && !is_requested => {
                Err(Refusal::MustBeEncrypted(name.chars().take(80).collect()))
            }
            _ => Ok(self.encryption.always || is_requested),
        }
    }

    pub(super) fn set_encryption(&mut self, always: bool) -> Outcome {
        self.encryption.always = always;
        self.encryption.wanted |= always;
        Outcome::Done
    }

    pub(super) fn publish_end(&mut self, host: HostId, end: TunnelEnd) -> Result<Outcome, Refusal> {
        if !self.hosts.contains_key(&host) {
            return Err(Refusal::UnknownHost(host));
        }
        let mut others = self.encryption.ends.iter().filter(|(other, _)| **other != host);
        if let Some((other, _)) = others.find(|(_, other)| other.key == end.key) {
            return Err(Refusal::TunnelKeyTaken { name: self.host_name(*other) });
        }
        self.encryption.ends.insert(host, end);
        Ok(Outcome::Done)
    }

    /// One step at a time: a larger one could use up the numbers.
    pub(super) fn rotate_tunnel_keys(&mut self, to: u64) -> Result<Outcome, Refusal> {
        let rotation = self.encryption.rotation;
        if !self.encryption.wanted {
            return Err(Refusal::NothingEncrypted);
        }
        if to > rotation.saturating_add(1) {
            return Err(Refusal::RotationAhead { to, rotation });
        }
        self.encryption.rotation = rotation.max(to);
        Ok(Outcome::Done)
    }
}
