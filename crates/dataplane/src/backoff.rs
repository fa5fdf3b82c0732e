//! What failed is tried again, ever less often, and without keeping anything else waiting.

use std::time::{Duration, Instant};

use shoutd_core::plane::Action;

use crate::reconcile::{ActionFailure, Report};

/// How soon something that failed is tried again, at first and at last; it doubles in between.
pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(50);
/// See [`RETRY_FIRST`].
pub(crate) const RETRY_LAST: Duration = Duration::from_secs(5);

/// The actions that failed when they were last tried.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    failure: ActionFailure,
    delay: Duration,
    until: Instant,
}

impl Backoff {
    /// Lets everything be tried at once: something else is desired now.
    pub(crate) fn forget(&mut self) {
        self.held.clear();
    }

    /// The failure to count an action as without trying it, if it is not yet time to.
    pub(crate) fn holds(&self, action: &Action, now: Instant) -> Option<ActionFailure> {
        let held = self.held.iter().find(|held| held.failure.action == *action)?;
        (now < held.until).then(|| held.failure.clone())
    }

    /// Takes note of what a round came to. What is not among its failures is over.
    pub(crate) fn note(&mut self, report: &Report, now: Instant) {
        let before = std::mem::take(&mut self.held);
        self.held = report.failures.iter().map(|failure| held(failure, &before, now)).collect();
    }

    /// When the next action is to be tried again.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.until).min()
    }
}

fn held(failure: &ActionFailure, before: &[Held], now: Instant) -> Held {
    let last = before.iter().find(|held| held.failure.action == failure.action);
    let (delay, until) = match last {
        Some(last) if now < last.until => (last.delay, last.until),
        Some(last) => ((last.delay * 2).min(RETRY_LAST), now + (last.delay * 2).min(RETRY_LAST)),
        None => (RETRY_FIRST, now + RETRY_FIRST),
    };
    Held { failure: failure.clone(), delay, until }
}
