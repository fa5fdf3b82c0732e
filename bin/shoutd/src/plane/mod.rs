//! From state to the kernel: whenever agreed or local state changes, the reconciler is given what
//! the kernel should have.

pub mod underlay;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
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

/// How long Docker waits for an interface. Making one takes milliseconds; a machine under load gets
/// this much.
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);

/// What events about the underlay filter are about.
const FILTER: &str = "table inet shoutd";

const FILTER_LOST: &str = "another program removed or changed shoutd's filter, as a reload of a \
                           firewall does that flushes all rules; shoutd put it back. Until then, \
                           hosts outside the cluster could send frames into its networks";

/// The data plane of this host.
#[derive(Debug)]
pub struct Plane {
    agreement: Agreement,
    local: Arc<LocalState>,
    heard: watch::Receiver<Arc<PeerStates>>,
    underlay: watch::Receiver<UnderlayInterface>,
    reconciler: ReconcilerHandle,
    /// What was last handed on. Held while state is read and handed on, so that an older view never
    /// follows a newer one.
    handed_on: Mutex<HandedOn>,
}

/// What the reconciler was given.
#[derive(Debug, Default)]
struct HandedOn {
    /// The last, what it was made of, and its number; none yet on a host that belongs to no
    /// cluster.
    last: Option<(Sources, Arc<Desired>, Generation)>,
    worked: ReplicationCache,
}

/// All that what the kernel should have follows from.
#[derive(Debug, Clone)]
struct Sources {
    cluster: Arc<Cluster>,
    interface: DeviceName,
    local: Arc<Local>,
    heard: Arc<PeerStates>,
    underlay: Underlay,
}

impl Sources {
    /// Whether these are the very same: then there is no need to work out what follows.
    fn are(&self, others: &Self) -> bool {
        Arc::ptr_eq(&self.cluster, &others.cluster)
            && self.interface == others.interface
            && Arc::ptr_eq(&self.local, &others.local)
            && Arc::ptr_eq(&self.heard, &others.heard)
            && self.underlay == others.underlay
    }
}

impl Plane {
    /// Puts the parts together; nothing happens yet.
    pub fn new(
        agreement: Agreement,
        local: Arc<LocalState>,
        heard: watch::Receiver<Arc<PeerStates>>,
        underlay: watch::Receiver<UnderlayInterface>,
        reconciler: ReconcilerHandle,
    ) -> Self {
        Self { agreement, local, heard, underlay, reconciler, handed_on: Mutex::default() }
    }

    /// Hands the reconciler what state says now, and waits until the kernel has what concerns this
    /// endpoint of this network.
    ///
    /// # Errors
    /// What could not be done, or that it was not done in time.
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
        match self.hand_on() {
            Some(generation) => self.reconciler.settled(generation, &scope, SETTLE_DEADLINE).await,
            None => Ok(()),
        }
    }

    /// Hands the reconciler what state says now, and waits until the kernel has what concerns these
    /// networks, for so long at the most.
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
        let Some(generation) = self.hand_on_news() else {
            return;
        };
        let settled = join_all(vnis.into_iter().map(async |vni| {
            let scope = Scope::Announced { vni };
            self.reconciler.settled(generation, &scope, deadline).await
        }));
        for error in settled.await.into_iter().filter_map(Result::err) {
            debug!("the kernel does not have yet what was announced: {error}");
        }
    }

    /// Waits until the kernel has no segment any more, for so long at the most; says whether it has
    /// none.
    pub async fn is_vacated(&self, deadline: Duration) -> bool {
        self.hand_on_news();
        let mut observed = self.reconciler.watch_observed();
        let is_vacated = |observed: &Arc<Observed>| {
            observed.segments.is_empty() && observed.unreadable_segments.is_empty()
        };
        let vacated = observed.wait_for(is_vacated);
        tokio::time::timeout(deadline, vacated).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Hands the reconciler what state says now. A host that belongs to no cluster knows nothing,
    /// and knowing nothing is no reason to take anything away from the kernel.
    fn hand_on(&self) -> Option<Generation> {
        let mut handed_on = self.handed_on.lock().unwrap_or_else(PoisonError::into_inner);
        let sources = self.sources()?;
        let desired = self.desired(&sources, &mut handed_on.worked);
        let generation = self.reconciler.apply(desired.clone());
        handed_on.last = Some((sources, desired, generation));
        Some(generation)
    }

    /// The same, unless it is what was last handed on.
    fn hand_on_news(&self) -> Option<Generation> {
        let mut handed_on = self.handed_on.lock().unwrap_or_else(PoisonError::into_inner);
        let sources = self.sources()?;
        if let Some((.., generation)) =
            handed_on.last.as_ref().filter(|(last, ..)| last.are(&sources))
        {
            return Some(*generation);
        }
        let desired = self.desired(&sources, &mut handed_on.worked);
        let is_known = |(_, last, _): &&(Sources, Arc<Desired>, Generation)| *last == desired;
        let known = handed_on.last.as_ref().filter(is_known).map(|(.., generation)| *generation);
        let generation = known.unwrap_or_else(|| self.reconciler.apply(desired.clone()));
        handed_on.last = Some((sources, desired, generation));
        Some(generation)
    }

    /// State as it is now; none before this host belongs to the cluster.
    fn sources(&self) -> Option<Sources> {
        let cluster = self.agreement.cluster();
        if !cluster.hosts.contains_key(&self.agreement.me) {
            return None;
        }
        let (underlay, interface) = (self.underlay(), self.underlay.borrow().name.clone());
        let (local, heard) = (self.local.get(), self.heard.borrow().clone());
        Some(Sources { cluster, interface, local, heard, underlay })
    }

    /// The underlay as it is now.
    pub fn underlay(&self) -> Underlay {
        let interface = self.underlay.borrow();
        Underlay { address: interface.network.addr(), mtu: interface.mtu }
    }

    /// Follows the interface that has the advertise address.
    pub fn watch_underlay(&self) -> watch::Receiver<UnderlayInterface> {
        self.underlay.clone()
    }

    fn desired(&self, sources: &Sources, worked: &mut ReplicationCache) -> Arc<Desired> {
        let Sources { cluster, interface, local, heard, underlay } = sources;
        let me = self.agreement.me;
        Arc::new(Desired {
            underlay_filter: underlay_filter(cluster, me, underlay.address, interface.clone()),
            ..desired(cluster, local, me, *underlay, heard, worked)
        })
    }

    /// Takes everything out of the kernel that this host has as a member of a cluster, and waits
    /// until it is gone, for so long at the most.
    ///
    /// # Errors
    /// What could not be taken away.
    pub async fn withdraw(&self, deadline: Duration) -> Result<(), Unsettled> {
        let generation = self.reconciler.apply(Desired::default());
        self.reconciler.settled(generation, &Scope::Everything, deadline).await
    }

    /// Tells of each time that somebody else took the underlay filter away, and of packets that it
    /// dropped.
    pub async fn watch_filter(&self, events: &Events, stop: CancellationToken) {
        let (mut losses, mut observed) =
            (self.reconciler.filter_losses(), self.reconciler.watch_observed());
        // What was dropped before this daemon started was told by another.
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

    /// Follows state until it is told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut cluster = self.agreement.watch();
        let mut local = self.local.watch();
        let mut heard = self.heard.clone();
        let mut underlay = self.underlay.clone();
        loop {
            self.hand_on_news();
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
        if !self.reconciler.has_looked() {
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

    /// Whether an endpoint that was handed to a container has no interface any more: its container
    /// is gone, though the engine, having been killed, never said so.
    pub fn is_gone(&self, id: &EndpointId, endpoint: &Endpoint) -> bool {
        endpoint.sandbox.is_some() && self.interface(id, endpoint) == Interface::Gone
    }

    /// What the kernel did not do, one line each.
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

    /// The networks in use here whose own MTU is more than the underlay has room for, one line
    /// each.
    fn mtu_excesses(&self) -> Vec<String> {
        let (cluster, local, underlay) =
            (self.agreement.cluster(), self.local.get(), self.underlay());
        let in_use = cluster.networks.iter().filter(|(id, _)| local.is_attached(id));
        let line = |(id, network): (&NetworkId, &Arc<Network>)| {
            let (wanted, room) = mtu_excess(network, underlay)?;
            let title = network.title(id);
            Some(format!(
                "network {title}: its option {MTU_OPTION} says {wanted}, but the underlay of this \
                 host (MTU {}) has room for {room}: larger packets to other hosts are lost. Raise \
                 the MTU of the underlay, or create the network with a smaller one, or without \
                 the option",
                underlay.mtu
            ))
        };
        in_use.filter_map(line).collect()
    }

    /// Where containers of this host listen to too many groups, one line each.
    fn mdb_pressures(&self) -> Vec<String> {
        self.reconciler.mdb_pressures(|vni| self.title(vni))
    }

    /// What people call the network with this VNI.
    fn title(&self, vni: Vni) -> String {
        let cluster = self.agreement.cluster();
        let named = cluster.networks.iter().find(|(_, known)| known.vni == vni);
        named.map_or_else(|| format!("with VNI {vni}"), |(id, known)| known.title(id).to_owned())
    }

    /// The networks with more groups than are sent apart from each other, one line each.
    fn groups_beyond(&self) -> Vec<String> {
        let handed_on = self.handed_on.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, desired, _)) = handed_on.last.as_ref() else {
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
                "network {title}: the other hosts listen to {beyond} groups more than this host \
                 can send apart from each other ({REPLICATED_MAX} groups and sources). Nothing is \
                 lost, but those go to every host that listens to one of them"
            )
        };
        crowded.map(line).collect()
    }
}
