//! The `-o` options of networks that shoutd knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::unkept::unkept;

/// What the names of shoutd's own options begin with.
const PREFIX: &str = "shoutd.";
/// `off` pins a network to its endpoints' MAC addresses: no other address is learnt. Else `on`.
pub const MAC_MOVES_OPTION: &str = "shoutd.mac-moves";
/// Multicast and broadcast packets a second that each endpoint may send.
pub const MAX_RATE_OPTION: &str = "shoutd.max-rate";
/// Which multicast leaves a container by this network, if several networks could take it: `auto`,
/// `off`, or prefixes.
pub const MULTICAST_ROUTE_OPTION: &str = "shoutd.multicast-route";
/// `off` keeps the names of containers of other hosts out of containers' hosts files; `all` has
/// also those there that could be names of the public DNS. Else `on`.
pub const NAMES_OPTION: &str = "shoutd.names";
/// All IPv4 multicast (RFC 5771).
pub const ALL_MULTICAST: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);
/// Prefixes that one network may be given: each becomes a route in each container.
const ROUTES_MAX: usize = 16;
/// Says which network of the cluster a Docker network is the mirror of. Set by shoutd, not by
/// people.
const NETWORK_OPTION: &str = "shoutd.network";
const KNOWN: [&str; 5] =
    [MAC_MOVES_OPTION, MAX_RATE_OPTION, MULTICAST_ROUTE_OPTION, NAMES_OPTION, NETWORK_OPTION];

/// An option that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOption {
    /// Nobody knows it.
    #[error(
        "shoutd has no option {name}; it has {MAC_MOVES_OPTION}, {MAX_RATE_OPTION}, \
         {MULTICAST_ROUTE_OPTION} and {NAMES_OPTION}"
    )]
    Unknown {
        /// Its name.
        name: String,
    },
    /// It has a value that it cannot have.
    #[error("option {name} cannot be {value:?}: give {expected}")]
    Value {
        /// Its name.
        name: &'static str,
        /// What was given, cut to a printable length.
        value: String,
        /// What can be given.
        expected: &'static str,
    },
    /// It is another driver's, and asks for what shoutd does not do.
    #[error("shoutd does not keep option {name}: {instead}; {remedy}")]
    Unkept {
        /// Its name.
        name: String,
        /// What is so instead.
        instead: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// It holds a line break or the like, which no option needs and no table can show.
    #[error("option {name:?} holds a control character, such as a line break: leave that out")]
    ControlCharacter {
        /// Its name, cut to a printable length.
        name: String,
    },
}

/// Checks options as a user gives them. Of those that do not begin with `shoutd.`, which are
/// Docker's or somebody else's, it refuses those that shoutd would have to keep and does not.
///
/// # Errors
/// The first option that is not known, or has a value it cannot have, or promises what shoutd does
/// not do.
pub fn check_options(options: &BTreeMap<String, String>) -> Result<(), InvalidOption> {
    let is_unprintable = |(name, value): &(&String, &String)| {
        [name, value].iter().any(|text| text.contains(char::is_control))
    };
    if let Some((name, _)) = options.iter().find(is_unprintable) {
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
    let refuse = |name: &'static str, value: &String, expected| {
        Err(InvalidOption::Value { name, value: value.chars().take(80).collect(), expected })
    };
    if let Some(value) = options.get(MAC_MOVES_OPTION)
        && !matches!(value.as_str(), "on" | "off")
    {
        return refuse(MAC_MOVES_OPTION, value, "on or off");
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

/// Whether addresses that are no endpoint's are learnt, and move.
pub(super) fn learns(options: &BTreeMap<String, String>) -> bool {
    options.get(MAC_MOVES_OPTION).is_none_or(|value| value != "off")
}

/// Whether the names of containers of other hosts are resolved.
pub fn resolves_names(options: &BTreeMap<String, String>) -> bool {
    options.get(NAMES_OPTION).is_none_or(|value| value != "off")
}

/// Whether also names are resolved that could be names of the public DNS.
pub fn resolves_public_names(options: &BTreeMap<String, String>) -> bool {
    options.get(NAMES_OPTION).is_some_and(|value| value == "all")
}

/// The destinations for which a container that joins this network is to have a route out of its
/// interface there, as far as no other network of shoutd's that it is on has the very same: all
/// multicast, none, or the prefixes that were given, of which the kernel takes the longest that
/// fits.
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
    let parse = |text: &str| {
        text.parse::<Ipv4Net>()
            .ok()
            .filter(|net| net.trunc() == *net && ALL_MULTICAST.contains(net))
    };
    let prefixes: Option<BTreeSet<Ipv4Net>> = value.split(',').map(parse).collect();
    prefixes.filter(|prefixes| prefixes.len() <= ROUTES_MAX)
}

/// Packets a second.
pub(super) fn max_rate(options: &BTreeMap<String, String>) -> Option<u32> {
    options.get(MAX_RATE_OPTION).and_then(|value| parse_rate(value))
}

fn parse_rate(value: &str) -> Option<u32> {
    // `parse` alone would let a sign through.
    value.parse().ok().filter(|rate| *rate > 0 && value.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str) -> Result<(), InvalidOption> {
        check_options(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn what_can_be_is_taken() {
        let sound = [
            (MAC_MOVES_OPTION, "on"),
            (MAC_MOVES_OPTION, "off"),
            (MAX_RATE_OPTION, "1"),
            (MAX_RATE_OPTION, "4294967295"),
            (MULTICAST_ROUTE_OPTION, "auto"),
            (MULTICAST_ROUTE_OPTION, "off"),
            (MULTICAST_ROUTE_OPTION, "239.0.0.0/8,224.0.1.129/32"),
            (NAMES_OPTION, "on"),
            (NAMES_OPTION, "off"),
            ("com.docker.network.driver.mtu", "1400"),
            ("shoutdx", "whatever"),
        ];
        for (name, value) in sound {
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
            let told = check(name, value).unwrap_err().to_string();
            assert!(told.contains("control character") && !told.contains('\n'), "{told}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_can() {
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
        assert_eq!(
            check(MAC_MOVES_OPTION, "no").unwrap_err().to_string(),
            "option shoutd.mac-moves cannot be \"no\": give on or off"
        );
        assert_eq!(
            check("shoutd.max_rate", "5").unwrap_err().to_string(),
            "shoutd has no option shoutd.max_rate; it has shoutd.mac-moves, shoutd.max-rate, \
             shoutd.multicast-route and shoutd.names"
        );
    }
}
