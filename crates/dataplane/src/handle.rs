//! The handle of the [reconciler](crate::Reconciler)'s thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use parking_lot::{Mutex, MutexGuard};
use shoutd_core::Vni;
use shoutd_core::plane::{Desired, Learning, Observed, Repairs, Segment, Undone};
use tokio::sync::watch;

use crate::forwarding_failure::ForwardingFailure;
use crate::generation::Generation;
use crate::kernel_error::KernelError;
use crate::membership_follower::{AllMemberships, MembershipFollower};
use crate::reconcile::ActionFailure;
use crate::replicator::{self, Post, Revision};
use crate::scope::Scope;

/// Why a desired state does not hold at the deadline.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unsettled {
    /// These actions failed repeatedly.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Failed(Vec<ActionFailure>),
    /// These changes of replication or pins failed repeatedly.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unreplicated(Vec<ForwardingFailure>),
    /// The kernel could not be observed.
    #[error("cannot read the state of the kernel: {0}")]
    Unreadable(Arc<KernelError>),
    /// It has not been tried yet.
    #[error("the data plane was not programmed within {after:?}")]
    Late {
        /// How long we waited.
        after: Duration,
    },
    /// The segment could not be read.
    #[error("cannot read what the network has in the kernel: {0}")]
    UnreadableNetwork(String),
    /// The thread has ended.
    #[error("the data plane has stopped")]
    Stopped,
}

/// The result of the last round.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    /// The generation of the round; the default before the first.
    pub(crate) generation: Generation,
    /// The generation of the last round that could observe the kernel.
    pub(crate) executed: Generation,
    /// The failures of that round.
    pub(crate) failures: Arc<[ActionFailure]>,
    pub(crate) unreadable: Option<Arc<KernelError>>,
    pub(crate) unreadable_segments: BTreeMap<Vni, String>,
    /// The revision after the round's changes of devices. The replicator must reach it too.
    pub(crate) revision: Revision,
}

impl Status {
    /// Whether the desired state holds within the scope; otherwise the cause.
    fn verdict(&self, scope: &Scope) -> Result<(), Unsettled> {
        if let Some(error) =
            self.unreadable.as_ref().filter(|_| !matches!(scope, Scope::Advertised { .. }))
        {
            return Err(Unsettled::Unreadable(error.clone()));
        }
        let mut unreadable = self.unreadable_segments.iter();
        if let Some((_, error)) = unreadable.find(|(vni, _)| scope.concerns_segment(**vni)) {
            return Err(Unsettled::UnreadableNetwork(error.clone()));
        }
        let failures: Vec<_> = self
            .failures
            .iter()
            .filter(|failure| scope.concerns(&failure.action))
            .cloned()
            .collect();
        if failures.is_empty() { Ok(()) } else { Err(Unsettled::Failed(failures)) }
    }

    /// The newest generation whose result within the scope is known.
    fn tried(&self, scope: &Scope) -> Generation {
        if matches!(scope, Scope::Advertised { .. }) { self.executed } else { self.generation }
    }
}

/// The input of the thread: only the newest desired state.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) desired: Option<Arc<Desired>>,
    pub(crate) generation: Generation,
    /// The generation in which each segment last changed its network, VTEP or remotes.
    pub(crate) tunnels: BTreeMap<Vni, Generation>,
    pub(crate) stopped: bool,
}

impl Inbox {
    fn put(&mut self, desired: &Arc<Desired>) -> Generation {
        self.generation.0 += 1;
        let before = self.desired.replace(desired.clone());
        let mut tunnels = BTreeMap::new();
        for (vni, segment) in &desired.segments {
            let before = before.as_ref().and_then(|before| before.segments.get(vni));
            let since = self.tunnels.get(vni).copied().unwrap_or(self.generation);
            let is_as_before = before.is_some_and(|before| has_same_tunnel(before, segment));
            tunnels.insert(*vni, if is_as_before { since } else { self.generation });
        }
        self.tunnels = tunnels;
        self.generation
    }

    /// Whether the reconciler must end, or must leave this generation for a newer one.
    pub(crate) fn supersedes(&self, generation: Generation) -> bool {
        self.stopped || self.generation != generation
    }

    /// The generation that the reconciler must have reached before this scope can hold. For
    /// [`Scope::Advertised`] that is the last one that changed the segment's devices or remotes:
    /// the replicator alone programs the rest.
    fn needed(&self, generation: Generation, scope: &Scope) -> Generation {
        match scope {
            Scope::Advertised { vni } => {
                self.tunnels.get(vni).map_or(generation, |since| generation.min(*since))
            }
            _ => generation,
        }
    }
}

/// Whether two segments share the settings on which a tunnel and its flood entries depend.
fn has_same_tunnel(before: &Segment, after: &Segment) -> bool {
    before.network == after.network && before.vtep == after.vtep && before.remotes == after.remotes
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) inbox: Mutex<Inbox>,
    pub(crate) wake: EventFd,
}

impl Shared {
    pub(crate) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock()
    }

    pub(crate) fn wake(&self) {
        // It fails only if the counter would overflow, after 2^64 signals.
        let _ = self.wake.write(1);
    }
}

/// A handle of the threads. When the last copy is dropped they end. The kernel's state stays as it
/// is.
#[derive(Debug, Clone)]
pub struct ReconcilerHandle {
    pub(crate) owner: Arc<Owner>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) replicated: watch::Receiver<replicator::Status>,
    pub(crate) observed: watch::Receiver<Arc<Observed>>,
    pub(crate) filter_losses: watch::Receiver<u64>,
    pub(crate) learning: watch::Receiver<Learning>,
    pub(crate) repairs: watch::Receiver<Repairs>,
}

/// Ends the threads when dropped.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) replicator: Arc<Post>,
    pub(crate) follower: MembershipFollower,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.inbox().stopped = true;
        self.shared.wake();
        self.replicator.stop();
    }
}

impl ReconcilerHandle {
    /// Replaces the desired state.
    pub fn apply(&self, desired: impl Into<Arc<Desired>>) -> Generation {
        let desired = desired.into();
        let generation = self.owner.shared.inbox().put(&desired);
        self.owner.replicator.apply(generation, desired.clone());
        self.owner.follower.apply(generation, desired);
        self.owner.shared.wake();
        generation
    }

    /// Requests a round soon.
    pub fn poke(&self) {
        self.owner.shared.wake();
    }

    /// Waits until this generation or a later one holds: devices, flood entries, pins and
    /// replication. Failures are retried. At the deadline it returns the cause.
    pub async fn settled(
        &self,
        generation: Generation,
        scope: &Scope,
        timeout: Duration,
    ) -> Result<(), Unsettled> {
        let (mut status, mut replicated) = (self.status.clone(), self.replicated.clone());
        let needed = self.owner.shared.inbox().needed(generation, scope);
        let holds = async {
            let done = status
                .wait_for(|status| status.tried(scope) >= needed && status.verdict(scope).is_ok());
            let revision = done.await?.revision;
            let done = replicated.wait_for(|status| {
                status.generation >= generation
                    && status.revision >= revision
                    && (status.is_complete || *scope != Scope::Everything)
                    && !status.failures.iter().any(|failure| scope.concerns_forwarding(failure))
            });
            done.await.map(drop)
        };
        match tokio::time::timeout(timeout, holds).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) => return Err(Unsettled::Stopped),
            Err(_) => {}
        }
        let (last, replicated) = (self.status.borrow().clone(), self.replicated.borrow().clone());
        if last.tried(scope) >= needed {
            last.verdict(scope)?;
        }
        let concerned =
            replicated.failures.iter().filter(|failure| scope.concerns_forwarding(failure));
        let failures: Vec<ForwardingFailure> = concerned.cloned().collect();
        if failures.is_empty() {
            Err(Unsettled::Late { after: timeout })
        } else {
            Err(Unsettled::Unreplicated(failures))
        }
    }

    /// The memberships of each network's containers on this host, combined; kept up to date.
    pub fn memberships(&self) -> watch::Receiver<AllMemberships> {
        self.owner.follower.memberships.clone()
    }

    /// The failures of replication and pins, one line each.
    pub fn forwarding_problems(&self) -> Vec<String> {
        let replicated = self.replicated.borrow().clone();
        let failures = replicated.failures.iter().filter(|failure| !failure.is_early());
        failures.map(ToString::to_string).collect()
    }

    /// The MDB pressures, one line each. `network` returns a network's name.
    pub fn mdb_pressures(&self, network: impl Fn(Vni) -> String) -> Vec<String> {
        let (mdb_pressures, observed) =
            (self.owner.follower.mdb_pressures.borrow().clone(), self.observed());
        mdb_pressures
            .iter()
            .map(|mdb_pressure| mdb_pressure.describe(&observed, &network))
            .collect()
    }

    /// Whether the bridge of a segment has snooped for long enough to know the memberships.
    pub fn snoops(&self, vni: Vni) -> bool {
        let pressures = self.owner.follower.mdb_pressures.borrow();
        !pressures.iter().any(|pressure| pressure.is_without_snooping(vni))
    }

    /// The networks whose learning is suspended because they learned too much, one line each.
    /// `network` returns a network's name.
    pub fn suspensions(&self, network: impl Fn(Vni) -> String) -> Vec<String> {
        let learning = self.learning.borrow();
        learning
            .suspended()
            .iter()
            .map(|(vni, suspension)| suspension.describe(&network(*vni)))
            .collect()
    }

    /// What something else removes again and again, by segment.
    pub fn undone(&self) -> BTreeMap<Vni, Undone> {
        self.repairs.borrow().undone()
    }

    /// The last observation.
    pub fn observed(&self) -> Arc<Observed> {
        self.observed.borrow().clone()
    }

    /// The observations of all rounds.
    pub fn watch_observed(&self) -> watch::Receiver<Arc<Observed>> {
        self.observed.clone()
    }

    /// How often the underlay filter was removed or changed by something else and reinstalled.
    pub fn filter_losses(&self) -> watch::Receiver<u64> {
        self.filter_losses.clone()
    }

    /// Whether the kernel was observed since the first desired state, with the sandboxes that it
    /// names. Before that, [`ReconcilerHandle::observed`] has no interface in any container.
    pub fn has_observed(&self) -> bool {
        self.status.borrow().executed > Generation::default()
    }

    /// The failures of the last round.
    pub fn failures(&self) -> Arc<[ActionFailure]> {
        self.status.borrow().failures.clone()
    }
}
