//! The wall clock, which a simulation can replace, and durations in messages.

use std::time::Duration;

/// The time since 1970 by this host's clock; zero if the clock is set to an earlier time.
pub(crate) fn since_1970() -> Duration {
    #[cfg(feature = "testing")]
    if let Some(simulated) = crate::testing::wall_clock() {
        return simulated;
    }
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
