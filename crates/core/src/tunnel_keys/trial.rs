//! Which of a pair's two keys a host has in WireGuard while the hosts cannot ask each other.
//!
//! A host knows only by handshakes whether the keys of both ends are the same. The two WireGuards
//! show failing ones differently:
//!
//! * At the end that initiates them, and at both ends of the kernel's WireGuard, the last handshake
//!   gets old.
//! * gotatun counts each initiation that it answers as a handshake. So at the end that responds,
//!   handshakes seem to succeed every five seconds instead of every two minutes.

use std::time::Duration;

use super::PairKeys;

/// The age of a session at which its handshake fails. The initiator begins it after 120 s, and
/// repeats it after 5 to 5.33 s each; this is after the third attempt.
const OVERDUE: Duration = Duration::from_secs(133);

/// Two handshakes within this time have failed: two repetitions and a tick.
const REPEATED: Duration = Duration::from_secs(12);

/// How long calls must have failed before handshakes decide.
const SILENCE: Duration = Duration::from_secs(10);

/// How long the leader tries a key: one attempt falls into it. The follower tries each twice as
/// long. So the two ends have the same key for long enough at least once in 24 s, whenever they
/// begin.
const TURN: Duration = Duration::from_secs(6);

/// Handshakes at other times than the last one's are others. Times of day are read with some
/// milliseconds of error.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Tries the keys of one pair. Times are since any fixed moment, by a clock that is never set.
#[derive(Debug, Clone, Default)]
pub struct Trial {
    /// When the last handshake was, and which key WireGuard had then.
    last: Option<(Duration, bool)>,
    /// When the one before was.
    before: Option<Duration>,
    /// Since when handshakes fail.
    failing: Option<Duration>,
    /// The last exchange with the other host.
    contact: Option<Duration>,
    /// When `uses_other` changed last.
    changed: Duration,
    /// Whether WireGuard should have the second key.
    pub uses_other: bool,
}

impl Trial {
    /// Notes that the two hosts have exchanged claims, or that the keys have changed: the current
    /// one counts.
    pub fn note_contact(&mut self, now: Duration) {
        let last = self.last.map(|(at, _)| (at, false));
        *self = Self { contact: Some(now), last, ..Self::default() };
    }

    /// Decides which key WireGuard should have, by the age of the last handshake. Returns whether
    /// the second key has turned out to be the one to keep.
    pub fn decide(
        &mut self,
        keys: &PairKeys,
        leads: bool,
        handshake: Option<Duration>,
        now: Duration,
    ) -> bool {
        self.note_handshake(handshake, now);
        let is_silent = self.contact.is_none_or(|contact| now.saturating_sub(contact) >= SILENCE);
        if keys.other.is_none() || keys.current.is_none() || !is_silent {
            self.failing = None;
            self.set(false, now);
            return false;
        }
        if self.fails(handshake, now) {
            let begun = *self.failing.get_or_insert(now);
            let turn = if leads { TURN } else { TURN * 2 };
            let turns = now.saturating_sub(begun).as_millis() / turn.as_millis();
            self.set(turns.is_multiple_of(2), now);
            return false;
        }
        if self.failing.take().is_none() {
            return false;
        }
        // The last handshake was a success, with the key that WireGuard had then.
        self.set(false, now);
        self.last.is_some_and(|(_, other)| other)
    }

    fn set(&mut self, uses_other: bool, now: Duration) {
        if self.uses_other != uses_other {
            (self.uses_other, self.changed) = (uses_other, now);
        }
    }

    fn note_handshake(&mut self, handshake: Option<Duration>, now: Duration) {
        let Some(at) = handshake.map(|age| now.saturating_sub(age)) else { return };
        if self.last.is_none_or(|(last, _)| at.abs_diff(last) > TOLERANCE) {
            self.before = self.last.map(|(last, _)| last);
            // It is seen some seconds later.
            self.last = Some((at, self.uses_other == (at >= self.changed)));
        }
    }

    fn fails(&self, handshake: Option<Duration>, now: Duration) -> bool {
        let is_overdue = handshake.is_none_or(|age| age >= OVERDUE);
        let repeated = self.last.zip(self.before).is_some_and(|((last, _), before)| {
            last.saturating_sub(before) < REPEATED && now.saturating_sub(last) < REPEATED
        });
        is_overdue || repeated
    }
}
