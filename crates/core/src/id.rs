//! Identifiers. Each has its own type and is checked when it is parsed.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// A text that is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct InvalidId {
    /// The text, shortened.
    text: String,
    /// What a valid one looks like.
    expected: &'static str,
}

impl InvalidId {
    pub(crate) fn new(text: &str, expected: &'static str) -> Self {
        Self { text: text.chars().take(80).collect(), expected }
    }
}

/// The text, if it consists of exactly that many hexadecimal digits. `from_str_radix` alone would
/// accept a sign.
fn hexadecimal(text: &str, digits: usize) -> Option<&str> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(text)
}

/// The octets that 64 hexadecimal digits give.
fn octets_of(text: &str) -> Option<[u8; 32]> {
    let digits = hexadecimal(text, 64)?;
    let mut octets = [0; 32];
    for (octet, digits) in octets.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *octet = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(octets)
}

/// Serializes a type by its `Display` and deserializes it by its `FromStr`, which validates it.
macro_rules! serde_as_text {
    ($name:ty) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                String::json_schema(generator)
            }
        }
    };
}

/// A host. The id is random, drawn at the host's first start, and never changes. Zero is not a
/// host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(u64);

impl HostId {
    /// The id with this value; `None` for zero, which means "no host" on the wire.
    pub const fn new(value: u64) -> Option<Self> {
        if value == 0 { None } else { Some(Self(value)) }
    }

    /// The value, as Raft uses it.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for HostId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        hexadecimal(text, 16)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .and_then(Self::new)
            .ok_or_else(|| InvalidId::new(text, "a host id (16 hexadecimal digits)"))
    }
}
serde_as_text!(HostId);

/// A cluster. The id is random, drawn by the founder. It keeps two clusters from being merged by
/// accident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(u128);

impl ClusterId {
    /// The cluster with this value.
    pub fn new(value: u128) -> Self {
        Self(value)
    }

    /// The value.
    pub fn get(self) -> u128 {
        self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        hexadecimal(text, 32)
            .and_then(|digits| u128::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| InvalidId::new(text, "a cluster id (32 hexadecimal digits)"))
    }
}
serde_as_text!(ClusterId);

/// An id made by Docker: 64 hexadecimal digits on every engine since 20.10, about 25 letters and
/// digits in swarmkit.
macro_rules! docker_id {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The id as Docker writes it.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first twelve characters, as Docker shows it.
            pub fn short(&self) -> &str {
                self.0.get(..12).unwrap_or(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let is_valid = (12..=64).contains(&text.len())
                    && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
                if is_valid {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId::new(text, $expected))
                }
            }
        }
        serde_as_text!($name);
    };
}

docker_id!(
    /// A Docker network on one host; the id is given by that host's engine.
    DockerNetworkId,
    "a Docker network id (12 to 64 letters and digits)"
);
docker_id!(
    /// A network of the cluster; the id is that of its first Docker network, on the origin.
    NetworkId,
    "a network id (12 to 64 letters and digits)"
);
docker_id!(
    /// A container's attachment to a network; the id is given by its engine.
    EndpointId,
    "an endpoint id (12 to 64 letters and digits)"
);

impl From<&DockerNetworkId> for NetworkId {
    fn from(id: &DockerNetworkId) -> Self {
        Self(id.0.clone())
    }
}

/// A SHA-256 digest, written as 64 hexadecimal digits.
macro_rules! digest {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                octets_of(text).map(Self).ok_or_else(|| InvalidId::new(text, $expected))
            }
        }
        serde_as_text!($name);
    };
}

digest!(
    /// Identifies a public key or a certificate.
    Fingerprint,
    "a fingerprint (64 hexadecimal digits)"
);
digest!(
    /// Identifies a token without its secret.
    TokenHash,
    "the hash of a token (64 hexadecimal digits)"
);

/// A VXLAN network identifier: 24 bits (RFC 7348, section 5).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "u32", into = "u32")]
#[schemars(with = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The identifier with this value; `None` for zero and for values of more than 24 bits.
    pub fn new(value: u32) -> Option<Self> {
        (1..=0x00ff_ffff).contains(&value).then_some(Self(value))
    }

    /// The value.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = InvalidId;

    fn try_from(value: u32) -> Result<Self, InvalidId> {
        Self::new(value).ok_or_else(|| InvalidId::new(&value.to_string(), "a VNI (1 to 16777215)"))
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The default address of an endpoint: locally administered and derived from the IPv4 address.
    /// So neighbours' ARP entries stay valid when another container gets the same IPv4 address.
    pub fn for_ipv4(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        // 02 is locally administered unicast (IEEE 802). 73 is the "s" of shoutd, and differs from
        // Docker's own prefix 02:42.
        Self([0x02, 0x73, a, b, c, d])
    }

    /// Whether it can be the address of an interface: neither multicast nor all zeros.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddress {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parts =
            text.split([':', '-']).map(|part| u8::from_str_radix(hexadecimal(part, 2)?, 16).ok());
        let octets: Option<Vec<u8>> = parts.take(7).collect();
        octets
            .and_then(|octets| octets.try_into().ok())
            .map(Self)
            .ok_or_else(|| InvalidId::new(text, "a MAC address (such as 02:73:0a:00:00:01)"))
    }
}
serde_as_text!(MacAddress);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invalid_ids_are_refused() {
        assert!("0000000000000000".parse::<HostId>().is_err());
        assert!("+000000000000001".parse::<HostId>().is_err());
        assert!("00000000000000ff".parse::<HostId>().is_ok());
        assert!("../../etc/passwd".parse::<EndpointId>().is_err());
        assert!("short".parse::<DockerNetworkId>().is_err());
        assert!("01:02:03:04:05".parse::<MacAddress>().is_err());
        assert!("01:02:03:04:05:06:07".parse::<MacAddress>().is_err());
        assert_eq!(Vni::new(0), None);
        assert_eq!(Vni::new(1 << 24), None);
        assert!(serde_json::from_str::<Vni>("16777216").is_err());
    }

    proptest! {
        #[test]
        fn ids_survive_formatting_and_parsing(value in 1..=u64::MAX, cluster: u128, mac: [u8; 6]) {
            let host = HostId::new(value).unwrap();
            prop_assert_eq!(host.to_string().parse::<HostId>().unwrap(), host);
            let cluster = ClusterId::new(cluster);
            prop_assert_eq!(cluster.to_string().parse::<ClusterId>().unwrap(), cluster);
            let digest = Fingerprint([mac[0]; 32]);
            prop_assert_eq!(digest.to_string().parse::<Fingerprint>().unwrap(), digest);
            let mac = MacAddress(mac);
            prop_assert_eq!(mac.to_string().parse::<MacAddress>().unwrap(), mac);
        }

        #[test]
        fn the_default_mac_address_is_unicast(address: [u8; 4]) {
            prop_assert!(MacAddress::for_ipv4(address.into()).is_unicast());
        }
    }
}
