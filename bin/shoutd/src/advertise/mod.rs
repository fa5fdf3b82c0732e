//! Sends advertisements to the peers, and receives theirs: endpoints and multicast memberships.
//!
//! `shoutd_core::advertise` decides what to send to which peer, and what to accept from it. This
//! module only does the I/O.

mod join_times;
mod outbound;
mod route;
mod show;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
pub use route::router;
use shoutd_core::advertise::{Known, PeerStates, ReportedRejection};
use shoutd_core::events::EventKind;
use shoutd_core::limits::SILENCE_MAX;
use shoutd_core::multicast::Memberships;
use shoutd_core::plane::Observed;
use shoutd_core::{EndpointId, HostId, MacAddress, NetworkId, Vni};
use shoutd_peer::Client;
use tokio::sync::{Notify, watch};
use tracing::debug;

use self::state::{Direction, State};
use crate::api::events::Events;
use crate::app::condition::met;
use crate::app::local_state::LocalState;
use crate::membership::agreement::Agreement;
use crate::metrics::Meters;
use crate::plane::Plane;

/// How long a starting container waits until the peers have its endpoint and this host has theirs.
/// A peer that is up needs milliseconds.
const READY_DEADLINE: Duration = Duration::from_millis(500);

/// The multicast memberships of this host's containers, as read from the kernel.
#[derive(Debug, Clone)]
pub struct LocalMemberships {
    /// The segments of this host.
    pub observed: watch::Receiver<Arc<Observed>>,
    /// The memberships of all ports of a segment. A segment has an entry once it has been read.
    pub memberships: watch::Receiver<Arc<BTreeMap<Vni, Memberships>>>,
}

impl LocalMemberships {
    /// Waits until the memberships of all segments that existed at start have been read.
    async fn wait_until_read(&mut self) -> Result<(), watch::error::RecvError> {
        self.observed.changed().await?;
        let observed = self.observed.borrow_and_update().clone();
        let read = self.memberships.wait_for(|memberships| {
            observed.segments.keys().all(|vni| memberships.contains_key(vni))
        });
        read.await.map(drop)
    }
}

/// The advertisements of this host and of its peers.
#[derive(Debug)]
pub struct Advertiser {
    agreement: Agreement,
    local: Arc<LocalState>,
    plane: Arc<Plane>,
    peers: Client,
    local_memberships: LocalMemberships,
    /// Zero of the times in `state`.
    begin: Instant,
    state: Mutex<State>,
    /// Accepted advertisements of the peers, for the data plane.
    heard: watch::Sender<Arc<PeerStates>>,
    events: Arc<Events>,
    meters: Meters,
    /// Signaled when there may be something to send to a peer.
    news: Notify,
    /// Signaled when a peer has acknowledged or advertised something.
    progress: watch::Sender<()>,
}

/// State of a peer's advertisement on this host.
#[derive(Debug, Clone, Copy)]
pub struct Advertising {
    /// Whether this host is in sync with it.
    pub in_sync: bool,
    /// How long ago the last message was received; `None` if never.
    pub heard: Option<Duration>,
}

impl Advertiser {
    /// Does not start anything yet. The data plane follows `heard`.
    #[expect(clippy::too_many_arguments, reason = "one for each service that it uses")]
    pub fn new(
        agreement: Agreement,
        local: Arc<LocalState>,
        plane: Arc<Plane>,
        peers: Client,
        local_memberships: LocalMemberships,
        heard: watch::Sender<Arc<PeerStates>>,
        events: Arc<Events>,
        meters: Meters,
    ) -> Self {
        Self {
            agreement,
            local,
            plane,
            peers,
            local_memberships,
            begin: Instant::now(),
            state: Mutex::default(),
            heard,
            events,
            meters,
            news: Notify::new(),
            progress: watch::Sender::new(()),
        }
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock cannot leave the state inconsistent.
        self.state.lock()
    }

    /// Validates the advertisements of these hosts, and publishes the result for the data plane.
    fn publish(&self, state: &mut State, hosts: impl IntoIterator<Item = HostId>) {
        let before = self.heard.borrow().clone();
        let (mut heard, now) = (before.clone(), self.now());
        let (cluster, local) = (self.agreement.cluster(), self.local.get());
        let known = Known { cluster: &cluster, local: &local };
        for host in hosts {
            self.validate(state, host, known, &mut heard, now);
        }
        for host in state.validation.contested() {
            self.validate(state, host, known, &mut heard, now);
        }
        if !Arc::ptr_eq(&before, &heard) {
            state.log_changes(&before, &heard, &cluster);
            self.heard.send_replace(heard);
        }
    }

    /// Validates the advertisement of one host, and updates `heard` with the result.
    fn validate(
        &self,
        state: &mut State,
        host: HostId,
        known: Known<'_>,
        heard: &mut Arc<PeerStates>,
        now: Duration,
    ) {
        let advertised = state.inbound.peer_state(host, now);
        state.validation.update(heard, host, advertised, known, now);
        let rejections = state.validation.rejections(host, known.cluster, now);
        self.note_rejections(state, host, Direction::In, rejections);
    }

    /// Records the rejected claims of an advertisement, and reports the new ones as events.
    fn note_rejections(
        &self,
        state: &mut State,
        host: HostId,
        direction: Direction,
        rejections: Vec<ReportedRejection>,
    ) {
        let cluster = self.agreement.cluster();
        for rejection in state.note_rejections(host, direction, rejections, &cluster, self.now()) {
            let context = match direction {
                Direction::In => "this host rejects a claim of that host",
                Direction::Out => "that host rejects a claim of this host",
            };
            let text = format!("{context}: {}", rejection.text);
            self.events.note(EventKind::AnnouncementDoubted, &cluster.host_name(host), &text);
        }
    }

    /// [`Self::publish`] for all hosts.
    fn publish_all(&self, state: &mut State) {
        let known: BTreeSet<HostId> = self.heard.borrow().hosts.keys().copied().collect();
        self.publish(state, state.inbound.hosts().chain(known).collect::<BTreeSet<_>>());
    }

    fn signal_progress(&self) {
        self.progress.send_replace(());
    }

    /// Waits until the peers that share the network have this endpoint, and this host has their
    /// advertisements and its kernel is programmed with them. Skips peers that do not answer, and
    /// waits no longer than `READY_DEADLINE`; the rest is sent later.
    pub async fn ready(&self, network: &NetworkId, endpoint: &EndpointId) {
        let begin = Instant::now();
        let mut progress = self.progress.subscribe();
        let known = async {
            while !self.missing(network, endpoint).is_empty() && progress.changed().await.is_ok() {}
        };
        if tokio::time::timeout(READY_DEADLINE, known).await.is_err() {
            let hosts = self.missing(network, endpoint);
            debug!(
                ?hosts,
                endpoint = endpoint.short(),
                "hosts do not have the endpoint yet, or we do not have their advertisement"
            );
        }
        self.plane.settle_networks([network], READY_DEADLINE.saturating_sub(begin.elapsed())).await;
    }

    /// The hosts that [`Advertiser::ready`] waits for; this host itself if its advertisement does
    /// not have the endpoint yet.
    fn missing(&self, network: &NetworkId, endpoint: &EndpointId) -> Vec<HostId> {
        let state = self.state();
        let is_advertised = state
            .content
            .get(network)
            .is_some_and(|network| network.endpoints.contains_key(endpoint));
        if !is_advertised {
            return vec![self.agreement.me];
        }
        let now = self.now();
        let unheard = state
            .inbound
            .sharing(network)
            .filter(|host| !state.outbound.is_failing(*host))
            .filter(|host| {
                let heard = state.inbound.peer_state(*host, now);
                !heard.is_some_and(|heard| heard.in_sync && heard.networks.contains_key(network))
            });
        state.outbound.unacknowledged_by(network, endpoint).chain(unheard).collect()
    }

    /// The name of the host that has an endpoint with this MAC address. If a container was just
    /// stopped there and is started here, that host has not withdrawn it yet, so we wait a moment.
    pub async fn holder_of_mac(&self, network: &NetworkId, mac: MacAddress) -> Option<String> {
        let free = met(&self.heard.subscribe(), READY_DEADLINE, |heard| {
            heard.holder_of_mac(network, mac).is_none()
        })
        .await;
        if free.is_ok() {
            return None;
        }
        let holder = self.heard.borrow().holder_of_mac(network, mac)?;
        Some(self.agreement.cluster().host_name(holder))
    }

    /// State of a peer's advertisement; `None` if we share no network.
    pub fn standing(&self, host: HostId) -> Option<Advertising> {
        let (state, now) = (self.state(), self.now());
        let heard = state.inbound.get(host)?.last_received().map(|heard| now.saturating_sub(heard));
        // After `SILENCE_MAX` a peer's advertisement is withdrawn. Internally the peer then counts
        // as in sync with no members; to the user we show it as not in sync.
        let is_silent = heard.is_none_or(|heard| heard >= SILENCE_MAX);
        let in_sync = state.inbound.peer_state(host, now)?.in_sync && !is_silent;
        Some(Advertising { in_sync, heard })
    }

    /// Follows the accepted advertisements of the peers.
    pub fn watch_heard(&self) -> watch::Receiver<Arc<PeerStates>> {
        self.heard.subscribe()
    }

    /// Current problems, one line each.
    pub fn problems(&self) -> Vec<String> {
        self.state().problems(&self.agreement.cluster(), self.now())
    }
}
