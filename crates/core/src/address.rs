//! Parsing and checking the addresses that users type.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use crate::limits::PORT;

/// Text that is not an address, or an address at which other hosts cannot reach this one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// The text cannot be parsed.
    #[error(
        "{0:?} is not the IP address of a host (such as 10.0.0.1, 10.0.0.1:7789 or [fd00::1]:7789)"
    )]
    Unreadable(String),
    /// It can be parsed, but other hosts cannot reach this one at it.
    #[error("{address} is {kind}: give the address by which the other hosts reach it")]
    Unfit {
        /// The address.
        address: SocketAddr,
        /// The kind of address that it is.
        kind: &'static str,
    },
    /// A network with host bits, where either an address or a network may be meant.
    #[error(
        "{network} is an address with a prefix length: give {} for this address, or {} for \
         whatever address the host has in that network",
        .network.addr(),
        .network.trunc()
    )]
    HostBits {
        /// The text's network.
        network: IpNet,
    },
}

/// Parses `10.0.0.1`, `10.0.0.1:7789`, `fd00::1` or `[fd00::1]:7789`. The default port is [`PORT`].
///
/// # Errors
/// If the text is none of these, or an address at which other hosts cannot reach a host.
pub fn parse_address(text: &str) -> Result<SocketAddr, InvalidAddress> {
    let text = text.trim();
    let unbracketed =
        text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = unbracketed
        .parse::<IpAddr>()
        .map(|address| SocketAddr::new(address, PORT))
        .or_else(|_| text.parse::<SocketAddr>())
        .map_err(|_| InvalidAddress::Unreadable(text.chars().take(80).collect()))?;
    check_address(&address)?;
    Ok(address)
}

/// Checks that other hosts can reach a host at this address and port.
///
/// # Errors
/// [`InvalidAddress::Unfit`], with the kind of address.
pub fn check_address(address: &SocketAddr) -> Result<(), InvalidAddress> {
    let kind =
        if address.port() == 0 { Some("an address with port 0") } else { unfit(address.ip()) };
    kind.map_or(Ok(()), |kind| Err(InvalidAddress::Unfit { address: *address, kind }))
}

/// The kind of an address that does not identify a single host on the underlay (RFC 6890).
pub(crate) fn unfit(address: IpAddr) -> Option<&'static str> {
    let link_local = "a link-local address, which is valid on one link only";
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("the broadcast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some(link_local),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("an address in 0.0.0.0/8"),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => Some("a reserved address (240.0.0.0/4)"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(link_local),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped IPv6 address"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_with_and_without_a_port() {
        for (text, address) in [
            ("10.0.0.1", "10.0.0.1:7789"),
            (" 10.0.0.1:80", "10.0.0.1:80"),
            ("fd00::1", "[fd00::1]:7789"),
            ("[fd00::1]", "[fd00::1]:7789"),
            ("[fd00::1]:80", "[fd00::1]:80"),
        ] {
            assert_eq!(parse_address(text).unwrap().to_string(), address);
        }
        for wrong in ["", "host", "10.0.0.1:x", "10.0.0", "10.0.0.1/24", "fe80::1%eth0"] {
            let error = parse_address(wrong).unwrap_err();
            assert!(matches!(error, InvalidAddress::Unreadable(_)), "{wrong}");
        }
    }

    #[test]
    fn an_unreachable_address_is_refused_with_its_kind() {
        for (text, kind) in [
            ("0.0.0.0", "unspecified"),
            ("::", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("127.9.9.9:7789", "loopback"),
            ("::1", "loopback"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("169.254.1.1", "link-local"),
            ("fe80::1", "link-local"),
            ("0.1.2.3", "0.0.0.0/8"),
            ("250.0.0.1", "reserved"),
            ("::ffff:10.0.0.1", "IPv4-mapped"),
            ("10.0.0.1:0", "port 0"),
        ] {
            let error = parse_address(text).unwrap_err().to_string();
            assert!(error.contains(kind), "{text}: {error}");
        }
    }
}
