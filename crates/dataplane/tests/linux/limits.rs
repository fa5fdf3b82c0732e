//! Limits on what one container can do to the others.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::Instant;

use shoutd_core::limits::LEARNED_MAX;
use shoutd_core::plane::{DeviceName, Tier};
use shoutd_netlink::Namespace;

use crate::cluster::{Cluster, PORT};
use crate::support::{Capture, Host, eventually, ip, run, udp, vni};

/// The number of these datagrams received until the last, which is sent to the receiver alone.
fn count(receiver: &UdpSocket) -> usize {
    let mut received = 0;
    let mut datagram = [0; 8];
    while receiver.recv(&mut datagram).unwrap() != 4 {
        received += 1;
    }
    received
}

#[test]
fn a_storm_is_limited_and_unicast_is_not() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 2]);
    let local = Ipv4Addr::new(224, 0, 0, 77);
    let receiver = cluster.receiver(1);
    receiver.join_multicast_v4(&local, &cluster.address(1)).unwrap();
    let sender = cluster.sender(0);
    let other = cluster.address(1);
    assert_eq!(storm(&sender, local, other, &receiver), 200);
    cluster.hosts[0].segment_mut().max_rate = Some(100);
    cluster.running[0].apply(&cluster.hosts[0]);
    for to in [local, Ipv4Addr::new(10, 7, 7, 255)] {
        let begin = Instant::now();
        let received = storm(&sender, to, other, &receiver);
        let took = begin.elapsed();
        let allowed = 20.0 + 100.0 * took.as_secs_f64();
        let received = f64::from(u32::try_from(received).unwrap());
        // Both share one limit, so the second may get nothing.
        assert!(
            (received > 0.0 || to != local) && received < allowed,
            "{received} of 200 in {took:?}"
        );
    }
    for _ in 0..500 {
        sender.send_to(b"unicast", (cluster.address(1), PORT)).unwrap();
        assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 7);
    }
    // The limit can be removed again.
    cluster.hosts[0].segment_mut().max_rate = None;
    cluster.running[0].apply(&cluster.hosts[0]);
    assert_eq!(storm(&sender, local, other, &receiver), 200);
}

/// Sends 200 datagrams to one address, then one to another, and counts those that arrive.
fn storm(sender: &UdpSocket, to: Ipv4Addr, last: Ipv4Addr, receiver: &UdpSocket) -> usize {
    // No more than fits into the receiver's socket buffer.
    for _ in 0..200 {
        sender.send_to(b"storm", (to, PORT)).unwrap();
    }
    sender.send_to(b"last", (last, PORT)).unwrap();
    count(receiver)
}

/// Joins so many thousand groups in the first container, each thousand by one socket: the kernel
/// limits the memory of a socket's memberships (`net.core.optmem_max`).
fn join_thousands(cluster: &Cluster, thousands: u32) -> Vec<UdpSocket> {
    let container = &cluster.containers[0];
    container.run(|| run("sysctl", &["-qw", "net.ipv4.igmp_max_memberships=9000"])).unwrap();
    (0..thousands)
        .map(|thousand| {
            let socket = udp(container, (Ipv4Addr::UNSPECIFIED, 0));
            for number in 0..1000 {
                let group = Ipv4Addr::from(0xef01_0000 + thousand * 1000 + number);
                socket.join_multicast_v4(&group, &cluster.address(0)).unwrap();
            }
            socket
        })
        .collect()
}

#[test]
fn a_container_at_its_limit_of_groups_is_named() {
    let cluster = Cluster::start(&[Tier::VxlanMdb; 1]);
    let sockets = join_thousands(&cluster, 9);
    let problem = format!(
        "network 1048577: endpoint {} is a member of 8192 groups, the limit for one container; it \
         gets no others",
        cluster.hosts[0].endpoint(1).short()
    );
    eventually("the line that names it", || {
        cluster.running[0].handle.mdb_pressures(|vni| vni.to_string()) == [problem.clone()]
    });
    // Snooping goes on.
    let bridge =
        cluster.hosts[0].segment().run(|| run("ip", &["-d", "link", "show", "shoutbr0"])).unwrap();
    assert!(bridge.contains("mcast_snooping 1"), "{bridge}");
    drop(sockets);
}

/// A bridge sends a query for each group that a container leaves, all at one instant, into a queue
/// that all networks share.
#[test]
fn a_container_that_leaves_thousands_of_groups_gets_a_few_queries_only() {
    let cluster = Cluster::start(&[Tier::VxlanMdb; 1]);
    let sockets = join_thousands(&cluster, 3);
    cluster.until(0, "all memberships", |memberships| memberships.groups.len() == 3000);
    let segment = cluster.hosts[0].segment();
    let port = DeviceName::port(&cluster.hosts[0].endpoint(1));
    let (sent, dropped) = transmitted(&segment, &port);
    let begin = Instant::now();
    drop(sockets);
    eventually("all leaves", || {
        let took = begin.elapsed();
        let (now_sent, now_dropped) = transmitted(&segment, &port);
        let queries = (now_sent - sent) + (now_dropped - dropped);
        let allowed = 200 + took.as_millis();
        assert!(u128::from(queries) < allowed, "{queries} queries in {took:?}");
        let memberships = cluster.running[0].handle.memberships();
        let memberships = memberships.borrow();
        memberships.get(&vni()).is_none_or(|memberships| memberships.groups.is_empty())
    });
}

/// Packets that this device has sent, and those that it could not send.
fn transmitted(segment: &Namespace, device: &DeviceName) -> (u64, u64) {
    let table = segment.run(|| run("cat", &["/proc/net/dev"])).unwrap();
    let line = table.lines().find_map(|line| line.trim().strip_prefix(device.as_str())).unwrap();
    let counters: Vec<u64> =
        line[1..].split_whitespace().map(|counter| counter.parse().unwrap()).collect();
    // Eight of reception come first: octets, packets, errors, drops and others.
    (counters[9], counters[11])
}

#[test]
fn link_local_addresses_can_be_used_at_once() {
    let cluster = Cluster::start(&[Tier::VxlanMdb; 1]);
    let container = &cluster.containers[0];
    let address = cluster.link_local(0);
    let index = container.run(|| nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap();
    for _ in 0..3 {
        container.run(|| ip(&["link", "set", "eth0", "down"])).unwrap();
        // It stays so: that is up to the container.
        cluster.running[0].apply(&cluster.hosts[0]);
        let state = container.run(|| run("ip", &["link", "show", "eth0"])).unwrap();
        assert!(!state.contains(",UP"), "{state}");
        container.run(|| ip(&["link", "set", "eth0", "up"])).unwrap();
        let begin = Instant::now();
        eventually("a link-local address to send from", || {
            container
                .run(|| UdpSocket::bind(SocketAddrV6::new(address, 0, 0, index)).is_ok())
                .unwrap()
        });
        println!("good after {:?}", begin.elapsed());
    }
    // The route that was lost with the interface is back.
    eventually("the multicast route", || {
        container.run(|| run("ip", &["route"])).unwrap().contains("224.0.0.0/4")
    });
}

/// A frame with an unassigned Ethernet type.
fn frame(from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    [to.as_slice(), &from, &0x88b5_u16.to_be_bytes(), &[0x5a; 46]].concat()
}

/// The number of made-up addresses in a host's FDBs: `self` for the tunnel's, `master` for the
/// bridge's.
fn learned(host: &Host, kind: &str) -> usize {
    let table = host.segment().run(|| run("bridge", &["fdb", "show"])).unwrap();
    table.lines().filter(|line| line.starts_with("06:00:") && line.contains(kind)).count()
}

/// Neither the container's host nor others keep many made-up addresses. Frames to addresses that
/// are not learned are flooded, so virtual addresses can still move.
#[test]
fn made_up_addresses_do_not_fill_the_fdbs() {
    let cluster = Cluster::start(&[Tier::VxlanMdb; 3]);
    let captures: Vec<Capture> =
        cluster.containers.iter().map(|container| Capture::open(container, "eth0")).collect();
    // To an address that does not exist.
    for number in 0..18_000_u16 {
        let [high, low] = number.to_be_bytes();
        captures[0].send(&frame([6, 0, 0, 0, high, low], [2, 0, 0, 0, 9, 9]));
    }
    for host in [1, 2] {
        eventually("the addresses learned behind the tunnel to be removed", || {
            let lines = cluster.running[host].handle.suspensions(|vni| vni.to_string());
            lines.len() == 1
                && lines[0].starts_with("network 1048577: more than 1024 MAC addresses")
                && lines[0].contains("from host 192.0.2.1")
                && learned(&cluster.hosts[host], "self") == 0
        });
    }
    for host in &cluster.hosts {
        assert!(learned(host, "master") <= LEARNED_MAX);
    }
    // Everything from before is still there.
    for host in [1, 2] {
        // The last reading may have stopped before them.
        eventually("both flood entries to be seen", || {
            cluster.running[host].handle.observed().segments[&vni()].flood.len() == 2
        });
    }
    // A virtual address still receives frames wherever it is.
    let virtual_mac = [0, 0, 0x5e, 0, 1, 7];
    for owner in [0, 2, 0] {
        captures[owner].send(&frame(virtual_mac, [0xff; 6]));
        eventually("frames to the virtual address to arrive at its host", || {
            captures[1].send(&frame([2, 0, 0, 0, 0, 7], virtual_mac));
            captures[owner].pending().iter().any(|frame| frame.starts_with(&virtual_mac))
        });
    }
}

/// A table that another program or an earlier version let grow does no harm: it is read in part and
/// emptied.
#[test]
fn a_table_that_is_too_large_is_read_in_part() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 2]);
    let segment = cluster.hosts[1].segment();
    let lines: String = (0..20_000_u32)
        .map(|number| {
            let [_, a, b, c] = number.to_be_bytes();
            format!(
                "fdb add 06:00:00:{a:02x}:{b:02x}:{c:02x} dev shoutvx0 dst 192.0.2.1 self \
                 dynamic\n"
            )
        })
        .collect();
    let path = std::env::temp_dir().join(format!("shoutd-table-{}", std::process::id()));
    std::fs::write(&path, lines).unwrap();
    segment.run(|| run("bridge", &["-batch", path.to_str().unwrap()])).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut route = shoutd_netlink::Route::open(&segment).unwrap();
    let tunnel = route.link("shoutvx0").unwrap().unwrap().index;
    // No more than the limit is read, and the next request on the same socket is answered.
    for _ in 0..3 {
        let found = route.learned_entries(tunnel, false, 0).unwrap();
        assert!(found.whole || found.sources.values().sum::<usize>() == 1, "{found:?}");
        assert!(route.link("shoutvx0").unwrap().is_some());
    }
    // Advertisements are still programmed.
    cluster.advertise();
    eventually("the table to be emptied", || learned(&cluster.hosts[1], "self") == 0);
    assert!(!cluster.running[1].handle.suspensions(|vni| vni.to_string()).is_empty());
}

/// A container over its rate limit is still found and finds others: no ARP or neighbour discovery
/// is lost.
#[test]
fn a_container_over_its_rate_limit_is_still_found() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 2]);
    cluster.hosts[0].segment_mut().max_rate = Some(50);
    cluster.running[0].apply(&cluster.hosts[0]);
    let mut arrivals = Capture::open(&cluster.hosts[1].segment(), "shoutvx0");
    let sender = cluster.sender(0);
    let frames = Capture::open(&cluster.containers[0], "eth0");
    // The container's kernel may send some itself, and the burst is ten.
    for number in 0..5 {
        for _ in 0..200 {
            sender.send_to(b"storm", (Ipv4Addr::new(224, 0, 0, 77), PORT)).unwrap();
        }
        frames.send(&address_resolution(number));
    }
    sender.send_to(b"last", (cluster.address(1), PORT)).unwrap();
    let mut arrived = Vec::new();
    loop {
        let frame = arrivals.receive();
        match &frame[6..12] {
            [6, 0, 0, 0, 0, number] => arrived.push(*number),
            _ if frame.ends_with(b"last") => break,
            _ => {}
        }
    }
    assert_eq!(arrived, (0..5).collect::<Vec<u8>>());
}

/// A broadcast request of ARP if the number is even, otherwise a neighbour solicitation to all
/// nodes. The number is in the source address.
fn address_resolution(number: u8) -> Vec<u8> {
    let source = [6, 0, 0, 0, 0, number];
    if number.is_multiple_of(2) {
        return [[0xff; 6].as_slice(), &source, &[8, 6], &[0; 46]].concat();
    }
    let header = [0x60, 0, 0, 0, 0, 24, 58, 255];
    // To all nodes of the link.
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
    let solicitation = [&[135, 0, 0, 0][..], &[0; 20]].concat();
    [
        &[0x33, 0x33, 0, 0, 0, 1],
        &source[..],
        &[0x86, 0xdd],
        &header,
        &[0xfe; 16],
        &to,
        &solicitation,
    ]
    .concat()
}
