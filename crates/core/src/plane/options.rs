//! shoutd's own `-o` options of networks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::unkept::unkept;

/// The prefix of shoutd's own options.
const PREFIX: &str = "shoutd.";
/// `off`: the network does not learn MAC addresses, so only its endpoints' are valid. Default `on`.
pub const MAC_MOVES_OPTION: &str = "shoutd.mac-moves";
/// Multicast and broadcast packets per second that each endpoint may send.
pub const MAX_RATE_OPTION: &str = "shoutd.max-rate";
/// Which multicast a container sends on this network, if it has several: `auto`, `off`, or
/// prefixes.
pub const MULTICAST_ROUTE_OPTION: &str = "shoutd.multicast-route";
/// `off`: containers do not resolve names of containers on other hosts. `all`: they also resolve
/// names that may exist in the public DNS. Default `on`.
pub const NAMES_OPTION: &str = "shoutd.names";
/// The prefix of the interface's name inside a container; Docker appends a number.
pub const INTERFACE_PREFIX_OPTION: &str = "shoutd.interface-prefix";
/// The default of the option `shoutd.interface-prefix`, as on Docker's own networks.
pub const INTERFACE_PREFIX: &str = "eth";
/// Octets of a prefix: Docker's number needs the rest of an interface's name (`IFNAMSIZ`).
const INTERFACE_PREFIX_MAX: usize = 12;
/// All IPv4 multicast (RFC 5771).
pub const ALL_MULTICAST: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);
/// Multicast prefixes per network. Each becomes a route in each container.
const ROUTES_MAX: usize = 16;
/// Encrypts the network between the hosts, as the option `encrypted` of Docker's overlay driver.
pub const ENCRYPTED_OPTION: &str = "shoutd.encrypted";
/// Names the network of the cluster for which a Docker network is a mirror. Set by shoutd, not by
/// users.
const NETWORK_OPTION: &str = "shoutd.network";
const KNOWN: [&str; 7] = [
    ENCRYPTED_OPTION,
    INTERFACE_PREFIX_OPTION,
    MAC_MOVES_OPTION,
    MAX_RATE_OPTION,
    MULTICAST_ROUTE_OPTION,
    NAMES_OPTION,
    NETWORK_OPTION,
];

/// An option that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOption {
    /// The option does not exist.
    #[error(
        "shoutd has no option {name}; it has {ENCRYPTED_OPTION}, {INTERFACE_PREFIX_OPTION}, \
         {MAC_MOVES_OPTION}, {MAX_RATE_OPTION}, {MULTICAST_ROUTE_OPTION} and {NAMES_OPTION}"
    )]
    Unknown {
        /// Its name.
        name: String,
    },
    /// The value is not valid.
    #[error("option {name} cannot be {value:?}: give {expected}")]
    Value {
        /// Its name.
        name: &'static str,
        /// The value, shortened.
        value: String,
        /// The valid values.
        expected: &'static str,
    },
    /// An option of another driver, whose effect shoutd does not provide.
    #[error("shoutd does not support option {name}: {instead}; {remedy}")]
    Unkept {
        /// Its name.
        name: String,
        /// What shoutd does instead.
        instead: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The option contains a control character such as a line break. No option needs one, and
    /// tables cannot show it.
    #[error("option {name:?} contains a control character, such as a line break: leave it out")]
    ControlCharacter {
        /// Its name, shortened.
        name: String,
    },
}

/// Checks a user's options. Options without the prefix `shoutd.` are Docker's or others'. Of these,
/// the ones are refused whose effect users rely on and shoutd does not provide.
///
/// # Errors
/// The first option that is unknown, has an invalid value, or is not supported.
pub fn check_options(options: &BTreeMap<String, String>) -> Result<(), InvalidOption> {
    if let Some((name, _)) = options
        .iter()
        .find(|(name, value)| [name, value].iter().any(|text| text.contains(char::is_control)))
    {
        return Err(InvalidOption::ControlCharacter { name: name.chars().take(80).collect() });
    }
    if let Some(unkept) = unkept(options) {
        let name = unkept.name.chars().take(80).collect();
        return Err(InvalidOption::Unkept { name, instead: unkept.instead, remedy: unkept.remedy });
    }
    if let Some(name) =
        options.keys().find(|name| name.starts_with(PREFIX) && !KNOWN.contains(&name.as_str()))
    {
        return Err(InvalidOption::Unknown { name: name.chars().take(80).collect() });
    }
    if let Some(value) = options.get(MAC_MOVES_OPTION)
        && !matches!(value.as_str(), "on" | "off")
    {
        return refuse(MAC_MOVES_OPTION, value, "on or off");
    }
    if let Some(value) = options.get(INTERFACE_PREFIX_OPTION)
        && !is_interface_prefix(value)
    {
        return refuse(
            INTERFACE_PREFIX_OPTION,
            value,
            "1 to 12 of the characters a-z, A-Z, 0-9, _ and -, such as shout",
        );
    }
    if let Some(value) = options.get(NAMES_OPTION)
        && !matches!(value.as_str(), "on" | "off" | "all")
    {
        return refuse(NAMES_OPTION, value, "on, all or off");
    }
    if let Some(value) = options.get(MAX_RATE_OPTION)
        && parse_rate(value).is_none()
    {
        return refuse(MAX_RATE_OPTION, value, "packets per second, 1 or more");
    }
    if let Some(value) = options.get(MULTICAST_ROUTE_OPTION)
        && parse_routes(value).is_none()
    {
        return refuse(
            MULTICAST_ROUTE_OPTION,
            value,
            "auto, off, or up to 16 IPv4 multicast prefixes with commas between them, such as \
             239.0.0.0/8",
        );
    }
    Ok(())
}

fn refuse(name: &'static str, value: &str, expected: &'static str) -> Result<(), InvalidOption> {
    Err(InvalidOption::Value { name, value: value.chars().take(80).collect(), expected })
}

/// Whether MAC addresses that are not an endpoint's are learned, and may move.
pub(super) fn learns(options: &BTreeMap<String, String>) -> bool {
    options.get(MAC_MOVES_OPTION).is_none_or(|value| value != "off")
}

/// The prefix of the interface's name inside a container.
pub fn interface_prefix(options: &BTreeMap<String, String>) -> &str {
    let given = options.get(INTERFACE_PREFIX_OPTION).map(String::as_str);
    given.filter(|prefix| is_interface_prefix(prefix)).unwrap_or(INTERFACE_PREFIX)
}

fn is_interface_prefix(text: &str) -> bool {
    let is_valid = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'_' | b'-');
    (1..=INTERFACE_PREFIX_MAX).contains(&text.len()) && text.bytes().all(is_valid)
}

/// Whether names of containers on other hosts are resolved.
pub fn resolves_names(options: &BTreeMap<String, String>) -> bool {
    options.get(NAMES_OPTION).is_none_or(|value| value != "off")
}

/// Whether names that may exist in the public DNS are resolved too.
pub fn resolves_public_names(options: &BTreeMap<String, String>) -> bool {
    options.get(NAMES_OPTION).is_some_and(|value| value == "all")
}

/// The destinations of the multicast routes of a container that joins this network: all multicast,
/// none, or the given prefixes. The kernel uses the longest match. A route that the
/// container already has on another network of shoutd is left out.
pub fn multicast_routes(options: &BTreeMap<String, String>) -> BTreeSet<Ipv4Net> {
    let given = options.get(MULTICAST_ROUTE_OPTION).and_then(|value| parse_routes(value));
    given.unwrap_or_else(|| BTreeSet::from([ALL_MULTICAST]))
}

fn parse_routes(value: &str) -> Option<BTreeSet<Ipv4Net>> {
    match value {
        "auto" => return Some(BTreeSet::from([ALL_MULTICAST])),
        "off" => return Some(BTreeSet::new()),
        _ => {}
    }
    let mut prefixes = BTreeSet::new();
    for text in value.split(',') {
        let prefix: Ipv4Net = text.parse().ok()?;
        if prefix.trunc() != prefix || !ALL_MULTICAST.contains(&prefix) {
            return None;
        }
        prefixes.insert(prefix);
    }
    (prefixes.len() <= ROUTES_MAX).then_some(prefixes)
}

/// Multicast and broadcast packets per second.
pub(super) fn max_rate(options: &BTreeMap<String, String>) -> Option<u32> {
    options.get(MAX_RATE_OPTION).and_then(|value| parse_rate(value))
}

fn parse_rate(value: &str) -> Option<u32> {
    // `parse` alone would accept a sign.
    value.parse().ok().filter(|rate| *rate > 0 && value.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str) -> Result<(), InvalidOption> {
        check_options(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn valid_options_are_accepted() {
        let valid = [
            (MAC_MOVES_OPTION, "on"),
            (MAC_MOVES_OPTION, "off"),
            (MAX_RATE_OPTION, "1"),
            (MAX_RATE_OPTION, "4294967295"),
            (MULTICAST_ROUTE_OPTION, "auto"),
            (MULTICAST_ROUTE_OPTION, "off"),
            (MULTICAST_ROUTE_OPTION, "239.0.0.0/8,224.0.1.129/32"),
            (NAMES_OPTION, "on"),
            (NAMES_OPTION, "off"),
            (INTERFACE_PREFIX_OPTION, "shout"),
            (INTERFACE_PREFIX_OPTION, "twelve-chars"),
            ("com.docker.network.driver.mtu", "1400"),
            ("shoutdx", "whatever"),
        ];
        for (name, value) in valid {
            assert_eq!(check(name, value), Ok(()), "{name} {value}");
        }
        assert_eq!(
            max_rate(&BTreeMap::from([(MAX_RATE_OPTION.to_owned(), "500".to_owned())])),
            Some(500)
        );
        assert!(!learns(&BTreeMap::from([(MAC_MOVES_OPTION.to_owned(), "off".to_owned())])));
        assert!(learns(&BTreeMap::new()));
    }

    #[test]
    fn control_characters_are_refused_in_names_and_values() {
        for (name, value) in
            [("a\nb", "1"), ("a", "1\n2"), ("a\u{1b}[2J", ""), ("shoutd.names\n", "off")]
        {
            let error = check(name, value).unwrap_err().to_string();
            assert!(error.contains("control character") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn invalid_options_are_refused_with_the_valid_values() {
        for value in ["", "0", "-1", "+5", "1e3", "4294967296", " 7"] {
            assert!(
                matches!(check(MAX_RATE_OPTION, value), Err(InvalidOption::Value { .. })),
                "{value}"
            );
        }
        for value in [
            "",
            "on",
            "10.0.0.0/8",
            "239.1.0.0/8",
            "0.0.0.0/0",
            "ff05::/16",
            "239.0.0.0/8,",
            "239.0.0.0/8, 224.0.0.0/8",
        ] {
            assert!(
                matches!(check(MULTICAST_ROUTE_OPTION, value), Err(InvalidOption::Value { .. })),
                "{value}"
            );
        }
        for value in ["", "thirteen-chars", "a b", "a/b", "a.b", "\u{e4}"] {
            assert!(
                matches!(check(INTERFACE_PREFIX_OPTION, value), Err(InvalidOption::Value { .. })),
                "{value}"
            );
        }
        assert_eq!(
            check(MAC_MOVES_OPTION, "no").unwrap_err().to_string(),
            "option shoutd.mac-moves cannot be \"no\": give on or off"
        );
        assert_eq!(
            check("shoutd.max_rate", "5").unwrap_err().to_string(),
            "shoutd has no option shoutd.max_rate; it has shoutd.encrypted, \
             shoutd.interface-prefix, shoutd.mac-moves, shoutd.max-rate, shoutd.multicast-route \
             and shoutd.names"
        );
    }
}
