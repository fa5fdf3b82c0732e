//! Reads this host's state at each scrape, and writes the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;
use shoutd_consensus::{ConsensusStatus, Role};
use shoutd_core::cluster::Cluster;
use shoutd_core::limits::METERED_NETWORKS_MAX;
use shoutd_core::traffic::Accounts;
use shoutd_core::tunnel::TunnelKind;
use shoutd_core::view::Membership;
use shoutd_core::{HostId, NetworkId, Vni};
use shoutd_dataplane::segment_counters;

use super::families::ProcessFamilies;
use super::meters::Meters;
use super::process::Process;
use super::server::Source;
use super::snapshot::{Network, Peer, Raft, Snapshot};
use super::titles::unique;
use crate::api::control::Control;
use crate::app::services::Services;
use crate::plane::NAMESPACES;

/// How long the kernel's counters are read for one answer. A network takes some hundred
/// microseconds. Those for which there is no time keep their last counts and come first next time.
const READING_MAX: Duration = Duration::from_millis(150);

/// The prefix of all names but those of the process.
const PREFIX: &str = "shoutd";

/// Reads and writes the metrics.
#[derive(Debug)]
pub struct Collector {
    control: Arc<Control>,
    /// What is counted where it happens.
    meters: Registry,
    readings: Mutex<Readings>,
}

/// What was read of the kernel's counters.
#[derive(Debug, Default)]
struct Readings {
    accounts: Accounts,
    /// The last network that was read.
    last: Option<Vni>,
}

impl Collector {
    /// Reads nothing yet.
    pub fn new(control: Arc<Control>, meters: &Meters) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        meters.register(&mut registry);
        Self { control, meters: registry, readings: Mutex::default() }
    }

    fn services(&self) -> &Services {
        &self.control.views.services
    }
}

impl Source for Collector {
    /// Takes the kernel's counters of the networks that are on this host already as the beginning
    /// of all counts.
    fn begin(&self) {
        let here: Vec<Vni> = self.observed_networks();
        let mut readings = self.readings.lock();
        for vni in here {
            if let Ok(reading) = segment_counters(Path::new(NAMESPACES), vni) {
                readings.accounts.begin(vni, reading);
            }
        }
    }

    /// Takes about as long as [`READING_MAX`] on a host with many networks.
    fn collect(&self) -> Option<String> {
        let begin = Instant::now();
        let mut snapshot = self.snapshot();
        snapshot.took = begin.elapsed().as_secs_f64();
        render(&self.meters, snapshot).ok()
    }
}

impl Collector {
    fn observed_networks(&self) -> Vec<Vni> {
        let observed = self.services().plane.watch_observed();
        let observed = observed.borrow();
        observed.segments.keys().copied().collect()
    }

    fn snapshot(&self) -> Snapshot {
        let services = self.services();
        let cluster = services.agreement.cluster();
        let status = services.agreement.consensus().status();
        let observed = services.plane.watch_observed().borrow().clone();
        let mut networks: BTreeMap<Vni, NetworkId> = cluster
            .networks
            .iter()
            .filter(|(_, network)| observed.segments.contains_key(&network.vni))
            .map(|(id, network)| (network.vni, id.clone()))
            .collect();
        let here = networks.len();
        networks = networks.into_iter().take(METERED_NETWORKS_MAX).collect();
        let networks_unread = self.read_counters(&networks);
        Snapshot {
            problems: self.control.views.status().faults().len(),
            is_member: services.agreement.membership() == Membership::Member,
            hosts: cluster.hosts.len(),
            networks_agreed: cluster.networks.len(),
            raft: raft(&status),
            peers: self.peers(&cluster, &status),
            networks_left_out: here - networks.len(),
            networks: self.networks(&cluster, &networks),
            networks_unread,
            wireguard: services.sessions.view(),
            underlay: observed.underlay_filter.dropped(),
            filter_losses: services.plane.filter_losses(),
            process: Process::read(),
            took: 0.0,
        }
    }

    /// Reads the counters of these networks, and returns for how many there was no time or an
    /// error.
    fn read_counters(&self, networks: &BTreeMap<Vni, NetworkId>) -> usize {
        let begin = Instant::now();
        let probes = self.services().prober.sent();
        let desired = self.services().plane.desired();
        let Readings { accounts, last } = &mut *self.readings.lock();
        accounts.retain(&networks.keys().copied().collect());
        let (before, after): (Vec<Vni>, Vec<Vni>) =
            networks.keys().partition(|vni| last.is_some_and(|last| **vni <= last));
        let mut unread = 0;
        for vni in after.into_iter().chain(before) {
            let reading = if begin.elapsed() < READING_MAX {
                segment_counters(Path::new(NAMESPACES), vni).ok()
            } else {
                None
            };
            let Some(mut reading) = reading else {
                unread += 1;
                continue;
            };
            reading.probes = probes.get(&vni).copied().unwrap_or_default();
            let segment = desired.as_ref().and_then(|desired| desired.segments.get(&vni));
            let remotes = segment.map_or(0, |segment| segment.remotes.len());
            accounts.note(vni, reading, u64::try_from(remotes).unwrap_or_default());
            *last = Some(vni);
        }
        unread
    }

    fn networks(&self, cluster: &Cluster, networks: &BTreeMap<Vni, NetworkId>) -> Vec<Network> {
        let services = self.services();
        let (heard, local) = (services.advertiser.peer_states(), services.local.get());
        let (desired, memberships) = (services.plane.desired(), services.plane.memberships());
        let observed = services.plane.watch_observed().borrow().clone();
        let readings = self.readings.lock();
        let mut endpoints: BTreeMap<&NetworkId, usize> = BTreeMap::new();
        for endpoint in local.endpoints.values() {
            *endpoints.entry(&endpoint.network).or_default() += 1;
        }
        let titles = networks.iter().map(|(vni, id)| (*vni, cluster.network_title(id).to_owned()));
        let titles = unique(titles, |vni| format!("VNI {vni}"));
        let of = titles.into_iter().filter_map(|(vni, title)| {
            let id = networks.get(&vni)?;
            let own = memberships.get(&vni);
            let segment = desired.as_ref().and_then(|desired| desired.segments.get(&vni));
            let replication =
                segment.map(|segment| segment.replication.clone()).unwrap_or_default();
            // Each group has a (*,G) entry, and these come first.
            let groups = replication.groups.keys().take_while(|(source, _)| source.is_none());
            let advertised = heard.hosts.values().filter_map(|state| state.networks.get(id));
            Some(Network {
                title,
                endpoints: endpoints.get(id).copied().unwrap_or_default(),
                remotes: segment.map_or(0, |segment| segment.remotes.len()),
                local_groups: own.map_or(0, |own| own.groups.len()),
                takes_everything: own.is_some_and(|own| own.router),
                remote_groups: groups.count() + replication.link_local.len(),
                receivers: advertised.map(|network| network.memberships.groups.len()).sum(),
                entries: replication.groups.len(),
                groups_beyond: replication.beyond,
                learned: observed.segments.get(&vni).map_or(0, |segment| segment.learned.count),
                traffic: readings.accounts.traffic(vni).copied(),
            })
        });
        of.collect()
    }

    fn peers(&self, cluster: &Cluster, status: &ConsensusStatus) -> Vec<Peer> {
        let services = self.services();
        let others: BTreeSet<HostId> =
            cluster.hosts.keys().copied().filter(|host| *host != services.agreement.me).collect();
        let titles = others.iter().map(|host| (*host, cluster.host_name(*host)));
        let titles = unique(titles, HostId::to_string);
        let both = |kind| {
            let states = services.prober.states(kind).into_iter();
            states.map(|(host, state)| (host, [state.inbound, state.outbound])).collect()
        };
        let tunnels: BTreeMap<HostId, _> = both(TunnelKind::Plain);
        let encrypted: BTreeMap<HostId, _> = both(TunnelKind::Encrypted);
        let probes = services.prober.received();
        let health: BTreeMap<HostId, bool> =
            status.peer_health.iter().map(|peer| (peer.host, peer.reachable)).collect();
        let peers = titles.into_iter().map(|(host, title)| {
            let standing = services.advertiser.standing(host);
            Peer {
                title,
                is_reachable: health.get(&host).copied(),
                in_sync: standing.map(|standing| standing.in_sync),
                advertised_age: standing
                    .and_then(|standing| standing.heard)
                    .map(|heard| heard.as_secs_f64()),
                tunnel: tunnels.get(&host).copied(),
                encrypted_tunnel: encrypted.get(&host).copied(),
                session: services.sessions.with(host),
                probes_received: probes.get(&host).copied().unwrap_or_default(),
            }
        });
        peers.collect()
    }
}

fn raft(status: &ConsensusStatus) -> Raft {
    Raft {
        role: match status.role {
            Role::Leader => 0,
            Role::Follower => 1,
            Role::Candidate => 2,
            Role::Learner => 3,
            Role::Stopped => 4,
        },
        term: status.term,
        applied: status.applied,
        voters: status.voters.len(),
        learners: status.learners.len(),
        contact_age: status.leader_heard.map(|heard| Duration::from_millis(heard).as_secs_f64()),
    }
}

/// The text of these metrics.
pub fn render(meters: &Registry, snapshot: Snapshot) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encode_registry(&mut text, meters)?;
    let process = snapshot.process;
    let mut state = Registry::with_prefix(PREFIX);
    state.register_collector(Box::new(snapshot));
    encode_registry(&mut text, &state)?;
    if let Some(process) = process {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessFamilies(process)));
        encode_registry(&mut text, &registry)?;
    }
    encode_eof(&mut text)?;
    Ok(text)
}
