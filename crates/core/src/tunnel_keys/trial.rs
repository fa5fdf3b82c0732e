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

/// Handshakes at other times than the last one's are others. Times are read with some milliseconds
/// of error.
const TOLERANCE: Duration = Duration::from_secs(1);

/// The last handshake that WireGuard reports, and the two clocks when it was read.
///
/// The kernel's WireGuard keeps the time of day of a handshake. gotatun keeps its age, and computes
/// the time of day from that. So when the time of day is set, the age seems to change with the
/// kernel's WireGuard, and the time of the handshake with gotatun.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// The time of the last handshake since 1970; `None` without one.
    pub handshake: Option<Duration>,
    /// The time of day: since 1970.
    pub time_of_day: Duration,
    /// The time since any fixed moment, by a clock that is never set.
    pub now: Duration,
}

/// A handshake.
#[derive(Debug, Clone, Copy)]
struct Handshake {
    /// When it was, by the clock that is never set. `None` if the time of day was set back between
    /// it and the start of the daemon.
    at: Option<Duration>,
    /// When it was, since 1970, as WireGuard reported last.
    told: Duration,
    /// Whether WireGuard had the second key then.
    with_other: bool,
}

/// Tries the keys of one pair. Times are by the clock that is never set.
#[derive(Debug, Clone, Default)]
pub struct Trial {
    /// The last handshake.
    last: Option<Handshake>,
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
        let last = self.last.map(|last| Handshake { with_other: false, ..last });
        *self = Self { contact: Some(now), last, ..Self::default() };
    }

    /// The age of the session at this time; `None` without one, and if it cannot be known.
    pub fn session(&self, now: Duration) -> Option<Duration> {
        self.last?.at.map(|at| now.saturating_sub(at))
    }

    /// Decides which key WireGuard should have, by the age of the last handshake. Returns whether
    /// the second key has turned out to be the one to keep.
    pub fn decide(&mut self, keys: &PairKeys, leads: bool, reading: Reading) -> bool {
        let now = reading.now;
        self.note_handshake(reading);
        let is_silent = self.contact.is_none_or(|contact| now.saturating_sub(contact) >= SILENCE);
        if keys.other.is_none() || keys.current.is_none() || !is_silent {
            self.failing = None;
            self.set(false, now);
            return false;
        }
        if self.fails(now) {
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
        self.last.is_some_and(|last| last.with_other)
    }

    fn set(&mut self, uses_other: bool, now: Duration) {
        if self.uses_other != uses_other {
            (self.uses_other, self.changed) = (uses_other, now);
        }
    }

    fn note_handshake(&mut self, Reading { handshake, time_of_day, now }: Reading) {
        let Some(told) = handshake else {
            self.last = None;
            return;
        };
        // A handshake seems to be in the future if the time of day was set back after it.
        let at = time_of_day.checked_sub(told).map(|age| now.saturating_sub(age));
        let is_close = |a: Duration, b: Duration| a.abs_diff(b) <= TOLERANCE;
        match &mut self.last {
            Some(last)
                if is_close(last.told, told)
                    || last.at.zip(at).is_some_and(|(last, at)| is_close(last, at)) =>
            {
                (last.told, last.at) = (told, last.at.or(at));
            }
            last => {
                self.before = last.and_then(|last| last.at);
                // It is seen some seconds later.
                let with_other = self.uses_other == at.is_some_and(|at| at >= self.changed);
                *last = Some(Handshake { at, told, with_other });
            }
        }
    }

    fn fails(&self, now: Duration) -> bool {
        let is_overdue = self.session(now).is_none_or(|age| age >= OVERDUE);
        let last = self.last.and_then(|last| last.at);
        let repeated = last.zip(self.before).is_some_and(|(last, before)| {
            last.saturating_sub(before) < REPEATED && now.saturating_sub(last) < REPEATED
        });
        is_overdue || repeated
    }
}
