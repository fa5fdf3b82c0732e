//! Announcements to and from the other hosts: which endpoints there are, and what they listen to.
//!
//! What is said to whom, and what is made of what is heard, is decided in `shoutd_core::advertise`;
//! here it is carried.

mod outbound;
mod route;
mod show;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoutd_core::advertise::{Known, PeerStates, ReportedRejection};
use shoutd_core::events::EventKind;
use shoutd_core::limits::SILENCE_MAX;
use shoutd_core::multicast::Memberships;
use shoutd_core::plane::Observed;
use shoutd_core::{EndpointId, HostId, MacAddress, NetworkId, Vni};
use shoutd_peer::Client;
use tokio::sync::{Notify, watch};
use tracing::debug;

pub use route::router;

use self::state::{Direction, State};
use crate::api::events::Events;
use crate::app::local_state::LocalState;
use crate::membership::agreement::Agreement;
use crate::plane::Plane;

/// How long a container that starts waits until the other hosts know it and this host knows theirs.
/// A host that answers takes milliseconds.
const READY_DEADLINE: Duration = Duration::from_millis(500);

/// What is read from the kernel of what this host's containers listen to.
#[derive(Debug, Clone)]
pub struct Listening {
    /// The segments that there are.
    pub observed: watch::Receiver<Arc<Observed>>,
    /// What the ports of each segment listen to, together. Each segment gets an entry when it has
    /// been read.
    pub memberships: watch::Receiver<Arc<BTreeMap<Vni, Memberships>>>,
}

impl Listening {
    /// Waits until it has been read what is listened to in all segments that there were when the
    /// daemon started.
    async fn is_read(&mut self) -> Result<(), watch::error::RecvError> {
        self.observed.changed().await?;
        let observed = self.observed.borrow_and_update().clone();
        let all = |memberships: &Arc<BTreeMap<_, _>>| {
            observed.segments.keys().all(|vni| memberships.contains_key(vni))
        };
        self.memberships.wait_for(all).await.map(drop)
    }
}

/// The announcements of this host and of the others.
#[derive(Debug)]
pub struct Advertiser {
    agreement: Agreement,
    local: Arc<LocalState>,
    plane: Arc<Plane>,
    peers: Client,
    listening: Listening,
    /// The begin of its time.
    begin: Instant,
    state: Mutex<State>,
    heard: watch::Sender<Arc<PeerStates>>,
    events: Arc<Events>,
    /// Signalled when there may be something else to say to somebody.
    news: Notify,
    /// Signalled when somebody has acknowledged or announced something.
    progress: watch::Sender<()>,
}

/// What this host knows of the announcements of another.
#[derive(Debug, Clone, Copy)]
pub struct Advertising {
    /// Whether all of it is known.
    pub in_sync: bool,
    /// How long ago it was last heard; `None` if never.
    pub heard: Option<Duration>,
}

impl Advertiser {
    /// Puts the parts together; nothing happens yet. `heard` is what the plane follows.
    pub fn new(
        agreement: Agreement,
        local: Arc<LocalState>,
        plane: Arc<Plane>,
        peers: Client,
        listening: Listening,
        heard: watch::Sender<Arc<PeerStates>>,
        events: Arc<Events>,
    ) -> Self {
        Self {
            agreement,
            local,
            plane,
            peers,
            listening,
            begin: Instant::now(),
            state: Mutex::default(),
            heard,
            events,
            news: Notify::new(),
            progress: watch::Sender::new(()),
        }
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes of what these hosts announced what is to be made of it now, for the plane.
    fn publish(&self, state: &mut State, hosts: impl IntoIterator<Item = HostId>) {
        let before = self.heard.borrow().clone();
        let (mut heard, now) = (before.clone(), self.now());
        let (cluster, local) = (self.agreement.cluster(), self.local.get());
        let known = Known { cluster: &cluster, local: &local };
        let mut update = |state: &mut State, host: HostId| {
            let announced = state.listeners.heard_host(host, now);
            state.beliefs.update(&mut heard, host, announced, known, now);
            let told = state.beliefs.doubts(host, &cluster, now);
            self.note_doubts(state, host, Direction::In, told);
        };
        hosts.into_iter().for_each(|host| update(state, host));
        state.beliefs.contested().into_iter().for_each(|host| update(state, host));
        if !Arc::ptr_eq(&before, &heard) {
            state.tell_changes(&before, &heard, &cluster);
            self.heard.send_replace(heard);
        }
    }

    /// Notes what one host does not believe of another's announcement, and what of it is new as
    /// events.
    fn note_doubts(
        &self,
        state: &mut State,
        host: HostId,
        direction: Direction,
        told: Vec<ReportedRejection>,
    ) {
        let cluster = self.agreement.cluster();
        for doubt in state.note_doubts(host, direction, told, &cluster, self.now()) {
            let who = match direction {
                Direction::In => "announced by this host, and not believed here",
                Direction::Out => "announced here, and not believed by this host",
            };
            let text = format!("{who}: {}", doubt.text);
            self.events.note(EventKind::AnnouncementDoubted, &cluster.host_name(host), &text);
        }
    }

    /// The same for all hosts.
    fn publish_all(&self, state: &mut State) {
        let known: BTreeSet<HostId> = self.heard.borrow().hosts.keys().copied().collect();
        self.publish(state, state.listeners.hosts().chain(known).collect::<BTreeSet<_>>());
    }

    /// Says to whoever waits that somebody has acknowledged or announced something.
    fn tell_progress(&self) {
        self.progress.send_replace(());
    }

    /// Waits until the hosts that share the network know this endpoint, and this host knows theirs
    /// and its kernel has them; not for those that do not answer, and not for long. Whoever cannot
    /// be told now is told later.
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
                "hosts do not know of the endpoint yet, or their own are not known"
            );
        }
        self.plane.settle_networks([network], READY_DEADLINE.saturating_sub(begin.elapsed())).await;
    }

    /// The hosts that [`Advertiser::ready`] waits for; this host itself while it has not looked
    /// yet.
    fn missing(&self, network: &NetworkId, endpoint: &EndpointId) -> Vec<HostId> {
        let state = self.state();
        let is_announced = state
            .content
            .get(network)
            .is_some_and(|network| network.endpoints.contains_key(endpoint));
        if !is_announced {
            return vec![self.agreement.me];
        }
        let now = self.now();
        let unknown = |host: &HostId| {
            let heard = state.listeners.heard_host(*host, now);
            !heard.is_some_and(|heard| heard.in_sync && heard.networks.contains_key(network))
        };
        let sharing =
            state.listeners.sharing(network).filter(|host| !state.speakers.is_failing(*host));
        state.speakers.uninformed(network, endpoint).chain(sharing.filter(unknown)).collect()
    }

    /// The name of the host that has an endpoint with this MAC address. A container that has just
    /// been stopped there may have been started here: it is waited a moment for the host to say so.
    pub async fn holder_of_mac(&self, network: &NetworkId, mac: MacAddress) -> Option<String> {
        let mut heard = self.heard.subscribe();
        let is_free = heard.wait_for(|heard| heard.holder_of_mac(network, mac).is_none());
        if tokio::time::timeout(READY_DEADLINE, is_free).await.is_ok() {
            return None;
        }
        let holder = self.heard.borrow().holder_of_mac(network, mac)?;
        Some(self.agreement.cluster().host_name(holder))
    }

    /// How this host stands with another; `None` if they share no network.
    pub fn standing(&self, host: HostId) -> Option<Advertising> {
        let (state, now) = (self.state(), self.now());
        let heard = state.listeners.get(host)?.last_heard().map(|heard| now.saturating_sub(heard));
        // One whose announcements were withdrawn is not in sync for people, though it is known what
        // to send it: nothing.
        let is_silent = heard.is_none_or(|heard| heard >= SILENCE_MAX);
        let in_sync = state.listeners.heard_host(host, now)?.in_sync && !is_silent;
        Some(Advertising { in_sync, heard })
    }

    /// Follows what the other hosts announced.
    pub fn watch_heard(&self) -> watch::Receiver<Arc<PeerStates>> {
        self.heard.subscribe()
    }

    /// What is wrong just now, one line each.
    pub fn problems(&self) -> Vec<String> {
        self.state().problems(&self.agreement.cluster(), self.now())
    }
}
