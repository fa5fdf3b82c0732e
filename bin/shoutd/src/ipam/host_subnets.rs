//! Reports to the cluster which subnets this host uses otherwise: its other Docker networks, its
//! underlay and its routes. Records an event if one of them overlaps a network.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use shoutd_core::NetworkId;
use shoutd_core::cluster::{Command, HostRoute, ReportedSubnet, with_routes};
use shoutd_core::events::EventKind;
use shoutd_core::mirror::DRIVER;
use shoutd_dataplane::{UnderlayInterface, host_routes};
use shoutd_docker::engine::{DockerNetwork, LeadingOut};
use tracing::warn;

use crate::api::events::Events;
use crate::membership::agreement::{Agreement, AgreementError};

/// The subnets of the engine's networks, the underlay and the host's routes, without shoutd's own
/// networks.
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
        // Ignore 0.0.0.0/0 of the `null` IPAM driver.
        subnets.filter(|subnet| subnet.prefix_len() > 0).map(|subnet| {
            let exclusive = leads_out(&network.name);
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

/// Whether this is the name of a bridge of Docker, whose subnet the engine reports.
fn is_dockers(interface: &str) -> bool {
    interface == "docker0"
        || leads_out(interface)
        || interface.strip_prefix("br-").is_some_and(is_short_id)
}

/// Whether this is a Docker id in its short form.
fn is_short_id(id: &str) -> bool {
    id.len() == 12 && id.bytes().all(|octet| octet.is_ascii_hexdigit())
}

/// The routes of this host; empty if they cannot be read.
pub async fn routes() -> Vec<HostRoute> {
    let read = tokio::task::spawn_blocking(host_routes).await;
    match read {
        Ok(Ok(routes)) => routes,
        Ok(Err(error)) => {
            warn!("cannot read the routes of this host: {error}");
            Vec::new()
        }
        // Only while the runtime shuts down.
        Err(_) => Vec::new(),
    }
}

/// Whether this is the name of a bridge by which containers reach the world: one whose subnet
/// overlaps that of a network breaks that network's containers.
fn leads_out(name: &str) -> bool {
    [LeadingOut::Docker, LeadingOut::Shoutd].iter().any(|which| which.name() == name)
}

/// The last reported IPv4 subnet of this host's bridge.
pub fn of_gateway_bridge(agreement: &Agreement, which: LeadingOut) -> Option<IpNet> {
    let cluster = agreement.cluster();
    let reported = &cluster.hosts.get(&agreement.me)?.subnets;
    let bridge = reported
        .iter()
        .find(|reported| reported.user == which.name() && reported.subnet.addr().is_ipv4());
    bridge.map(|reported| reported.subnet)
}

/// Reports the subnets if they have changed.
///
/// # Errors
/// The cluster does not agree.
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

/// Reports subnets that overlap existing networks. They can no longer be refused.
#[derive(Debug, Default)]
pub struct Overlaps {
    reported: BTreeMap<NetworkId, String>,
}

impl Overlaps {
    /// Records an event for each new overlap.
    pub fn note(&mut self, agreement: &Agreement, events: &Events) {
        let cluster = agreement.cluster();
        let found = cluster.overlap_problems(agreement.me);
        for (network, problem) in
            found.iter().filter(|(network, problem)| self.reported.get(*network) != Some(problem))
        {
            events.note(EventKind::SubnetOverlap, cluster.network_title(network), problem);
        }
        self.reported = found;
    }
}
