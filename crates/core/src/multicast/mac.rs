//! The Ethernet addresses of groups, which are fewer than the groups.

use std::net::IpAddr;

use super::is_link_local;
use crate::MacAddress;

/// The Ethernet address that a group's packets are sent to: the last 23 bits of an IPv4 group (RFC
/// 1112, section 6.4), the last 32 of an IPv6 one (RFC 2464, section 7).
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

/// Whether what is sent to this address has to go to every host of the network, as link-local
/// groups have it of which nobody says that he listens, or that every host with IPv6 has:
///
/// * 01:00:5e:00:00:xx, that of 224.0.0.0/24 (RFC 5771, section 4), among them mDNS, VRRP and OSPF.
///   Bridges take no report of these.
/// * 33:33:00:00:xx:xx, that of all nodes, which are never reported, and of all routers (RFC 4291,
///   section 2.7.1); and of most that IANA assigned, such as mDNSv6 and DHCPv6's servers.
/// * 33:33:00:01:xx:xx, that of IANA's others: DHCPv6's agents, LLMNR.
/// * 33:33:ff:xx:xx:xx, that of solicited nodes (RFC 4291, section 2.7.1), of which every address
///   has one, and without which no neighbour is found.
///
/// A group of a wider scope may well have one of them: 239.0.0.251 has that of mDNS, ff05::1 that
/// of all nodes.
pub fn goes_to_every_host(mac: MacAddress) -> bool {
    matches!(
        mac.0,
        [0x01, 0x00, 0x5e, 0, 0, _] | [0x33, 0x33, 0, 0 | 1, _, _] | [0x33, 0x33, 0xff, ..]
    )
}

/// Whether it is told to other hosts who listens to a group. Link-local ones go to all hosts in any
/// case, but for those whose Ethernet address groups of wider scope may have to themselves: where a
/// host sends by these addresses, a link-local group goes where such a group goes, and must reach
/// its own listeners too. DDS is an example, by ff02::ffff:239.255.0.1 and ff1e::ffff:239.255.0.1.
/// There are few such memberships, while every IPv6 address comes with one of the others.
pub fn is_announced(group: IpAddr) -> bool {
    !is_link_local(group) || !goes_to_every_host(group_mac(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_share_an_address_with_link_local_ones_of_the_standards_go_to_all() {
        let goes_to_all = |group: &str| goes_to_every_host(group_mac(group.parse().unwrap()));
        let shared = [
            "239.0.0.251",
            "239.128.0.18",
            "225.0.0.5",
            "ff05::c",
            "ff05::fb",
            "ff05::1",
            "ff05::1:3",
        ];
        assert!(shared.into_iter().all(goes_to_all));
        assert!(
            ["224.0.0.251", "ff02::1", "ff02::1:2", "ff02::1:ff00:5", "ff05::1:ff00:5"]
                .into_iter()
                .all(goes_to_all)
        );
        assert!(
            !["239.0.1.251", "224.1.0.251", "ff05::2:1", "ff1e::ffff:efff:1"]
                .into_iter()
                .any(goes_to_all)
        );
    }

    #[test]
    fn of_link_local_groups_those_are_announced_that_others_could_take_along() {
        let announced = |group: &str| is_announced(group.parse().unwrap());
        assert!(
            ["239.0.0.251", "ff05::fb", "ff1e::ffff:efff:1", "ff02::ffff:efff:1"]
                .into_iter()
                .all(announced)
        );
        assert!(
            !["224.0.0.251", "ff02::fb", "ff02::1:3", "ff02::1:ff00:5"].into_iter().any(announced)
        );
    }
}
