//! Exponential backoff for failed actions. It does not delay other actions.

use std::time::{Duration, Instant};

use shoutd_core::plane::{Action, Desired};

use crate::reconcile::{ActionFailure, Report};

/// The first and the last delay of a retry; the delay doubles in between.
pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(50);
/// See [`RETRY_FIRST`].
pub(crate) const RETRY_LAST: Duration = Duration::from_secs(5);

/// The actions that failed when last tried.
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
    /// Ends delays after a new desired state. A segment's actions may be tried at once if its
    /// devices should change. Changes of groups and remote endpoints do not count, because these
    /// change with every join on any host. All actions may be tried at once if the same state is
    /// requested again.
    pub(crate) fn heed(&mut self, before: &Desired, after: &Desired) {
        if self.held.is_empty() {
            return;
        }
        let is_asked_again = before == after;
        self.held.retain(|held| {
            let is_as_before = match held.failure.action.vni() {
                Some(vni) => match (before.segments.get(&vni), after.segments.get(&vni)) {
                    (Some(before), Some(after)) => before.has_devices_of(after),
                    (None, None) => true,
                    _ => false,
                },
                None => before.underlay_filter == after.underlay_filter,
            };
            is_as_before && !is_asked_again
        });
    }

    /// The earlier failure of an action that must not be tried yet.
    pub(crate) fn holds(&self, action: &Action, now: Instant) -> Option<ActionFailure> {
        let held = self.held.iter().find(|held| held.failure.action == *action)?;
        (now < held.until).then(|| held.failure.clone())
    }

    /// Records the result of a round. An action that no longer fails is forgotten.
    pub(crate) fn note(&mut self, report: &Report, now: Instant) {
        let before = std::mem::take(&mut self.held);
        self.held = report.failures.iter().map(|failure| held(failure, &before, now)).collect();
    }

    /// The time of the next retry.
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use shoutd_core::Vni;
    use shoutd_core::plane::{Segment, Vtep};

    use super::*;
    use crate::kernel_error::KernelError;

    fn vni(number: u32) -> Vni {
        Vni::new(number).unwrap()
    }

    /// Two networks.
    fn desired() -> Desired {
        let vtep = Vtep { address: Ipv4Addr::LOCALHOST.into(), port: 7789, encrypted: false };
        let segment = Segment::empty("a".repeat(64).parse().unwrap(), 1450, vtep);
        Desired {
            segments: [7, 8].map(|number| (vni(number), segment.clone())).into(),
            ..Desired::default()
        }
    }

    /// Whether the failed `TuneBridge` of the first network still waits after this change of the
    /// desired state.
    fn holds(change: impl FnOnce(&mut Desired)) -> bool {
        let (action, now) = (Action::TuneBridge { vni: vni(7), mtu: 1450 }, Instant::now());
        let failure = ActionFailure {
            action: action.clone(),
            error: Arc::new(KernelError::Injected("refused")),
        };
        let mut backoff = Backoff::default();
        backoff.note(&Report { done: Vec::new(), failures: vec![failure] }, now);
        let mut after = desired();
        change(&mut after);
        backoff.heed(&desired(), &after);
        backoff.holds(&action, now).is_some()
    }

    #[test]
    fn a_failed_action_is_retried_at_once_if_its_network_changes_or_the_state_is_requested_again() {
        assert!(!holds(|_| ()));
        assert!(!holds(|after| after.segments.get_mut(&vni(7)).unwrap().mtu = 1400));
        assert!(!holds(|after| _ = after.segments.remove(&vni(7))));
        assert!(holds(|after| after.segments.get_mut(&vni(8)).unwrap().mtu = 1400));
        assert!(holds(|after| Arc::make_mut(
            &mut after.segments.get_mut(&vni(7)).unwrap().replication
        )
        .provisional = true));
    }
}
