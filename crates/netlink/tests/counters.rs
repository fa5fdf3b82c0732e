//! Counters of devices and of the IGMP/MLD filter. These tests need root.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by failing")]

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use shoutd_netlink::{FilteredPackets, IgmpMldFilter, Namespace, Route, SegmentRules};

const PATIENCE: Duration = Duration::from_secs(20);

const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 1, 1, 1);

const MULTICAST: u64 = 10;
const UNICAST: u64 = 7;

/// A bridge with a container's port and another port that stands for the tunnel.
const DEVICES: [&str; 13] = [
    "link add br0 type bridge mcast_snooping 0",
    "link add port0 type veth peer name inside0",
    "link add tunnel type veth peer name outside0",
    "link set port0 master br0",
    "link set tunnel master br0",
    "link set br0 up",
    "link set port0 up",
    "link set tunnel up",
    "link set outside0 up",
    "link set inside0 up",
    "address add 10.0.0.1/24 dev inside0",
    "neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev inside0",
    "route add 224.0.0.0/4 dev inside0",
];

/// A namespace with these devices, and with IPv4 only.
fn namespace() -> Namespace {
    let namespace = Namespace::anonymous().unwrap();
    const DISABLE_IPV6: &str = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
    namespace.run(|| fs::write(DISABLE_IPV6, "1")).unwrap().unwrap();
    for arguments in DEVICES {
        let status = namespace.run(|| Command::new("ip").args(arguments.split(' ')).status());
        assert!(status.unwrap().unwrap().success(), "ip {arguments}");
    }
    namespace
}

#[test]
fn packets_to_the_tunnel_are_counted_by_kind_and_igmp_apart() {
    let namespace = namespace();
    let mut filter = IgmpMldFilter::open(&namespace).unwrap();
    assert_eq!(filter.counts().unwrap(), FilteredPackets::default(), "there is no filter");
    filter.install("tunnel", &SegmentRules::default()).unwrap();
    assert_eq!(filter.counts().unwrap(), FilteredPackets::default());
    let socket = namespace.run(|| UdpSocket::bind((OWN, 0)).unwrap()).unwrap();
    // A report, which the filter drops.
    socket.join_multicast_v4(&GROUP, &OWN).unwrap();
    for _ in 0..MULTICAST {
        socket.send_to(b"x", (GROUP, 5001)).unwrap();
    }
    for _ in 0..UNICAST {
        socket.send_to(b"x", (OTHER, 5001)).unwrap();
    }
    let begin = Instant::now();
    let mut counts = filter.counts().unwrap();
    while counts.unicast < UNICAST || counts.group_management == 0 {
        assert!(begin.elapsed() < PATIENCE, "{counts:?}");
        sleep(Duration::from_millis(20));
        counts = filter.counts().unwrap();
    }
    let spread = counts.spread - counts.refused;
    assert_eq!((spread, counts.unicast, counts.over_rate), (MULTICAST, UNICAST, 0));
    let links = Route::open(&namespace).unwrap().link_counters().unwrap();
    let named = |name: &str| links.iter().find(|link| link.name == name).unwrap();
    let (port, tunnel) = (named("port0"), named("tunnel"));
    assert!(port.is_veth && !named("br0").is_veth);
    assert!(port.counters.received_packets > MULTICAST + UNICAST, "{port:?}");
    assert!(port.counters.received_octets > port.counters.received_packets * 40, "{port:?}");
    assert!(tunnel.counters.sent_packets >= MULTICAST + UNICAST, "{tunnel:?}");
    assert_eq!((port.counters.sent_errors, port.counters.received_dropped), (0, 0));
}
