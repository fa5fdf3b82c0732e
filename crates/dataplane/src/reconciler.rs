//! The thread that owns a kernel, and the handle by which the rest of shoutd speaks to it.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use shoutd_core::Vni;
use shoutd_core::plane::{Action, Desired, DeviceName, Observed, diff};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::backoff::{Backoff, RETRY_FIRST, RETRY_LAST};
use crate::handover::Handover;
use crate::kernel::{Kernel, KernelError};
use crate::reconcile::{ActionFailure, Report, execute_all, port_of, sandboxes, vni_of};

/// How often everything is read again though nothing said that it changed: what no event tells of, as a sandbox that is gone, is noticed
/// within this.
const PERIOD: Duration = Duration::from_secs(2);
/// How soon after a round the next may follow that only an event asks for: events come in swarms, also of our own doing.
const PAUSE: Duration = Duration::from_millis(20);
/// Which of the desired states that were handed over; later ones compare greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u64);

/// Whose failures matter to somebody who waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All.
    Everything,
    /// Those of one port, and of the segment's bridge and tunnel that it depends on; not of other ports.
    Port {
        /// The segment.
        vni: Vni,
        /// The port.
        name: DeviceName,
    },
}

impl Scope {
    fn concerns(&self, action: &Action) -> bool {
        match self {
            Self::Everything => true,
            Self::Port { vni, name } => vni_of(action) == *vni && port_of(action).is_none_or(|port| port == *name),
        }
    }
}

/// Why a desired state does not hold when the time to wait for it is over.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unsettled {
    /// These actions failed, and failed again.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Failed(Vec<ActionFailure>),
    /// What there is could not even be read.
    #[error("cannot read the state of the kernel: {0}")]
    Unreadable(Arc<KernelError>),
    /// It has not been tried yet.
    #[error("the kernel was not done within {after:?}")]
    Late {
        /// How long was waited.
        after: Duration,
    },
    /// The thread has ended.
    #[error("the data plane has stopped")]
    Stopped,
}

/// What the last round came to.
#[derive(Debug, Clone, Default)]
struct Status {
    /// The generation it was for; nothing before the first.
    generation: Generation,
    failures: Arc<[ActionFailure]>,
    unreadable: Option<Arc<KernelError>>,
}

impl Status {
    /// Whether what was asked for holds, as far as it matters; or what is wrong.
    fn verdict(&self, scope: &Scope) -> Result<(), Unsettled> {
        if let Some(error) = &self.unreadable {
            return Err(Unsettled::Unreadable(error.clone()));
        }
        let failures: Vec<_> =
            self.failures.iter().filter(|failure| scope.concerns(&failure.action)).cloned().collect();
        if failures.is_empty() { Ok(()) } else { Err(Unsettled::Failed(failures)) }
    }
}

/// What is handed to the thread: the newest desired state only.
#[derive(Debug, Default)]
struct Inbox {
    desired: Option<Arc<Desired>>,
    generation: Generation,
    stopped: bool,
}

#[derive(Debug)]
struct Shared {
    inbox: Mutex<Inbox>,
    wake: EventFd,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // Nothing that is done under the lock can leave it half changed.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It fails only when it is signalled already, 2^64 times.
        let _ = self.wake.write(1);
    }
}

/// Speaks to the thread. When the last copy is dropped the thread ends, and leaves everything as it is.
#[derive(Debug, Clone)]
pub struct ReconcilerHandle {
    shared: Arc<Owner>,
    status: watch::Receiver<Status>,
    observed: watch::Receiver<Arc<Observed>>,
}

#[derive(Debug)]
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.inbox().stopped = true;
        self.0.wake();
    }
}

impl ReconcilerHandle {
    /// Says what should be, in place of whatever was said before.
    pub fn apply(&self, desired: Desired) -> Generation {
        let generation = {
            let mut inbox = self.shared.0.inbox();
            inbox.desired = Some(Arc::new(desired));
            inbox.generation.0 += 1;
            inbox.generation
        };
        self.shared.0.wake();
        generation
    }

    /// Has everything looked at once more, soon.
    pub fn poke(&self) {
        self.shared.0.wake();
    }

    /// Waits until this generation, or a later one, holds; what fails meanwhile is tried again. When the time is over, says what is wrong.
    pub async fn settled(&self, generation: Generation, scope: &Scope, timeout: Duration) -> Result<(), Unsettled> {
        let mut status = self.status.clone();
        let holds = status.wait_for(|status| status.generation >= generation && status.verdict(scope).is_ok());
        match tokio::time::timeout(timeout, holds).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => return Err(Unsettled::Stopped),
            Err(_) => {}
        }
        let last = self.status.borrow().clone();
        if last.generation < generation {
            return Err(Unsettled::Late { after: timeout });
        }
        last.verdict(scope)
    }

    /// What there was when it was last looked at.
    pub fn observed(&self) -> Arc<Observed> {
        self.observed.borrow().clone()
    }

    /// What there is, each time that it was looked at.
    pub fn watch_observed(&self) -> watch::Receiver<Arc<Observed>> {
        self.observed.clone()
    }

    /// What failed in the last round.
    pub fn failures(&self) -> Arc<[ActionFailure]> {
        self.status.borrow().failures.clone()
    }
}

/// The thread's own side.
#[derive(Debug)]
pub struct Reconciler<K> {
    kernel: K,
    shared: Arc<Shared>,
    status: watch::Sender<Status>,
    observed: watch::Sender<Arc<Observed>>,
    handover: Handover,
    backoff: Backoff,
    /// What was last complained about, so that it is not said again every time.
    complaints: Vec<String>,
}

/// What the thread does next.
enum Next {
    Stop,
    Round(Option<(Generation, Arc<Desired>)>),
}

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Something was done.
    Changed,
    /// There was nothing to do, or it failed.
    Unchanged,
    /// What there is could not be read.
    Unreadable,
}

impl<K: Kernel + 'static> Reconciler<K> {
    /// Starts the thread. Until the first [`ReconcilerHandle::apply`] it only looks: what is not known to be wanted is not known to be
    /// unwanted either.
    pub fn spawn(kernel: K) -> io::Result<ReconcilerHandle> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let shared = Arc::new(Shared { inbox: Mutex::default(), wake });
        let (status, status_receiver) = watch::channel(Status::default());
        let (observed, observed_receiver) = watch::channel(Arc::default());
        let handle = ReconcilerHandle {
            shared: Arc::new(Owner(shared.clone())),
            status: status_receiver,
            observed: observed_receiver,
        };
        let mut reconciler = Self {
            kernel,
            shared,
            status,
            observed,
            handover: Handover::default(),
            backoff: Backoff::default(),
            complaints: Vec::new(),
        };
        thread::Builder::new().name("reconciler".to_owned()).spawn(move || reconciler.run())?;
        Ok(handle)
    }

    fn run(&mut self) {
        let mut unreadable_for = RETRY_FIRST;
        let mut last = Generation::default();
        while let Next::Round(wanted) = self.next() {
            let generation = wanted.as_ref().map(|(generation, _)| *generation).unwrap_or_default();
            if generation != last {
                self.backoff.forget();
            }
            last = generation;
            let outcome = self.round(wanted.as_ref());
            if outcome != Outcome::Unreadable {
                unreadable_for = RETRY_FIRST;
            }
            match outcome {
                // What was done is looked at: it may have come out otherwise than it should.
                Outcome::Changed => self.rest(PAUSE, PAUSE, generation),
                Outcome::Unchanged => {
                    let until_retry = self.backoff.next().map(|next| next.saturating_duration_since(Instant::now()));
                    self.rest(PAUSE, until_retry.unwrap_or(PERIOD).min(PERIOD), generation);
                }
                Outcome::Unreadable => {
                    self.rest(unreadable_for, unreadable_for, generation);
                    unreadable_for = (unreadable_for * 2).min(RETRY_LAST);
                }
            }
        }
    }

    fn next(&self) -> Next {
        let inbox = self.shared.inbox();
        if inbox.stopped {
            Next::Stop
        } else {
            Next::Round(inbox.desired.clone().map(|desired| (inbox.generation, desired)))
        }
    }

    /// Waits until something else is desired; or something changed, but at least `pause`; or `period` is over.
    fn rest(&mut self, pause: Duration, period: Duration, generation: Generation) {
        let begin = Instant::now();
        let is_news = |shared: &Shared| {
            let inbox = shared.inbox();
            inbox.stopped || inbox.generation != generation
        };
        let mut poked = false;
        while begin.elapsed() < pause {
            wait_for(&self.shared.wake, pause.saturating_sub(begin.elapsed()));
            poked |= self.shared.wake.read().is_ok();
            if is_news(&self.shared) {
                return;
            }
        }
        if !poked && pause < period && !is_news(&self.shared) {
            self.kernel.wait(self.shared.wake.as_fd(), period.saturating_sub(begin.elapsed()));
            let _ = self.shared.wake.read();
        }
    }

    /// One round.
    fn round(&mut self, wanted: Option<&(Generation, Arc<Desired>)>) -> Outcome {
        let (generation, desired) = wanted.cloned().unwrap_or_default();
        let observed = match self.kernel.observe(&sandboxes(&desired)) {
            Ok(observed) => Arc::new(observed),
            Err(error) => {
                self.publish(generation, &Report::default(), Some(Arc::new(error)));
                return Outcome::Unreadable;
            }
        };
        self.observed.send_replace(observed.clone());
        if wanted.is_none() {
            return Outcome::Unchanged;
        }
        let now = Instant::now();
        let mut plan = diff(&desired, &observed);
        self.handover.note(&observed, &plan, now);
        plan.retain(|action| self.handover.permits(action, now));
        let backoff = &self.backoff;
        let report = execute_all(&mut self.kernel, plan, |action| backoff.holds(action, now));
        self.backoff.note(&report, Instant::now());
        self.publish(generation, &report, None);
        if report.done.is_empty() { Outcome::Unchanged } else { Outcome::Changed }
    }

    fn publish(&mut self, generation: Generation, report: &Report, unreadable: Option<Arc<KernelError>>) {
        for action in &report.done {
            match action {
                Action::AddFlood { .. } | Action::RemoveFlood { .. } => debug!(?action, "done"),
                _ => info!(?action, "done"),
            }
        }
        let complaints: Vec<String> =
            report.failures.iter().map(ToString::to_string).chain(unreadable.iter().map(ToString::to_string)).collect();
        if complaints != self.complaints {
            complaints.iter().for_each(|complaint| warn!("{complaint}; trying again"));
            self.complaints = complaints;
        }
        self.status.send_replace(Status { generation, failures: report.failures.clone().into(), unreadable });
    }
}

/// Waits until the wake can be read, or the time is over.
fn wait_for(wake: &EventFd, timeout: Duration) {
    let mut waiting = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
    // Rounded up, lest the last fraction of a millisecond be spent turning round and round.
    let timeout = PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    let _ = poll(&mut waiting, timeout);
}
