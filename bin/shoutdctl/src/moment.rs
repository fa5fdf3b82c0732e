//! Times for users.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Formats a time in milliseconds since 1970 as in RFC 3339, in UTC.
pub fn when(milliseconds: u64) -> String {
    let seconds = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds).map(|time| time.format(&Rfc3339));
    time.map_or_else(|_| seconds.to_string(), |text| text.unwrap_or_else(|_| seconds.to_string()))
}
