//! The gateways of a network and its way out.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use shoutd_core::MacAddress;
use shoutd_core::plane::GATEWAY_MAC;
use shoutd_netlink::Namespace;

use crate::support::{Capture, GATEWAYS, Host, connected, eventually, ip, run, udp};

/// The gateways' addresses.
fn gateways() -> [String; 2] {
    GATEWAYS.map(|gateway| gateway.split_once('/').unwrap().0.to_owned())
}

/// The way-out bridge's address.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// An EtherType for experiments (IEEE 802): ends a series of frames.
const FENCE: [u8; 2] = [0x88, 0xb5];
/// The source of forged frames, whose last octet is the number of the attempt.
const FORGER: [u8; 5] = [0x02, 0xaa, 0, 0, 0];
const BROADCAST: [u8; 6] = [0xff; 6];

fn has_default_route(container: &Namespace) {
    container.run(|| ip(&["route", "add", "default", "via", &gateways()[0]])).unwrap();
}

#[test]
fn a_container_gets_answers_from_outside_and_nothing_else() {
    let (world, containers) = connected(1);
    let (host, container) = (&world.hosts[0], &containers[0]);
    has_default_route(container);
    let outside = udp(&host.namespace, (Ipv4Addr::UNSPECIFIED, 9000));
    let inside = udp(container, (Ipv4Addr::UNSPECIFIED, 9001));
    inside.send_to(b"ask", (ROUTER, 9000)).unwrap();
    let mut datagram = [0; 16];
    let (_, from) = outside.recv_from(&mut datagram).unwrap();
    let SocketAddr::V4(uplink) = from else { panic!("{from}") };
    assert_eq!(uplink.ip().octets()[..3], [10, 99, 0], "not the uplink's address");
    outside.send_to(b"answer", from).unwrap();
    assert_eq!(inside.recv(&mut datagram).unwrap(), 6);

    // The host has a route to the network, and its packet is dropped. So is a packet to the
    // uplink's address and port from a port to which the container has sent nothing.
    let via = uplink.ip().to_string();
    host.namespace.run(|| ip(&["route", "add", "10.7.7.0/24", "via", &via])).unwrap();
    outside.send_to(b"unasked", (host.container_address(1), 9001)).unwrap();
    let other = udp(&host.namespace, (Ipv4Addr::UNSPECIFIED, 9002));
    other.send_to(b"unasked", from).unwrap();
    outside.send_to(b"answer", from).unwrap();
    assert_eq!(inside.recv(&mut datagram).unwrap(), 6);
    assert_eq!(&datagram[..6], b"answer");
}

#[test]
fn only_routed_connections_are_tracked() {
    let (world, containers) = connected(2);
    let host = &world.hosts[0];
    has_default_route(&containers[0]);
    let tracked = || {
        let count = ["-n", "net.netfilter.nf_conntrack_count"];
        let count = host.segment().run(|| run("sysctl", &count)).unwrap();
        count.trim().parse::<u32>().unwrap()
    };
    let receiver = udp(&containers[1], (Ipv4Addr::UNSPECIFIED, 9003));
    let outside = udp(&host.namespace, (Ipv4Addr::UNSPECIFIED, 9000));
    let senders: Vec<UdpSocket> =
        (0..40).map(|_| udp(&containers[0], (Ipv4Addr::UNSPECIFIED, 0))).collect();
    let other = world.hosts[1].container_address(1);
    for (number, sender) in senders.iter().enumerate() {
        sender.set_broadcast(true).unwrap();
        let to = if number % 2 == 0 { other } else { Ipv4Addr::new(10, 7, 7, 255) };
        sender.send_to(b"bridged", (to, 9003)).unwrap();
        receiver.recv(&mut [0; 16]).unwrap();
    }
    // The namespace's own IGMP reports are tracked.
    assert!(tracked() < 10, "{}", tracked());
    for sender in &senders {
        sender.send_to(b"routed", (ROUTER, 9000)).unwrap();
        outside.recv(&mut [0; 16]).unwrap();
    }
    assert!((40..50).contains(&tracked()), "{}", tracked());
}

#[test]
fn nothing_of_a_gateway_crosses_the_tunnel() {
    let (world, containers) = connected(2);
    let tunnels: Vec<Capture> =
        world.hosts.iter().map(|host| Capture::open(&host.segment(), "shoutvx0")).collect();
    containers.iter().for_each(has_default_route);
    for container in &containers {
        let [v4, v6] = gateways();
        container.run(|| run("busybox", &["ping", "-c", "1", "-W", "10", &v4])).unwrap();
        let own = "fd00:7::77/64";
        container.run(|| ip(&["address", "add", own, "dev", "eth0", "nodad"])).unwrap();
        container.run(|| run("busybox", &["ping6", "-c", "1", "-W", "10", &v6])).unwrap();
        container.run(|| ip(&["address", "delete", own, "dev", "eth0"])).unwrap();
        let neighbours = container.run(|| run("ip", &["neigh", "show", &v4])).unwrap();
        assert!(neighbours.contains(&GATEWAY_MAC.to_string()), "{neighbours}");
        // The gateway asks for an address that no container has.
        let inside = udp(container, (Ipv4Addr::UNSPECIFIED, 0));
        inside.send_to(b"routed", (ROUTER, 9000)).unwrap();
    }
    for host in &world.hosts {
        let as_gateway = udp(&host.segment(), (Ipv4Addr::UNSPECIFIED, 0));
        as_gateway.send_to(b"to nobody", "10.7.7.200:9").unwrap();
    }
    // The containers find each other, over the tunnel.
    let receiver = udp(&containers[1], (Ipv4Addr::UNSPECIFIED, 9003));
    let sender = udp(&containers[0], (Ipv4Addr::UNSPECIFIED, 0));
    sender.send_to(b"over", (world.hosts[1].container_address(1), 9003)).unwrap();
    receiver.recv(&mut [0; 16]).unwrap();
    let frames: Vec<Vec<u8>> = tunnels.iter().flat_map(Capture::pending).collect();
    assert!(!frames.is_empty());
    let gateway = Ipv4Addr::new(10, 7, 7, 1).octets();
    for frame in frames {
        assert!(frame[..6] != GATEWAY_MAC.0 && frame[6..12] != GATEWAY_MAC.0, "{frame:02x?}");
        assert!(!is_arp_about(&frame, gateway), "{frame:02x?}");
    }
}

fn is_arp_about(frame: &[u8], address: [u8; 4]) -> bool {
    frame[12..14] == [0x08, 0x06] && (frame[28..32] == address || frame[38..42] == address)
}

/// An Ethernet frame.
fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, content: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), content].concat()
}

/// An ARP packet with the gateway's address as the sender's.
fn arp(operation: u8, forger: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    let gateway = [10, 7, 7, 1];
    let header = [0, 1, 8, 0, 6, 4, 0, operation];
    [&header[..], &forger, &gateway, &[0; 6], &target.octets()].concat()
}

/// An ICMPv6 message of a type in an IPv6 packet; neighbour discovery has a target.
fn icmpv6(kind: u8, source: &str, target: &str) -> Vec<u8> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let message = [&[kind, 0, 0, 0, 0x20, 0, 0, 0][..], &address(target)].concat();
    let length = u8::try_from(message.len()).unwrap();
    let header = [0x60, 0, 0, 0, 0, length, 58, 255];
    [&header[..], &address(source), &address("ff02::1"), &message].concat()
}

/// An ICMP redirect that seems to come from the gateway.
fn redirect() -> Vec<u8> {
    let header = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 10, 7, 7, 1, 10, 7, 7, 33];
    [&header[..], &[5, 1, 0, 0, 10, 7, 7, 18]].concat()
}

/// The content of a frame behind VLAN tags 0, and the outermost tag's EtherType.
fn tagged(tags: usize, kind: u16, content: &[u8]) -> (u16, Vec<u8>) {
    (0..tags).fold((kind, content.to_vec()), |(kind, content), _| {
        (0x8100, [&[0, 0][..], &kind.to_be_bytes(), &content].concat())
    })
}

/// Frames by which a container could take over a gateway.
fn forged(victim: Ipv4Addr) -> Vec<Vec<u8>> {
    let link_local = "fe80::ffff:ffff:ffff:fffe";
    let forger = [0x02, 0xaa, 0, 0, 0, 0];
    let contents = [
        (0x0806, arp(1, forger, Ipv4Addr::new(10, 7, 7, 1))),
        (0x0806, arp(1, forger, victim)),
        (0x0806, arp(2, forger, victim)),
        (0x0800, redirect()),
        // Neighbour and router advertisements, a solicitation, a redirect.
        (0x86dd, icmpv6(136, "fd00:7::99", "fd00:7::1")),
        (0x86dd, icmpv6(136, "fd00:7::99", link_local)),
        (0x86dd, icmpv6(135, "fd00:7::1", "fd00:7::99")),
        (0x86dd, icmpv6(134, link_local, "::")),
        (0x86dd, icmpv6(137, link_local, "fd00:7::99")),
    ];
    let all = contents
        .iter()
        .flat_map(|(kind, content)| (0..3).map(move |tags| tagged(tags, *kind, content)));
    let victim = MacAddress::for_ipv4(victim).0;
    let frames = all
        .flat_map(|(kind, content)| [(BROADCAST, kind, content.clone()), (victim, kind, content)]);
    let numbered = (1_u8..).zip(frames).map(|(number, (to, kind, content))| {
        let [a, b, c, d, e] = FORGER;
        ethernet(to, [a, b, c, d, e, number], kind, &content)
    });
    let as_gateway = ethernet(BROADCAST, GATEWAY_MAC.0, 0x88b6, &[0; 46]);
    numbered.chain([as_gateway]).collect()
}

#[test]
fn no_container_can_take_over_a_gateway() {
    let (mut world, containers) = connected(2);
    // Another container on the victim's host, and one on the other host.
    let victim = &containers[0];
    let host: &mut Host = &mut world.hosts[0];
    host.want_endpoint(2);
    host.settle();
    let neighbour = host.start_container(2);
    host.settle();
    let address = host.container_address(1);
    for (number, attacker) in (1_u8..).zip([&neighbour, &containers[1]]) {
        // Its port forwards.
        // A port of its own: another test's child process may hold the last socket for a moment.
        let port = 9003 + u16::from(number);
        let receiver = udp(victim, (Ipv4Addr::UNSPECIFIED, port));
        let sender = udp(attacker, (Ipv4Addr::UNSPECIFIED, 0));
        receiver.set_nonblocking(true).unwrap();
        eventually("the attacker reaches the victim", || {
            sender.send_to(b"there?", (address, port)).unwrap();
            receiver.recv(&mut [0; 16]).is_ok()
        });
        let (out, mut seen) = (Capture::open(attacker, "eth0"), Capture::open(victim, "eth0"));
        let frames = forged(address);
        assert!(frames.len() > 50);
        frames.iter().for_each(|frame| out.send(frame));
        out.send(&ethernet(BROADCAST, [2, 0xbb, 0, 0, 0, number], 0x88b5, &[0; 46]));
        loop {
            let frame = seen.receive();
            assert!(frame[6..11] != FORGER && frame[6..12] != GATEWAY_MAC.0, "{frame:02x?}");
            if frame[12..14] == FENCE {
                break;
            }
        }
    }
    let bridge = host.segment().run(|| run("bridge", &["fdb", "show", "br", "shoutbr0"])).unwrap();
    let gateway = GATEWAY_MAC.to_string();
    let entries = bridge.lines().filter(|line| line.starts_with(&gateway));
    assert!(entries.clone().count() > 0, "{bridge}");
    assert!(entries.clone().all(|line| line.contains("permanent")), "{bridge}");
}
