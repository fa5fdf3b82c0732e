//! Which of its addresses a host advertises: a fixed one, that of an interface, or the one that it
//! has in a network. With an interface or a network, one command line serves every host, and a host
//! to which DHCP gives another address goes on with that one.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::{InvalidAddress, parse_address, unfit};
use crate::limits::PORT;
use crate::plane::DeviceName;

/// How a host finds its advertise address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressRule {
    /// A fixed address and port.
    Address(SocketAddr),
    /// The address of this interface, with port [`PORT`].
    Interface(DeviceName),
    /// The host's address in this network, with port [`PORT`].
    Network(IpNet),
}

impl AddressRule {
    /// The port of the advertise address.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Interface(_) | Self::Network(_) => PORT,
        }
    }

    /// Whether another address may replace the present one while the daemon runs.
    pub fn can_move(&self) -> bool {
        !matches!(self, Self::Address(_))
    }

    /// The setting with this rule, and its value.
    pub fn setting(&self) -> (&'static str, String) {
        match self {
            Self::Address(address) => ("advertise-address", address.to_string()),
            Self::Network(network) => ("advertise-address", network.to_string()),
            Self::Interface(name) => ("advertise-interface", name.to_string()),
        }
    }

    fn fits(&self, available: &HostAddress) -> bool {
        let address = available.network.addr();
        match self {
            Self::Address(wanted) => wanted.ip() == address,
            Self::Interface(name) => *name == available.interface && available.can_be_chosen(),
            Self::Network(network) => network.contains(&address) && available.can_be_chosen(),
        }
    }
}

impl fmt::Display for AddressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Interface(name) => write!(f, "interface {name}"),
            Self::Network(network) => write!(f, "network {network}"),
        }
    }
}

/// Parses an address as [`parse_address`] does, or a network such as `192.0.2.0/24`.
impl FromStr for AddressRule {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let Ok(network) = text.trim().parse::<IpNet>() else {
            return parse_address(text).map(Self::Address);
        };
        let address = SocketAddr::new(network.network(), PORT);
        if network.trunc() != network {
            return Err(InvalidAddress::HostBits { network });
        }
        match unfit(network.addr()) {
            Some(kind) => Err(InvalidAddress::Unfit { address, kind }),
            None => Ok(Self::Network(network)),
        }
    }
}

/// An address of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress {
    /// The interface that has it.
    pub interface: DeviceName,
    /// MTU of the interface, in octets.
    pub mtu: u32,
    /// The address and its prefix length.
    pub network: IpNet,
    /// Whether duplicate address detection (RFC 4862, section 5.4) is in progress.
    pub tentative: bool,
    /// Whether duplicate address detection found a duplicate.
    pub duplicate: bool,
    /// Secondary (IPv4) or temporary (IPv6, RFC 8981).
    pub secondary: bool,
    /// Its preferred lifetime has ended (RFC 4862, section 5.5.4).
    pub deprecated: bool,
}

impl HostAddress {
    /// Whether a rule may choose it: other hosts can reach it, and it is meant to last.
    fn can_be_chosen(&self) -> bool {
        let address = self.network.addr();
        let is_temporary = self.secondary && address.is_ipv6();
        unfit(address).is_none() && !is_temporary && !self.deprecated
    }
}

/// Why a host has no advertise address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// No address fits.
    #[error("{wanted}; this host has {available}")]
    None {
        /// What the host does not have.
        wanted: String,
        /// The host's addresses and their interfaces.
        available: String,
    },
    /// Duplicate address detection is in progress (RFC 4862, section 5.4).
    #[error(
        "the address {address} (interface {name}) is tentative: the kernel still checks whether \
         another host has it (duplicate address detection), which takes a second or two after the \
         interface is up"
    )]
    Tentative {
        /// The address.
        address: IpAddr,
        /// The interface.
        name: String,
    },
    /// Duplicate address detection found a duplicate.
    #[error(
        "another host on the link of interface {name} has the address {address} (duplicate \
         address detection): give this host another one"
    )]
    Duplicate {
        /// The address.
        address: IpAddr,
        /// The interface.
        name: String,
    },
}

/// What decides which address a host advertises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressChoice {
    /// The rule that the user gave.
    pub rule: AddressRule,
    /// The last advertise address. It stays while it fits and exists.
    pub before: Option<IpAddr>,
    /// Whether it must be an IPv4 address, as all hosts of a cluster have addresses of one family;
    /// `None` if the cluster's family is not known yet.
    pub is_ipv4: Option<bool>,
}

impl AddressChoice {
    /// Exactly this address.
    pub fn fixed(address: SocketAddr) -> Self {
        Self { rule: AddressRule::Address(address), before: None, is_ipv4: None }
    }

    /// Chooses among the host's addresses: the last advertise address, else the first IPv4 address,
    /// else the first IPv6 address. `available` is in the kernel's order; within a family,
    /// secondary addresses come last.
    ///
    /// # Errors
    /// See [`NoAddress`].
    pub fn choose<'a>(&self, available: &'a [HostAddress]) -> Result<&'a HostAddress, NoAddress> {
        let fitting: Vec<_> = available
            .iter()
            .filter(|one| self.rule.fits(one))
            .filter(|one| self.is_ipv4.is_none_or(|ipv4| one.network.addr().is_ipv4() == ipv4))
            .collect();
        let usable = fitting.iter().filter(|one| !one.duplicate && !one.tentative);
        let best = usable.min_by_key(|one| {
            let address = one.network.addr();
            (Some(address) != self.before, address.is_ipv6(), one.secondary)
        });
        if let Some(best) = best {
            return Ok(best);
        }
        let Some(unusable) = fitting.iter().min_by_key(|one| one.duplicate) else {
            return Err(NoAddress::None { wanted: self.missing(), available: list(available) });
        };
        let (address, name) = (unusable.network.addr(), unusable.interface.to_string());
        Err(if unusable.duplicate {
            NoAddress::Duplicate { address, name }
        } else {
            NoAddress::Tentative { address, name }
        })
    }

    /// What is missing if no address fits.
    fn missing(&self) -> String {
        let family = match self.is_ipv4 {
            Some(true) => "IPv4 address",
            Some(false) => "IPv6 address",
            None => "address",
        };
        match &self.rule {
            AddressRule::Address(address) => {
                format!("no interface has the address {}", address.ip())
            }
            AddressRule::Interface(name) => {
                format!("there is no interface {name} with an {family} that other hosts can reach")
            }
            AddressRule::Network(network) => {
                format!("no interface has an {family} in {network} that other hosts can reach")
            }
        }
    }
}

/// The addresses that other hosts may be able to reach, with their interfaces.
fn list(available: &[HostAddress]) -> String {
    let lasting = available.iter().filter(|one| unfit(one.network.addr()).is_none());
    let texts: Vec<String> =
        lasting.map(|one| format!("{} ({})", one.network.addr(), one.interface)).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(interface: &str, network: &str) -> HostAddress {
        HostAddress {
            interface: interface.parse().unwrap(),
            mtu: 1500,
            network: network.parse().unwrap(),
            tentative: false,
            duplicate: false,
            secondary: false,
            deprecated: false,
        }
    }

    fn choice(rule: AddressRule) -> AddressChoice {
        AddressChoice { rule, before: None, is_ipv4: None }
    }

    fn chosen(choice: &AddressChoice, available: &[HostAddress]) -> String {
        match choice.choose(available) {
            Ok(found) => found.network.addr().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_address_or_a_network_is_parsed() {
        for (text, expected) in [
            ("10.0.0.1", "10.0.0.1:7789"),
            (" 192.0.2.0/24 ", "network 192.0.2.0/24"),
            ("fd00:1::/64", "network fd00:1::/64"),
        ] {
            assert_eq!(text.parse::<AddressRule>().unwrap().to_string(), expected);
        }
        let error = "192.0.2.7/24".parse::<AddressRule>().unwrap_err().to_string();
        assert!(error.contains("give 192.0.2.7 for this address"), "{error}");
        assert!(error.contains("or 192.0.2.0/24 for whatever address"), "{error}");
        for unfit in ["0.0.0.0/0", "127.0.0.0/8", "224.0.0.0/4", "fe80::/10", "::/0", "10.0.0.1/x"]
        {
            assert!(unfit.parse::<AddressRule>().is_err(), "{unfit}");
        }
    }

    #[test]
    fn a_rule_chooses_a_lasting_address_that_other_hosts_can_reach() {
        let temporary = HostAddress { secondary: true, ..address("eth1", "2001:db8::99/64") };
        let old = HostAddress { deprecated: true, ..address("eth1", "192.0.2.8/24") };
        let second = HostAddress { secondary: true, ..address("eth1", "192.0.2.9/24") };
        let available = [
            address("lo", "127.0.0.1/8"),
            address("eth0", "10.0.0.1/8"),
            address("eth1", "fe80::1/64"),
            temporary,
            address("eth1", "2001:db8::1/64"),
            old,
            second,
            address("eth1", "192.0.2.7/24"),
        ];
        let eth1 = choice(AddressRule::Interface("eth1".parse().unwrap()));
        assert_eq!(chosen(&eth1, &available), "192.0.2.7");
        let network = choice("192.0.2.0/24".parse().unwrap());
        assert_eq!(chosen(&network, &available), "192.0.2.7");
        let of_v6 = AddressChoice { is_ipv4: Some(false), ..eth1.clone() };
        assert_eq!(chosen(&of_v6, &available), "2001:db8::1");
        assert_eq!(chosen(&choice("2001:db8::/32".parse().unwrap()), &available), "2001:db8::1");
        let before = AddressChoice { before: Some("192.0.2.9".parse().unwrap()), ..eth1.clone() };
        assert_eq!(chosen(&before, &available), "192.0.2.9", "the last address stays");
        let lost = AddressChoice { before: Some("192.0.2.66".parse().unwrap()), ..eth1 };
        assert_eq!(chosen(&lost, &available), "192.0.2.7", "another takes its place");
    }

    #[test]
    fn the_reason_names_what_is_missing_and_what_there_is() {
        let available = [address("lo", "127.0.0.1/8"), address("eth0", "10.0.0.1/8")];
        let fixed = AddressChoice::fixed("10.0.0.2:7789".parse().unwrap());
        assert_eq!(
            chosen(&fixed, &available),
            "no interface has the address 10.0.0.2; this host has 10.0.0.1 (eth0)"
        );
        let eth1 = choice(AddressRule::Interface("eth1".parse().unwrap()));
        assert_eq!(
            chosen(&eth1, &available),
            "there is no interface eth1 with an address that other hosts can reach; this host has \
             10.0.0.1 (eth0)"
        );
        let network =
            AddressChoice { is_ipv4: Some(true), ..choice("192.0.2.0/24".parse().unwrap()) };
        assert_eq!(
            chosen(&network, &[]),
            "no interface has an IPv4 address in 192.0.2.0/24 that other hosts can reach; this \
             host has none"
        );
    }

    #[test]
    fn an_address_under_detection_is_waited_for_and_a_duplicate_is_an_error() {
        let tentative = HostAddress { tentative: true, ..address("eth0", "2001:db8::1/64") };
        let duplicate =
            HostAddress { tentative: true, duplicate: true, ..address("eth0", "2001:db8::1/64") };
        let eth0 = choice(AddressRule::Interface("eth0".parse().unwrap()));
        assert!(matches!(
            eth0.choose(&[duplicate.clone(), tentative]),
            Err(NoAddress::Tentative { .. })
        ));
        assert!(matches!(eth0.choose(&[duplicate]), Err(NoAddress::Duplicate { .. })));
    }

    #[test]
    fn a_rule_is_stored_and_read_back() {
        for rule in [
            AddressRule::Address("10.0.0.1:7789".parse().unwrap()),
            AddressRule::Interface("eth1".parse().unwrap()),
            AddressRule::Network("192.0.2.0/24".parse().unwrap()),
        ] {
            let text = serde_json::to_string(&rule).unwrap();
            assert_eq!(serde_json::from_str::<AddressRule>(&text).unwrap(), rule, "{text}");
        }
        assert!(serde_json::from_str::<AddressRule>(r#"{"interface": "a b"}"#).is_err());
    }
}
