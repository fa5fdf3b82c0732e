//! Times for users.

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// Formats a time in milliseconds since 1970 as in RFC 3339, in UTC.
pub fn when(milliseconds: u64) -> String {
    text(milliseconds, |_| UtcOffset::UTC)
}

/// The same in the local time zone; in UTC if that is not known.
pub fn when_here(milliseconds: u64) -> String {
    text(milliseconds, |time| UtcOffset::local_offset_at(time).unwrap_or(UtcOffset::UTC))
}

fn text(milliseconds: u64, offset: impl Fn(OffsetDateTime) -> UtcOffset) -> String {
    let seconds = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds);
    let time = time.map(|time| time.to_offset(offset(time)).format(&Rfc3339));
    time.map_or_else(|_| seconds.to_string(), |text| text.unwrap_or_else(|_| seconds.to_string()))
}
