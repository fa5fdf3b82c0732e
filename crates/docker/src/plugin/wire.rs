//! From bytes to checked requests: what all calls share.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::one_line;

/// A request that cannot be what Docker meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// No body came, though the call needs one.
    #[error(
        "Docker sent the call with an empty body, as it does when it repeats one that was cut off \
         (moby#35459); try again"
    )]
    Empty,
    /// The body is no JSON of the call's shape.
    #[error("the body of the call is not what Docker sends: {reason}")]
    Json {
        /// What is wrong, and where.
        reason: String,
    },
    /// A member holds what it may not.
    #[error("{member} of the call is {value:?}: {reason}")]
    Member {
        /// The member's name on the wire.
        member: &'static str,
        /// Its text, cut to a printable length.
        value: String,
        /// What it should be.
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

/// A request that is read from the body of a call.
pub(super) trait FromBody: Sized + Send + 'static {
    /// Reads and checks it.
    fn from_body(body: &[u8]) -> Result<Self, InvalidRequest>;
}

/// The JSON of a body.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, InvalidRequest> {
    if body.trim_ascii().is_empty() {
        return Err(InvalidRequest::Empty);
    }
    serde_json::from_slice(body)
        .map_err(|error| InvalidRequest::Json { reason: one_line(&error.to_string(), 200) })
}

/// A JSON `null` is as good as nothing: Go writes it for empty lists and maps.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A member that must be there and parse.
pub(super) fn required<T>(member: &'static str, text: &str) -> Result<T, InvalidRequest>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse().map_err(|error: T::Err| InvalidRequest::member(member, text, error))
}

/// A member that may be empty, and must parse otherwise.
pub(super) fn optional<T>(member: &'static str, text: &str) -> Result<Option<T>, InvalidRequest>
where
    T: FromStr,
    T::Err: Display,
{
    if text.is_empty() { Ok(None) } else { required(member, text).map(Some) }
}

/// An address, with or without a prefix length.
pub(super) fn address(member: &'static str, text: &str) -> Result<IpAddr, InvalidRequest> {
    if text.contains('/') {
        required::<IpNet>(member, text).map(|net| net.addr())
    } else {
        required(member, text)
    }
}

/// Options as text. Docker's users can give texts only; whatever else the engine mixes in is kept
/// as its JSON.
pub(super) fn texts(options: BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    options.into_iter().map(|(name, value)| (name, text(value))).collect()
}
