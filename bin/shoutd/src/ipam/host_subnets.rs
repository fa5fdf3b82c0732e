//! Tells the cluster which subnets this host uses by itself: its Docker networks, its underlay and
//! its routes; and tells of those that overlap networks.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use shoutd_core::NetworkId;
use shoutd_core::cluster::{Command, HostRoute, ReportedSubnet, with_routes};
use shoutd_core::events::EventKind;
use shoutd_core::mirror::DRIVER;
use shoutd_dataplane::{UnderlayInterface, host_routes};
use shoutd_docker::engine::{DockerNetwork, GATEWAY_BRIDGE};
use tracing::warn;

use crate::api::events::Events;
use crate::membership::agreement::{Agreement, AgreementError};

/// What the engine's networks, the underlay and the host's routes take up. Networks of shoutd are
/// the cluster's own business.
pub fn in_use(
    networks: &[DockerNetwork],
    underlay: &UnderlayInterface,
    routes: &[HostRoute],
) -> Vec<ReportedSubnet> {
    let user = format!("the underlay ({})", underlay.name);
    let underlay =
        ReportedSubnet { subnet: underlay.network.trunc(), user, exclusive: true, remote: false };
    let foreign =
        networks.iter().filter(|network| network.driver != DRIVER && network.scope == "local");
    let docker = foreign.flat_map(|network| {
        let subnets = network.ipam.configs.iter().filter_map(|config| config.subnet);
        // The `null` driver's 0.0.0.0/0 overlaps everything and means nothing.
        subnets.filter(|subnet| subnet.prefix_len() > 0).map(|subnet| {
            let exclusive = network.name == GATEWAY_BRIDGE;
            let user = if exclusive {
                network.name.clone()
            } else {
                format!("Docker network {}", network.name)
            };
            ReportedSubnet { subnet: subnet.trunc(), user, exclusive, remote: false }
        })
    });
    let certain: BTreeSet<_> = std::iter::once(underlay).chain(docker).collect();
    let routes: Vec<_> =
        routes.iter().filter(|route| !is_dockers(&route.interface)).cloned().collect();
    with_routes(certain.into_iter().collect(), &routes)
}

/// Whether Docker makes interfaces of this name: of their networks the engine tells.
fn is_dockers(interface: &str) -> bool {
    let is_id = |id: &str| id.len() == 12 && id.bytes().all(|octet| octet.is_ascii_hexdigit());
    interface == "docker0"
        || interface == GATEWAY_BRIDGE
        || interface.strip_prefix("br-").is_some_and(is_id)
}

/// The routes of this host. Without them everything else works.
pub async fn routes() -> Vec<HostRoute> {
    let read = tokio::task::spawn_blocking(host_routes).await;
    match read {
        Ok(Ok(routes)) => routes,
        Ok(Err(error)) => {
            warn!("cannot see the routes of this host: {error}");
            Vec::new()
        }
        // Only when the runtime is shutting down.
        Err(_) => Vec::new(),
    }
}

/// The IPv4 subnet of this host's `docker_gwbridge`, as it was reported last.
pub fn of_gateway_bridge(agreement: &Agreement) -> Option<IpNet> {
    let cluster = agreement.cluster();
    let reported = &cluster.hosts.get(&agreement.me)?.subnets;
    let is_bridge = |reported: &&ReportedSubnet| {
        reported.user == GATEWAY_BRIDGE && reported.subnet.addr().is_ipv4()
    };
    reported.iter().find(is_bridge).map(|reported| reported.subnet)
}

/// Reports them if they differ from what the cluster knows.
///
/// # Errors
/// If the cluster does not take it.
pub async fn report(
    agreement: &Agreement,
    subnets: Vec<ReportedSubnet>,
) -> Result<(), AgreementError> {
    let cluster = agreement.cluster();
    let known = cluster.hosts.get(&agreement.me).map(|host| &host.subnets);
    if known == Some(&subnets) {
        return Ok(());
    }
    agreement.propose(Command::ReportSubnets { host: agreement.me, subnets }).await?;
    Ok(())
}

/// Tells of subnets that overlap networks: nobody can be refused any more, but somebody should
/// know.
#[derive(Debug, Default)]
pub struct Overlaps {
    told: BTreeMap<NetworkId, String>,
}

impl Overlaps {
    /// Takes down what was not there at the last look.
    pub fn note(&mut self, agreement: &Agreement, events: &Events) {
        let cluster = agreement.cluster();
        let found = cluster.overlap_problems(agreement.me);
        for (network, problem) in
            found.iter().filter(|(network, problem)| self.told.get(*network) != Some(problem))
        {
            events.note(EventKind::SubnetOverlap, cluster.network_title(network), problem);
        }
        self.told = found;
    }
}
