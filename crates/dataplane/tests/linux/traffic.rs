//! Frames between containers of different hosts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use shoutd_netlink::Namespace;

use crate::support::{MTU, World, connected, connected_over_ipv6, eventually, run, udp};

const PORT: u16 = 5000;
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 1, 1, 1);

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).expect("nothing was received");
    buffer[..length].to_vec()
}

/// One socket in each container but the first, which has joined these groups.
fn receivers(world: &World, containers: &[Namespace], groups: &[Ipv4Addr]) -> Vec<UdpSocket> {
    let others = world.hosts.iter().zip(containers).skip(1);
    others
        .map(|(host, container)| {
            let socket = udp(container, (Ipv4Addr::UNSPECIFIED, PORT));
            groups.iter().for_each(|group| {
                socket.join_multicast_v4(group, &host.container_address(1)).unwrap();
            });
            socket
        })
        .collect()
}

#[test]
fn unicast_broadcast_and_multicast_reach_containers_of_other_hosts() {
    pass_everything(&connected(3));
}

#[test]
fn unicast_broadcast_and_multicast_pass_over_an_ipv6_underlay() {
    pass_everything(&connected_over_ipv6(2));
}

/// Unicast, broadcast and multicast reach all containers.
pub fn pass_everything((world, containers): &(World, Vec<Namespace>)) {
    let local = Ipv4Addr::new(224, 0, 0, 251);
    let receivers = receivers(world, containers, &[GROUP, local]);
    let sender = udp(&containers[0], (Ipv4Addr::UNSPECIFIED, 0));

    for (host, receiver) in world.hosts.iter().skip(1).zip(&receivers) {
        sender.send_to(b"unicast", (host.container_address(1), PORT)).unwrap();
        assert_eq!(receive(receiver), b"unicast");
    }
    for to in [Ipv4Addr::new(10, 7, 7, 255), GROUP, local] {
        sender.send_to(to.to_string().as_bytes(), (to, PORT)).unwrap();
        for receiver in &receivers {
            assert_eq!(receive(receiver), to.to_string().as_bytes());
        }
    }
}

#[test]
fn ipv6_multicast_and_neighbour_discovery_pass() {
    let (_world, containers) = connected(2);
    let index = containers[1].run(|| nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap();
    let receiver = udp(&containers[1], (Ipv6Addr::UNSPECIFIED, PORT));
    let group: Ipv6Addr = "ff02::fb".parse().unwrap();
    receiver.join_multicast_v6(&group, index).unwrap();
    // Until its kernel has configured IPv6 on the interface, which it does up to a second after the
    // interface is up (`net/core/link_watch.c`), it has no route for what arrives.
    let elsewhere = SocketAddr::V6(SocketAddrV6::new(group, PORT + 1, 0, index));
    eventually("IPv6 at the receiver", || receiver.send_to(b"ready", elsewhere).is_ok());
    let sender = udp(&containers[0], (Ipv6Addr::UNSPECIFIED, 0));
    let index = containers[0].run(|| nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap();
    let to = SocketAddr::V6(SocketAddrV6::new(group, PORT, 0, index));
    // Its link-local address is valid only after duplicate address detection.
    eventually("an IPv6 source address", || sender.send_to(b"hello", to).is_ok());
    let mut buffer = [0; 16];
    let (length, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"hello");

    // The answer needs neighbour discovery across the tunnel.
    eventually("an IPv6 source address", || receiver.send_to(b"answer", from).is_ok());
    assert_eq!(receive(&sender), b"answer");
}

#[test]
fn the_largest_datagram_passes_whole() {
    let (world, containers) = connected(2);
    let receivers = receivers(&world, &containers, &[GROUP]);
    let sender = udp(&containers[0], (Ipv4Addr::UNSPECIFIED, 0));
    let largest = vec![7; usize::from(MTU) - 28];
    sender.send_to(&largest, (GROUP, PORT)).unwrap();
    assert_eq!(receive(&receivers[0]), largest);
}

#[test]
fn the_tunnels_socket_is_in_the_hosts_namespace() {
    let (world, _containers) = connected(2);
    let host = &world.hosts[0];
    // The kernel's own sockets are not listed, but the port is occupied in their namespace.
    for (namespace, is_free) in [(&host.namespace, false), (&host.segment(), true)] {
        let bound = namespace
            .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, crate::support::VXLAN_PORT)))
            .unwrap();
        assert_eq!(bound.is_ok(), is_free);
    }
}

/// Containers see no surplus neighbours. In a segment only the bridge has IPv6 addresses, one for
/// its MLD queries and the gateway's, and it ignores router advertisements.
#[test]
fn only_the_bridge_has_ipv6_addresses_and_it_ignores_router_advertisements() {
    let (world, _containers) = connected(1);
    let segment = world.hosts[0].segment();
    let (addresses, accepts) = segment
        .run(|| {
            let addresses = run("ip", &["-6", "-oneline", "address"]);
            (addresses, run("cat", &["/proc/sys/net/ipv6/conf/shoutbr0/accept_ra"]))
        })
        .unwrap();
    let devices: Vec<&str> =
        addresses.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(devices, ["shoutbr0"; 2], "{addresses}");
    assert!(addresses.contains("inet6 fe80::") && !addresses.contains("tentative"), "{addresses}");
    assert_eq!(accepts.trim(), "0");
}
