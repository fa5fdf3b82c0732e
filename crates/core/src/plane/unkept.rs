//! Options of Docker's own drivers that somebody types to be protected, kept apart or reached in a
//! certain way, and that shoutd does not keep. They are refused: a network that looks protected and
//! is not is worse than none.
//!
//! The options are those of Docker's bridge, overlay, macvlan and ipvlan drivers (moby,
//! `daemon/libnetwork/drivers` and `daemon/libnetwork/netlabel`). Every other foreign option is
//! kept and does nothing; nobody's safety rests on one of those.

use std::collections::BTreeMap;

use crate::cluster::Cluster;

/// An option of another driver that asks for what shoutd does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unkept<'a> {
    /// The option's name as it was typed.
    pub name: &'a str,
    /// What is so instead.
    pub instead: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// Which values of an option ask for something.
enum Asks {
    /// All but `false`.
    UnlessFalse,
    /// Those that Go's `strconv.ParseBool` takes for false, as Docker's bridge driver does.
    IfFalse,
    /// All but these, and none at all.
    UnlessOneOf(&'static [&'static str]),
}

impl Asks {
    fn for_it(&self, value: &str) -> bool {
        match self {
            Self::UnlessFalse => !value.trim().eq_ignore_ascii_case("false"),
            Self::IfFalse => matches!(value, "0" | "f" | "F" | "false" | "False" | "FALSE"),
            Self::UnlessOneOf(values) => !value.is_empty() && !values.contains(&value),
        }
    }
}

/// An option, or several that ask for the same.
struct Known {
    names: &'static [&'static str],
    asks: Asks,
    instead: &'static str,
    remedy: &'static str,
}

/// What all options that ask for encryption end in, after the last dot.
const ENCRYPTION: [&str; 3] = ["encrypted", "encrypt", "encryption"];

const ENCRYPTED: Known = Known {
    names: &[],
    asks: Asks::UnlessFalse,
    instead: "containers' traffic between hosts is VXLAN in the clear",
    remedy: "leave it out, and put the hosts on a network that encrypts, such as WireGuard, if \
             the traffic must be secret",
};

const BRIDGE_NAME: &str = "com.docker.network.bridge.name";

const KNOWN: [Known; 8] = [
    Known {
        names: &["com.docker.network.bridge.enable_icc"],
        asks: Asks::IfFalse,
        instead: "containers of one network always reach one another",
        remedy: "leave it out, and give containers that must not meet a network each",
    },
    Known {
        names: &["com.docker.network.bridge.host_binding_ipv4"],
        asks: Asks::UnlessOneOf(&["0.0.0.0"]),
        instead: "ports are published on all of the host's addresses, by docker_gwbridge",
        remedy: "leave it out, and give each port its address, such as -p 127.0.0.1:8080:80",
    },
    Known {
        names: &["com.docker.network.bridge.enable_ip_masquerade"],
        asks: Asks::IfFalse,
        instead: "what leaves for the outside is masqueraded by docker_gwbridge",
        remedy: "leave it out, or use --internal for a network without a way out",
    },
    Known {
        names: &[
            "com.docker.network.bridge.gateway_mode_ipv4",
            "com.docker.network.bridge.gateway_mode_ipv6",
        ],
        asks: Asks::UnlessOneOf(&["nat"]),
        instead: "the way out is docker_gwbridge, with NAT",
        remedy: "leave it out, or use --internal for a network without a way out",
    },
    Known {
        names: &["com.docker.network.host_ipv4", "com.docker.network.host_ipv6"],
        asks: Asks::UnlessOneOf(&[]),
        instead: "what leaves for the outside has the source address that docker_gwbridge gives it",
        remedy: "leave it out",
    },
    Known {
        names: &[BRIDGE_NAME],
        asks: Asks::UnlessOneOf(&[]),
        instead: "the network's bridge is in a network namespace of its own, where no rule of the \
                  host's firewall sees it",
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
        instead: "traffic between hosts goes by their advertise addresses, and containers of one \
                  network always reach one another",
        remedy: "leave it out",
    },
];

/// The first of these options that asks for what shoutd does not do.
pub fn unkept(options: &BTreeMap<String, String>) -> Option<Unkept<'_>> {
    options.iter().find_map(|(name, value)| {
        let known = known(name).filter(|known| known.asks.for_it(value))?;
        Some(Unkept { name, instead: known.instead, remedy: known.remedy })
    })
}

fn known(name: &str) -> Option<&'static Known> {
    let name = name.trim();
    let last = name.rsplit('.').next().unwrap_or(name);
    if ENCRYPTION.iter().any(|word| last.eq_ignore_ascii_case(word)) {
        return Some(&ENCRYPTED);
    }
    KNOWN.iter().find(|known| known.names.iter().any(|known| known.eq_ignore_ascii_case(name)))
}

/// The networks of the cluster that were created with such an option before shoutd refused it, one
/// line each. They work.
pub fn unkept_networks(cluster: &Cluster) -> Vec<String> {
    let networks = cluster.networks.iter().filter_map(|(id, network)| {
        let Unkept { name, instead, .. } = unkept(&network.settings.options)?;
        let title = network.title(id);
        Some(format!(
            "network {title} was created with option {name}, which shoutd does not keep: {instead}"
        ))
    });
    networks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::check_options;

    fn one(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn encryption_is_refused_however_it_is_spelt() {
        let names = [
            "encrypted",
            "Encrypted",
            "encryption",
            "com.docker.network.driver.overlay.encrypted",
            "com.docker.network.encrypted",
            "com.docker.network.driver.ENCRYPTED",
        ];
        for name in names {
            for value in ["", "true", "1", "yes", "aes", "0", "no"] {
                let told = check_options(&one(name, value)).unwrap_err().to_string();
                assert!(
                    told.contains(name) && told.contains("in the clear"),
                    "{name}={value}: {told}"
                );
            }
            for value in ["false", "False", " false "] {
                assert_eq!(check_options(&one(name, value)), Ok(()), "{name}={value}");
            }
        }
        assert_eq!(check_options(&one("unencrypted", "")), Ok(()), "another word");
    }

    #[test]
    fn what_protects_or_separates_is_refused_and_the_rest_is_kept() {
        let bridge = |name: &str| format!("com.docker.network.bridge.{name}");
        for (name, asks, asks_nothing) in [
            (bridge("enable_icc"), "false", "true"),
            (bridge("host_binding_ipv4"), "127.0.0.1", "0.0.0.0"),
            (bridge("enable_ip_masquerade"), "false", "true"),
            (bridge("gateway_mode_ipv4"), "isolated", "nat"),
            (bridge("gateway_mode_ipv6"), "routed", "nat"),
            (bridge("name"), "br-foo", ""),
            ("com.docker.network.host_ipv4".to_owned(), "10.0.0.7", ""),
            ("com.docker.network.driver.overlay.vxlanid_list".to_owned(), "4097", ""),
            ("parent".to_owned(), "eth0.50", ""),
            ("macvlan_mode".to_owned(), "private", ""),
        ] {
            let told = check_options(&one(&name, asks)).unwrap_err().to_string();
            assert!(told.contains(&name) && told.contains("leave it out"), "{told}");
            assert_eq!(check_options(&one(&name, asks_nothing)), Ok(()), "{name}");
        }
        for name in [
            "com.docker.network.driver.mtu",
            "com.docker.network.bridge.inhibit_ipv4",
            "anything.else",
        ] {
            assert_eq!(check_options(&one(name, "1400")), Ok(()), "{name}");
        }
    }
}
