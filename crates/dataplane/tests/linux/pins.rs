//! Pins: endpoints' MAC addresses stay where the endpoints are; other addresses move.

use std::net::Ipv4Addr;
use std::sync::Arc;

use shoutd_core::plane::{DeviceName, Tier};
use shoutd_netlink::Namespace;

use crate::cluster::{Cluster, PORT};
use crate::support::{Capture, Running, eventually, flood, run, udp};

/// A broadcast frame from this address, with an unassigned Ethernet type.
fn broadcast(from: [u8; 6]) -> Vec<u8> {
    [[0xff; 6].as_slice(), &from, &0x88b5_u16.to_be_bytes(), &[0x5a; 46]].concat()
}

fn send_from(container: &Namespace, mac: [u8; 6]) {
    Capture::open(container, "eth0").send(&broadcast(mac));
}

fn bridge_table(cluster: &Cluster, host: usize) -> String {
    cluster.hosts[host].segment().run(|| run("bridge", &["fdb", "show"])).unwrap()
}

/// Whether a host's FDBs have a line with all these words.
fn has_line(cluster: &Cluster, host: usize, words: &[&str]) -> bool {
    bridge_table(cluster, host).lines().any(|line| words.iter().all(|word| line.contains(word)))
}

#[test]
fn an_endpoints_address_cannot_be_taken_and_a_virtual_one_moves() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 3]);
    cluster.advertise();
    let victim = cluster.hosts[0]
        .desired
        .segments
        .values()
        .next()
        .unwrap()
        .ports
        .values()
        .next()
        .unwrap()
        .mac;
    let own = DeviceName::port(&cluster.hosts[0].endpoint(1));
    let virtual_mac = [0, 0, 0x5e, 0, 1, 7];
    // The thief sends from both addresses, last from the virtual one, which may move: once that is
    // seen, the other frame was processed too.
    send_from(&cluster.containers[1], victim.0);
    send_from(&cluster.containers[1], virtual_mac);
    eventually("the virtual address to be behind the tunnel", || {
        has_line(&cluster, 0, &["00:00:5e:00:01:07", "shoutvx0", "dst 192.0.2.2"])
    });
    let mac = victim.to_string();
    assert!(
        has_line(&cluster, 0, &[&mac, own.as_str(), "sticky"]),
        "{}",
        bridge_table(&cluster, 0)
    );
    assert!(!has_line(&cluster, 0, &[&mac, "shoutvx0", "master"]), "{}", bridge_table(&cluster, 0));
    for host in [1, 2] {
        assert!(
            has_line(&cluster, host, &[&mac, "shoutvx0", "dst 192.0.2.1"]),
            "{}",
            bridge_table(&cluster, host)
        );
        assert!(!has_line(&cluster, host, &[&mac, "shp"]), "{}", bridge_table(&cluster, host));
    }
    // No datagram to the victim is lost, not even one from a container beside the thief.
    let receiver = cluster.receiver(0);
    for sender in [1, 2] {
        let socket = udp(&cluster.containers[sender], (Ipv4Addr::UNSPECIFIED, 0));
        for _ in 0..50 {
            send_from(&cluster.containers[1], victim.0);
            socket.send_to(b"yours", (cluster.address(0), PORT)).unwrap();
            let mut datagram = [0; 8];
            assert_eq!(receiver.recv(&mut datagram).unwrap(), 5);
        }
    }

    // The virtual address moves to the other host and back.
    send_from(&cluster.containers[2], virtual_mac);
    eventually("the virtual address to move", || {
        has_line(&cluster, 0, &["00:00:5e:00:01:07", "shoutvx0", "dst 192.0.2.3"])
    });
    send_from(&cluster.containers[0], virtual_mac);
    eventually("the virtual address to come here", || {
        has_line(&cluster, 0, &["00:00:5e:00:01:07", own.as_str()])
            && has_line(&cluster, 1, &["00:00:5e:00:01:07", "shoutvx0", "dst 192.0.2.1"])
    });
}

#[test]
fn an_endpoint_that_moves_takes_its_address_along() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 3]);
    let moved = cluster.hosts[0]
        .desired
        .segments
        .values()
        .next()
        .unwrap()
        .ports
        .values()
        .next()
        .unwrap()
        .mac;
    let third = cluster.hosts[2].address;
    let mac = moved.to_string();
    assert!(has_line(&cluster, 1, &[&mac, "dst 192.0.2.1", "self"]));
    assert!(has_line(&cluster, 1, &[&mac, "shoutvx0", "sticky"]));
    cluster.hosts[1].segment_mut().remote_macs.insert(moved, third);
    cluster.running[1].apply(&cluster.hosts[1]);
    assert!(has_line(&cluster, 1, &[&mac, "dst 192.0.2.3", "self"]));
    assert!(!has_line(&cluster, 1, &[&mac, "dst 192.0.2.1"]));
    cluster.hosts[1].segment_mut().remote_macs.clear();
    cluster.running[1].apply(&cluster.hosts[1]);
    assert!(!has_line(&cluster, 1, &[&mac]), "{}", bridge_table(&cluster, 1));
}

#[test]
fn a_network_without_learning_learns_nothing() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 2]);
    for host in &mut cluster.hosts {
        host.segment_mut().learning = false;
    }
    cluster.advertise();
    let mut last = Capture::open(&cluster.containers[1], "eth0");
    send_from(&cluster.containers[0], [0, 0, 0x5e, 0, 1, 7]);
    while last.receive() != broadcast([0, 0, 0x5e, 0, 1, 7]) {}
    for host in 0..2 {
        assert!(
            !bridge_table(&cluster, host).contains("00:00:5e:00:01:07"),
            "{}",
            bridge_table(&cluster, host)
        );
    }
    // Endpoints still reach each other.
    let receiver = cluster.receiver(1);
    let sender = udp(&cluster.containers[0], (Ipv4Addr::UNSPECIFIED, 0));
    sender.send_to(b"hello", (cluster.address(1), PORT)).unwrap();
    assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 5);
}

/// Without learning, only the pins make endpoints reachable.
#[test]
fn a_restarted_daemon_keeps_remote_pins_until_all_hosts_have_advertised() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 3]);
    for host in &mut cluster.hosts {
        host.segment_mut().learning = false;
    }
    cluster.advertise();
    let before = bridge_table(&cluster, 0);
    let (second, all) = (cluster.hosts[1].address, cluster.hosts[0].segment_mut().remotes.clone());
    // It has received neither advertisement, and does not even know by agreement that the third
    // host has the network.
    let segment = cluster.hosts[0].segment_mut();
    segment.remotes = [second].into();
    segment.replication = Arc::new(flood(&[second]));
    segment.remote_macs.clear();
    cluster.running[0] = Running::start(&mut cluster.hosts[0]);
    assert_eq!(bridge_table(&cluster, 0), before);
    let sender = udp(&cluster.containers[0], (Ipv4Addr::UNSPECIFIED, 0));
    for host in [1, 2] {
        let receiver = cluster.receiver(host);
        sender.send_to(b"hello", (cluster.address(host), PORT)).unwrap();
        assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 5);
    }
    // The third host no longer has the endpoint.
    cluster.hosts[0].segment_mut().replication = Arc::new(flood(&[]));
    cluster.running[0].apply(&cluster.hosts[0]);
    assert!(!bridge_table(&cluster, 0).contains("192.0.2.3"), "{}", bridge_table(&cluster, 0));
    cluster.hosts[0].segment_mut().remotes = all;
    cluster.advertise();
    assert_eq!(bridge_table(&cluster, 0).lines().count(), before.lines().count());
}
