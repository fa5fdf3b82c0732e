//! What the control socket shows. It is read from state, and never waits for a proposal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;
use shoutd_consensus::{ConsensusStatus, Role};
use shoutd_core::cluster::{Cluster, Network};
use shoutd_core::descriptors::descriptors_problem;
use shoutd_core::health::{FRESH, HostHealth};
use shoutd_core::joining::{PeerCheck, PeerStanding};
use shoutd_core::limits::HOSTS_MAX;
use shoutd_core::local::Local;
use shoutd_core::own_address::AddressRule;
use shoutd_core::plane::{Tier, unkept_networks};
use shoutd_core::stock::taken;
use shoutd_core::tunnel::TunnelKind;
use shoutd_core::view::{self, EndpointRow, Endpoints, HostRow, NetworkRow, Status};
use shoutd_core::{EndpointId, HostId};
use shoutd_dataplane::UnderlayInterface;
use shoutd_docker::plugin::SocketState;
use shoutd_peer::{CallError, Distrust, Rejection};
use tokio::sync::watch;

use crate::api::trace::Countings;
use crate::app::live_settings::LiveSettings;
use crate::app::services::Services;
use crate::docker::mirrors::Mirrors;
use crate::membership::authority::AuthorityKeeper;
use crate::swarm::follower::SwarmFollower;

/// How long a peer may take to answer.
pub const PEER_DEADLINE: Duration = Duration::from_secs(1);

/// How long this host's engine may take to list its containers.
pub const ENGINE_DEADLINE: Duration = Duration::from_millis(500);

/// How many events are shown with the status.
const STATUS_EVENTS: usize = 5;

/// Path at which peers check that this host answers.
pub const HELLO: &str = "/v1/hello";

/// Path at which peers ask for this host's endpoints.
pub const ENDPOINTS: &str = "/v1/endpoints";

/// Path at which peers ask for this host's problems.
pub const HEALTH: &str = "/v1/health";

/// Everything that can be shown.
#[derive(Debug)]
pub struct Views {
    /// This host's name.
    pub name: String,
    /// Its advertise address.
    pub address: SocketAddr,
    /// How it finds this address.
    pub address_rule: AddressRule,
    /// The peers that it was started with.
    pub peer_addresses: Vec<SocketAddr>,
    /// Its data directory.
    pub data_directory: PathBuf,
    /// The plugin socket.
    pub plugin_socket: PathBuf,
    /// The interface of the underlay.
    pub underlay: watch::Receiver<UnderlayInterface>,
    /// The problem of the underlay, if it has one.
    pub underlay_problem: watch::Receiver<Option<String>>,
    /// Where metrics are served.
    pub live: Arc<LiveSettings>,
    /// Why they are not served, if they should be.
    pub metrics_problem: watch::Receiver<Option<String>>,
    /// How multicast is replicated.
    pub replication: Tier,
    /// State, kernel and engine.
    pub services: Services,
    /// The cluster's certificate authority.
    pub authority: Arc<AuthorityKeeper>,
    /// The engine's networks.
    pub mirrors: Arc<Mirrors>,
    /// Keeps the Swarm's networks in step.
    pub swarm: Arc<SwarmFollower>,
    /// Whether the engine answers.
    pub engine_state: watch::Receiver<view::Engine>,
    /// Whether the plugin socket exists.
    pub plugin_socket_state: watch::Receiver<SocketState>,
    /// Limits how often packets are counted at a time.
    pub countings: Countings,
    /// The last known names of this host's containers.
    pub container_names: Mutex<BTreeMap<EndpointId, String>>,
}

/// The problem if too many file descriptors are open.
fn descriptors() -> Option<String> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    descriptors_problem(u64::try_from(open).ok()?, limit)
}

impl Views {
    /// `shoutdctl status`.
    pub fn status(&self) -> Status {
        let cluster = self.services.agreement.cluster();
        let consensus = self.services.agreement.consensus().status();
        let mut problems = self.mirrors.problems();
        problems.extend(self.swarm.problems());
        problems.extend(self.services.plane.problems());
        problems.extend(self.services.advertiser.problems());
        problems.extend(self.services.prober.problems());
        problems.extend(self.services.encrypt.problem());
        problems.extend(self.services.sessions.problems(&self.services.prober));
        problems.extend(unkept_networks(&cluster));
        problems.extend(cluster.overlap_problems(self.services.agreement.me).into_values());
        problems.extend(consensus.fault.clone());
        problems.extend(self.underlay_problem.borrow().clone());
        problems.extend(self.metrics_problem.borrow().clone());
        problems.extend(self.services.agreement.consensus().troubles());
        problems.extend(self.authority.problem());
        problems.extend(
            taken(&cluster, &self.services.local.get(), self.services.agreement.me)
                .iter()
                .map(|one| one.text(&cluster)),
        );
        problems.extend(descriptors());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            host: self.services.agreement.me,
            name: self.name.clone(),
            address: self.address,
            address_rule: self.address_rule.can_move().then(|| self.address_rule.to_string()),
            underlay_mtu: self.underlay.borrow().mtu,
            agreed_ago: consensus.leader_heard,
            replication: self.replication.name().to_owned(),
            tunnel_probes: self.services.prober.is_enabled(),
            metrics_address: Some(*self.live.metrics_address().borrow()),
            encryption: self.services.encrypt.status(),
            membership: self.services.agreement.membership(),
            cluster: cluster.id,
            role: role(&consensus).to_owned(),
            leader: leader(&consensus),
            leader_name: leader(&consensus).map(|leader| cluster.host_name(leader)),
            hosts: cluster.hosts.len(),
            networks: cluster.networks.len(),
            wireguard: self.services.sessions.view(),
            endpoints: self.services.local.get().endpoints.len(),
            docker: self.engine(),
            docker_socket: self.services.engine.socket().to_owned(),
            data_directory: self.data_directory.clone(),
            plugin_socket: self.plugin_socket.clone(),
            peer_addresses: self.peer_addresses.clone(),
            problems,
            events: self.services.events.newest(STATUS_EVENTS),
        }
    }

    /// Who is at the addresses that were named as peers' to a host that belongs to a cluster
    /// already. Hosts of the cluster that moved there are found there from now on.
    pub async fn check_peers(&self, addresses: &[SocketAddr]) -> Vec<PeerCheck> {
        let named = addresses.get(..HOSTS_MAX).unwrap_or(addresses);
        self.services.agreement.consensus().meet(named).await;
        let asked = named.iter().map(async |address| PeerCheck {
            address: *address,
            standing: self.standing_of(*address).await,
        });
        join_all(asked).await
    }

    async fn standing_of(&self, address: SocketAddr) -> PeerStanding {
        if address == self.address {
            return PeerStanding::Itself;
        }
        match self.services.peers.call::<_, ()>(address, HELLO, &(), PEER_DEADLINE).await {
            Ok(()) => PeerStanding::Member,
            Err(CallError::Untrusted { distrust: Distrust::NoCluster, .. }) => {
                PeerStanding::NoCluster
            }
            Err(CallError::Untrusted {
                distrust: Distrust::OtherAuthority | Distrust::OtherCluster(_),
                ..
            })
            | Err(CallError::Refused { rejection: Rejection::OtherCluster { .. }, .. }) => {
                PeerStanding::OtherCluster
            }
            // A host of the cluster that is down is still a member.
            Err(_)
                if self
                    .services
                    .agreement
                    .cluster()
                    .hosts
                    .values()
                    .any(|host| host.address == address) =>
            {
                PeerStanding::Member
            }
            Err(error) => PeerStanding::Silent(error.to_string()),
        }
    }

    /// Whether the engine and shoutd reach each other.
    fn engine(&self) -> view::Engine {
        let problem = self.plugin_socket_state.borrow().problem.clone();
        problem.map_or_else(|| self.engine_state.borrow().clone(), view::Engine::Absent)
    }

    /// `shoutdctl status --cluster`: each host is asked for its own.
    pub async fn health(&self) -> Vec<HostHealth> {
        let cluster = self.services.agreement.cluster();
        let asked = cluster.hosts.iter().map(async |(id, host)| {
            let problems = if *id == self.services.agreement.me {
                self.status().faults()
            } else {
                let asked = self
                    .services
                    .peers
                    .call_host(*id, host.address, HEALTH, &(), PEER_DEADLINE)
                    .await;
                asked.unwrap_or_else(|error| vec![format!("it does not answer: {error}")])
            };
            HostHealth { id: *id, name: host.name.clone(), problems }
        });
        let mut hosts = join_all(asked).await;
        hosts.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        hosts
    }

    /// `shoutdctl hosts`.
    pub async fn hosts(&self) -> Vec<HostRow> {
        let cluster = self.services.agreement.cluster();
        let consensus = self.services.agreement.consensus();
        let status = consensus.status();
        let tunnels = self.services.prober.states(TunnelKind::Plain);
        let encrypted = self.services.prober.states(TunnelKind::Encrypted);
        let rows = cluster.hosts.iter().map(async |(id, host)| {
            let this_host = *id == self.services.agreement.me;
            let role = if leader(&status) == Some(*id) {
                "leader"
            } else if status.voters.contains(id) {
                "voter"
            } else {
                "learner"
            };
            let standing = self.services.advertiser.standing(*id);
            let heard = standing.and_then(|standing| standing.heard);
            HostRow {
                id: *id,
                name: host.name.clone(),
                address: host.address,
                role: role.to_owned(),
                reachable: this_host || self.answers(*id, host.address).await,
                this_host,
                in_sync: standing.map(|standing| standing.in_sync),
                heard_ago: heard.and_then(|heard| heard.as_millis().try_into().ok()),
                tunnel: tunnels.get(id).copied(),
                encrypted_tunnel: encrypted.get(id).copied(),
                wireguard: self.services.sessions.view_of(*id),
            }
        });
        let mut rows = join_all(rows).await;
        rows.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        rows
    }

    /// Whether another host answers in time.
    pub async fn answers(&self, host: HostId, address: SocketAddr) -> bool {
        let asked =
            self.services.peers.call_host::<_, ()>(host, address, HELLO, &(), PEER_DEADLINE);
        asked.await.is_ok()
    }

    /// `shoutdctl networks`.
    pub fn networks(&self) -> Vec<NetworkRow> {
        let cluster = self.services.agreement.cluster();
        let rows = cluster.networks.iter().map(|(id, network)| NetworkRow {
            id: id.clone(),
            name: network.description.as_ref().map(|description| description.name.clone()),
            vni: network.vni,
            subnets: network.settings.pools.iter().map(|pool| pool.subnet).collect(),
            options: network.settings.options.clone(),
            internal: network.settings.internal,
            encrypted: network.encrypted,
            swarm: network.settings.swarm,
            origin: cluster.host_name(network.origin),
            hosts: network.attached.iter().map(|host| cluster.host_name(*host)).collect(),
            addresses: network.leases.len(),
            removal_waits_for: network.removing.then(|| holders(&cluster, network)),
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        rows
    }

    /// `shoutdctl endpoints`: each host is asked for its own.
    pub async fn endpoints(&self) -> Endpoints {
        let cluster = self.services.agreement.cluster();
        let others = cluster.hosts.iter().filter(|(id, _)| **id != self.services.agreement.me);
        let asked = join_all(others.map(async |(id, host)| {
            let rows = self
                .services
                .peers
                .call_host(*id, host.address, ENDPOINTS, &(), PEER_DEADLINE)
                .await;
            rows.map_err(|_| host.name.clone())
        }));
        let (mut endpoints, answers) = tokio::join!(self.own_endpoints(), asked);
        let mut unanswered = Vec::new();
        for answer in answers {
            match answer {
                Ok(rows) => endpoints.extend::<Vec<EndpointRow>>(rows),
                Err(name) => unanswered.push(name),
            }
        }
        endpoints.sort_by(|a, b| (&a.network, &a.addresses).cmp(&(&b.network, &b.addresses)));
        Endpoints { endpoints, unanswered }
    }

    /// The endpoints of this host.
    pub async fn own_endpoints(&self) -> Vec<EndpointRow> {
        let (cluster, local) = (self.services.agreement.cluster(), self.services.local.get());
        let containers = self.container_names_in_time(&local).await;
        let rows = local.endpoints.iter().map(|(id, endpoint)| EndpointRow {
            network: cluster.network_title(&endpoint.network).to_owned(),
            host: self.name.clone(),
            addresses: endpoint.addresses.iter().map(IpNet::addr).collect(),
            id: id.clone(),
            mac: endpoint.mac,
            container: containers.get(id).cloned(),
        });
        rows.collect()
    }

    /// The names of this host's containers by endpoint. Of those that the engine does not tell in
    /// time, the last known ones.
    pub async fn container_names_in_time(&self, local: &Local) -> BTreeMap<EndpointId, String> {
        let told = tokio::time::timeout(ENGINE_DEADLINE, self.container_names(local)).await;
        let mut known = self.container_names.lock();
        known.extend(told.unwrap_or_default());
        known.retain(|endpoint, _| local.endpoints.contains_key(endpoint));
        known.clone()
    }

    async fn container_names(&self, local: &Local) -> BTreeMap<EndpointId, String> {
        let networks: BTreeSet<_> =
            local.endpoints.values().map(|endpoint| &endpoint.network).collect();
        let docker = local
            .bindings
            .iter()
            .filter(|(_, network)| networks.contains(network))
            .map(|(docker, _)| docker);
        let details = join_all(docker.map(|docker| self.services.engine.network(docker))).await;
        // If the engine does not answer for a network, its endpoints are shown without names.
        let attached = details.into_iter().flatten().flatten().flat_map(|detail| detail.endpoints);
        attached.map(|attached| (attached.endpoint, attached.container_name)).collect()
    }
}

pub(super) fn described(row: &EndpointRow) -> String {
    let container = row.container.as_deref().unwrap_or_else(|| row.id.short());
    format!("{container} on {}", row.network)
}

/// The role of this host. A leader without contact to a majority is not shown as leader.
fn role(status: &ConsensusStatus) -> &'static str {
    match status.role {
        Role::Leader if !hears_cluster(status) => "no-quorum",
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Stopped => "stopped",
    }
}

/// The leader, as far as this host knows.
fn leader(status: &ConsensusStatus) -> Option<HostId> {
    status.leader.filter(|leader| *leader != status.host || hears_cluster(status))
}

/// Whether this host had recent contact to the leader or, if it is the leader, to a majority.
fn hears_cluster(status: &ConsensusStatus) -> bool {
    status.leader_heard.is_some_and(|ago| ago < FRESH)
}

/// Names of the hosts that hold addresses of a network.
fn holders(cluster: &Cluster, network: &Network) -> Vec<String> {
    let holders: BTreeSet<_> = network.leases.values().copied().collect();
    holders.into_iter().map(|host| cluster.host_name(host)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_without_a_majority_is_not_shown_as_leader() {
        let me = HostId::new(1).unwrap();
        for (leader_heard, shown) in [
            (Some(40), ("leader", Some(me))),
            (Some(60_000), ("no-quorum", None)),
            (None, ("no-quorum", None)),
        ] {
            let status = ConsensusStatus {
                host: me,
                role: Role::Leader,
                leader: Some(me),
                term: 1,
                applied: None,
                voters: vec![me],
                learners: Vec::new(),
                leader_heard,
                fault: None,
                peer_health: Vec::new(),
            };
            assert_eq!((role(&status), leader(&status)), shown, "{leader_heard:?}");
        }
    }
}
