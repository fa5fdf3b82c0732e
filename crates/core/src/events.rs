//! Events: decisions of shoutd on a user's behalf, kept for later. Examples are a removed network
//! that stays because another host uses it, a container that was refused, and a mirror that could
//! not be created.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{EVENT_TEXT_BYTES_MAX, EVENTS_MAX};

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A network that another host created was created on this host.
    NetworkMade,
    /// A network was removed from this host, because it was removed from the cluster.
    NetworkRemoved,
    /// A network that was removed here stays, because another host uses it.
    NetworkKept,
    /// The removal of a network waits for hosts that do not answer.
    NetworkLeaving,
    /// A Docker network that was lost, or replaced by one of another driver, was restored.
    NetworkRestored,
    /// The creation of a network on this host was refused.
    NetworkRefused,
    /// A network cannot be created on this host, or described to the others.
    NetworkFailed,
    /// A container was refused.
    ContainerRefused,
    /// A container was started that the engine could not start while shoutd was stopped.
    ContainerStarted,
    /// An endpoint was forgotten, because its container is gone.
    EndpointForgotten,
    /// The underlay filter was missing and was restored.
    FilterRestored,
    /// The underlay filter dropped packets.
    FilterDropped,
    /// A subnet in use on a host overlaps a network.
    SubnetOverlap,
    /// A socket of shoutd was removed and was restored.
    SocketRestored,
    /// Another host rejects a claim that a host advertises.
    AnnouncementDoubted,
    /// Lines of an earlier version in a file that is not a container's own were removed or left.
    HostsFileCleaned,
    /// The data directory of a host was rolled back.
    DataSetBack,
    /// Two hosts run with copies of one data directory.
    HostCopied,
    /// This host and another do not trust each other's certificates, for example because the clock
    /// of one is wrong.
    HostDistrusted,
    /// The cluster has replaced its certificate authority, and this host has a certificate from the
    /// new one.
    AuthorityReplaced,
    /// The address of a container on this host is leased to another host.
    AddressTaken,
    /// This host has replaced the preshared keys that it shares with the other hosts.
    KeysRotated,
    /// A kind that a newer version knows.
    #[serde(other)]
    Other,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetworkMade => "network-made",
            Self::NetworkRemoved => "network-removed",
            Self::NetworkKept => "network-kept",
            Self::NetworkLeaving => "network-leaving",
            Self::NetworkRestored => "network-restored",
            Self::NetworkRefused => "network-refused",
            Self::NetworkFailed => "network-failed",
            Self::ContainerRefused => "container-refused",
            Self::ContainerStarted => "container-started",
            Self::EndpointForgotten => "endpoint-forgotten",
            Self::FilterRestored => "filter-restored",
            Self::FilterDropped => "filter-dropped",
            Self::SubnetOverlap => "subnet-overlap",
            Self::SocketRestored => "socket-restored",
            Self::AnnouncementDoubted => "announcement-doubted",
            Self::HostsFileCleaned => "hosts-file-cleaned",
            Self::DataSetBack => "data-set-back",
            Self::HostCopied => "host-copied",
            Self::HostDistrusted => "host-distrusted",
            Self::AuthorityReplaced => "authority-replaced",
            Self::AddressTaken => "address-taken",
            Self::KeysRotated => "keys-rotated",
            Self::Other => "other",
        })
    }
}

/// An event, or several identical ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Time of the first, in milliseconds since 1970.
    pub first: u64,
    /// Time of the last, in milliseconds since 1970.
    pub last: u64,
    /// How many there were.
    pub count: u64,
    /// The kind.
    pub kind: EventKind,
    /// The network or container: its name, if known.
    pub subject: String,
    /// What was decided and why, in one line.
    pub text: String,
}

/// The last events, oldest first. Identical events are merged, so that repeated requests for the
/// same do not displace the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLog {
    events: VecDeque<Event>,
}

impl EventLog {
    /// Records an event. `now` is the time since 1970.
    pub fn note(&mut self, now: Duration, kind: EventKind, subject: &str, text: &str) {
        let now = now.as_millis().try_into().unwrap_or(u64::MAX);
        let (subject, text) = (one_line(subject), one_line(text));
        let place = self
            .events
            .iter()
            .position(|event| event.kind == kind && event.subject == subject && event.text == text);
        let known = place.and_then(|place| self.events.remove(place));
        let (first, count) = known.map_or((now, 0), |event| (event.first, event.count));
        self.events.push_back(Event {
            first,
            last: now,
            count: count.saturating_add(1),
            kind,
            subject,
            text,
        });
        self.shorten();
    }

    /// The last events, oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.iter()
    }

    /// Drops the oldest events over the limit, for logs that were read from a file.
    pub fn shorten(&mut self) {
        let surplus = self.events.len().saturating_sub(EVENTS_MAX);
        self.events.drain(..surplus);
    }
}

/// A text without line breaks and of bounded length.
pub fn one_line(text: &str) -> String {
    let mut kept = String::new();
    for character in
        text.chars().map(|character| if character.is_control() { ' ' } else { character })
    {
        if kept.len() + character.len_utf8() > EVENT_TEXT_BYTES_MAX {
            break;
        }
        kept.push(character);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(log: &EventLog) -> Vec<(&str, u64)> {
        log.events().map(|event| (event.text.as_str(), event.count)).collect()
    }

    #[test]
    fn a_repeated_event_is_counted_and_is_the_newest() {
        let mut log = EventLog::default();
        let at = Duration::from_secs;
        log.note(at(1), EventKind::ContainerRefused, "foo", "10.0.0.1 is host2's");
        log.note(at(2), EventKind::NetworkKept, "foo", "in use on host2");
        log.note(at(3), EventKind::ContainerRefused, "foo", "10.0.0.1 is host2's");
        assert_eq!(texts(&log), [("in use on host2", 1), ("10.0.0.1 is host2's", 2)]);
        let newest = log.events().next_back().unwrap();
        assert_eq!((newest.first, newest.last), (1000, 3000));
        log.note(at(4), EventKind::ContainerRefused, "bar", "10.0.0.1 is host2's");
        assert_eq!(texts(&log).len(), 3, "that is another network");
    }

    #[test]
    fn the_oldest_events_are_dropped_and_texts_are_bounded() {
        let mut log = EventLog::default();
        for number in 0..EVENTS_MAX + 10 {
            log.note(Duration::ZERO, EventKind::NetworkMade, "foo", &number.to_string());
        }
        assert_eq!((texts(&log).len(), texts(&log)[0].0), (EVENTS_MAX, "10"));
        log.note(Duration::MAX, EventKind::NetworkMade, "a\nb", &"é".repeat(EVENT_TEXT_BYTES_MAX));
        let newest = log.events().next_back().unwrap();
        assert_eq!((newest.subject.as_str(), newest.last), ("a b", u64::MAX));
        assert!(newest.text.len() <= EVENT_TEXT_BYTES_MAX);
    }

    #[test]
    fn an_unknown_kind_from_a_newer_version_is_read_as_other() {
        let text = r#"{"events": [{"first": 1, "last": 2, "count": 1, "kind": "moon-landed",
            "subject": "foo", "text": "so"}]}"#;
        let log: EventLog = serde_json::from_str(text).unwrap();
        assert_eq!(log.events().next().unwrap().kind, EventKind::Other);
        for kind in [
            EventKind::NetworkMade,
            EventKind::SocketRestored,
            EventKind::ContainerRefused,
            EventKind::DataSetBack,
            EventKind::KeysRotated,
        ] {
            assert_eq!(
                serde_json::to_string(&kind).unwrap(),
                format!("\"{kind}\""),
                "it is shown as it is serialized"
            );
        }
    }
}
