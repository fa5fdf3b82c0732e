//! Connects state and the data plane: whenever agreed state, local state or advertisements change,
//! computes the desired state of the kernel and gives it to the reconciler.

pub mod underlay;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use shoutd_core::advertise::PeerStates;
use shoutd_core::cluster::{Cluster, Network};
use shoutd_core::events::EventKind;
use shoutd_core::limits::REPLICATED_MAX;
use shoutd_core::local::{Endpoint, Local};
use shoutd_core::plane::{
    Desired, DeviceName, MTU_OPTION, Observed, Place, ReplicationCache, Segment, Underlay, desired,
    mtu_excess, underlay_filter,
};
use shoutd_core::stale::Interface;
use shoutd_core::{EndpointId, NetworkId, Vni};
use shoutd_dataplane::{Generation, ReconcilerHandle, Scope, UnderlayInterface, Unsettled};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::api::events::Events;
use crate::app::local_state::LocalState;
use crate::membership::agreement::Agreement;

/// How long Docker waits for an interface. Creating one takes milliseconds, or longer on a busy
/// machine.
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);

/// Subject of events of the underlay filter.
const FILTER: &str = "table inet shoutd";

const FILTER_LOST: &str = "another program removed or changed shoutd's filter, for example a \
                           firewall that flushed all rules; shoutd restored it. Until then, hosts \
                           outside the cluster could send frames into its networks";

/// The data plane of this host.
#[derive(Debug)]
pub struct Plane {
    agreement: Agreement,
    local: Arc<LocalState>,
    heard: watch::Receiver<Arc<PeerStates>>,
    underlay: watch::Receiver<UnderlayInterface>,
    reconciler: ReconcilerHandle,
    /// The last desired state. The lock is held while state is read and applied, so that an older
    /// state never replaces a newer one.
    applied: Mutex<Applied>,
}

/// What the reconciler was given.
#[derive(Debug, Default)]
struct Applied {
    /// The last desired state, its sources and its generation; `None` on a host that is not
    /// a member of a cluster yet.
    last: Option<(Sources, Arc<Desired>, Generation)>,
    cache: ReplicationCache,
}

/// The state from which the desired state is computed.
#[derive(Debug, Clone)]
struct Sources {
    cluster: Arc<Cluster>,
    interface: DeviceName,
    local: Arc<Local>,
    heard: Arc<PeerStates>,
    underlay: Underlay,
}

impl Sources {
    /// Whether the sources are identical, so that the desired state is, too.
    fn are(&self, others: &Self) -> bool {
        Arc::ptr_eq(&self.cluster, &others.cluster)
            && self.interface == others.interface
            && Arc::ptr_eq(&self.local, &others.local)
            && Arc::ptr_eq(&self.heard, &others.heard)
            && self.underlay == others.underlay
    }
}

impl Plane {
    /// Does not apply anything yet.
    pub fn new(
        agreement: Agreement,
        local: Arc<LocalState>,
        heard: watch::Receiver<Arc<PeerStates>>,
        underlay: watch::Receiver<UnderlayInterface>,
        reconciler: ReconcilerHandle,
    ) -> Self {
        Self { agreement, local, heard, underlay, reconciler, applied: Mutex::default() }
    }

    /// Applies the current state, and waits until the kernel is programmed for this endpoint.
    /// Returns at once if this host does not know the network.
    ///
    /// # Errors
    /// The kernel could not be programmed, or not in time.
    pub async fn settle(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
    ) -> Result<(), Unsettled> {
        let Some(vni) = self.agreement.cluster().networks.get(network).map(|network| network.vni)
        else {
            return Ok(());
        };
        let scope = Scope::Port { vni, name: DeviceName::port(endpoint) };
        match self.apply() {
            Some(generation) => self.reconciler.settled(generation, &scope, SETTLE_DEADLINE).await,
            None => Ok(()),
        }
    }

    /// Applies the current state, and waits until the kernel is programmed for these networks, for
    /// at most `deadline`.
    pub async fn settle_networks(
        &self,
        networks: impl IntoIterator<Item = &NetworkId>,
        deadline: Duration,
    ) {
        let (cluster, local) = (self.agreement.cluster(), self.local.get());
        let here = networks.into_iter().filter(|network| local.is_attached(network));
        let vnis: Vec<_> = here
            .filter_map(|network| cluster.networks.get(network))
            .map(|known| known.vni)
            .collect();
        if vnis.is_empty() {
            return;
        }
        let Some(generation) = self.apply_changes() else {
            return;
        };
        let settled = join_all(vnis.into_iter().map(async |vni| {
            let scope = Scope::Advertised { vni };
            self.reconciler.settled(generation, &scope, deadline).await
        }));
        for error in settled.await.into_iter().filter_map(Result::err) {
            debug!("the kernel is not programmed with the advertisement yet: {error}");
        }
    }

    /// Waits until the kernel has no segment, for at most `deadline`. Returns whether it has none.
    pub async fn is_vacated(&self, deadline: Duration) -> bool {
        self.apply_changes();
        let mut observed = self.reconciler.watch_observed();
        let is_vacated = |observed: &Arc<Observed>| {
            observed.segments.is_empty() && observed.unreadable_segments.is_empty()
        };
        let vacated = observed.wait_for(is_vacated);
        tokio::time::timeout(deadline, vacated).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Gives the reconciler the current desired state. A host that is not a member of a cluster yet
    /// has no state, and must not remove anything from the kernel because of that.
    fn apply(&self) -> Option<Generation> {
        let mut applied = self.applied.lock();
        let sources = self.sources()?;
        let desired = self.desired(&sources, &mut applied.cache);
        let generation = self.reconciler.apply(desired.clone());
        applied.last = Some((sources, desired, generation));
        Some(generation)
    }

    /// Like [`Self::apply`], but only if the desired state has changed.
    fn apply_changes(&self) -> Option<Generation> {
        let mut applied = self.applied.lock();
        let sources = self.sources()?;
        if let Some((.., generation)) =
            applied.last.as_ref().filter(|(last, ..)| last.are(&sources))
        {
            return Some(*generation);
        }
        let desired = self.desired(&sources, &mut applied.cache);
        let is_known = |(_, last, _): &&(Sources, Arc<Desired>, Generation)| *last == desired;
        let known = applied.last.as_ref().filter(is_known).map(|(.., generation)| *generation);
        let generation = known.unwrap_or_else(|| self.reconciler.apply(desired.clone()));
        applied.last = Some((sources, desired, generation));
        Some(generation)
    }

    /// The current state; `None` before this host is a member of the cluster.
    fn sources(&self) -> Option<Sources> {
        let cluster = self.agreement.cluster();
        if !cluster.hosts.contains_key(&self.agreement.me) {
            return None;
        }
        let (underlay, interface) = (self.underlay(), self.underlay.borrow().name.clone());
        let (local, heard) = (self.local.get(), self.heard.borrow().clone());
        Some(Sources { cluster, interface, local, heard, underlay })
    }

    /// The current underlay.
    pub fn underlay(&self) -> Underlay {
        let interface = self.underlay.borrow();
        Underlay { address: interface.network.addr(), mtu: interface.mtu }
    }

    /// Follows what the kernel has.
    pub fn watch_observed(&self) -> watch::Receiver<Arc<Observed>> {
        self.reconciler.watch_observed()
    }

    /// Follows the interface that has the advertise address.
    pub fn watch_underlay(&self) -> watch::Receiver<UnderlayInterface> {
        self.underlay.clone()
    }

    fn desired(&self, sources: &Sources, cache: &mut ReplicationCache) -> Arc<Desired> {
        let Sources { cluster, interface, local, heard, underlay } = sources;
        let me = self.agreement.me;
        Arc::new(Desired {
            underlay_filter: underlay_filter(cluster, me, underlay.address, interface.clone()),
            ..desired(cluster, local, me, *underlay, heard, cache)
        })
    }

    /// Removes everything of shoutd from the kernel, and waits for at most `deadline` until it is
    /// gone.
    ///
    /// # Errors
    /// Something could not be removed.
    pub async fn withdraw(&self, deadline: Duration) -> Result<(), Unsettled> {
        let generation = self.reconciler.apply(Desired::default());
        self.reconciler.settled(generation, &Scope::Everything, deadline).await
    }

    /// Records an event when another program removed the underlay filter, and when the filter
    /// dropped packets.
    pub async fn watch_filter(&self, events: &Events, stop: CancellationToken) {
        let (mut losses, mut observed) =
            (self.reconciler.filter_losses(), self.reconciler.watch_observed());
        // Earlier drops were reported by an earlier daemon.
        let mut known = None;
        loop {
            tokio::select! {
                changed = losses.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    events.note(EventKind::FilterRestored, FILTER, FILTER_LOST);
                }
                changed = observed.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let dropped = observed.borrow_and_update().underlay_filter.dropped();
                    let before = known.replace(dropped).unwrap_or(dropped);
                    for text in dropped.since(&before) {
                        events.note(EventKind::FilterDropped, FILTER, text);
                    }
                }
                () = stop.cancelled() => return,
            }
        }
    }

    /// Applies every change of state, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut cluster = self.agreement.watch();
        let mut local = self.local.watch();
        let mut heard = self.heard.clone();
        let mut underlay = self.underlay.clone();
        loop {
            self.apply_changes();
            let changed = tokio::select! {
                changed = cluster.changed() => changed.is_ok(),
                changed = local.changed() => changed.is_ok(),
                changed = heard.changed() => changed.is_ok(),
                changed = underlay.changed() => changed.is_ok(),
                () = stop.cancelled() => false,
            };
            if !changed {
                return;
            }
        }
    }

    /// Where the interface of an endpoint is.
    pub fn interface(&self, id: &EndpointId, endpoint: &Endpoint) -> Interface {
        if !self.reconciler.has_observed() {
            return Interface::Unknown;
        }
        let name = DeviceName::port(id);
        let observed = self.reconciler.observed();
        if endpoint
            .sandbox
            .as_ref()
            .is_some_and(|sandbox| observed.unreadable_sandboxes.contains_key(sandbox))
        {
            return Interface::Unknown;
        }
        let cluster = self.agreement.cluster();
        let vni = cluster.networks.get(&endpoint.network).map(|network| network.vni);
        if vni.is_some_and(|vni| observed.unreadable_segments.contains_key(&vni)) {
            return Interface::Unknown;
        }
        let mut ports = observed.segments.values().filter_map(|segment| segment.ports.get(&name));
        match ports.find_map(|port| port.container_end.as_ref()).map(|end| &end.place) {
            None => Interface::Gone,
            Some(Place::Sandbox(place)) if endpoint.sandbox.as_ref() == Some(place) => {
                Interface::Inside
            }
            Some(_) => Interface::Outside,
        }
    }

    /// Whether an endpoint with a sandbox has lost its interface: its container is gone, but the
    /// engine was killed before it called `Leave`.
    pub fn is_gone(&self, id: &EndpointId, endpoint: &Endpoint) -> bool {
        endpoint.sandbox.is_some() && self.interface(id, endpoint) == Interface::Gone
    }

    /// Problems of the data plane, one line each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> =
            self.reconciler.failures().iter().map(ToString::to_string).collect();
        let observed = self.reconciler.observed();
        problems.extend(observed.underlay_filter.problem());
        problems.extend(observed.problems());
        problems.extend(self.reconciler.forwarding_problems());
        problems.extend(self.mdb_pressures());
        problems.extend(self.reconciler.suspensions(|vni| self.title(vni)));
        problems.extend(self.groups_beyond());
        problems.extend(self.mtu_excesses());
        problems
    }

    /// The networks in use here whose MTU option is too large for the underlay, one line each.
    fn mtu_excesses(&self) -> Vec<String> {
        let (cluster, local, underlay) =
            (self.agreement.cluster(), self.local.get(), self.underlay());
        let in_use = cluster.networks.iter().filter(|(id, _)| local.is_attached(id));
        let line = |(id, network): (&NetworkId, &Arc<Network>)| {
            let (wanted, room) = mtu_excess(network, underlay)?;
            let title = network.title(id);
            Some(format!(
                "network {title}: its option {MTU_OPTION} is {wanted}, but the underlay of this \
                 host (MTU {}) allows only {room}; larger packets to other hosts are lost. \
                 Increase the MTU of the underlay, or create the network again with a smaller \
                 MTU, or without the option",
                underlay.mtu
            ))
        };
        in_use.filter_map(line).collect()
    }

    /// Networks with MDB pressure on this host, one line each.
    fn mdb_pressures(&self) -> Vec<String> {
        self.reconciler.mdb_pressures(|vni| self.title(vni))
    }

    /// The title of the network with this VNI.
    fn title(&self, vni: Vni) -> String {
        let cluster = self.agreement.cluster();
        let named = cluster.networks.iter().find(|(_, known)| known.vni == vni);
        named.map_or_else(|| format!("with VNI {vni}"), |(id, known)| known.title(id).to_owned())
    }

    /// The networks with more groups than we replicate selectively, one line each.
    fn groups_beyond(&self) -> Vec<String> {
        let applied = self.applied.lock();
        let Some((_, desired, _)) = applied.last.as_ref() else {
            return Vec::new();
        };
        let cluster = self.agreement.cluster();
        let crowded = desired.segments.values().filter(|segment| segment.replication.beyond > 0);
        let line = |segment: &Segment| {
            let id = &segment.network;
            let (title, beyond) = (
                cluster.networks.get(id).map_or(id.short(), |known| known.title(id)),
                segment.replication.beyond,
            );
            format!(
                "network {title}: the other hosts are members of {beyond} groups more than this \
                 host can replicate separately ({REPLICATED_MAX} groups and sources). No packet \
                 is lost, but these groups are sent to every host that is a member of one of them"
            )
        };
        crowded.map(line).collect()
    }
}
