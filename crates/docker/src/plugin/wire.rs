//! Parsing and checks that all calls share.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::one_line;

/// An invalid request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// The call needs a body and has none.
    #[error(
        "Docker sent the call with an empty body, as it does when it repeats an interrupted call \
         (moby#35459); try again"
    )]
    Empty,
    /// The body is not valid JSON for this call.
    #[error("the body of the call is not valid: {reason}")]
    Json {
        /// What is wrong, and where.
        reason: String,
    },
    /// A member has an invalid value.
    #[error("{member} of the call is {value:?}: {reason}")]
    Member {
        /// The member's name in JSON.
        member: &'static str,
        /// Its value, cut to a printable length.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl InvalidRequest {
    pub(super) fn member(member: &'static str, value: &str, reason: impl Display) -> Self {
        Self::Member {
            member,
            value: one_line(value, 80),
            reason: one_line(&reason.to_string(), 200),
        }
    }
}

/// A request that is parsed from the body of a call.
pub(super) trait FromBody: Sized + Send + 'static {
    /// Parses and checks the body.
    fn from_body(body: &[u8]) -> Result<Self, InvalidRequest>;
}

/// Parses the JSON of a body.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, InvalidRequest> {
    if body.trim_ascii().is_empty() {
        return Err(InvalidRequest::Empty);
    }
    serde_json::from_slice(body)
        .map_err(|error| InvalidRequest::Json { reason: one_line(&error.to_string(), 200) })
}

/// Reads a JSON `null` as the default: Go writes it for empty lists and maps.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Parses a required member.
pub(super) fn required<T>(member: &'static str, text: &str) -> Result<T, InvalidRequest>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse().map_err(|error: T::Err| InvalidRequest::member(member, text, error))
}

/// Parses a member that may be empty.
pub(super) fn optional<T>(member: &'static str, text: &str) -> Result<Option<T>, InvalidRequest>
where
    T: FromStr,
    T::Err: Display,
{
    if text.is_empty() { Ok(None) } else { required(member, text).map(Some) }
}

/// Parses an address, with or without a prefix length.
pub(super) fn address(member: &'static str, text: &str) -> Result<IpAddr, InvalidRequest> {
    if text.contains('/') {
        required::<IpNet>(member, text).map(|net| net.addr())
    } else {
        required(member, text)
    }
}

/// Options as strings. Users can only give strings; other values, which the engine adds, are kept
/// as JSON.
pub(super) fn texts(options: BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let texts = options.into_iter().map(|(name, value)| match value {
        Value::String(text) => (name, text),
        other => (name, other.to_string()),
    });
    texts.collect()
}
