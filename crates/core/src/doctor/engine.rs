//! Docker and its subnets.

use super::{Check, Facts, Finding, Level, Settings, SettingsFacts, UsedSubnet};
use crate::view::NetworkRow;

/// The Docker Engine and its settings.
pub fn engine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.engine {
        Ok(engine) => {
            let text = format!("Docker {} answers", engine.version);
            findings.push(Finding::ok(Check::Docker, text));
            let has_plugin = facts
                .daemon
                .iter()
                .any(|daemon| daemon.networks.iter().any(|network| network.swarm));
            if engine.swarm && !has_plugin {
                findings.push(Finding::new(
                    Check::Docker,
                    Level::NotChecked,
                    "this host is a node of a Swarm: services need the managed plugin",
                    "if services shall use shoutd: shoutdctl swarm-plugin install",
                ));
            }
        }
        Err(why) => {
            findings.push(Finding::new(
                Check::Docker,
                Level::Error,
                why,
                "start Docker Engine 20.10 or newer (systemctl start docker), or name its socket \
                 with --docker-socket",
            ));
        }
    }
    findings.extend(settings(&facts.settings));
    findings
}

fn settings(SettingsFacts { file, content }: &SettingsFacts) -> Option<Finding> {
    let file = file.display();
    match content {
        Settings::Absent | Settings::Valid { iptables: true } => None,
        Settings::Unreadable(why) => Some(Finding::new(
            Check::Docker,
            Level::NotChecked,
            format!("{file} cannot be read: {why}"),
            format!("ls -l {file}"),
        )),
        Settings::Invalid(why) => Some(Finding::new(
            Check::Docker,
            Level::Error,
            format!("{file} is not valid JSON: {why}; Docker will not start again with it"),
            format!("correct {file} at that place"),
        )),
        Settings::Valid { iptables: false } => Some(Finding::new(
            Check::Docker,
            Level::Warning,
            format!(
                "{file} has \"iptables\": false: containers reach nothing outside of their \
                 networks, and published ports do not work"
            ),
            format!("remove that line from {file} and restart Docker, or add such rules yourself"),
        )),
    }
}

/// Subnets that overlap: those of the cluster's networks with what else this host uses, and those
/// of Docker's other networks with those to which the host is connected.
pub fn subnets(facts: &Facts) -> Vec<Finding> {
    let used = match &facts.subnets {
        Ok(used) => used,
        Err(why) => {
            return vec![Finding::new(
                Check::Subnets,
                Level::NotChecked,
                format!("the subnets of this host: {why}"),
                "start Docker; then shoutdctl doctor",
            )];
        }
    };
    let networks: Vec<UsedSubnet> =
        facts.daemon.iter().flat_map(|daemon| &daemon.networks).flat_map(of_network).collect();
    let mut findings: Vec<Finding> = overlaps(&networks, used)
        .map(|(network, other)| {
            Finding::new(
                Check::Subnets,
                Level::Warning,
                format!(
                    "{}: containers on the network cannot reach the latter",
                    overlap_text(network, other)
                ),
                format!(
                    "remove the network and create it with another --subnet, or with \
                     --ipam-driver shoutd, which finds a free one; or change {}",
                    other.user
                ),
            )
        })
        .collect();
    let (docker, connected): (Vec<_>, Vec<_>) = used.iter().cloned().partition(|used| used.docker);
    findings.extend(overlaps(&docker, &connected).map(|(network, other)| {
        Finding::new(
            Check::Subnets,
            Level::Warning,
            format!("{} on this host", overlap_text(network, other)),
            "create the Docker network with another --subnet (default-address-pools in \
             daemon.json sets them for all)",
        )
    }));
    if findings.is_empty() {
        let count = networks.len() + used.len();
        let text = format!("none of {count} subnets of this host and of the cluster overlap");
        findings.push(Finding::ok(Check::Subnets, text));
    }
    findings
}

fn of_network(network: &NetworkRow) -> impl Iterator<Item = UsedSubnet> {
    let name = network.name.as_deref().unwrap_or_else(|| network.id.short());
    let user = format!("network {name}");
    let subnets = network.subnets.iter();
    subnets.map(move |subnet| UsedSubnet { subnet: *subnet, user: user.clone(), docker: true })
}

/// The pairs that overlap.
fn overlaps<'a>(
    networks: &'a [UsedSubnet],
    others: &'a [UsedSubnet],
) -> impl Iterator<Item = (&'a UsedSubnet, &'a UsedSubnet)> {
    networks.iter().flat_map(move |network| {
        let overlapping = others.iter().filter(|other| {
            network.subnet.contains(&other.subnet) || other.subnet.contains(&network.subnet)
        });
        overlapping.map(move |other| (network, other))
    })
}

fn overlap_text(network: &UsedSubnet, other: &UsedSubnet) -> String {
    format!("{} of {} overlaps {} of {}", network.subnet, network.user, other.subnet, other.user)
}
