//! The plane task. It alone computes the desired state and gives it to the data plane.

use std::sync::Arc;

use shoutd_core::advertise::PeerStates;
use shoutd_core::cluster::Cluster;
use shoutd_core::local::Local;
use shoutd_core::plane::{
    Desired, DeviceName, PresharedKeys, ReplicationCache, Underlay, desired, underlay_filter,
};
use shoutd_dataplane::{Generation, ReconcilerHandle, UnderlayInterface};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::requests::Requested;
use super::underlay_of;
use crate::app::local_state::LocalState;
use crate::membership::agreement::Agreement;

/// The desired state that the data plane has, and its generation; `None` on a host that is not a
/// member of a cluster yet.
pub type Applied = Option<(Arc<Desired>, Generation)>;

/// Applies the desired state after every change of its inputs, and for every request.
#[derive(Debug)]
pub struct Applier {
    inputs: Inputs,
    requested: Requested<Applied>,
    last: Option<Last>,
    cache: ReplicationCache,
}

/// Where the desired state comes from, and where it goes.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) agreement: Agreement,
    pub(super) local: Arc<LocalState>,
    pub(super) heard: watch::Receiver<Arc<PeerStates>>,
    pub(super) underlay: watch::Receiver<UnderlayInterface>,
    pub(super) keys: watch::Receiver<Arc<PresharedKeys>>,
    pub(super) reconciler: ReconcilerHandle,
}

/// The last state that was applied.
#[derive(Debug)]
struct Last {
    sources: Sources,
    desired: Arc<Desired>,
    generation: Generation,
}

/// The state from which the desired state is computed.
#[derive(Debug)]
struct Sources {
    cluster: Arc<Cluster>,
    interface: DeviceName,
    local: Arc<Local>,
    heard: Arc<PeerStates>,
    underlay: Underlay,
    keys: Arc<PresharedKeys>,
}

impl Sources {
    /// Whether the sources are identical, so that the desired state is, too.
    fn are(&self, others: &Self) -> bool {
        Arc::ptr_eq(&self.cluster, &others.cluster)
            && self.interface == others.interface
            && Arc::ptr_eq(&self.local, &others.local)
            && Arc::ptr_eq(&self.heard, &others.heard)
            && self.underlay == others.underlay
            && Arc::ptr_eq(&self.keys, &others.keys)
    }
}

impl Inputs {
    /// The current state; `None` before this host is a member of the cluster.
    fn sources(&self) -> Option<Sources> {
        let cluster = self.agreement.cluster();
        if !cluster.hosts.contains_key(&self.agreement.me) {
            return None;
        }
        let (underlay, interface) =
            (underlay_of(&self.underlay.borrow()), self.underlay.borrow().name.clone());
        let (local, heard) = (self.local.get(), self.heard.borrow().clone());
        let keys = self.keys.borrow().clone();
        Some(Sources { cluster, interface, local, heard, underlay, keys })
    }

    fn desired(&self, sources: &Sources, cache: &mut ReplicationCache) -> Arc<Desired> {
        let Sources { cluster, interface, local, heard, underlay, keys } = sources;
        let me = self.agreement.me;
        let mut desired = desired(cluster, local, me, *underlay, heard, cache);
        desired.underlay_filter = underlay_filter(cluster, me, underlay.address, interface.clone());
        desired.encryption.set_preshared_keys(cluster, keys);
        Arc::new(desired)
    }
}

impl Applier {
    /// Does not apply anything yet.
    pub(super) fn new(inputs: Inputs, requested: Requested<Applied>) -> Self {
        Self { inputs, requested, last: None, cache: ReplicationCache::default() }
    }

    /// Applies every change of state, and serves requests, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut cluster, mut local) = (self.inputs.agreement.watch(), self.inputs.local.watch());
        let (mut heard, mut underlay) = (self.inputs.heard.clone(), self.inputs.underlay.clone());
        let mut keys = self.inputs.keys.clone();
        loop {
            let Self { inputs, requested, last, cache } = &mut self;
            requested.serve(|is_forced| apply(inputs, last, cache, is_forced));
            let changed = tokio::select! {
                changed = cluster.changed() => changed.is_ok(),
                changed = local.changed() => changed.is_ok(),
                changed = heard.changed() => changed.is_ok(),
                changed = underlay.changed() => changed.is_ok(),
                changed = keys.changed() => changed.is_ok(),
                are_callers_left = requested.requested() => are_callers_left,
                () = stop.cancelled() => false,
            };
            if !changed {
                return;
            }
        }
    }
}

/// Gives the reconciler the current desired state if it has changed or `is_forced`. A host that is
/// not a member of a cluster yet has no state, and must not remove anything from the kernel because
/// of that.
fn apply(
    inputs: &Inputs,
    last: &mut Option<Last>,
    cache: &mut ReplicationCache,
    is_forced: bool,
) -> Applied {
    let sources = inputs.sources()?;
    let known = last.take();
    let desired = match &known {
        Some(known) if known.sources.are(&sources) => known.desired.clone(),
        _ => inputs.desired(&sources, cache),
    };
    let unchanged = known.filter(|known| !is_forced && known.desired == desired);
    let generation = unchanged
        .map_or_else(|| inputs.reconciler.apply(desired.clone()), |known| known.generation);
    *last = Some(Last { sources, desired: desired.clone(), generation });
    Some((desired, generation))
}
