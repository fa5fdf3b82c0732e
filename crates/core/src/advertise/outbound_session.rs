//! What one peer has of this host's announcements, and what to send it next.

use std::sync::Arc;
use std::time::Duration;

use super::{Content, Delta, Incarnation, Message, Reply};
use crate::EndpointId;
use crate::NetworkId;
use crate::limits::{ANNOUNCE_RETRY_FIRST, ANNOUNCE_RETRY_LAST, BEAT_INTERVAL, MESSAGE_ITEMS_MAX};

/// What is announced to one peer. One message is under way at a time; what changes meanwhile goes
/// into the next one, so that the work grows with what changed and not with how often it did. All
/// times are on one clock of the caller's that never goes back.
#[derive(Debug, Clone)]
pub struct OutboundSession {
    incarnation: Incarnation,
    /// What the peer is to have.
    wanted: Content,
    /// What it has acknowledged, under which number; `None` until then.
    acknowledged: Option<Acknowledged>,
    /// What was sent and not answered.
    unanswered: Option<Unanswered>,
    /// How many attempts in a row have failed.
    failures: u32,
    /// Nothing is sent before this.
    not_before: Duration,
    /// When the peer last answered.
    answered: Option<Duration>,
    /// How much shorter than [`BEAT_INTERVAL`] the time between beats is.
    advance: Duration,
}

#[derive(Debug, Clone)]
struct Acknowledged {
    sequence: u64,
    content: Content,
    /// Whether the peer was told that this is all.
    complete: bool,
}

#[derive(Debug, Clone)]
struct Unanswered {
    message: Arc<Message>,
    /// What the peer has when it has applied it.
    content: Content,
    /// Whether an answer is still awaited.
    is_under_way: bool,
}

impl OutboundSession {
    /// For a peer that has nothing of this run of the daemon yet. `entropy` is random: it makes the
    /// incarnation, and peers with different ones are not sent beats in the same instant.
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

    /// Says what the peer is to have.
    pub fn want(&mut self, content: Content) {
        self.wanted = content;
    }

    /// Forgets what the peer had: it has started anew.
    pub fn start_over(&mut self, now: Duration) {
        self.acknowledged = None;
        self.unanswered = self.unanswered.take().filter(|unanswered| unanswered.is_under_way);
        self.hurry(now);
    }

    /// The peer was heard: what was put off because it did not answer is worth trying at once.
    pub fn hurry(&mut self, now: Duration) {
        if self.failures > 0 {
            self.not_before = now;
        }
    }

    /// The message to send now. Its answer, or that there is none, is to be told by
    /// [`OutboundSession::answered`], [`OutboundSession::refused`] or [`OutboundSession::failed`];
    /// until then there is no other. A new number is taken from `sequence`, which all speakers of
    /// this host share.
    pub fn next(&mut self, sequence: &mut u64, now: Duration) -> Option<Arc<Message>> {
        if self.is_under_way() || now < self.not_before {
            return None;
        }
        // Whether the peer has it is not known: the same again is harmless, and tells.
        if let Some(unanswered) = &mut self.unanswered {
            unanswered.is_under_way = true;
            return Some(unanswered.message.clone());
        }
        let (message, content) = self.compose(sequence, now)?;
        let message = Arc::new(message);
        self.unanswered =
            Some(Unanswered { message: message.clone(), content, is_under_way: true });
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

    /// What the peer answered to the message under way. `entropy` is random, for a new incarnation
    /// if one is wanted.
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
                // One that wants a snapshot and gets it wants none again.
                if message.base.is_none() { self.put_off(now) } else { self.not_before = now }
            }
            Reply::Over => {
                self.incarnation = Incarnation(entropy);
                self.acknowledged = None;
                self.not_before = now;
            }
            // Not applied: what changes until then goes along. It did answer, so nothing hurries
            // the next.
            Reply::TooOften { wait } => {
                self.failures = 0;
                self.not_before = now + Duration::from_millis((*wait).into());
            }
        }
    }

    /// There was no answer to the message under way.
    pub fn failed(&mut self, now: Duration) {
        // A snapshot that is tried again had better be a new one. A delta must be the same: the
        // peer may have it.
        self.unanswered =
            self.unanswered.take().filter(|unanswered| unanswered.message.base.is_some());
        if let Some(unanswered) = &mut self.unanswered {
            unanswered.is_under_way = false;
        }
        self.put_off(now);
    }

    /// The peer does not take the message under way, and would not take it another time: it is told
    /// all anew, as it is then.
    pub fn refused(&mut self, now: Duration) {
        self.acknowledged = None;
        self.unanswered = None;
        self.put_off(now);
    }

    fn put_off(&mut self, now: Duration) {
        let wait = ANNOUNCE_RETRY_FIRST * 2_u32.pow(self.failures.min(8));
        self.not_before = now + wait.min(ANNOUNCE_RETRY_LAST);
        self.failures += 1;
    }

    /// When there may be something to send though nothing has changed; `None` while an answer is
    /// awaited, or if there will never be.
    pub fn wake(&self) -> Option<Duration> {
        if self.is_under_way() || self.is_done() {
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

    fn is_under_way(&self) -> bool {
        self.unanswered.as_ref().is_some_and(|unanswered| unanswered.is_under_way)
    }

    /// Whether the peer has acknowledged all that it is to have.
    pub fn is_up_to_date(&self) -> bool {
        let acknowledged = self.acknowledged.as_ref();
        acknowledged.is_some_and(|acknowledged| {
            acknowledged.complete && acknowledged.content == self.wanted
        })
    }

    /// Whether the peer is to have nothing, and has acknowledged that: it need not be spoken to any
    /// more.
    pub fn is_done(&self) -> bool {
        self.wanted.is_empty() && self.unanswered.is_none() && self.is_up_to_date()
    }

    /// Whether the peer did not answer when it was last spoken to, or not well.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Whether the peer has acknowledged this endpoint.
    pub fn has(&self, network: &NetworkId, endpoint: &EndpointId) -> bool {
        let content =
            self.acknowledged.as_ref().and_then(|acknowledged| acknowledged.content.get(network));
        content.is_some_and(|network| network.endpoints.contains_key(endpoint))
    }

    /// Whether the peer is to have this network.
    pub fn wants(&self, network: &NetworkId) -> bool {
        self.wanted.contains_key(network)
    }
}
