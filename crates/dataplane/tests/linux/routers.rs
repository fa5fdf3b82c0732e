//! Multicast routers in containers, with members only on other hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use shoutd_core::MacAddress;
use shoutd_core::advertise::{AdvertisedEndpoint, AdvertisedNetwork};
use shoutd_core::multicast::{Memberships, RemoteMembers, SourceFilter};
use shoutd_dataplane::MembershipChange;

use crate::followed::Followed;
use crate::queriers::{checksum, is_member, query, query_v6};
use crate::support::{Capture, PATIENCE};

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 7, 7, 200);

/// A host with a container that is a multicast router.
struct Routed {
    followed: Followed,
    router: Capture,
}

impl Routed {
    fn start() -> Self {
        let followed = Followed::start(1, &[]);
        let router = Capture::open(&followed.containers[0], "eth0");
        Self { followed, router }
    }

    /// Advertises members of these groups on another host.
    fn advertise(&mut self, groups: &[&str]) {
        let groups =
            groups.iter().map(|group| (group.parse().unwrap(), SourceFilter::all())).collect();
        let endpoint = AdvertisedEndpoint {
            mac: MacAddress::for_ipv4(ELSEWHERE),
            addresses: BTreeSet::from([ELSEWHERE.into()]),
            names: BTreeSet::new(),
        };
        let network = AdvertisedNetwork {
            endpoints: BTreeMap::from([("b".repeat(64).parse().unwrap(), endpoint)]),
            memberships: Memberships { groups, router: false },
            mtu: None,
        };
        let host = &mut self.followed.world.hosts[0];
        host.segment_mut().elsewhere = RemoteMembers::new([Arc::new(network)].into_iter());
        self.followed.source.desire(Arc::new(host.desired.clone()));
    }

    /// The next report of this kind, from its first record or its group on.
    fn next(&mut self, what: &str, is_it: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let mut changes = Vec::new();
            self.followed.source.update(&mut changes).unwrap();
            // Nobody has joined anything on this host, so any membership would come from our
            // reports.
            for change in &changes {
                match change {
                    MembershipChange::Group(..) => panic!("{changes:?}"),
                    MembershipChange::Whole(_, memberships) => {
                        assert!(memberships.groups.is_empty(), "{changes:?}");
                    }
                    _ => {}
                }
            }
            if let Some(frame) = self.router.pending().into_iter().find(|frame| is_it(frame)) {
                return frame;
            }
            assert!(std::time::Instant::now() < deadline, "no {what} within {PATIENCE:?}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// The next IGMP message of this type from shoutd.
    fn igmp(&mut self, kind: u8) -> Vec<u8> {
        let frame = self.next(&format!("message of IGMP of type {kind:#x}"), |frame| {
            frame.get(12..15) == Some(&[8, 0, 0x46])
                && frame.get(38) == Some(&kind)
                && frame.get(26..30) == Some(&ELSEWHERE.octets())
        });
        frame[38..].to_vec()
    }

    fn mld(&mut self, kind: u8, group: &str) -> Vec<u8> {
        let IpAddr::V6(group) = group.parse().unwrap() else { panic!("{group} is not IPv6") };
        let is_it =
            |frame: &[u8]| frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(62) == Some(&kind);
        let names =
            |frame: &[u8]| frame.windows(16).skip(62).any(|octets| octets == group.octets());
        self.next(&format!("message of MLD of type {kind}"), |frame| is_it(frame) && names(frame))
            [62..]
            .to_vec()
    }
}

/// A general query of IGMPv2.
fn query_v2(from: Ipv4Addr) -> Vec<u8> {
    let mut frame = query(from);
    frame.truncate(14 + 24 + 8);
    frame[14 + 3] = 32;
    frame[39] = 100;
    for (at, range) in [(24, 14..38), (40, 38..46)] {
        frame[at..at + 2].fill(0);
        let sum = checksum(&frame[range]);
        frame[at..at + 2].copy_from_slice(&sum);
    }
    frame
}

#[test]
fn an_ipv4_router_gets_reports_of_members_on_other_hosts() {
    let mut routed = Routed::start();
    routed.advertise(&["239.1.2.3", "224.0.0.251"]);
    // A router that has not queried gets no reports.
    let asks = routed.followed.world.hosts[0].container_address(1);
    routed.router.send(&query(asks));
    assert_eq!(routed.igmp(0x22)[6..], [0, 1, 2, 0, 0, 0, 239, 1, 2, 3]);
    // It gets them again at its next query.
    routed.router.send(&query(asks));
    assert_eq!(routed.igmp(0x22)[6..], [0, 1, 2, 0, 0, 0, 239, 1, 2, 3]);

    // Joins and leaves are reported at once.
    routed.advertise(&["239.1.2.3", "239.1.2.4"]);
    assert_eq!(routed.igmp(0x22)[6..], [0, 1, 4, 0, 0, 0, 239, 1, 2, 4]);
    routed.advertise(&["239.1.2.4"]);
    while routed.igmp(0x22)[6..] != [0, 1, 3, 0, 0, 0, 239, 1, 2, 3] {}

    // In the router's version.
    routed.router.send(&query_v2(asks));
    assert_eq!(routed.igmp(0x16)[4..], [239, 1, 2, 4]);
    routed.advertise(&[]);
    assert_eq!(routed.igmp(0x17)[4..], [239, 1, 2, 4]);

    let segment = routed.followed.segment();
    assert!(
        !["239.1.2.3", "239.1.2.4"].iter().any(|group| is_member(&segment, group.parse().unwrap()))
    );
}

#[test]
fn an_ipv6_router_gets_reports_of_members_on_other_hosts() {
    let mut routed = Routed::start();
    routed.advertise(&["ff15::7", "ff02::fb"]);
    routed.router.send(&query_v6());
    assert_eq!(routed.mld(143, "ff15::7")[6..12], [0, 1, 2, 0, 0, 0]);
    routed.advertise(&["ff02::fb"]);
    assert_eq!(routed.mld(143, "ff15::7")[6..12], [0, 1, 3, 0, 0, 0]);
    assert!(!is_member(&routed.followed.segment(), "ff15::7".parse().unwrap()));
}

/// After a leave the router asks whether the group has other members.
#[test]
fn a_group_specific_query_is_answered() {
    let mut routed = Routed::start();
    routed.advertise(&["239.1.2.3", "239.1.2.4"]);
    let asks = routed.followed.world.hosts[0].container_address(1);
    routed.router.send(&query(asks));
    assert_eq!(routed.igmp(0x22)[6..8], [0, 2]);
    let mut one = query(asks);
    one[42..46].copy_from_slice(&[239, 1, 2, 4]);
    one[40..42].fill(0);
    let sum = checksum(&one[38..]);
    one[40..42].copy_from_slice(&sum);
    routed.router.send(&one);
    assert_eq!(routed.igmp(0x22)[6..], [0, 1, 2, 0, 0, 0, 239, 1, 2, 4]);
}
