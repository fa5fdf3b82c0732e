//! Preshared keys of the encrypted underlay: one for each pair of hosts.
//!
//! The host of a pair with the lower id *leads*: it draws keys and offers them to the other, which
//! *follows*. Nobody else ever sees them. WireGuard uses a preshared key in handshakes only, at
//! most every 120 s, and a session goes on without. So the two ends may change it one after the
//! other.
//!
//! An offer takes one call:
//!
//! 1. The leader draws a key, and writes it to disk as the second one of the pair.
//! 2. The follower writes it to disk as its current key, with the former key as the second one. It
//!    programs the new one, and answers.
//! 3. The leader makes it its current key, the former one the second, and programs it.
//! 4. At their next call each sees that the other has the same key in WireGuard, and forgets the
//!    second one.
//!
//! If the answer is lost, or a daemon is killed at any moment, the next call mends it ([`next`]).
//! Until then the hosts' keys may differ, and each living daemon has both. It tries the second key
//! when handshakes fail ([`Trial`]). This takes less time than the rest of a session's life, so no
//! packet is lost even if the other host's daemon is dead.

mod key;
mod rotation;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod trial;

use std::time::Duration;

pub use key::{Claim, KeyDigest, OCTETS, PairKey, PairKeys, PresharedKey};
pub use rotation::{AskRotation, KeyRotation, progress};
pub use trial::{Reading, Trial};

use crate::HostId;
use crate::limits::PRESHARED_KEY_AGE_MAX;

/// How often a leader asks a follower for its claim. Together with the failing handshakes that a
/// follower with old data causes, it is less than the rest of a session's life.
pub const ASK_PERIOD: Duration = Duration::from_secs(20);

/// How soon it asks again while the pair is not settled.
pub const ASK_RETRY: Duration = Duration::from_secs(2);

/// The ages of a session at which no key is offered: soon the hosts make a handshake, for which an
/// answer that is lost would come too late. A session that reaches the end of this span has no
/// traffic to lose.
const HANDSHAKE_SOON: std::ops::Range<Duration> =
    Duration::from_secs(100)..Duration::from_secs(140);

/// Whether `me` leads the pair.
pub fn leads(me: HostId, peer: HostId) -> bool {
    me < peer
}

/// What a leader knows of a pair.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Its keys.
    pub keys: &'a PairKeys,
    /// Whether its WireGuard has the current one.
    pub programmed: bool,
    /// What the follower claimed last, and how long ago.
    pub claim: Option<(Claim, Duration)>,
    /// The age of the session; `None` without one.
    pub session: Option<Duration>,
    /// The cluster's rotation.
    pub rotation: u64,
    /// The time since 1970.
    pub now: Duration,
}

/// What a leader does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It waits.
    Nothing,
    /// It asks the follower for its claim.
    Ask,
    /// It makes its second key the current one: the follower has it.
    Swap,
    /// It forgets its second key.
    Settle,
    /// It draws a key and offers it.
    Offer,
}

/// What the leader of a pair does next.
pub fn next(standing: &Standing<'_>) -> Step {
    let Standing { keys, claim, .. } = standing;
    let Some((claim, age)) = claim else { return Step::Ask };
    if keys.has_as_other(claim) {
        return Step::Swap;
    }
    let agrees = keys.current.is_some() && claim.current == keys.digest();
    let settled = agrees && claim.programmed && standing.programmed;
    if settled && keys.other.is_some() {
        return Step::Settle;
    }
    // Only a host that has just answered gets an offer: one that never arrives would have to be
    // remembered.
    if *age >= ASK_RETRY && (!settled || is_due(standing) || *age >= ASK_PERIOD) {
        return Step::Ask;
    }
    if *age >= ASK_RETRY {
        return Step::Nothing;
    }
    match agrees {
        // They disagree. A handshake would fail anyway.
        false => Step::Offer,
        true if settled && is_due(standing) => Step::Offer,
        true => Step::Nothing,
    }
}

/// Whether the current key is to be replaced, and this is a good moment.
fn is_due(standing: &Standing<'_>) -> bool {
    let Some(key) = &standing.keys.current else { return true };
    let age = standing.now.checked_sub(key.drawn);
    // A key from the future was drawn before the clock was set back.
    let is_old = age.is_none_or(|age| age >= PRESHARED_KEY_AGE_MAX);
    (is_old || key.rotation != standing.rotation)
        && !standing.session.is_some_and(|age| HANDSHAKE_SOON.contains(&age))
}

/// Whether a pair has yet to reach this rotation.
pub fn is_behind(keys: &PairKeys, rotation: u64) -> bool {
    keys.current.as_ref().is_none_or(|key| key.rotation < rotation)
}

/// What a follower does with the leader's claim if there is no offer: it forgets its second key if
/// both have the same one in WireGuard.
pub fn settles(keys: &PairKeys, programmed: bool, leader: &Claim) -> bool {
    let agrees = keys.current.is_some() && leader.current == keys.digest();
    keys.other.is_some() && agrees && programmed && leader.programmed
}
