//! Requests to the task that owns a computed state: to bring it up to date with what the caller has
//! just written.
//!
//! Requests are numbered. The owner reads the last number before it reads its sources, and
//! publishes the number with the result. So a caller waits until the published number has reached
//! its own, and then knows that the result covers everything written before its request.

use std::time::Duration;

use tokio::sync::watch;

use crate::app::condition::{Unmet, met};

/// The last requests.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    number: u64,
    /// The last one that asks to apply the state even if it has not changed.
    forced: u64,
}

/// A computed state, and the last request before its sources were read.
#[derive(Debug, Clone, Default)]
struct Served<T> {
    number: u64,
    state: T,
}

/// The callers' side.
#[derive(Debug)]
pub struct Requests<T> {
    last: watch::Sender<Last>,
    served: watch::Receiver<Served<T>>,
}

/// The owner's side. Callers that wait after it is dropped get [`Unmet::Ended`].
#[derive(Debug)]
pub struct Requested<T> {
    last: watch::Receiver<Last>,
    served: watch::Sender<Served<T>>,
}

/// Connects callers with an owner. Until the owner serves, the state is the default.
pub fn channel<T: Clone + Default>() -> (Requests<T>, Requested<T>) {
    let (last, requested) = watch::channel(Last::default());
    let (server, served) = watch::channel(Served::default());
    (Requests { last, served }, Requested { last: requested, served: server })
}

impl<T: Clone> Requests<T> {
    /// Waits until the owner has applied a state that covers what was written before this call.
    /// `is_forced` makes it apply the state even if it has not changed.
    ///
    /// # Errors
    /// The owner has ended, or takes longer than `deadline`.
    pub async fn served(&self, is_forced: bool, deadline: Duration) -> Result<T, Unmet> {
        let mut number = 0;
        self.last.send_modify(|last| {
            last.number += 1;
            number = last.number;
            if is_forced {
                last.forced = number;
            }
        });
        Ok(met(&self.served, deadline, |served| served.number >= number).await?.state)
    }

    /// The last state.
    pub fn current(&self) -> T {
        self.served.borrow().state.clone()
    }

    /// Waits until the owner has ended.
    ///
    /// # Errors
    /// It takes longer than `deadline`.
    pub async fn ended(&self, deadline: Duration) -> Result<(), Unmet> {
        match met(&self.served, deadline, |_| false).await {
            Ok(_) | Err(Unmet::Ended) => Ok(()),
            Err(late) => Err(late),
        }
    }
}

impl<T> Requested<T> {
    /// Applies the state by `apply`, which is told whether a caller forces it, and publishes the
    /// result.
    pub fn serve(&mut self, apply: impl FnOnce(bool) -> T) {
        // Before the sources are read: a later request may follow a later change.
        let last = *self.last.borrow_and_update();
        let is_forced = last.forced > self.served.borrow().number;
        let state = apply(is_forced);
        self.served.send_replace(Served { number: last.number, state });
    }

    /// Waits for a request since the last [`Self::serve`]. Returns whether callers remain.
    pub async fn requested(&mut self) -> bool {
        self.last.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// An owner that counts how often it applied the state, and how often it was forced to.
    async fn own(mut requested: Requested<(u32, u32)>, rounds: usize) {
        let (mut applied, mut forced) = (0, 0);
        for _ in 0..rounds {
            if !requested.requested().await {
                return;
            }
            requested.serve(|is_forced| {
                (applied, forced) = (applied + 1, forced + u32::from(is_forced));
                (applied, forced)
            });
        }
    }

    #[tokio::test]
    async fn a_request_is_served_by_a_state_computed_after_it() {
        let (requests, mut requested) = channel();
        let waiting = requests.served(false, LONG);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        // A state whose sources were read before the request does not serve it.
        let written_later = requests.served(false, LONG);
        tokio::pin!(written_later);
        requested.serve(|_| {
            assert!(futures::FutureExt::now_or_never(&mut written_later).is_none());
            1
        });
        assert_eq!(waiting.await, Ok(1));
        assert!(futures::poll!(&mut written_later).is_pending());
        requested.serve(|_| 2);
        assert_eq!(written_later.await, Ok(2));
        assert_eq!(requests.current(), 2);
    }

    #[tokio::test]
    async fn only_a_forced_request_forces_and_only_once() {
        let (requests, requested) = channel();
        let ask = async {
            assert_eq!(requests.served(false, LONG).await, Ok((1, 0)));
            assert_eq!(requests.served(true, LONG).await, Ok((2, 1)));
            assert_eq!(requests.served(false, LONG).await, Ok((3, 1)));
        };
        tokio::join!(own(requested, 3), ask);
    }

    #[tokio::test]
    async fn callers_learn_that_the_owner_is_late_or_has_ended() {
        let (requests, requested) = channel::<u32>();
        let short = Duration::from_millis(1);
        let late = Err(Unmet::Late { after: short });
        assert_eq!(requests.served(false, short).await, late);
        assert_eq!(requests.ended(short).await, late.map(drop));
        let (waited, ()) = tokio::join!(requests.served(false, LONG), async { drop(requested) });
        assert_eq!(waited, Err(Unmet::Ended));
        assert_eq!(requests.ended(LONG).await, Ok(()));
    }
}
