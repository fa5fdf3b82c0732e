//! What one peer has of this host's advertisement, and what to send it next.

use std::sync::Arc;
use std::time::Duration;

use super::{Content, Delta, Incarnation, Message, Reply};
use crate::EndpointId;
use crate::NetworkId;
use crate::limits::{
    ADVERTISE_RETRY_FIRST, ADVERTISE_RETRY_LAST, BEAT_INTERVAL, MESSAGE_ITEMS_MAX,
};

/// The advertisement to one peer. At most one message is in flight. Changes made in the meantime go
/// into the next message, so the work depends on how much changed and not on how often. The caller
/// passes all times, from one monotonic clock.
#[derive(Debug, Clone)]
pub struct OutboundSession {
    incarnation: Incarnation,
    /// What the peer should have.
    wanted: Content,
    /// What the peer has acknowledged; `None` until its first acknowledgment.
    acknowledged: Option<Acknowledged>,
    /// The message that was sent and has not been answered.
    unanswered: Option<Unanswered>,
    /// How many attempts in a row have failed.
    failures: u32,
    /// The time before which nothing is sent.
    not_before: Duration,
    /// When the peer last answered.
    answered: Option<Duration>,
    /// By how much the keepalive interval is shorter than [`BEAT_INTERVAL`].
    advance: Duration,
}

#[derive(Debug, Clone)]
struct Acknowledged {
    sequence: u64,
    content: Content,
    /// Whether the peer was told that the content is complete.
    complete: bool,
}

#[derive(Debug, Clone)]
struct Unanswered {
    message: Arc<Message>,
    /// What the peer has once it has applied the message.
    content: Content,
    /// Whether an answer is still expected.
    is_in_flight: bool,
}

impl OutboundSession {
    /// For a peer that has nothing of this run of the daemon. `entropy` is random. It becomes the
    /// incarnation, and spreads the keepalives to different peers over time.
    pub fn new(entropy: u64) -> Self {
        let [phase, ..] = entropy.to_le_bytes();
        Self {
            incarnation: Incarnation(entropy),
            wanted: Content::new(),
            acknowledged: None,
            unanswered: None,
            failures: 0,
            not_before: Duration::ZERO,
            answered: None,
            advance: BEAT_INTERVAL / 1024 * u32::from(phase),
        }
    }

    /// Sets what the peer should have.
    pub fn want(&mut self, content: Content) {
        self.wanted = content;
    }

    /// Forgets what the peer had, because the peer has restarted.
    pub fn start_over(&mut self, now: Duration) {
        self.acknowledged = None;
        self.unanswered = self.unanswered.take().filter(|unanswered| unanswered.is_in_flight);
        self.retry_now(now);
    }

    /// Retries at once what was postponed for lack of an answer, because the peer sent a message.
    pub fn retry_now(&mut self, now: Duration) {
        if self.failures > 0 {
            self.not_before = now;
        }
    }

    /// The message to send now. The caller reports the outcome by [`OutboundSession::answered`],
    /// [`OutboundSession::refused`] or [`OutboundSession::failed`]; until then `next` returns
    /// nothing. New sequence numbers come from `sequence`, which all sessions of this host share.
    pub fn next(&mut self, sequence: &mut u64, now: Duration) -> Option<Arc<Message>> {
        if self.is_in_flight() || now < self.not_before {
            return None;
        }
        // We do not know whether the peer has applied this message. It is harmless to send it
        // again, and the answer shows what the peer has.
        if let Some(unanswered) = &mut self.unanswered {
            unanswered.is_in_flight = true;
            return Some(unanswered.message.clone());
        }
        let (message, content) = self.compose(sequence, now)?;
        let message = Arc::new(message);
        self.unanswered =
            Some(Unanswered { message: message.clone(), content, is_in_flight: true });
        Some(message)
    }

    fn compose(&self, sequence: &mut u64, now: Duration) -> Option<(Message, Content)> {
        let incarnation = self.incarnation;
        let base = self.acknowledged.as_ref().map(|acknowledged| acknowledged.sequence);
        if self.is_up_to_date() {
            let sequence = base.filter(|_| self.beat_is_due(now))?;
            let beat =
                Message { incarnation, sequence, base, delta: Delta::default(), complete: true };
            return Some((beat, self.wanted.clone()));
        }
        let nothing = Content::new();
        let known =
            self.acknowledged.as_ref().map_or(&nothing, |acknowledged| &acknowledged.content);
        let (delta, complete) = Delta::between(known, &self.wanted, MESSAGE_ITEMS_MAX);
        let mut content = if complete { self.wanted.clone() } else { known.clone() };
        if !complete {
            delta.apply(&mut content);
        }
        *sequence += 1;
        Some((Message { incarnation, sequence: *sequence, base, delta, complete }, content))
    }

    /// Handles the peer's answer to the message in flight. `entropy` is random, and is used if a
    /// new incarnation is needed.
    pub fn answered(&mut self, reply: &Reply, entropy: u64, now: Duration) {
        let Some(Unanswered { message, content, .. }) = self.unanswered.take() else {
            return;
        };
        match reply {
            Reply::Has { sequence, .. } if *sequence == message.sequence => {
                self.failures = 0;
                self.not_before = now;
                self.answered = Some(now);
                self.acknowledged =
                    Some(Acknowledged { sequence: *sequence, content, complete: message.complete });
            }
            Reply::Has { .. } | Reply::WantSnapshot => {
                self.acknowledged = None;
                self.answered = Some(now);
                // If the message was a snapshot already, wait: the peer might ask for one each
                // time.
                if message.base.is_none() { self.put_off(now) } else { self.not_before = now }
            }
            Reply::Over => {
                self.incarnation = Incarnation(entropy);
                self.acknowledged = None;
                self.not_before = now;
            }
            // The peer did not apply the message; the next one includes later changes too. As the
            // peer did answer, `retry_now` must not shorten the wait.
            Reply::TooOften { wait } => {
                self.failures = 0;
                self.not_before = now + Duration::from_millis((*wait).into());
            }
        }
    }

    /// Handles that the message in flight was not answered.
    pub fn failed(&mut self, now: Duration) {
        // A snapshot is not sent again: a new one is more current. A delta must be repeated as it
        // was, because the peer may have applied it.
        self.unanswered =
            self.unanswered.take().filter(|unanswered| unanswered.message.base.is_some());
        if let Some(unanswered) = &mut self.unanswered {
            unanswered.is_in_flight = false;
        }
        self.put_off(now);
    }

    /// Handles that the peer refused the message in flight and would refuse it again. The next
    /// message is a current snapshot.
    pub fn refused(&mut self, now: Duration) {
        self.acknowledged = None;
        self.unanswered = None;
        self.put_off(now);
    }

    fn put_off(&mut self, now: Duration) {
        let wait = ADVERTISE_RETRY_FIRST * 2_u32.pow(self.failures.min(8));
        self.not_before = now + wait.min(ADVERTISE_RETRY_LAST);
        self.failures += 1;
    }

    /// When there may be something to send although nothing changed; `None` while an answer is
    /// expected, or if there will be nothing to send.
    pub fn wake(&self) -> Option<Duration> {
        if self.is_in_flight() || self.is_done() {
            return None;
        }
        let beat = self.answered.map(|answered| answered + (BEAT_INTERVAL - self.advance));
        let is_idle = self.unanswered.is_none() && self.is_up_to_date();
        beat.filter(|_| is_idle)
            .map_or(Some(self.not_before), |beat| Some(beat.max(self.not_before)))
    }

    fn beat_is_due(&self, now: Duration) -> bool {
        self.answered.is_none_or(|answered| now >= answered + (BEAT_INTERVAL - self.advance))
    }

    fn is_in_flight(&self) -> bool {
        self.unanswered.as_ref().is_some_and(|unanswered| unanswered.is_in_flight)
    }

    /// Whether the peer has acknowledged all that it should have.
    pub fn is_up_to_date(&self) -> bool {
        let acknowledged = self.acknowledged.as_ref();
        acknowledged.is_some_and(|acknowledged| {
            acknowledged.complete && acknowledged.content == self.wanted
        })
    }

    /// Whether the peer should have nothing and has acknowledged that. The session can then end.
    pub fn is_done(&self) -> bool {
        self.wanted.is_empty() && self.unanswered.is_none() && self.is_up_to_date()
    }

    /// Whether the last message to the peer failed.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Whether the peer has acknowledged this endpoint.
    pub fn has(&self, network: &NetworkId, endpoint: &EndpointId) -> bool {
        let content =
            self.acknowledged.as_ref().and_then(|acknowledged| acknowledged.content.get(network));
        content.is_some_and(|network| network.endpoints.contains_key(endpoint))
    }

    /// Whether the peer should have this network.
    pub fn wants(&self, network: &NetworkId) -> bool {
        self.wanted.contains_key(network)
    }
}
