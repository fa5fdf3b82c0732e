//! Networks as the engine, the cluster and the plan of mirrors describe them.

use ipnet::IpNet;
use shoutd_core::NetworkId;
use shoutd_core::cluster::{DescribedSubnet, Description, Network};
use shoutd_core::mirror::{DRIVER, EngineNetwork, NETWORK_OPTION};
use shoutd_core::plane::{ENCRYPTED_OPTION, requests_encryption};
use shoutd_docker::engine::{DockerNetwork, Ipam, IpamConfig, NetworkSpec};

/// An engine's network as [`plan_mirrors`](shoutd_core::mirror::plan_mirrors) compares it.
pub fn as_engine_network(network: &DockerNetwork) -> EngineNetwork {
    EngineNetwork {
        id: network.id.clone(),
        name: network.name.clone(),
        ours: network.driver == DRIVER,
        mirrors: network.options.get(NETWORK_OPTION).and_then(|id| id.parse().ok()),
    }
}

/// The description of an engine's network for agreed state.
pub fn description_of(copy: &DockerNetwork) -> Description {
    Description {
        name: copy.name.clone(),
        labels: copy.labels.clone(),
        attachable: copy.attachable,
        subnets: copy.ipam.configs.iter().filter_map(described_subnet).collect(),
        ipam_options: copy.ipam.options.clone(),
        swarm: None,
    }
}

fn described_subnet(config: &IpamConfig) -> Option<(IpNet, DescribedSubnet)> {
    let range = config.ip_range.map(|range| range.trunc());
    Some((config.subnet?, DescribedSubnet { range, gateway: config.gateway }))
}

/// The mirror of a network on a host that did not create it.
pub fn mirror_of(id: &NetworkId, network: &Network, description: &Description) -> NetworkSpec {
    let settings = &network.settings;
    let mut options = settings.options.clone();
    options.insert(NETWORK_OPTION.to_owned(), id.to_string());
    if network.encrypted && !requests_encryption(&options) {
        // The cluster's default decided: `docker network inspect` shows it, too.
        options.insert(ENCRYPTED_OPTION.to_owned(), "true".to_owned());
    }
    let configs = settings.pools.iter().map(|pool| IpamConfig {
        subnet: Some(pool.subnet),
        // If it is left out, shoutd's IPAM answers with the agreed gateway.
        gateway: description
            .subnets
            .get(&pool.subnet)
            .map_or(pool.gateway, |described| described.gateway),
        ip_range: pool.range,
        auxiliary: pool.auxiliary.clone(),
    });
    NetworkSpec {
        name: description.name.clone(),
        driver: DRIVER.to_owned(),
        internal: settings.internal,
        attachable: description.attachable,
        enable_ipv4: true,
        enable_ipv6: settings.ipv6,
        labels: description.labels.clone(),
        options,
        ipam: Ipam {
            driver: DRIVER.to_owned(),
            options: description.ipam_options.clone(),
            configs: configs.collect(),
        },
    }
}
