//! A limit per second.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// Allows `most` per second. A second begins at its first use.
#[derive(Debug)]
pub(super) struct RateLimiter {
    most: usize,
    since: Option<Instant>,
    used: usize,
}

impl RateLimiter {
    pub(super) fn new(most: usize) -> Self {
        Self { most, since: None, used: 0 }
    }

    pub(super) fn use_up(&mut self, amount: usize) {
        if self.since.is_none_or(|since| since.elapsed() >= SECOND) {
            (self.since, self.used) = (Some(Instant::now()), 0);
        }
        self.used = self.used.saturating_add(amount);
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.used >= self.most && self.since.is_some_and(|since| since.elapsed() < SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_used_up_within_its_second() {
        let mut rate_limiter = RateLimiter::new(5);
        rate_limiter.use_up(4);
        assert!(!rate_limiter.is_used_up());
        rate_limiter.since = Some(Instant::now() + Duration::from_secs(60));
        rate_limiter.use_up(1);
        assert!(rate_limiter.is_used_up());
    }
}
