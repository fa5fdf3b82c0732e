//! Queriers in containers, as multicast routers are: the bridge then stops querying.

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use shoutd_core::plane::DeviceName;
use shoutd_dataplane::Kernel;
use shoutd_netlink::{MdbEntry, Namespace, Route};

use crate::support::{Capture, PATIENCE, Running, World, connected, eventually, ip, run, udp};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
/// Set where the kernel has interfaces of VLANs.
const VLANS: &str = "SHOUTD_VLANS";

/// A setting of the bridge, as `ip` shows it.
fn setting(segment: &Namespace, name: &str) -> u64 {
    let shown = segment.run(|| run("ip", &["-d", "link", "show", "shoutbr0"])).unwrap();
    let mut words = shown.split_whitespace().skip_while(|word| *word != name);
    words.nth(1).unwrap().parse().unwrap()
}

pub fn is_member(segment: &Namespace, group: IpAddr) -> bool {
    let mut route = Route::open(segment).unwrap();
    let bridge = route.link("shoutbr0").unwrap().unwrap().index;
    let is_it =
        |entry: &MdbEntry| matches!(entry, MdbEntry::Member(member) if member.group == group);
    route.bridge_groups(bridge).unwrap().iter().any(is_it)
}

/// The checksum of the Internet protocols (RFC 1071).
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!u16::try_from(folded).unwrap()).to_be_bytes()
}

/// An IGMPv3 general query that need not be answered within the hour.
pub fn query(from: Ipv4Addr) -> Vec<u8> {
    let mut igmp = [0x11, 0xff, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0];
    let sum = checksum(&igmp);
    igmp[2..4].copy_from_slice(&sum);
    let mut header =
        [0x46, 0xc0, 0, 36, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 224, 0, 0, 1, 0x94, 4, 0, 0];
    header[12..16].copy_from_slice(&from.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [&[1, 0, 0x5e, 0, 0, 1][..], &[2, 0, 0, 0, 0, 99], &[8, 0], &header, &igmp].concat()
}

/// The same in MLDv2, with two hours.
pub fn query_v6() -> Vec<u8> {
    let (from, to) = (
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).octets(),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets(),
    );
    let mut mld = [&[130, 0, 0, 0, 0xff, 0xff, 0, 0], &[0; 16][..], &[2, 125, 0, 0]].concat();
    let sum = checksum(&[&from[..], &to, &[0, 0, 0, 28, 0, 0, 0, 58], &mld].concat());
    mld.splice(2..4, sum);
    let header =
        [&[0x60, 0, 0, 0, 0, 36, 0, 1][..], &from, &to, &[58, 0, 5, 2, 0, 0, 1, 0]].concat();
    [&[0x33, 0x33, 0, 0, 0, 1][..], &[2, 0, 0, 0, 0, 99], &[0x86, 0xdd], &header, &mld].concat()
}

/// Divides all times by a hundred, and returns how long a membership then lasts.
pub fn hasten(segment: &Namespace) -> Duration {
    set_bridge(segment, "mcast_querier", 0);
    let intervals = ["query", "startup_query", "query_response", "membership", "querier"]
        .map(|name| format!("mcast_{name}_interval"));
    let mut membership = Duration::ZERO;
    for name in &intervals {
        // The kernel refuses query intervals below one second.
        let scaled = setting(segment, name) / 100;
        let is_query = name.contains("y_interval") && !name.contains("querier");
        set_bridge(segment, name, if is_query { scaled.max(100) } else { scaled });
        if name.contains("membership") {
            membership = Duration::from_millis(scaled * 10);
        }
    }
    set_bridge(segment, "mcast_query_response_interval", 10);
    set_bridge(segment, "mcast_querier", 1);
    membership
}

fn set_bridge(segment: &Namespace, name: &str, value: u64) {
    segment
        .run(|| ip(&["link", "set", "shoutbr0", "type", "bridge", name, &value.to_string()]))
        .unwrap();
}

/// Whether a frame is a query for the group in the VLAN 7.
fn is_query_in_vlan(frame: &[u8]) -> bool {
    frame.get(12..19) == Some(&[0x81, 0, 0, 7, 8, 0, 0x46]) && frame.get(42) == Some(&0x11)
}

/// Whether the frame is an IGMP query in the VLAN that wants an answer within 200 ms.
fn is_query_after_end(frame: &[u8]) -> bool {
    is_query_in_vlan(frame) && frame.get(43) == Some(&2)
}

/// A host with two containers.
fn two_containers() -> (World, [Namespace; 2]) {
    let (mut world, mut containers) = connected(1);
    let host = &mut world.hosts[0];
    host.want_endpoint(2);
    host.settle();
    let other = host.start_container(2);
    host.settle();
    (world, [containers.remove(0), other])
}

/// With all times divided by a hundred.
#[test]
fn a_querier_that_stops_costs_no_membership() {
    let (mut world, [asking, other]) = two_containers();
    let host = &mut world.hosts[0];
    let segment = host.segment();
    let membership = hasten(&segment);
    let receiver = udp(&other, (Ipv4Addr::UNSPECIFIED, 5000));
    receiver.join_multicast_v4(&GROUP, &host.container_address(2)).unwrap();
    eventually("the membership", || is_member(&segment, GROUP.into()));

    // The receiver has answered all queries of the bridge.
    let mut captured = Capture::open(&other, "eth0");
    let is_igmp = |kind: u8, frame: &[u8]| {
        frame.get(12..15) == Some(&[8, 0, 0x46]) && frame.get(38) == Some(&kind)
    };
    for _ in 0..4 {
        while !is_igmp(0x11, &captured.receive()) {}
        while !is_igmp(0x22, &captured.receive()) {}
    }
    // It queries once, nobody answers, and it never queries again.
    Capture::open(&asking, "eth0").send(&query(host.container_address(1)));
    let begin = Instant::now();
    while begin.elapsed() < membership + Duration::from_secs(3) {
        assert!(is_member(&segment, GROUP.into()), "lost after {:?}", begin.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// This one continues to query with such long response times that all memberships would expire many
/// times. With all times divided by a hundred.
#[test]
fn a_querier_with_long_response_times_costs_no_membership() {
    let (mut world, [asking, other]) = two_containers();
    let host = &mut world.hosts[0];
    let segment = host.segment();
    let membership = hasten(&segment);
    let group_v6 = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 1, 3);
    let receivers =
        [udp(&other, (Ipv4Addr::UNSPECIFIED, 5000)), udp(&other, (Ipv6Addr::UNSPECIFIED, 5001))];
    receivers[0].join_multicast_v4(&GROUP, &host.container_address(2)).unwrap();
    let interface = other.run(|| nix::net::if_::if_nametoindex("eth0")).unwrap().unwrap();
    receivers[1].join_multicast_v6(&group_v6, interface).unwrap();
    let groups = [GROUP.into(), group_v6.into()];
    eventually("the memberships", || groups.iter().all(|group| is_member(&segment, *group)));

    let mut listener = host.kernel.memberships();
    let asking = Capture::open(&asking, "eth0");
    let begin = Instant::now();
    while begin.elapsed() < membership * 3 {
        asking.send(&query(host.container_address(1)));
        asking.send(&query_v6());
        listener.update(&mut Vec::new()).unwrap();
        let missing: Vec<_> = groups.iter().filter(|group| !is_member(&segment, **group)).collect();
        assert!(missing.is_empty(), "{missing:?} lost after {:?}", begin.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// An IGMPv2 report or leave of a group in this VLAN.
fn in_vlan(vlan: u8, kind: u8, group: Ipv4Addr) -> Vec<u8> {
    let mut igmp = [&[kind, 0, 0, 0][..], &group.octets()].concat();
    let sum = checksum(&igmp);
    igmp.splice(2..4, sum);
    let mut header = [
        &[0x46, 0xc0, 0, 32, 0, 0, 0, 0, 1, 2, 0, 0, 10, 7, 7, 1][..],
        &group.octets(),
        &[0x94, 4, 0, 0],
    ]
    .concat();
    let sum = checksum(&header);
    header.splice(10..12, sum);
    let [_, b, c, d] = group.octets();
    [
        &[1, 0, 0x5e, b & 0x7f, c, d][..],
        &[2, 0, 0, 0, 0, 99],
        &[0x81, 0, 0, vlan, 8, 0],
        &header,
        &igmp,
    ]
    .concat()
}

/// This kernel may have no VLAN interfaces, so the container sends their frames itself.
#[test]
fn a_member_in_a_vlan_is_queried_there() {
    let (mut world, [member, _]) = two_containers();
    let host = &mut world.hosts[0];
    let segment = host.segment();
    hasten(&segment);
    let running = Running::start(host);
    let frames = Capture::open(&member, "eth0");
    frames.send(&in_vlan(7, 0x16, GROUP));
    eventually("the membership", || is_member(&segment, GROUP.into()));
    // Captured where queries go out: on the other end, the tag is removed before the capture.
    let port = DeviceName::port(&host.endpoint(1));
    let asked = Capture::open(&segment, port.as_str());
    eventually("a query in the VLAN", || {
        asked.pending().iter().any(|frame| is_query_in_vlan(frame))
    });
    // A query follows soon after a membership ended that the VLAN may have had, although the next
    // one at the bridge's interval is far. It wants an answer within 200 ms, those at the interval
    // within 100 ms (see `hasten`).
    segment
        .run(|| ip(&["link", "set", "shoutbr0", "type", "bridge", "mcast_query_interval", "12500"]))
        .unwrap();
    assert!(!asked.pending().iter().any(|frame| is_query_after_end(frame)));
    frames.send(&in_vlan(7, 0x17, GROUP));
    eventually("a query after the end", || {
        asked.pending().iter().any(|frame| is_query_after_end(frame))
    });
    drop(running);
}

/// A socket in a container that has this VLAN interface from now on.
fn in_vlan_of(container: &Namespace, vlan: u8, address: Ipv4Addr) -> UdpSocket {
    container
        .run(|| {
            let id = vlan.to_string();
            ip(&["link", "add", "link", "eth0", "name", "vlan", "type", "vlan", "id", &id]);
            ip(&["address", "add", &format!("{address}/24"), "dev", "vlan"]);
            ip(&["link", "set", "vlan", "up"]);
        })
        .unwrap();
    udp(container, (Ipv4Addr::UNSPECIFIED, 5000))
}

/// The kernel's own members in a VLAN. All times are divided by a hundred.
#[test]
fn who_joins_by_an_interface_of_a_vlan_stays_a_member() {
    if env::var_os(VLANS).is_none() {
        // Few kernels have them built in; `e2e_kernel` runs this on one that has.
        return;
    }
    let (mut world, containers) = connected(2);
    let [near, far] = [1, 2].map(|number| Ipv4Addr::new(10, 7, 8, number));
    let sender = in_vlan_of(&containers[1], 7, far);
    let receiver = in_vlan_of(&containers[0], 7, near);
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let host = &mut world.hosts[0];
    let segment = host.segment();
    let membership = hasten(&segment);

    // The bridge queries without a tag, and removes members that do not answer.
    receiver.join_multicast_v4(&GROUP, &near).unwrap();
    eventually("the membership", || is_member(&segment, GROUP.into()));
    eventually("its end", || !is_member(&segment, GROUP.into()));
    receiver.leave_multicast_v4(&GROUP, &near).unwrap();

    let mut listener = host.kernel.memberships();
    receiver.join_multicast_v4(&GROUP, &near).unwrap();
    eventually("the membership", || is_member(&segment, GROUP.into()));
    let begin = Instant::now();
    while begin.elapsed() < membership * 3 {
        listener.update(&mut Vec::new()).unwrap();
        assert!(is_member(&segment, GROUP.into()), "lost after {:?}", begin.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    containers[1].run(|| ip(&["route", "replace", "239.0.0.0/8", "dev", "vlan"])).unwrap();
    sender.send_to(b"tagged", (GROUP, 5000)).unwrap();
    let mut received = [0; 16];
    let (length, from) = receiver.recv_from(&mut received).unwrap();
    assert_eq!((&received[..length], from.ip()), (&b"tagged"[..], IpAddr::V4(far)));
}
