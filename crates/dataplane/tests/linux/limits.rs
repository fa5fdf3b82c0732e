//! What one container may do to all others is bounded.

use std::net::{Ipv4Addr, SocketAddrV6, UdpSocket};
use std::time::Instant;

use shoutd_core::plane::Tier;

use crate::cluster::{Cluster, PORT};
use crate::support::{eventually, ip, run, udp};

/// How many of these datagrams come in, until the last, which is sent to the receiver alone, does.
fn count(receiver: &UdpSocket) -> usize {
    let mut received = 0;
    let mut datagram = [0; 8];
    while receiver.recv(&mut datagram).unwrap() != 4 {
        received += 1;
    }
    received
}

#[test]
fn a_storm_is_held_back_and_unicast_is_not() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 2]);
    let local = Ipv4Addr::new(224, 0, 0, 77);
    let receiver = cluster.receiver(1);
    receiver.join_multicast_v4(&local, &cluster.address(1)).unwrap();
    let sender = cluster.sender(0);
    let other = cluster.address(1);
    let storm = |to: Ipv4Addr| {
        let begin = Instant::now();
        // No more than the receiver's socket holds, whenever it is read.
        for _ in 0..200 {
            sender.send_to(b"storm", (to, PORT)).unwrap();
        }
        sender.send_to(b"last", (other, PORT)).unwrap();
        (count(&receiver), begin.elapsed())
    };
    assert!(storm(local).0 == 200);
    cluster.hosts[0].segment_mut().max_rate = Some(100);
    cluster.running[0].apply(&cluster.hosts[0]);
    for to in [local, Ipv4Addr::new(10, 7, 7, 255)] {
        let (received, took) = storm(to);
        let allowed = 20.0 + 100.0 * took.as_secs_f64();
        let received = f64::from(u32::try_from(received).unwrap());
        // Both draw on one allowance, so there may be nothing left for the second.
        assert!((received > 0.0 || to != local) && received < allowed, "{received} of 200 in {took:?}");
    }
    for _ in 0..500 {
        sender.send_to(b"unicast", (cluster.address(1), PORT)).unwrap();
        assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 7);
    }
    // And the limit goes as it came.
    cluster.hosts[0].segment_mut().max_rate = None;
    cluster.running[0].apply(&cluster.hosts[0]);
    assert!(storm(local).0 == 200);
}

#[test]
fn who_has_too_many_groups_is_named() {
    let cluster = Cluster::start(&[Tier::VxlanMdb; 1]);
    let container = &cluster.containers[0];
    container.run(|| run("sysctl", &["-qw", "net.ipv4.igmp_max_memberships=9000"])).unwrap();
    let sockets: Vec<UdpSocket> = (0..9_u32)
        .map(|thousand| {
            let socket = udp(container, (Ipv4Addr::UNSPECIFIED, 0));
            for number in 0..1000 {
                let group = Ipv4Addr::from(0xef01_0000 + thousand * 1000 + number);
                socket.join_multicast_v4(&group, &cluster.address(0)).unwrap();
            }
            socket
        })
        .collect();
    let problem = format!(
        "network 1048577: endpoint {} listens to 8192 groups, as many as one container may; it gets no others",
        cluster.hosts[0].endpoint(1).short()
    );
    eventually("the line that names it", || {
        cluster.running[0].handle.crowds(|vni| vni.to_string()) == [problem.clone()]
    });
    // Snooping goes on.
    let bridge = cluster.hosts[0].segment().run(|| run("ip", &["-d", "link", "show", "shoutbr0"])).unwrap();
    assert!(bridge.contains("mcast_snooping 1"), "{bridge}");
    drop(sockets);
}

#[test]
fn link_local_addresses_are_good_at_once() {
    let cluster = Cluster::start(&[Tier::VxlanMdb; 1]);
    let container = &cluster.containers[0];
    let address = cluster.link_local(0);
    let index = container.run(|| nix::net::if_::if_nametoindex("shout0").unwrap()).unwrap();
    for _ in 0..3 {
        container.run(|| ip(&["link", "set", "shout0", "down"])).unwrap();
        // It stays so: that is the container's business.
        cluster.running[0].apply(&cluster.hosts[0]);
        let state = container.run(|| run("ip", &["link", "show", "shout0"])).unwrap();
        assert!(!state.contains(",UP"), "{state}");
        container.run(|| ip(&["link", "set", "shout0", "up"])).unwrap();
        let begin = Instant::now();
        eventually("a link-local address to send from", || {
            container.run(|| UdpSocket::bind(SocketAddrV6::new(address, 0, 0, index)).is_ok()).unwrap()
        });
        println!("good after {:?}", begin.elapsed());
    }
    // The route that went with the interface is back.
    eventually("the multicast route", || container.run(|| run("ip", &["route"])).unwrap().contains("224.0.0.0/4"));
}
