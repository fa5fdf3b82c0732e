//! openraft's runtime where a simulation may replace it.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use rand_0_8::{Error, RngCore};
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;

/// A task.
pub type Work = Pin<Box<dyn Future<Output = ()>>>;

/// What runs the tasks of one thread, in place of tokio.
pub trait Executor {
    /// Starts a task of the host whose task runs now.
    fn spawn(&self, work: Work);

    /// A random number for election time-outs.
    fn draw(&self) -> u64;

    /// The time since 1970 by the clock of the host whose task runs now; `None` for the machine's
    /// clock.
    fn wall_clock(&self) -> Option<Duration>;
}

thread_local! {
    static EXECUTOR: RefCell<Option<Rc<dyn Executor>>> = const { RefCell::new(None) };
}

/// Sets what runs the tasks of this thread from now on; `None` for tokio.
pub fn set_executor(executor: Option<Rc<dyn Executor>>) {
    EXECUTOR.set(executor);
}

fn executor() -> Option<Rc<dyn Executor>> {
    EXECUTOR.with(|executor| executor.try_borrow().ok()?.clone())
}

/// See [`Executor::wall_clock`].
pub(crate) fn wall_clock() -> Option<Duration> {
    executor()?.wall_clock()
}

/// Waits for a task.
pub type Joined<T> = oneshot::Receiver<T>;

/// openraft's runtime: the [`Executor`] of the thread, or tokio where there is none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Runtime;

impl AsyncRuntime for Runtime {
    type JoinError = oneshot::error::RecvError;
    type JoinHandle<T: OptionalSend + 'static> = Joined<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = ElectionChance;
    type OneshotSender<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;
    type OneshotReceiver<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;

    fn spawn<T>(future: T) -> Joined<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let work = async move {
            let _ = sender.send(future.await);
        };
        match executor() {
            Some(executor) => executor.spawn(Box::pin(unconstrained(work))),
            None => drop(tokio::spawn(work)),
        }
        receiver
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(_: &Self::JoinError) -> bool {
        false
    }

    fn thread_rng() -> ElectionChance {
        ElectionChance
    }

    fn oneshot<T: OptionalSend>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        TokioRuntime::oneshot()
    }
}

/// The source of openraft's election time-outs: the [`Executor`] of the thread, or openraft's own
/// where there is none.
#[derive(Debug)]
pub struct ElectionChance;

impl RngCore for ElectionChance {
    fn next_u32(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.next_u64().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    fn next_u64(&mut self) -> u64 {
        executor().map_or_else(|| TokioRuntime::thread_rng().next_u64(), |executor| executor.draw())
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next_u64().to_le_bytes()[0]);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}
