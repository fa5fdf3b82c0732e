//! The reconciler's thread: observes the [`Kernel`], which only it uses, and executes the actions
//! that lead to the desired state.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;
use shoutd_core::plane::{
    Action, Desired, Learning, Observed, ObservedUnderlayFilter, Repairs, Tier, diff,
};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::backoff::{Backoff, RETRY_FIRST, RETRY_LAST};
use crate::generation::Generation;
use crate::graceful_restart::GracefulRestart;
use crate::handle::{Owner, ReconcilerHandle, Shared, Status};
use crate::kernel::Kernel;
use crate::kernel_error::KernelError;
use crate::membership_follower;
use crate::reconcile::{Report, execute_all, sandboxes};
use crate::replicator::{self, Post};
use crate::round::{Round, RoundObserver, RoundOutcome};
use crate::setup_grace::SetupGrace;

/// How often everything is observed again if no event comes. It bounds how late we notice a change
/// that causes no event, such as a sandbox that disappears.
const PERIOD: Duration = Duration::from_secs(2);
/// When a segment that could not be read is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Minimum time between rounds that only events request. Events come in bursts, also from our own
/// actions.
const PAUSE: Duration = Duration::from_millis(20);

/// The state of the reconciler's thread.
#[derive(Debug)]
pub struct Reconciler<K> {
    kernel: K,
    shared: Arc<Shared>,
    replicator: Arc<Post>,
    status: watch::Sender<Status>,
    observed: watch::Sender<Arc<Observed>>,
    learning: watch::Sender<Learning>,
    repairs: watch::Sender<Repairs>,
    started: Instant,
    setup_grace: SetupGrace,
    graceful_restart: GracefulRestart,
    backoff: Backoff,
    /// Whether this daemon has seen the underlay filter in place.
    filter_stood: bool,
    filter_losses: watch::Sender<u64>,
    /// The last logged problems, so that they are not logged again in every round.
    complaints: Vec<String>,
    observer: Arc<dyn RoundObserver>,
}

/// What the thread does next.
enum Next {
    Stop,
    Round(Option<(Generation, Arc<Desired>)>),
}

impl<K: Kernel + 'static> Reconciler<K> {
    /// Starts the reconciler's thread, the replicator with this tier, and the membership follower.
    /// Until the first [`ReconcilerHandle::apply`] it only observes: without a desired state we
    /// cannot tell what is unwanted.
    pub fn spawn(kernel: K, tier: Tier) -> io::Result<ReconcilerHandle> {
        Self::spawn_observed(kernel, tier, Arc::new(()))
    }

    /// The same, with an observer of the rounds of reconciler and replicator.
    pub fn spawn_observed(
        kernel: K,
        tier: Tier,
        observer: Arc<dyn RoundObserver>,
    ) -> io::Result<ReconcilerHandle> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let shared = Arc::new(Shared { inbox: Mutex::default(), wake });
        let (status, status_receiver) = watch::channel(Status::default());
        let (observed, observed_receiver) = watch::channel(Arc::default());
        let (filter_losses, filter_losses_receiver) = watch::channel(0);
        let (learning, learning_receiver) = watch::channel(Learning::default());
        let (repairs, repairs_receiver) = watch::channel(Repairs::default());
        let (replicator, replicated) =
            replicator::spawn(kernel.forwarding(), tier, observer.clone())?;
        let follower = membership_follower::spawn(kernel.memberships())?;
        let handle = ReconcilerHandle {
            owner: Arc::new(Owner {
                shared: shared.clone(),
                replicator: replicator.clone(),
                follower,
            }),
            status: status_receiver,
            replicated,
            observed: observed_receiver,
            filter_losses: filter_losses_receiver,
            learning: learning_receiver,
            repairs: repairs_receiver,
        };
        let mut reconciler = Self {
            kernel,
            shared,
            replicator,
            status,
            observed,
            learning,
            repairs,
            started: Instant::now(),
            setup_grace: SetupGrace::default(),
            graceful_restart: GracefulRestart::default(),
            backoff: Backoff::default(),
            filter_stood: false,
            filter_losses,
            complaints: Vec::new(),
            observer,
        };
        thread::Builder::new().name("reconciler".to_owned()).spawn(move || reconciler.run())?;
        Ok(handle)
    }

    fn run(&mut self) {
        let mut unreadable_for = RETRY_FIRST;
        let mut last: (Generation, Arc<Desired>) = Default::default();
        while let Next::Round(wanted) = self.next() {
            let (generation, desired) = wanted.clone().unwrap_or_default();
            if generation != last.0 {
                self.backoff.heed(&last.1, &desired);
                self.repairs.send_modify(|repairs| repairs.heed(&last.1, &desired));
            }
            last = (generation, desired);
            let outcome = self.round(wanted.as_ref());
            if outcome != RoundOutcome::Unreadable {
                unreadable_for = RETRY_FIRST;
            }
            match outcome {
                // Observe again soon: the result may differ from what we intended.
                RoundOutcome::Changed => self.rest(PAUSE, PAUSE, generation),
                RoundOutcome::Unchanged => {
                    let until_retry = self
                        .backoff
                        .next()
                        .map(|next| next.saturating_duration_since(Instant::now()));
                    let is_whole = self.observed.borrow().unreadable_segments.is_empty();
                    let period = if is_whole { PERIOD } else { RETRY };
                    self.rest(PAUSE, until_retry.unwrap_or(period).min(period), generation);
                }
                RoundOutcome::Unreadable => {
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

    /// Waits for at most `period`. A new desired state ends the wait at once, a kernel event after
    /// `pause` at the earliest.
    fn rest(&mut self, pause: Duration, period: Duration, generation: Generation) {
        let begin = Instant::now();
        let mut poked = false;
        while begin.elapsed() < pause {
            wait_for(&self.shared.wake, pause.saturating_sub(begin.elapsed()));
            poked |= self.shared.wake.read().is_ok();
            if self.shared.inbox().supersedes(generation) {
                return;
            }
        }
        if !poked && pause < period && !self.shared.inbox().supersedes(generation) {
            self.kernel.wait(self.shared.wake.as_fd(), period.saturating_sub(begin.elapsed()));
            let _ = self.shared.wake.read();
        }
    }

    /// One round: observe, diff, execute.
    fn round(&mut self, wanted: Option<&(Generation, Arc<Desired>)>) -> RoundOutcome {
        let begin = Instant::now();
        let (outcome, report) = self.reconcile(wanted);
        let (done, failed) = (report.done.len(), report.failures.len());
        self.observer.reconciled(&Round { outcome, took: begin.elapsed(), done, failed });
        outcome
    }

    fn reconcile(&mut self, wanted: Option<&(Generation, Arc<Desired>)>) -> (RoundOutcome, Report) {
        let (generation, desired) = wanted.cloned().unwrap_or_default();
        let observed = match self.kernel.observe(&sandboxes(&desired)) {
            Ok(observed) => Arc::new(observed),
            Err(error) => {
                self.publish(
                    generation,
                    &Report::default(),
                    &Observed::default(),
                    Some(Arc::new(error)),
                );
                return (RoundOutcome::Unreadable, Report::default());
            }
        };
        self.observed.send_replace(observed.clone());
        if wanted.is_none() {
            return (RoundOutcome::Unchanged, Report::default());
        }
        let now = Instant::now();
        let mut plan = diff(&self.restricted(desired.clone(), &observed, now), &observed);
        self.setup_grace.note(&observed, &plan, now);
        self.graceful_restart.note(&observed, &desired);
        plan.retain(|action| {
            self.setup_grace.permits(action, now) && self.graceful_restart.permits(action)
        });
        let planned = plan.iter().filter_map(Action::vni).collect();
        let backoff = &self.backoff;
        let report = execute_all(&mut self.kernel, plan, |action| backoff.holds(action, now));
        self.backoff.note(&report, Instant::now());
        self.note_filter(&observed, &report);
        let since_start = now.saturating_duration_since(self.started);
        self.repairs.send_modify(|repairs| {
            repairs.note(&desired, &planned, &report.done, since_start);
        });
        self.publish(generation, &report, &observed, None);
        let outcome =
            if report.done.is_empty() { RoundOutcome::Unchanged } else { RoundOutcome::Changed };
        (outcome, report)
    }

    /// Counts how often something else removed the underlay filter, such as a firewall reload that
    /// flushes all rules.
    fn note_filter(&mut self, observed: &Observed, report: &Report) {
        let is_installed =
            report.done.iter().any(|action| matches!(action, Action::InstallUnderlayFilter { .. }));
        let is_lost = matches!(
            observed.underlay_filter,
            ObservedUnderlayFilter::Absent | ObservedUnderlayFilter::Broken
        );
        if is_installed && is_lost && self.filter_stood {
            self.filter_losses.send_modify(|losses| *losses += 1);
        }
        self.filter_stood |= is_installed || observed.underlay_filter.enforced().is_some();
    }

    /// The desired state, without learning in the segments that have learned too much.
    fn restricted(
        &self,
        mut desired: Arc<Desired>,
        observed: &Observed,
        now: Instant,
    ) -> Arc<Desired> {
        let since_start = now.saturating_duration_since(self.started);
        self.learning.send_if_modified(|learning| {
            let before = learning.clone();
            learning.note(observed, since_start);
            for (vni, suspension) in learning.suspended() {
                if !before.suspended().contains_key(vni) {
                    warn!("{}", suspension.describe(&format!("with VNI {vni}")));
                }
            }
            *learning != before
        });
        let learning = self.learning.borrow();
        if !learning.suspended().is_empty() {
            learning.restrict(Arc::make_mut(&mut desired));
        }
        desired
    }

    fn publish(
        &mut self,
        generation: Generation,
        report: &Report,
        observed: &Observed,
        unreadable: Option<Arc<KernelError>>,
    ) {
        report.done.iter().for_each(tell);
        let others = report
            .failures
            .iter()
            .map(ToString::to_string)
            .chain(unreadable.iter().map(ToString::to_string));
        let complaints: Vec<String> = observed.problems().chain(others).collect();
        if complaints != self.complaints {
            complaints.iter().for_each(|complaint| warn!("{complaint}; trying again"));
            self.complaints = complaints;
        }
        let revision = self.replicator.touch(
            report
                .done
                .iter()
                .filter(|action| is_of_devices(action))
                .filter_map(Action::vni)
                .collect(),
        );
        let (executed, failures) = match unreadable {
            Some(_) => (self.status.borrow().executed, self.status.borrow().failures.clone()),
            None => (generation, report.failures.clone().into()),
        };
        let unreadable_segments = observed.unreadable_segments.clone();
        self.status.send_replace(Status {
            generation,
            executed,
            failures,
            unreadable,
            unreadable_segments,
            revision,
        });
    }
}

/// Whether an action creates, changes or deletes devices, and so may affect FDB and MDB entries.
fn is_of_devices(action: &Action) -> bool {
    !matches!(
        action,
        Action::AddFlood { .. }
            | Action::RemoveFlood { .. }
            | Action::InstallIgmpMldFilter { .. }
            | Action::InstallWayOutFilter { .. }
            | Action::TuneContainerEnd { .. }
            | Action::EndDuplicateDetection { .. }
    )
}

/// Logs an action: created and deleted segments and ports at info, everything at debug.
fn tell(action: &Action) {
    debug!(?action, "done");
    match action {
        Action::CreateSegment { vni } => info!("network with VNI {vni}: created on this host"),
        Action::DeleteSegment { vni } => info!("network with VNI {vni}: deleted on this host"),
        Action::CreatePort { vni, port, .. } => {
            info!("network with VNI {vni}: endpoint {} connected", port.endpoint.short());
        }
        Action::DeletePort { vni, name } => {
            info!("network with VNI {vni}: port {name} deleted");
        }
        _ => {}
    }
}

/// Waits until the event is signalled or the time is over.
fn wait_for(wake: &EventFd, timeout: Duration) {
    let mut waiting = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
    // Rounded up, to avoid a busy loop in the last fraction of a millisecond.
    let timeout =
        PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    let _ = poll(&mut waiting, timeout);
}
