//! The IGMP/MLD filter: IGMP and MLD stay on their host, and all else passes.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use shoutd_netlink::Namespace;

use crate::support::{Capture, PATIENCE, connected, eventually, run};

const MULTICAST_MAC: [u8; 6] = [0x01, 0x00, 0x5e, 0, 0, 1];
const MULTICAST_MAC_V6: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const SOURCE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(!sum & 0xffff).unwrap().to_be_bytes()
}

fn ethernet(to: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [to.as_slice(), &SOURCE_MAC, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet with the router alert option, as in IGMP.
fn ipv4(to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(24 + payload.len()).unwrap().to_be_bytes();
    let mut header = [
        0x46, 0, length[0], length[1], 0, 0, 0, 0, 1, protocol, 0, 0, 10, 7, 7, 99, 0, 0, 0, 0,
        0x94, 4, 0, 0,
    ];
    header[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    ethernet(MULTICAST_MAC, 0x0800, &[&header, payload].concat())
}

fn igmp(kind: u8, to: Ipv4Addr) -> Vec<u8> {
    let group = if kind == 0x11 { [0; 4] } else { [239, 9, 9, 9] };
    let mut message = if kind == 0x22 {
        // A version 3 report with one record, EXCLUDE without sources.
        [&[kind, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0], group.as_slice()].concat()
    } else {
        [&[kind, 0, 0, 0], group.as_slice()].concat()
    };
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    ipv4(to, 2, &message)
}

/// An IGMPv2 report for a group.
pub fn report(group: Ipv4Addr) -> Vec<u8> {
    let mut message = [&[0x16, 0, 0, 0], group.octets().as_slice()].concat();
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    ipv4(group, 2, &message)
}

/// An IPv6 extension header, with its number.
type Extension = (u8, &'static [u8]);

/// The router alert option of MLD (RFC 2711). The first octet of each header is the next header.
const HOP_BY_HOP: Extension = (0, &[0, 0, 5, 2, 0, 0, 1, 0]);
const DESTINATION_OPTIONS: Extension = (60, &[0, 0, 1, 4, 0, 0, 0, 0]);
/// RFC 4302, with a check value of 12 octets.
const AUTHENTICATION: Extension =
    (51, &[0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);

/// An IPv6 packet with these extension headers.
fn ipv6(extensions: &[Extension], protocol: u8, message: &[u8]) -> Vec<u8> {
    let source: Ipv6Addr = "fe80::99".parse().unwrap();
    let to: Ipv6Addr = "ff02::1".parse().unwrap();
    let mut payload = message.to_vec();
    let mut next = protocol;
    for (number, header) in extensions.iter().rev() {
        payload = [&[next], &header[1..], &payload].concat();
        next = *number;
    }
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let header =
        [&[0x60, 0, 0, 0, length[0], length[1], next, 1], source.octets().as_slice(), &to.octets()]
            .concat();
    ethernet(MULTICAST_MAC_V6, 0x86dd, &[header, payload].concat())
}

/// An ICMPv6 message behind a hop-by-hop header with the router alert option, as in MLD.
fn icmpv6(kind: u8, body: &[u8]) -> Vec<u8> {
    ipv6(&[HOP_BY_HOP], 58, &icmpv6_message(kind, body))
}

fn icmpv6_message(kind: u8, body: &[u8]) -> Vec<u8> {
    let source: Ipv6Addr = "fe80::99".parse().unwrap();
    let to: Ipv6Addr = "ff02::1".parse().unwrap();
    let mut message = [&[kind, 0, 0, 0], body].concat();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let pseudo =
        [&source.octets(), &to.octets(), length.as_slice(), &[0, 0, 0, 58], &message].concat();
    let sum = checksum(&pseudo);
    message[2..4].copy_from_slice(&sum);
    message
}

/// An MLDv1 report behind additional extension headers.
fn hidden_mld(extensions: &[Extension]) -> Vec<u8> {
    let group: Ipv6Addr = "ff05::99".parse().unwrap();
    ipv6(extensions, 58, &icmpv6_message(131, &[&[0, 0, 0, 0], group.octets().as_slice()].concat()))
}

fn mld(kind: u8) -> Vec<u8> {
    let group: Ipv6Addr =
        if kind == 130 { Ipv6Addr::UNSPECIFIED } else { "ff05::99".parse().unwrap() };
    match kind {
        143 => icmpv6(kind, &[&[0, 0, 0, 1, 4, 0, 0, 0], group.octets().as_slice()].concat()),
        _ => icmpv6(kind, &[&[0, 0, 0, 0], group.octets().as_slice()].concat()),
    }
}

/// Frames that must not cross.
fn kept() -> Vec<Vec<u8>> {
    let all = Ipv4Addr::new(224, 0, 0, 1);
    let group = Ipv4Addr::new(239, 9, 9, 9);
    let routers = Ipv4Addr::new(224, 0, 0, 22);
    let messages = [
        (0x11, all),
        (0x12, group),
        (0x16, group),
        (0x17, Ipv4Addr::new(224, 0, 0, 2)),
        (0x22, routers),
    ];
    let hidden = [
        hidden_mld(&[HOP_BY_HOP, DESTINATION_OPTIONS]),
        hidden_mld(&[HOP_BY_HOP, AUTHENTICATION]),
        hidden_mld(&[HOP_BY_HOP, AUTHENTICATION, DESTINATION_OPTIONS]),
    ];
    let messages = messages.into_iter().map(|(kind, to)| igmp(kind, to));
    messages.chain([130, 131, 132, 143].into_iter().map(mld)).chain(hidden).collect()
}

/// Frames that must cross although they are multicast, have a hop-by-hop header, or are ICMPv6.
fn passed() -> Vec<Vec<u8>> {
    let mdns = [0x14, 0xe9, 0x14, 0xe9, 0, 12, 0, 0, b'm', b'd', b'n', b's'];
    vec![
        ipv4(Ipv4Addr::new(224, 0, 0, 251), 17, &mdns),
        ipv4(Ipv4Addr::new(224, 0, 0, 18), 112, &[0x31; 16]),
        ipv4(Ipv4Addr::new(224, 0, 0, 13), 103, &[0x20; 16]),
        ipv4(Ipv4Addr::new(239, 9, 9, 9), 17, &mdns),
        icmpv6(128, &[1; 8]),
        icmpv6(135, &[2; 20]),
        icmpv6(134, &[3; 12]),
        ipv6(&[HOP_BY_HOP], 17, &mdns),
        // OSPF (RFC 4552).
        ipv6(&[AUTHENTICATION], 89, &[3; 16]),
        ethernet(
            [0xff; 6],
            0x0806,
            &[
                0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 7, 7, 99, 0, 0, 0, 0, 0, 0, 10, 7, 7,
                98,
            ],
        ),
    ]
}

/// The frames that cross from a container to the other host's side of the tunnel. A last frame,
/// which always crosses, marks the end.
fn crossing(from: &Namespace, far_segment: &Namespace, frames: &[Vec<u8>]) -> BTreeSet<Vec<u8>> {
    let mut capture = Capture::open(far_segment, "shoutvx0");
    let sender = Capture::open(from, "eth0");
    let last = ethernet([0xff; 6], 0x88b5, &[0x5a; 46]);
    frames.iter().chain([&last]).for_each(|frame| sender.send(frame));
    let deadline = Instant::now() + PATIENCE;
    let mut seen = BTreeSet::new();
    while Instant::now() < deadline {
        let frame = capture.receive();
        if frame == last {
            return seen;
        }
        if frame.get(6..12) == Some(&SOURCE_MAC) {
            seen.insert(frame);
        }
    }
    panic!("the last frame did not arrive");
}

/// Whether a frame is IGMP or MLD, whatever its sender.
fn is_membership(frame: &[u8]) -> bool {
    let ipv4 = frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&2);
    let hop_by_hop = frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(20) == Some(&0);
    ipv4 || hop_by_hop && frame.get(62).is_some_and(|kind| matches!(kind, 130..=132 | 143))
}

#[test]
fn igmp_and_mld_do_not_cross_and_all_else_does() {
    let (mut world, containers) = connected(2);
    let far = world.hosts[1].segment();
    let frames = [kept(), passed()].concat();
    assert_eq!(crossing(&containers[0], &far, &frames), passed().into_iter().collect());

    // Without the filter they do cross, so it is the filter that drops them.
    let near = world.hosts[0].segment();
    near.run(|| run("nft", &["delete", "table", "bridge", "shoutd"])).unwrap();
    assert_eq!(crossing(&containers[0], &far, &frames), frames.iter().cloned().collect());
    // But the other host's filter does not let them in.
    let groups = far.run(|| run("bridge", &["mdb", "show"])).unwrap();
    assert!(!groups.contains("239.9.9.9") && !groups.contains("ff05::99"), "{groups}");

    assert_eq!(world.hosts[0].settle().done.len(), 1);
    assert_eq!(crossing(&containers[0], &far, &frames), passed().into_iter().collect());
}

/// To a bridge without VLAN filtering, tagged frames (IEEE 802.1Q) are the same.
#[test]
fn igmp_and_mld_in_a_vlan_do_not_cross_either() {
    let (world, containers) = connected(2);
    let (near, far) = (world.hosts[0].segment(), world.hosts[1].segment());
    let frames: Vec<Vec<u8>> = kept()
        .iter()
        .map(|frame| [&frame[..12], &[0x81, 0x00, 0x00, 0x05], &frame[12..]].concat())
        .collect();
    assert_eq!(crossing(&containers[0], &far, &frames), BTreeSet::new());
    near.run(|| run("nft", &["delete", "table", "bridge", "shoutd"])).unwrap();
    assert!(!crossing(&containers[0], &far, &frames).is_empty());
    let groups = far.run(|| run("bridge", &["mdb", "show"])).unwrap();
    assert!(!groups.contains("239.9.9.9") && !groups.contains("ff05::99"), "{groups}");
}

/// The filter accepts unicast without further checks: no bridge takes it for a membership
/// (`br_handle_frame_finish`), neither the sender's nor the other host's.
#[test]
fn igmp_and_mld_to_a_unicast_address_have_no_effect() {
    let (world, containers) = connected(2);
    let (near, far) = (world.hosts[0].segment(), world.hosts[1].segment());
    let frames: Vec<Vec<u8>> =
        kept().iter().map(|frame| [&[0x02, 0, 0, 0, 0, 0x98], &frame[6..]].concat()).collect();
    assert_eq!(crossing(&containers[0], &far, &frames), frames.iter().cloned().collect());
    for segment in [near, far] {
        let groups = segment.run(|| run("bridge", &["mdb", "show"])).unwrap();
        assert!(!groups.contains("239.9.9.9") && !groups.contains("ff05::99"), "{groups}");
    }
}

#[test]
fn the_bridges_own_queries_reach_containers_and_not_the_tunnel() {
    let (world, containers) = connected(2);
    let segment = world.hosts[0].segment();
    let tunnel = Capture::open(&segment, "shoutvx0");
    let mut container = Capture::open(&containers[0], "eth0");
    // Restarts the querier instead of waiting for its next query. When a port comes up, the bridge
    // queries all ports.
    segment
        .run(|| {
            run(
                "ip",
                &["link", "set", "shoutbr0", "type", "bridge", "mcast_query_interval", "100"],
            );
            run(
                "ip",
                &[
                    "link",
                    "set",
                    "shoutbr0",
                    "type",
                    "bridge",
                    "mcast_startup_query_interval",
                    "100",
                ],
            );
            run("ip", &["link", "set", "shoutbr0", "type", "bridge", "mcast_snooping", "0"]);
            run("ip", &["link", "set", "shoutbr0", "type", "bridge", "mcast_snooping", "1"]);
        })
        .unwrap();
    let (mut igmp_queries, mut mld_queries) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    while igmp_queries < 2 || mld_queries < 2 {
        assert!(
            Instant::now() < deadline,
            "{igmp_queries} IGMP and {mld_queries} MLD queries were received"
        );
        let frame = container.receive();
        if is_membership(&frame) {
            let is_v4 = frame[12..14] == [8, 0];
            igmp_queries += u32::from(is_v4 && frame[14 + 4 * usize::from(frame[14] & 15)] == 0x11);
            mld_queries += u32::from(!is_v4 && frame[62] == 130);
        }
    }
    assert_eq!(tunnel.pending().into_iter().filter(|frame| is_membership(frame)).count(), 0);
}

/// Containers with old protocol versions, by the kernel's own implementation.
#[test]
fn reports_of_all_versions_stay_on_their_host() {
    let (world, containers) = connected(2);
    let segment = world.hosts[0].segment();
    let tunnel = Capture::open(&segment, "shoutvx0");
    for (igmp, mld) in [("2", "1"), ("3", "2")] {
        let mut reports = Capture::open(&containers[0], "eth0");
        let members = containers[0]
            .run(|| {
                run("sysctl", &["-qw", &format!("net.ipv4.conf.all.force_igmp_version={igmp}")]);
                run("sysctl", &["-qw", &format!("net.ipv6.conf.all.force_mld_version={mld}")]);
                let v4 = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                let v6 = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
                v4.join_multicast_v4(&Ipv4Addr::new(239, 3, 3, 3), &Ipv4Addr::UNSPECIFIED).unwrap();
                v6.join_multicast_v6(
                    &"ff05::33".parse().unwrap(),
                    nix::net::if_::if_nametoindex("eth0").unwrap(),
                )
                .unwrap();
                let begin = Instant::now();
                let mut families = BTreeSet::new();
                while families.len() < 2 {
                    assert!(begin.elapsed() < PATIENCE, "reports of {families:?} only");
                    let frame = reports.receive();
                    if is_membership(&frame) {
                        families.insert(frame[12..14].to_vec());
                    }
                }
                (v4, v6)
            })
            .unwrap();
        // The capture has a report before the bridge has it.
        eventually("the bridge has the memberships", || {
            let groups = segment.run(|| run("bridge", &["mdb", "show"])).unwrap();
            assert!(!groups.contains("port shoutvx0"), "{groups}");
            groups.contains("ff05::33") && groups.contains("239.3.3.3")
        });
        drop(members);
    }
    assert_eq!(tunnel.pending().into_iter().filter(|frame| is_membership(frame)).count(), 0);
}
