//! Names of containers.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::InvalidId;

/// Octets of a name (RFC 1035, section 2.3.4), without the trailing dot.
const NAME_BYTES_MAX: usize = 253;

/// Octets of a label (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// Top-level domains that the public DNS does not and will not have: RFC 6761, RFC 6762 (section 3
/// and appendix G), RFC 9476, and those reserved by ICANN (2018-02-04 and 2024-07-29).
const PRIVATE: [&str; 12] = [
    "alt",
    "corp",
    "example",
    "home",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localhost",
    "private",
    "test",
];

/// Names that hosts files contain for the host itself and for link-local groups (Debian's,
/// Docker's).
const LOOPBACK: [&str; 7] = [
    "localhost.localdomain",
    "ip6-localhost",
    "ip6-loopback",
    "ip6-localnet",
    "ip6-mcastprefix",
    "ip6-allnodes",
    "ip6-allrouters",
];

/// A container's name, or its alias on a network: labels of letters, digits, hyphens and
/// underscores, separated by dots. It is in lower case, because DNS names are case-insensitive (RFC
/// 4343).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether every host or engine uses the name for itself. It never means a container of another
    /// host.
    pub fn is_this_hosts(&self) -> bool {
        LOOPBACK.contains(&self.as_str())
            || self.is_below("localhost")
            || self.is_below("docker.internal")
    }

    fn is_below(&self, domain: &str) -> bool {
        self.0.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    }

    /// Whether the name may exist in the public DNS: it has several labels, and the last one may be
    /// a top-level domain (RFC 3696, section 2) and is not reserved for private use.
    ///
    /// Docker allows an alias to hide such a name from the containers of one host, whose
    /// administrator chose it. An alias on another host would hide it on all hosts.
    pub fn may_be_public(&self) -> bool {
        let Some((rest, last)) = self.0.rsplit_once('.') else { return false };
        let is_domain = last.len() > 1 && last.bytes().all(|octet| octet.is_ascii_alphabetic());
        let is_private = PRIVATE.contains(&last)
            || (last == "arpa" && (rest == "home" || rest.ends_with(".home")));
        (is_domain || last.starts_with("xn--")) && !is_private
    }
}

fn is_label(text: &str) -> bool {
    let is_valid =
        text.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_');
    (1..=LABEL_BYTES_MAX).contains(&text.len()) && is_valid && !text.starts_with('-')
}

impl FromStr for Name {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // A program that asks for an IP address means the address.
        let is_name = text.len() <= NAME_BYTES_MAX
            && text.split('.').all(is_label)
            && text.parse::<IpAddr>().is_err();
        if is_name && !text.eq_ignore_ascii_case("localhost") {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(InvalidId::new(text, "a container name"))
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
