//! Counted packets: each place counts what passes it, and nothing else.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use shoutd_core::explain::{ContainerCounts, Counts, InOut, KeptAt, TraceProbe};
use shoutd_core::plane::Tier;
use shoutd_dataplane::{Counting, CountsWanted, Keeper, Subject, send_probe};

use crate::cluster::{Cluster, PORT};
use crate::support::{PATIENCE, ip, udp, vni};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const PROBE: TraceProbe = TraceProbe { size: 64, ttl: 1, count: 5 };

fn subject(cluster: &Cluster, host: usize) -> Subject {
    let host = &cluster.hosts[host];
    Subject { endpoint: host.endpoint(1), sandbox: Some(host.sandbox_path(1)) }
}

fn wanted(cluster: &Cluster, host: usize, group: IpAddr) -> CountsWanted {
    let others = cluster.hosts.iter().map(|host| host.address);
    CountsWanted {
        vni: vni(),
        group,
        source: None,
        port: Some(PORT),
        subjects: vec![subject(cluster, host)],
        peers: others.filter(|address| *address != cluster.hosts[host].address).collect(),
        encrypted: false,
        keeps: false,
    }
}

/// Counts on this host with these wishes.
fn open(cluster: &Cluster, host: usize, wanted: &CountsWanted) -> Counting {
    let path = cluster.hosts[host].segment_path();
    let directory = path.parent().unwrap();
    cluster.hosts[host].namespace.run(|| Counting::open(directory, wanted)).unwrap().unwrap()
}

fn open_all(cluster: &Cluster, group: IpAddr) -> Vec<Counting> {
    let hosts = 0..cluster.hosts.len();
    hosts.map(|host| open(cluster, host, &wanted(cluster, host, group))).collect()
}

/// Sends a probe from the first host's container, and waits until the socket has all of it.
fn probe(cluster: &Cluster, group: IpAddr, probe: &TraceProbe, to: &UdpSocket) {
    let path = cluster.hosts[0].segment_path();
    let wanted = wanted(cluster, 0, group);
    send_probe(path.parent().unwrap(), &wanted, &subject(cluster, 0), probe).unwrap();
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..probe.count {
        let mut buffer = vec![0; 65_536];
        assert_eq!(to.recv(&mut buffer).unwrap(), usize::from(probe.size));
    }
}

fn finish(counting: Vec<Counting>) -> Vec<Counts> {
    counting.into_iter().map(|counting| counting.finish().unwrap()).collect()
}

fn container(counts: &Counts) -> ContainerCounts {
    *counts.containers.values().next().unwrap()
}

const NONE: InOut = InOut { inbound: 0, outbound: 0 };
const SENT: InOut = InOut { inbound: 0, outbound: 5 };
const CAME: InOut = InOut { inbound: 5, outbound: 0 };

/// Five packets came from the first host's container to the second one's.
fn check(cluster: &Cluster, counts: &[Counts]) {
    let [sender, receiver, other] = counts else { panic!("three hosts") };
    let address = |host: usize| cluster.hosts[host].address;
    let at = container(sender);
    assert_eq!((at.interface, at.port, at.elsewhere), (SENT, CAME, 0));
    assert_eq!(sender.tunnel, SENT);
    assert_eq!(sender.underlay, [(address(1), SENT), (address(2), NONE)].into());

    assert_eq!(receiver.underlay, [(address(0), CAME), (address(2), NONE)].into());
    assert_eq!(receiver.tunnel, CAME);
    let at = container(receiver);
    assert_eq!((at.interface, at.port, at.elsewhere), (CAME, SENT, 0));
    assert!(at.delivered >= 5, "{at:?}");

    let at = container(other);
    assert_eq!((at.interface, at.port, other.tunnel), (NONE, NONE, NONE));
    assert_eq!(other.underlay, [(address(0), NONE), (address(1), NONE)].into());
}

#[test]
fn each_place_counts_what_passes_it() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 3]);
    let receiver = cluster.receiver(1);
    receiver.join_multicast_v4(&GROUP, &cluster.address(1)).unwrap();
    let is_member = |group: IpAddr| {
        move |memberships: &shoutd_core::multicast::Memberships| {
            memberships.groups.contains_key(&group)
        }
    };
    cluster.until(1, "the membership", is_member(GROUP.into()));
    cluster.advertise();
    // Each datagram of the second probe is sent in three fragments.
    for size in [64, 3000] {
        let counting = open_all(&cluster, GROUP.into());
        probe(&cluster, GROUP.into(), &TraceProbe { size, ..PROBE }, &receiver);
        check(&cluster, &finish(counting));
    }

    drop(receiver);
    let group = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 9);
    let receiver = udp(&cluster.containers[1], (Ipv6Addr::UNSPECIFIED, PORT));
    let index =
        cluster.containers[1].run(|| nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap();
    receiver.join_multicast_v6(&group, index).unwrap();
    cluster.until(1, "the membership", is_member(group.into()));
    cluster.advertise();
    for size in [64, 3000] {
        let counting = open_all(&cluster, group.into());
        probe(&cluster, group.into(), &TraceProbe { size, ..PROBE }, &receiver);
        check(&cluster, &finish(counting));
    }
}

#[test]
fn kept_packets_are_whole_and_in_order() {
    let cluster = Cluster::start(&[Tier::VxlanMdb; 2]);
    let sender = cluster.sender(0);
    let wanted = CountsWanted { keeps: true, ..wanted(&cluster, 0, GROUP.into()) };
    let counting = open(&cluster, 0, &wanted);
    for number in 0..5_u8 {
        sender.send_to(&[number; 100], (GROUP, PORT)).unwrap();
    }
    let mut keeper = Keeper::new(3);
    keeper.read(&counting);
    let kept = keeper.finish();
    let id = cluster.hosts[0].endpoint(1);
    for (at, outbound) in
        [(KeptAt::Interface(id.clone()), true), (KeptAt::Port(id), false), (KeptAt::Tunnel, true)]
    {
        let place = kept.iter().find(|place| place.at == at).unwrap();
        assert_eq!(place.packets.len(), 3, "{at:?}");
        assert!(place.packets.is_sorted_by_key(|packet| packet.at) && place.packets[0].at > 0);
        for (number, packet) in (0..).zip(&place.packets) {
            let octets = STANDARD.decode(&packet.octets).unwrap();
            assert_eq!((packet.outbound, packet.length, octets.len()), (outbound, 128, 128));
            assert_eq!(octets[28..], [number; 100], "{at:?}");
        }
    }
    // What is not kept is counted.
    assert_eq!(counting.finish().unwrap().tunnel.outbound, 5);
}

#[test]
fn other_ports_sources_and_groups_are_not_counted() {
    let cluster = Cluster::start(&[Tier::VxlanMdb; 2]);
    let sender = cluster.sender(0);
    let source = IpAddr::from(cluster.address(0));
    let usual = wanted(&cluster, 0, GROUP.into());
    let chosen: [(CountsWanted, u64); 6] = [
        (usual.clone(), 1),
        (CountsWanted { port: None, ..usual.clone() }, 1),
        (CountsWanted { source: Some(source), ..usual.clone() }, 1),
        (CountsWanted { port: Some(PORT + 1), ..usual.clone() }, 0),
        (CountsWanted { source: Some([10, 9, 9, 9].into()), ..usual.clone() }, 0),
        (CountsWanted { group: [239, 1, 2, 4].into(), ..usual }, 0),
    ];
    let counting: Vec<Counting> =
        chosen.iter().map(|(wanted, _)| open(&cluster, 0, wanted)).collect();
    sender.send_to(b"one", (GROUP, PORT)).unwrap();
    for (counts, (wanted, expected)) in finish(counting).iter().zip(chosen) {
        assert_eq!(container(counts).interface.outbound, expected, "{wanted:?}");
        assert_eq!(counts.tunnel.outbound, expected, "{wanted:?}");
    }
}

#[test]
fn what_a_container_sends_by_another_interface_is_counted_apart() {
    let cluster = Cluster::start(&[Tier::VxlanMdb; 2]);
    let inside = &cluster.containers[0];
    inside
        .run(|| {
            ip(&["link", "add", "eth1", "type", "veth", "peer", "name", "far"]);
            ip(&["address", "add", "10.8.8.1/24", "dev", "eth1"]);
            ip(&["link", "set", "eth1", "up"]);
            ip(&["link", "set", "far", "up"]);
            ip(&["route", "add", "239.1.2.3", "dev", "eth1"]);
        })
        .unwrap();
    let counting = open(&cluster, 0, &wanted(&cluster, 0, GROUP.into()));
    udp(inside, (Ipv4Addr::UNSPECIFIED, 0)).send_to(b"one", (GROUP, PORT)).unwrap();
    let counts = counting.finish().unwrap();
    let at = container(&counts);
    assert_eq!((at.interface, at.elsewhere), (NONE, 1));
}

/// A reader that copied packets would fall behind a fast sender.
#[test]
fn a_fast_sender_is_counted_exactly() {
    let cluster = Cluster::start(&[Tier::VxlanMdb; 2]);
    let sender = cluster.sender(0);
    sender.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let counting = open(&cluster, 0, &wanted(&cluster, 0, GROUP.into()));
    let sent: BTreeSet<usize> =
        (0..20_000).filter(|_| sender.send_to(&[0; 1200], (GROUP, PORT)).is_ok()).collect();
    let counts = counting.finish().unwrap();
    let at = container(&counts);
    let sent = u64::try_from(sent.len()).unwrap();
    assert_eq!((at.interface.outbound, at.port.inbound), (sent, sent));
    assert_eq!(counts.tunnel.outbound, sent);
}
