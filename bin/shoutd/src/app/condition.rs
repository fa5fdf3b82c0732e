//! How the daemon waits: for a condition on state that a task publishes, until a deadline.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Why a condition does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// It did not hold by the deadline.
    #[error("it took longer than {after:?}")]
    Late {
        /// The deadline.
        after: Duration,
    },
    /// The task that publishes the state has ended: shoutd is stopping.
    #[error("shoutd is stopping")]
    Ended,
}

/// Waits until the published state satisfies the condition, for at most `deadline`. Returns the
/// state that satisfies it. Reads the current state first, so that no change is missed.
///
/// # Errors
/// The condition does not hold by the deadline, or the task that publishes the state has ended.
pub async fn met<T: Clone>(
    state: &watch::Receiver<T>,
    deadline: Duration,
    is_met: impl FnMut(&T) -> bool,
) -> Result<T, Unmet> {
    let mut state = state.clone();
    let waited = timeout(deadline, state.wait_for(is_met)).await;
    match waited {
        Ok(Ok(met)) => Ok(met.clone()),
        Ok(Err(_)) => Err(Unmet::Ended),
        Err(_) => Err(Unmet::Late { after: deadline }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_condition_is_met_late_or_lost_with_its_task() {
        let (sender, receiver) = watch::channel(1);
        assert_eq!(met(&receiver, LONG, |state| *state == 1).await, Ok(1));
        let (is_met, ()) = tokio::join!(met(&receiver, LONG, |state| *state > 2), async {
            sender.send_replace(3);
        });
        assert_eq!(is_met, Ok(3));
        let short = Duration::from_millis(1);
        let late = met(&receiver, short, |state| *state == 1).await;
        assert_eq!(late, Err(Unmet::Late { after: short }));
        drop(sender);
        assert_eq!(met(&receiver, LONG, |state| *state == 1).await, Err(Unmet::Ended));
    }
}
