//! The notice that a host gets when it has left the cluster.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoutd_core::HostId;
use shoutd_core::cluster::Cluster;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Why a host has left the cluster. It is final: a host id never comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemovalNotice {
    /// It was removed.
    Removed {
        /// When, as the time since 1970, if known.
        at: Option<Duration>,
    },
    /// The cluster was recovered or restored from a backup without it.
    Recovered,
}

impl RemovalNotice {
    /// The notice for this host, if agreed state has it as removed.
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
                "is no longer part of the cluster, which was recovered without it".to_owned()
            }
        };
        format!(
            "this host ({name}) {what}; to let it join again, stop shoutd and remove its data \
             directory {directory}"
        )
    }
}

/// A time since 1970 in UTC (RFC 3339), or in seconds if no calendar has a year for it.
pub(crate) fn utc(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970-01-01T00:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_formatted_as_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
        ] {
            assert_eq!(utc(Duration::from_secs(seconds)), text);
        }
        assert!(utc(Duration::MAX).ends_with(" s after 1970-01-01T00:00:00Z"));
    }

    #[test]
    fn a_removal_notice_says_what_to_do() {
        let removed = RemovalNotice::Removed { at: Some(Duration::from_secs(1_700_000_000)) };
        assert_eq!(
            removed.text("c", "/var/lib/shoutd"),
            "this host (c) was removed from the cluster at 2023-11-14T22:13:20Z; to let it join \
             again, stop shoutd and remove its data directory /var/lib/shoutd"
        );
    }
}
