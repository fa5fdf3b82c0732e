//! Why a host takes no part any more, and how it is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoutd_core::HostId;
use shoutd_core::cluster::Cluster;

/// What a host is told that does not belong to the cluster any more. It is final: its id never
/// comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RemovalNotice {
    /// It was removed.
    Removed {
        /// When, as the time since 1970, if that is known.
        at: Option<Duration>,
    },
    /// The cluster was recovered, or restored from a backup, while it was not there.
    Recovered,
}

impl RemovalNotice {
    /// What the cluster has to say to a host, if it is one that left it.
    pub fn of(cluster: &Cluster, host: HostId) -> Option<Self> {
        cluster.admissions.removed.get(&host).map(|removed| Self::Removed { at: Some(removed.at) })
    }

    /// One line for the user of the host with this name and this data directory.
    pub fn text(&self, name: &str, directory: &str) -> String {
        let what = match self {
            Self::Removed { at: Some(at) } => {
                format!("was removed from the cluster at {}", utc(*at))
            }
            Self::Removed { at: None } => "was removed from the cluster".to_owned(),
            Self::Recovered => {
                "is not part of the cluster any more, which was recovered without it".to_owned()
            }
        };
        format!(
            "this host ({name}) {what}; to let it join anew, stop shoutd and remove its data \
             directory {directory}"
        )
    }
}

/// A time since 1970 as a date, by the proleptic Gregorian calendar (RFC 3339).
pub(crate) fn utc(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Year, month and day so many days after 1970-01-01.
fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    // 400 years always have as many days, so that the steps below are few, whatever the clock says.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_700_000_000, "2023-11-14 22:13:20 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (13_574_563_200, "2400-02-29 00:00:00 UTC"),
        ] {
            assert_eq!(utc(Duration::from_secs(seconds)), text);
        }
        assert!(utc(Duration::MAX).ends_with("UTC"));
    }

    #[test]
    fn a_farewell_says_what_to_do() {
        let removed = RemovalNotice::Removed { at: Some(Duration::from_secs(1_700_000_000)) };
        assert_eq!(
            removed.text("c", "/var/lib/shoutd"),
            "this host (c) was removed from the cluster at 2023-11-14 22:13:20 UTC; to let it \
             join anew, stop shoutd and remove its data directory /var/lib/shoutd"
        );
    }
}
