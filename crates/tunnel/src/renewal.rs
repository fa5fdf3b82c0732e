//! When sessions are renewed over which nothing passes but keepalives.
//!
//! Linux renews a session when it sends anything, also a keepalive (`keep_key_fresh`,
//! `drivers/net/wireguard/send.c`). gotatun renews it only when it sends a packet of a user, so a
//! session without traffic ends after 180 s, and there is none until the next keepalive.
//!
//! Both give up a handshake without an answer after 90 s (`REKEY_ATTEMPT_TIME`, WireGuard paper,
//! section 6.4). Linux begins another at the next keepalive, gotatun only with a packet of a user.

use std::time::Duration;

/// How often the sessions are looked at.
pub(crate) const PERIOD: Duration = Duration::from_secs(5);

/// Whether a new handshake is due with a peer that has keepalives. `age` is that of its session,
/// `None` if there is none. A session with traffic is renewed at the age `rekey_after`, by its
/// initiator. This comes later, and at different ages for the two ends, so that both seldom begin
/// at once: `is_first` is true for one of them.
pub(crate) fn is_due(age: Option<Duration>, rekey_after: Duration, is_first: bool) -> bool {
    let share = if is_first { 12 } else { 6 };
    age.is_none_or(|age| age >= rekey_after + rekey_after / share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_renewed_before_it_ends_first_by_one_end() {
        let rekey_after = Duration::from_secs(120);
        let due = |age, is_first| is_due(Some(Duration::from_secs(age)), rekey_after, is_first);
        for (age, first, second) in
            [(0, false, false), (125, false, false), (130, true, false), (140, true, true)]
        {
            assert_eq!((due(age, true), due(age, false)), (first, second), "{age}");
        }
        assert!(is_due(None, rekey_after, true) && is_due(None, rekey_after, false));
        // A handshake that is lost is repeated after 5 s, so several fit before the session ends.
        assert!(due(180 - 30, false));
    }
}
