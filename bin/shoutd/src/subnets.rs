//! Tells the cluster which subnets this host uses by itself: its Docker networks and its underlay.

use std::collections::BTreeSet;

use ipnet::IpNet;
use shoutd_core::cluster::{Command, ReportedSubnet};
use shoutd_core::limits::REPORTED_SUBNETS_MAX;
use shoutd_core::mirror::DRIVER;
use shoutd_dataplane::UnderlayInterface;
use shoutd_docker::engine::{DockerNetwork, GATEWAY_BRIDGE};
use tracing::warn;

use crate::agreement::{Agreement, AgreementError};

/// What the engine's networks and the underlay take up. Networks of shoutd are the cluster's own business.
pub fn in_use(networks: &[DockerNetwork], underlay: &UnderlayInterface) -> Vec<ReportedSubnet> {
    let user = format!("the underlay ({})", underlay.name);
    let underlay = ReportedSubnet { subnet: underlay.network.trunc(), user, exclusive: true };
    let foreign = networks.iter().filter(|network| network.driver != DRIVER && network.scope == "local");
    let docker = foreign.flat_map(|network| {
        let subnets = network.ipam.configs.iter().filter_map(|config| config.subnet);
        // The `null` driver's 0.0.0.0/0 overlaps everything and means nothing.
        subnets.filter(|subnet| subnet.prefix_len() > 0).map(|subnet| {
            let exclusive = network.name == GATEWAY_BRIDGE;
            let user = if exclusive { network.name.clone() } else { format!("Docker network {}", network.name) };
            ReportedSubnet { subnet: subnet.trunc(), user, exclusive }
        })
    });
    let all: BTreeSet<_> = std::iter::once(underlay).chain(docker).collect();
    all.into_iter().take(REPORTED_SUBNETS_MAX).collect()
}

/// The IPv4 subnet of this host's `docker_gwbridge`, as it was reported last.
pub fn of_gateway_bridge(agreement: &Agreement) -> Option<IpNet> {
    let cluster = agreement.cluster();
    let reported = &cluster.hosts.get(&agreement.me)?.subnets;
    let is_bridge = |reported: &&ReportedSubnet| reported.user == GATEWAY_BRIDGE && reported.subnet.addr().is_ipv4();
    reported.iter().find(is_bridge).map(|reported| reported.subnet)
}

/// Reports them if they differ from what the cluster knows.
///
/// # Errors
/// If the cluster does not take it.
pub async fn report(agreement: &Agreement, subnets: Vec<ReportedSubnet>) -> Result<(), AgreementError> {
    let cluster = agreement.cluster();
    let known = cluster.hosts.get(&agreement.me).map(|host| &host.subnets);
    if known == Some(&subnets) {
        return Ok(());
    }
    agreement.propose(Command::ReportSubnets { host: agreement.me, subnets }).await?;
    warn_about_overlaps(agreement);
    Ok(())
}

/// A subnet that came to be on a host after a network was made can overlap it; nobody can be refused any more, but somebody should know.
fn warn_about_overlaps(agreement: &Agreement) {
    let cluster = agreement.cluster();
    let Some(host) = cluster.hosts.get(&agreement.me) else {
        return;
    };
    for (id, network) in &cluster.networks {
        for pool in &network.settings.pools {
            let overlapping = host
                .subnets
                .iter()
                .filter(|reported| reported.subnet.contains(&pool.subnet) || pool.subnet.contains(&reported.subnet));
            for reported in overlapping {
                let network = network.title(id);
                warn!(
                    "subnet {} of network {network} overlaps {} of {} on this host",
                    pool.subnet, reported.subnet, reported.user
                );
            }
        }
    }
}
