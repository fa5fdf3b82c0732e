//! Connects state and the data plane. Whenever agreed state, local state or advertisements change,
//! the plane task computes the desired state of the kernel and gives it to the reconciler.

mod applier;
mod requests;
pub mod underlay;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use applier::Applier;
use futures::future::join_all;
use shoutd_core::advertise::PeerStates;
use shoutd_core::cluster::Network;
use shoutd_core::events::EventKind;
use shoutd_core::limits::REPLICATED_MAX;
use shoutd_core::local::Endpoint;
pub use shoutd_core::plane::NAMESPACES;
use shoutd_core::plane::{
    Action, Desired, DeviceName, MTU_OPTION, Observed, PresharedKeys, Underlay, mtu_excess,
    way_out_problem,
};
use shoutd_core::stale::Interface;
use shoutd_core::{EndpointId, NetworkId, Vni};
use shoutd_dataplane::{AllMemberships, ReconcilerHandle, Scope, UnderlayInterface, Unsettled};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::applier::{Applied, Inputs};
use self::requests::Requests;
use crate::api::events::Events;
use crate::app::condition::{Unmet, met};
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
    underlay: watch::Receiver<UnderlayInterface>,
    reconciler: ReconcilerHandle,
    requests: Requests<Applied>,
}

impl Plane {
    /// The data plane, and the task that applies state to it. Nothing is applied before the task
    /// runs.
    pub fn new(
        agreement: Agreement,
        local: Arc<LocalState>,
        heard: watch::Receiver<Arc<PeerStates>>,
        underlay: watch::Receiver<UnderlayInterface>,
        keys: watch::Receiver<Arc<PresharedKeys>>,
        reconciler: ReconcilerHandle,
    ) -> (Self, Applier) {
        let (requests, requested) = requests::channel();
        let inputs = Inputs {
            agreement: agreement.clone(),
            local: local.clone(),
            heard,
            underlay: underlay.clone(),
            keys,
            reconciler: reconciler.clone(),
        };
        let plane = Self { agreement, local, underlay, reconciler, requests };
        (plane, Applier::new(inputs, requested))
    }

    /// Waits until the kernel is programmed for this endpoint with the current state. Returns at
    /// once if this host does not know the network.
    ///
    /// The state is applied even if it has not changed: the kernel may have changed since, so the
    /// result of an earlier round of the reconciler tells nothing.
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
        self.settle_scopes(&[scope], true, SETTLE_DEADLINE).await
    }

    /// Waits until the kernel is programmed with the current state of these networks, for at most
    /// `deadline`.
    pub async fn settle_networks(
        &self,
        networks: impl IntoIterator<Item = &NetworkId>,
        deadline: Duration,
    ) {
        let (cluster, local) = (self.agreement.cluster(), self.local.get());
        let here = networks.into_iter().filter(|network| local.is_attached(network));
        let scopes: Vec<_> = here
            .filter_map(|network| cluster.networks.get(network))
            .map(|known| Scope::Advertised { vni: known.vni })
            .collect();
        if scopes.is_empty() {
            return;
        }
        if let Err(error) = self.settle_scopes(&scopes, false, deadline).await {
            debug!("the kernel is not programmed with the advertisement yet: {error}");
        }
    }

    /// Waits until the current state is applied and holds within these scopes.
    async fn settle_scopes(
        &self,
        scopes: &[Scope],
        is_forced: bool,
        deadline: Duration,
    ) -> Result<(), Unsettled> {
        let begin = Instant::now();
        let applied = self.requests.served(is_forced, deadline).await;
        let Some((_, generation)) = applied.map_err(unsettled)? else { return Ok(()) };
        let left = deadline.saturating_sub(begin.elapsed());
        let settled =
            join_all(scopes.iter().map(|scope| self.reconciler.settled(generation, scope, left)));
        settled.await.into_iter().collect::<Result<_, _>>().map_err(|error| match error {
            Unsettled::Late { .. } => Unsettled::Late { after: deadline },
            other => other,
        })
    }

    /// Waits until the kernel has no segment, for at most `deadline`. Returns whether it has none.
    pub async fn is_vacated(&self, deadline: Duration) -> bool {
        let begin = Instant::now();
        if self.requests.served(false, deadline).await.is_err() {
            return false;
        }
        let left = deadline.saturating_sub(begin.elapsed());
        let vacated = met(&self.reconciler.watch_observed(), left, |observed| {
            observed.segments.is_empty() && observed.unreadable_segments.is_empty()
        })
        .await;
        vacated.is_ok()
    }

    /// The current underlay.
    pub fn underlay(&self) -> Underlay {
        underlay_of(&self.underlay.borrow())
    }

    /// Follows what the kernel has.
    pub fn watch_observed(&self) -> watch::Receiver<Arc<Observed>> {
        self.reconciler.watch_observed()
    }

    /// The desired state that was applied last; `None` on a host that is not a member yet.
    pub fn desired(&self) -> Option<Arc<Desired>> {
        self.requests.current().map(|(desired, _)| desired)
    }

    /// The memberships of each network's containers on this host.
    pub fn memberships(&self) -> AllMemberships {
        self.reconciler.memberships().borrow().clone()
    }

    /// How often another program removed the underlay filter.
    pub fn filter_losses(&self) -> u64 {
        *self.reconciler.filter_losses().borrow()
    }

    /// Follows the interface that has the advertise address.
    pub fn watch_underlay(&self) -> watch::Receiver<UnderlayInterface> {
        self.underlay.clone()
    }

    /// Removes everything of shoutd from the kernel, and waits until it is gone. First waits until
    /// the task has ended, which would apply another state. Each wait takes at most `deadline`.
    ///
    /// # Errors
    /// Something could not be removed, or the task runs on.
    pub async fn withdraw(&self, deadline: Duration) -> Result<(), Unsettled> {
        self.requests.ended(deadline).await.map_err(unsettled)?;
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

    /// Where the interface of an endpoint is.
    pub fn interface(&self, id: &EndpointId, endpoint: &Endpoint) -> Interface {
        if !self.reconciler.has_observed() {
            return Interface::Unknown;
        }
        let cluster = self.agreement.cluster();
        let vni = cluster.networks.get(&endpoint.network).map(|network| network.vni);
        Interface::of(&self.reconciler.observed(), vni, id, endpoint)
    }

    /// Whether an endpoint with a sandbox has lost its interface: its container is gone, but the
    /// engine was killed before it called `Leave`.
    pub fn is_gone(&self, id: &EndpointId, endpoint: &Endpoint) -> bool {
        endpoint.sandbox.is_some() && self.interface(id, endpoint) == Interface::Gone
    }

    /// Why this host does not encrypt, if its WireGuard cannot be set up.
    pub fn encryption_failure(&self) -> Option<String> {
        let failures = self.reconciler.failures();
        let mut failures = failures.iter();
        let failure = failures
            .find(|failure| matches!(failure.action, Action::SetEncryptedUnderlay { .. }))?;
        Some(failure.error.to_string())
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
        let undone = self.reconciler.undone();
        problems.extend(undone.iter().map(|(vni, undone)| undone.describe(&self.title(*vni))));
        problems.extend(self.groups_beyond());
        problems.extend(self.mtu_excesses());
        problems.extend(
            self.requests.current().and_then(|(desired, _)| way_out_problem(&desired, &observed)),
        );
        problems
    }

    /// The networks in use here whose MTU option is too large for the underlay, one line each.
    fn mtu_excesses(&self) -> Vec<String> {
        let (cluster, local, underlay) =
            (self.agreement.cluster(), self.local.get(), self.underlay());
        let in_use = cluster.networks.iter().filter(|(id, _)| local.is_attached(id));
        in_use.filter_map(|(id, network)| mtu_problem(id, network, underlay)).collect()
    }

    /// Whether the bridge of a network has snooped for long enough to know the memberships.
    pub fn snoops(&self, network: &NetworkId) -> bool {
        let vni = self.agreement.cluster().networks.get(network).map(|network| network.vni);
        vni.is_none_or(|vni| self.reconciler.snoops(vni))
    }

    /// What something else on this host removes of a network again and again, and how many times.
    pub fn undone(&self, network: &NetworkId) -> Option<(String, usize)> {
        let vni = self.agreement.cluster().networks.get(network)?.vni;
        let undone = self.reconciler.undone().remove(&vni)?;
        Some((undone.what.to_owned(), undone.times))
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
        let Some((desired, _)) = self.requests.current() else { return Vec::new() };
        let cluster = self.agreement.cluster();
        let crowded = desired.segments.values().filter(|segment| segment.replication.beyond > 0);
        let lines = crowded.map(|segment| {
            let title = cluster.network_title(&segment.network);
            let beyond = segment.replication.beyond;
            format!(
                "network {title}: the other hosts are members of {beyond} groups more than this \
                 host can replicate separately ({REPLICATED_MAX} groups and sources). No packet \
                 is lost, but these groups are sent to every host that is a member of one of them"
            )
        });
        lines.collect()
    }
}

/// The problem of a network whose MTU option is too large for the underlay.
fn mtu_problem(id: &NetworkId, network: &Network, underlay: Underlay) -> Option<String> {
    let (wanted, room) = mtu_excess(network, underlay)?;
    let title = network.title(id);
    Some(format!(
        "network {title}: its option {MTU_OPTION} is {wanted}, but the underlay of this host (MTU \
         {}) allows only {room}; larger packets to other hosts are lost. Increase the MTU of the \
         underlay, or create the network again with a smaller MTU, or without the option",
        underlay.mtu
    ))
}

fn underlay_of(interface: &UnderlayInterface) -> Underlay {
    Underlay { address: interface.network.addr(), mtu: interface.mtu }
}

/// Why the plane task has not applied a state.
fn unsettled(unmet: Unmet) -> Unsettled {
    match unmet {
        Unmet::Late { after } => Unsettled::Late { after },
        Unmet::Ended => Unsettled::Stopped,
    }
}
