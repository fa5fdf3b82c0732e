//! What shoutd has decided on a user's behalf, kept for whoever asks afterwards: a network that
//! came back because another host uses it, a container that was refused, a copy that could not be
//! made.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{EVENT_TEXT_BYTES_MAX, EVENTS_MAX};

/// What kind of decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A network that another host created is on this host now.
    NetworkMade,
    /// A network is gone from this host, as it is gone from the cluster.
    NetworkRemoved,
    /// A network that was removed here stays, as another host uses it.
    NetworkKept,
    /// The removal of a network waits for hosts that are away.
    NetworkLeaving,
    /// A copy that was lost, or replaced by one of another kind, is there again.
    NetworkRestored,
    /// A network that was to be created here was refused.
    NetworkRefused,
    /// A network of the cluster cannot be made on this host, or made known to the others.
    NetworkFailed,
    /// A container was refused.
    ContainerRefused,
    /// A container was started that its engine could not start without shoutd.
    ContainerStarted,
    /// An attachment was forgotten, as its container is gone.
    EndpointForgotten,
    /// The filter that keeps strangers off the VXLAN port was gone, and is there again.
    FilterRestored,
    /// That filter dropped packets.
    FilterDropped,
    /// A host uses a subnet that overlaps a network's.
    SubnetOverlap,
    /// A socket of shoutd's was removed, and is served again.
    SocketRestored,
    /// Something that a host announces is not believed by another.
    AnnouncementDoubted,
    /// Lines that an earlier version had written into a file that is not a container's were
    /// removed, or left.
    HostsFileCleaned,
    /// The data directory of a host was set back to an earlier state.
    DataSetBack,
    /// Two hosts run with one data directory, copied.
    HostCopied,
    /// An address of a container here is leased to another host.
    AddressTaken,
    /// Another kind, of a newer version.
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
            Self::AddressTaken => "address-taken",
            Self::Other => "other",
        })
    }
}

/// One decision, or the same one several times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was made first, in milliseconds since 1970.
    pub first: u64,
    /// When it was made last, in milliseconds since 1970.
    pub last: u64,
    /// How often.
    pub count: u64,
    /// What kind of decision.
    pub kind: EventKind,
    /// The network or container, by its name where that is known.
    pub subject: String,
    /// What was decided and why, in one line.
    pub text: String,
}

/// The last decisions, oldest first. Whoever asks for the same refused thing again and again does
/// not push the others out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLog {
    events: VecDeque<Event>,
}

impl EventLog {
    /// Takes a decision down. `now` is the time since 1970.
    pub fn note(&mut self, now: Duration, kind: EventKind, subject: &str, text: &str) {
        let now = now.as_millis().try_into().unwrap_or(u64::MAX);
        let (subject, text) = (one_line(subject), one_line(text));
        let is_same =
            |event: &Event| event.kind == kind && event.subject == subject && event.text == text;
        let known =
            self.events.iter().position(is_same).and_then(|place| self.events.remove(place));
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

    /// The last decisions, oldest first.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.iter()
    }

    /// Leaves no more than may be kept, whatever was read from a file.
    pub fn shorten(&mut self) {
        let surplus = self.events.len().saturating_sub(EVENTS_MAX);
        self.events.drain(..surplus);
    }
}

/// A text as it is kept: without line breaks, and not too long.
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
    fn the_same_decision_again_is_counted_and_is_the_newest() {
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
    fn the_oldest_are_dropped_and_texts_are_bounded() {
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
    fn a_newer_versions_file_is_read_as_far_as_it_is_known() {
        let text = r#"{"events":[{"first":1,"last":2,"count":1,"kind":"moon-landed","subject":"foo","text":"so"}]}"#;
        let log: EventLog = serde_json::from_str(text).unwrap();
        assert_eq!(log.events().next().unwrap().kind, EventKind::Other);
        for kind in [
            EventKind::NetworkMade,
            EventKind::SocketRestored,
            EventKind::ContainerRefused,
            EventKind::DataSetBack,
        ] {
            assert_eq!(
                serde_json::to_string(&kind).unwrap(),
                format!("\"{kind}\""),
                "shown as it is written"
            );
        }
    }
}
