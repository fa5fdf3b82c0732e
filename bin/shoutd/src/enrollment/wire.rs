//! What a host that wants in and a member that lets it in say to each other.

use serde::{Deserialize, Serialize};
use shoutd_core::Fingerprint;
use shoutd_peer::SealKey;

/// "Let me in." Who asks is known by the key that the connection proves.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The host's name, for whoever approves.
    pub name: String,
    /// The secret of its token, as hexadecimal digits; only ever sent to a host that has proved to be of the token's cluster.
    pub secret: Option<String>,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is in.
    Certified {
        /// Its certificate in DER, as hexadecimal digits.
        certificate: String,
        /// The authority's certificate, likewise.
        authority: String,
        /// What opens the authority's private key.
        seal_key: SealKey,
    },
    /// Somebody must approve of it first.
    Waiting {
        /// The fingerprint of the authority's certificate, to be compared by whoever approves.
        authority: Fingerprint,
    },
}

/// Octets as hexadecimal digits.
pub fn to_digits(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Octets from hexadecimal digits; `None` if there is anything else.
pub fn from_digits(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
}
