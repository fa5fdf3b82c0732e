//! Addresses as people type them.

use std::net::{IpAddr, SocketAddr};

use crate::InvalidId;
use crate::limits::PORT;

/// Reads `10.0.0.1`, `10.0.0.1:7789`, `fd00::1` or `[fd00::1]:7789`; without a port it is [`PORT`].
///
/// # Errors
/// If it is none of these, or an address that no single host can have.
pub fn parse_address(text: &str) -> Result<SocketAddr, InvalidId> {
    let text = text.trim();
    let unbracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = unbracketed.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT));
    let address = address.or_else(|_| text.parse::<SocketAddr>());
    address.ok().filter(is_of_one_host).ok_or_else(|| {
        InvalidId::new(text, "the IP address of a host (such as 10.0.0.1, 10.0.0.1:7789 or [fd00::1]:7789)")
    })
}

/// Whether a single host can have this address, and be reached at this port.
pub fn is_of_one_host(address: &SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::from([255; 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_type_them() {
        let read = |text| parse_address(text).map(|address| address.to_string()).ok();
        assert_eq!(read("10.0.0.1").as_deref(), Some("10.0.0.1:7789"));
        assert_eq!(read(" 10.0.0.1:80").as_deref(), Some("10.0.0.1:80"));
        assert_eq!(read("fd00::1").as_deref(), Some("[fd00::1]:7789"));
        assert_eq!(read("[fd00::1]").as_deref(), Some("[fd00::1]:7789"));
        assert_eq!(read("[fd00::1]:80").as_deref(), Some("[fd00::1]:80"));
        for wrong in ["", "host", "0.0.0.0", "224.0.0.1", "10.0.0.1:0", "10.0.0.1:x", "::", "255.255.255.255", "10.0.0"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
