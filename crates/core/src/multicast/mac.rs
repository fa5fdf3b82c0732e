//! MAC addresses of groups. Several groups share one.

use std::net::IpAddr;

use super::is_link_local;
use crate::MacAddress;

/// The MAC address to which a group's packets are sent: the last 23 bits of an IPv4 group (RFC
/// 1112, section 6.4), the last 32 bits of an IPv6 group (RFC 2464, section 7).
pub fn group_mac(group: IpAddr) -> MacAddress {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            MacAddress([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            MacAddress([0x33, 0x33, a, b, c, d])
        }
    }
}

/// Whether frames to this MAC address must go to every host of the network. It is shared by
/// link-local groups that are never reported, or that every IPv6 host joins:
///
/// * 01:00:5e:00:00:xx, for 224.0.0.0/24 (RFC 5771, section 4), such as mDNS, VRRP and OSPF.
///   Bridges ignore reports for these.
/// * 33:33:00:00:xx:xx, for all nodes, which are never reported, and all routers (RFC 4291, section
///   2.7.1), and for most groups that IANA assigned, such as mDNSv6 and DHCPv6 servers.
/// * 33:33:00:01:xx:xx, for other groups of IANA: DHCPv6 agents, LLMNR.
/// * 33:33:ff:xx:xx:xx, for solicited nodes (RFC 4291, section 2.7.1). Every address has such a
///   group, and neighbour discovery needs it.
///
/// Groups of a wider scope may share such an address: 239.0.0.251 shares that of mDNS, ff05::1 that
/// of all nodes.
pub fn goes_to_every_host(mac: MacAddress) -> bool {
    matches!(
        mac.0,
        [0x01, 0x00, 0x5e, 0, 0, _] | [0x33, 0x33, 0, 0 | 1, _, _] | [0x33, 0x33, 0xff, ..]
    )
}

/// Whether memberships of a group are advertised. Those of most link-local groups are not: these
/// groups go to all hosts in any case, and there is a solicited-node group for every IPv6 address.
///
/// The exceptions are the few link-local groups whose MAC address does not [go to every
/// host](goes_to_every_host). A host that replicates by MAC address sends such a group to the
/// receivers of other groups with the same address, so it must know the receivers of this group
/// too. DDS uses such a pair: ff02::ffff:239.255.0.1 and ff1e::ffff:239.255.0.1.
pub fn is_advertised(group: IpAddr) -> bool {
    !is_link_local(group) || !goes_to_every_host(group_mac(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_share_a_mac_address_with_well_known_link_local_groups_go_to_all() {
        let link_local =
            ["224.0.0.251", "ff02::1", "ff02::1:2", "ff02::1:ff00:5", "ff05::1:ff00:5"];
        let shared = [
            "239.0.0.251",
            "239.128.0.18",
            "225.0.0.5",
            "ff05::c",
            "ff05::fb",
            "ff05::1",
            "ff05::1:3",
        ];
        for group in link_local.into_iter().chain(shared) {
            assert!(goes_to_every_host(group_mac(group.parse().unwrap())), "{group}");
        }
        for group in ["239.0.1.251", "224.1.0.251", "ff05::2:1", "ff1e::ffff:efff:1"] {
            assert!(!goes_to_every_host(group_mac(group.parse().unwrap())), "{group}");
        }
    }

    #[test]
    fn link_local_groups_with_an_unshared_mac_address_are_advertised() {
        for group in ["239.0.0.251", "ff05::fb", "ff1e::ffff:efff:1", "ff02::ffff:efff:1"] {
            assert!(is_advertised(group.parse().unwrap()), "{group}");
        }
        for group in ["224.0.0.251", "ff02::fb", "ff02::1:3", "ff02::1:ff00:5"] {
            assert!(!is_advertised(group.parse().unwrap()), "{group}");
        }
    }
}
