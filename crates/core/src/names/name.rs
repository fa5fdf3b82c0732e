//! What can be the name of a container.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::InvalidId;

/// Octets of a name (RFC 1035, section 2.3.4), without the dot at its end.
const NAME_BYTES_MAX: usize = 253;

/// Octets of a label (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// The name of a container, or one of its aliases on a network: letters, digits, hyphens and underscores in labels between dots, in lower case, as names in the DNS do not differ by case (RFC 4343).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let is_label = |label: &str| {
            let sound = label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_');
            (1..=LABEL_BYTES_MAX).contains(&label.len()) && sound && !label.starts_with('-')
        };
        // Addresses are no names: what asks for one means the address.
        let is_name = text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label) && text.parse::<IpAddr>().is_err();
        if is_name && !text.eq_ignore_ascii_case("localhost") {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(InvalidId::new(text, "a name of a container"))
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
