//! Unsupported options of Docker's own drivers. Users set them to protect or separate a network, or
//! to make it reachable in a certain way. shoutd refuses them: a network that only looks protected
//! is worse than none.
//!
//! The options are those of Docker's bridge, overlay, macvlan and ipvlan drivers (moby,
//! `daemon/libnetwork/drivers` and `daemon/libnetwork/netlabel`). All other options of other
//! drivers are accepted and have no effect; they are not relevant to security.

use std::collections::BTreeMap;

use super::requests_encryption;
use crate::cluster::Cluster;

/// An option of another driver, whose effect shoutd does not provide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unkept<'a> {
    /// The option's name, as the user typed it.
    pub name: &'a str,
    /// What shoutd does instead.
    pub instead: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// The values with which an option requests its effect.
enum Asks {
    /// Those that Go's `strconv.ParseBool` parses as false, as Docker's bridge driver does.
    IfFalse,
    /// All but these and the empty value.
    UnlessOneOf(&'static [&'static str]),
}

impl Asks {
    fn is_requested_by(&self, value: &str) -> bool {
        match self {
            Self::IfFalse => matches!(value, "0" | "f" | "F" | "false" | "False" | "FALSE"),
            Self::UnlessOneOf(values) => !value.is_empty() && !values.contains(&value),
        }
    }
}

/// An option, or several with the same effect.
struct Known {
    names: &'static [&'static str],
    asks: Asks,
    instead: &'static str,
    remedy: &'static str,
}

const BRIDGE_NAME: &str = "com.docker.network.bridge.name";

const KNOWN: [Known; 8] = [
    Known {
        names: &["com.docker.network.bridge.enable_icc"],
        asks: Asks::IfFalse,
        instead: "containers on one network always reach each other",
        remedy: "leave it out, and put containers that must not reach each other on different \
                 networks",
    },
    Known {
        names: &["com.docker.network.bridge.host_binding_ipv4"],
        asks: Asks::UnlessOneOf(&["0.0.0.0"]),
        instead: "docker_gwbridge publishes ports on all addresses of the host",
        remedy: "leave it out, and publish each port on an address, such as -p 127.0.0.1:8080:80",
    },
    Known {
        names: &["com.docker.network.bridge.enable_ip_masquerade"],
        asks: Asks::IfFalse,
        instead: "outgoing traffic is masqueraded",
        remedy: "leave it out, or use --internal for a network without a way out",
    },
    Known {
        names: &[
            "com.docker.network.bridge.gateway_mode_ipv4",
            "com.docker.network.bridge.gateway_mode_ipv6",
        ],
        asks: Asks::UnlessOneOf(&["nat"]),
        instead: "containers reach the world by NAT",
        remedy: "leave it out, or use --internal for a network without a way out",
    },
    Known {
        names: &["com.docker.network.host_ipv4", "com.docker.network.host_ipv6"],
        asks: Asks::UnlessOneOf(&[]),
        instead: "the host's routes set the source address of outgoing traffic",
        remedy: "leave it out",
    },
    Known {
        names: &[BRIDGE_NAME],
        asks: Asks::UnlessOneOf(&[]),
        instead: "the network's bridge is in its own network namespace, where the rules of the \
                  host's firewall do not apply",
        remedy: "leave it out",
    },
    Known {
        names: &["com.docker.network.driver.overlay.vxlanid_list"],
        asks: Asks::UnlessOneOf(&[]),
        instead: "the hosts agree on the network's VNI themselves (shoutdctl networks shows it)",
        remedy: "leave it out",
    },
    Known {
        names: &["parent", "macvlan_mode", "ipvlan_mode", "ipvlan_flag"],
        asks: Asks::UnlessOneOf(&[]),
        instead: "traffic between hosts uses their advertise addresses, and containers on one \
                  network always reach each other",
        remedy: "leave it out",
    },
];

/// The first option that requests an effect which shoutd does not provide.
pub fn unkept(options: &BTreeMap<String, String>) -> Option<Unkept<'_>> {
    options.iter().find_map(|(name, value)| {
        let known = known(name).filter(|known| known.asks.is_requested_by(value))?;
        Some(Unkept { name, instead: known.instead, remedy: known.remedy })
    })
}

fn known(name: &str) -> Option<&'static Known> {
    let name = name.trim();
    KNOWN.iter().find(|known| known.names.iter().any(|known| known.eq_ignore_ascii_case(name)))
}

/// The networks that were created with such an option before shoutd refused it, as one line each.
pub fn unkept_networks(cluster: &Cluster) -> Vec<String> {
    let networks = cluster.networks.iter().filter_map(|(id, network)| {
        let Unkept { name, instead, .. } = unkept(&network.settings.options)?;
        let title = network.title(id);
        Some(format!(
            "network {title} was created with option {name}, which shoutd does not support: \
             {instead}"
        ))
    });
    networks.chain(not_encrypted(cluster)).collect()
}

/// The networks whose options request encryption, but which an older version created plain.
fn not_encrypted(cluster: &Cluster) -> impl Iterator<Item = String> {
    let plain = cluster.networks.iter().filter(|(_, network)| {
        !network.encrypted && requests_encryption(&network.settings.options)
    });
    plain.map(|(id, network)| {
        format!(
            "network {} is not encrypted, although its options request it: an older version \
             created it; remove it and create it again",
            network.title(id)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::check_options;

    fn one(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn options_that_protect_or_separate_are_refused_and_others_are_accepted() {
        for (name, asks, asks_nothing) in [
            ("com.docker.network.bridge.enable_icc", "false", "true"),
            ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1", "0.0.0.0"),
            ("com.docker.network.bridge.enable_ip_masquerade", "false", "true"),
            ("com.docker.network.bridge.gateway_mode_ipv4", "isolated", "nat"),
            ("com.docker.network.bridge.gateway_mode_ipv6", "routed", "nat"),
            ("com.docker.network.bridge.name", "br-foo", ""),
            ("com.docker.network.host_ipv4", "10.0.0.7", ""),
            ("com.docker.network.driver.overlay.vxlanid_list", "4097", ""),
            ("parent", "eth0.50", ""),
            ("macvlan_mode", "private", ""),
        ] {
            let error = check_options(&one(name, asks)).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("leave it out"), "{error}");
            assert_eq!(check_options(&one(name, asks_nothing)), Ok(()), "{name}");
        }
        for name in [
            "com.docker.network.driver.mtu",
            "com.docker.network.bridge.inhibit_ipv4",
            "anything.else",
        ] {
            assert_eq!(check_options(&one(name, "1400")), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_plain_network_that_looks_encrypted_is_named() {
        use std::net::SocketAddr;
        use std::sync::Arc;

        use crate::cluster::{Command, Pool, Settings};
        use crate::{ClusterId, HostId};

        let origin = HostId::new(1).unwrap();
        let address: SocketAddr = "192.0.2.1:7789".parse().unwrap();
        let pool = Pool {
            subnet: "10.9.0.0/24".parse().unwrap(),
            gateway: None,
            auxiliary: BTreeMap::new(),
            range: None,
        };
        let settings = Settings {
            pools: vec![pool],
            options: one("encrypted", ""),
            internal: false,
            ipv6: false,
            docker_ipam: false,
            swarm: false,
        };
        let mut cluster = Cluster::default();
        for command in [
            Command::Found { cluster: ClusterId::new(7) },
            Command::AdmitHost { host: origin, name: "h1".to_owned(), address },
            Command::CreateNetwork { id: "a".repeat(64).parse().unwrap(), origin, settings },
        ] {
            cluster.apply(&command).unwrap();
        }
        assert_eq!(unkept_networks(&cluster), [""; 0]);
        let network = cluster.networks.values_mut().next().unwrap();
        Arc::make_mut(network).encrypted = false;
        let problems = unkept_networks(&cluster);
        assert!(problems[0].contains("is not encrypted"), "{problems:?}");
    }
}
