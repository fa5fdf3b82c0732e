//! The prober sends probes through the tunnels and receives those of the peers. It asks each peer
//! which probes of this host arrive there.

mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};
use futures::future::join_all;
use parking_lot::Mutex;
pub use sessions::SessionReader;
use shoutd_core::cluster::Cluster;
use shoutd_core::limits::{ENCRYPTION_PORT, PROBE_INTERVAL, PROBE_POLL};
use shoutd_core::plane::Observed;
use shoutd_core::tunnel::{
    ByKind, Carriage, Probe, ProbeReports, TunnelKind, TunnelProblem, TunnelState, Tunnels,
    encrypted_tunnel_problem, tunnel_problem,
};
use shoutd_core::{HostId, MacAddress, Vni};
use shoutd_dataplane::TunnelProbes;
use shoutd_peer::{Caller, Client};
use tokio::sync::watch;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::advertise::Advertiser;
use crate::app::local_state::LocalState;
use crate::membership::agreement::Agreement;
use crate::metrics::Meters;
use crate::plane::{NAMESPACES, Plane};

/// Path at which peers ask what this host hears of them.
const PROBES: &str = "/v1/probes";

/// How long a peer may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// Probes the tunnels to all peers that share a network.
#[derive(Debug)]
pub struct Prober {
    agreement: Agreement,
    local: Arc<LocalState>,
    plane: Arc<Plane>,
    advertiser: Arc<Advertiser>,
    peers: Client,
    /// Whether this host probes.
    enabled: watch::Receiver<bool>,
    /// Zero of the times in `tunnels`.
    begin: Instant,
    tunnels: Mutex<ByKind<Tunnels>>,
    counts: Mutex<Counts>,
    meters: Meters,
}

/// The kinds of tunnels, as they are probed.
const KINDS: [TunnelKind; 2] = [TunnelKind::Plain, TunnelKind::Encrypted];

/// The peers that share a network, each with the network by which it is probed.
type Shared = ByKind<BTreeMap<HostId, Vni>>;

/// Probes since the daemon started.
#[derive(Debug, Default)]
struct Counts {
    /// Sent, by network: one for all of its hosts.
    sent: BTreeMap<Vni, u64>,
    /// Received, by host of the cluster.
    received: BTreeMap<HostId, u64>,
}

impl Prober {
    /// Does not send anything yet.
    pub fn new(
        agreement: Agreement,
        local: Arc<LocalState>,
        plane: Arc<Plane>,
        advertiser: Arc<Advertiser>,
        peers: Client,
        enabled: watch::Receiver<bool>,
        meters: Meters,
    ) -> Self {
        let (begin, tunnels, counts) = (Instant::now(), Mutex::default(), Mutex::default());
        Self { agreement, local, plane, advertiser, peers, enabled, begin, tunnels, counts, meters }
    }

    /// Whether this host probes.
    pub fn is_enabled(&self) -> bool {
        *self.enabled.borrow()
    }

    /// The tunnels of this kind to the peers that share such a network.
    pub fn states(&self, kind: TunnelKind) -> BTreeMap<HostId, TunnelState> {
        self.tunnels.lock().of(kind).states(self.begin.elapsed())
    }

    /// What this host tells a peer that asks.
    pub fn report(&self, host: HostId) -> ProbeReports {
        let (tunnels, now) = (self.tunnels.lock(), self.begin.elapsed());
        ProbeReports {
            plain: tunnels.plain.report(host, now),
            encrypted: tunnels.encrypted.report(host, now),
        }
    }

    /// How many probes were sent on each network. Each goes to all hosts that have the network.
    pub fn sent(&self) -> BTreeMap<Vni, u64> {
        self.counts.lock().sent.clone()
    }

    /// How many probes came from each host.
    pub fn received(&self) -> BTreeMap<HostId, u64> {
        self.counts.lock().received.clone()
    }

    /// A probe came. Only hosts of the cluster have a count, so that forged ones make none.
    fn count_received(&self, host: HostId) {
        if self.agreement.cluster().hosts.contains_key(&host) {
            *self.counts.lock().received.entry(host).or_default() += 1;
        }
    }

    /// The tunnels that do not carry, one line each.
    pub fn problems(&self) -> Vec<String> {
        KINDS.into_iter().flat_map(|kind| self.problems_of(kind)).collect()
    }

    /// The tunnels of this kind that do not carry, one line each.
    pub fn problems_of(&self, kind: TunnelKind) -> Vec<String> {
        let cluster = self.agreement.cluster();
        let me = self.agreement.me;
        let problems = self.states(kind).into_iter().flat_map(|(host, state)| {
            [
                problem(&cluster, kind, (host, me), state.inbound),
                problem(&cluster, kind, (me, host), state.outbound),
            ]
        });
        problems.flatten().map(|problem| problem.to_string()).collect()
    }

    /// Probes while that is enabled, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let probing = async {
            let mut enabled = self.enabled.clone();
            while enabled.wait_for(|enabled| *enabled).await.is_ok() {
                tokio::select! {
                    () = self.clone().probe() => {}
                    _ = enabled.wait_for(|enabled| !*enabled) => self.forget(),
                }
            }
            // Nothing can enable it again.
        };
        stop.run_until_cancelled(probing).await;
        stop.cancelled().await;
    }

    /// Forgets the tunnels: without probes, their states would be old.
    fn forget(&self) {
        *self.tunnels.lock() = ByKind::default();
        self.counts.lock().sent.clear();
    }

    /// Probes forever.
    async fn probe(self: Arc<Self>) {
        let (run, mut number) = (rand::random(), 0);
        let mut sockets = TunnelProbes::new(Path::new(NAMESPACES));
        let mut ticks = interval(PROBE_POLL);
        let mut sent: Option<Instant> = None;
        loop {
            ticks.tick().await;
            self.receive(&sockets);
            if sent.is_some_and(|at| at.elapsed() < PROBE_INTERVAL) {
                continue;
            }
            sent = Some(Instant::now());
            let shared = self.shared();
            {
                let (mut tunnels, now) = (self.tunnels.lock(), self.begin.elapsed());
                for kind in KINDS {
                    tunnels.of_mut(kind).set_peers(shared.of(kind).keys().copied(), now);
                }
            }
            self.send(&mut sockets, &shared, (run, number));
            number += 1;
            tokio::spawn(self.clone().ask());
        }
    }

    /// Notes the probes that came.
    fn receive(&self, sockets: &TunnelProbes) {
        let cluster = self.agreement.cluster();
        for (vni, content) in sockets.received() {
            let Some(probe) = parse(&content) else { continue };
            let network = cluster.networks.values().find(|network| network.vni == vni);
            let Some(kind) = network.map(|network| kind_of(network.encrypted)) else { continue };
            self.tunnels.lock().of_mut(kind).received(probe, self.begin.elapsed());
            self.advertiser.note_tunnelled(probe.from);
            self.count_received(probe.from);
        }
    }

    /// The peers that share a network, each with the network by which it is probed: the first of
    /// each kind.
    fn shared(&self) -> Shared {
        let (cluster, states) = (self.agreement.cluster(), self.advertiser.peer_states());
        let observed = self.plane.watch_observed();
        let observed = observed.borrow();
        let mut shared = Shared::default();
        let members = states.hosts.iter().filter(|(host, _)| cluster.hosts.contains_key(host));
        for (host, state) in members {
            let networks = state.networks.keys().filter_map(|id| cluster.networks.get(id));
            for network in networks.filter(|network| has_tunnel(&observed, network.vni)) {
                let of = shared.of_mut(kind_of(network.encrypted));
                let first = of.entry(*host).or_insert(network.vni);
                *first = network.vni.min(*first);
            }
        }
        shared
    }

    /// Sends a small and a full probe by each of these networks.
    fn send(&self, sockets: &mut TunnelProbes, shared: &Shared, (run, number): (u64, u64)) {
        let all = KINDS.into_iter().flat_map(|kind| shared.of(kind).values());
        let networks: BTreeSet<Vni> = all.copied().collect();
        sockets.retain(&networks);
        self.counts.lock().sent.retain(|vni, _| networks.contains(vni));
        let sources = networks.into_iter().filter_map(|vni| Some((vni, self.source(vni)?)));
        for (vni, source) in sources {
            for full in [false, true] {
                let probe = Probe { from: self.agreement.me, run, number, full };
                let content = serde_json::to_vec(&probe).unwrap_or_default();
                match sockets.send(vni, source, &content, full) {
                    Ok(()) => {
                        *self.counts.lock().sent.entry(vni).or_default() += 1;
                        self.meters.probed();
                    }
                    // The reconciler names what is wrong with the device.
                    Err(error) => debug!("cannot send a probe: {error}"),
                }
            }
        }
    }

    /// The MAC address of one of this host's containers on the network. The peers have pinned it to
    /// this host, so they learn nothing from a probe.
    fn source(&self, vni: Vni) -> Option<MacAddress> {
        let (cluster, local) = (self.agreement.cluster(), self.local.get());
        let mut endpoints = local.endpoints.values();
        let is_there = |network| cluster.networks.get(network).is_some_and(|one| one.vni == vni);
        endpoints.find(|endpoint| is_there(&endpoint.network)).map(|endpoint| endpoint.mac)
    }

    /// Asks each peer which probes of this host arrive there.
    async fn ask(self: Arc<Self>) {
        let cluster = self.agreement.cluster();
        let peers: BTreeSet<HostId> = {
            let tunnels = self.tunnels.lock();
            tunnels.plain.peers().chain(tunnels.encrypted.peers()).collect()
        };
        let asked = peers.into_iter().filter_map(|id| Some((id, cluster.hosts.get(&id)?.address)));
        join_all(asked.map(async |(id, address)| {
            let answer = self.peers.call_host(id, address, PROBES, &(), ANSWER_DEADLINE).await;
            let answer: Option<ProbeReports> = answer.ok();
            let (mut tunnels, now) = (self.tunnels.lock(), self.begin.elapsed());
            tunnels.plain.answered(id, answer.map(|answer| answer.plain), now);
            tunnels.encrypted.answered(id, answer.map(|answer| answer.encrypted), now);
        }))
        .await;
    }
}

/// The routes for peers.
pub fn router(prober: Arc<Prober>) -> Router {
    Router::new().route(PROBES, post(answer)).with_state(prober)
}

async fn answer(
    State(prober): State<Arc<Prober>>,
    Extension(caller): Extension<Caller>,
) -> Json<ProbeReports> {
    Json(prober.report(caller.host))
}

/// The kind of the tunnel that carries a network.
pub fn kind_of(encrypted: bool) -> TunnelKind {
    if encrypted { TunnelKind::Encrypted } else { TunnelKind::Plain }
}

/// The problem of the direction from one host to another.
fn problem(
    cluster: &Cluster,
    kind: TunnelKind,
    (from, to): (HostId, HostId),
    carriage: Carriage,
) -> Option<TunnelProblem> {
    let [from_name, to_name] = [from, to].map(|host| cluster.host_name(host));
    match kind {
        TunnelKind::Plain => tunnel_problem(&from_name, &to_name, carriage),
        TunnelKind::Encrypted => {
            let port = cluster.encryption.ends.get(&to).map_or(ENCRYPTION_PORT, |end| end.port);
            encrypted_tunnel_problem(&from_name, &to_name, port, carriage)
        }
    }
}

fn has_tunnel(observed: &Observed, vni: Vni) -> bool {
    let segment = observed.segments.get(&vni);
    segment.is_some_and(|segment| segment.tunnel.as_ref().is_some_and(|tunnel| tunnel.up))
}

/// The probe at the beginning of a frame's content. Zeros may follow.
fn parse(content: &[u8]) -> Option<Probe> {
    let mut probes = serde_json::Deserializer::from_slice(content).into_iter();
    probes.next()?.ok()
}
