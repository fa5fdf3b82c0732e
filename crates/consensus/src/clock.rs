//! What time it is.

use std::time::Duration;

/// The time since 1970 by this host's clock. One that is set before it counts as 1970 itself.
pub(crate) fn since_1970() -> Duration {
    #[cfg(test)]
    if let Some(simulated) = crate::simulation::wall_clock() {
        return simulated;
    }
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}
