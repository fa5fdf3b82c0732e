//! Where packets stop: the first place that they do not pass is named first.

use shoutd_core::explain::{AskWhy, ContainerCounts, Counts, InOut, Trace, trace};
use shoutd_core::multicast::SourceFilter;

use super::{World, ip, question, vtep};

const SENT: u64 = 1000;

impl World {
    /// All packets passed all places, in five seconds or as a probe.
    fn counted(is_exact: bool) -> Self {
        let mut world = Self::healthy();
        for number in [1, 2] {
            let (inbound, outbound) = if number == 1 { (0, SENT) } else { (SENT, 0) };
            let passed = InOut { inbound, outbound };
            let at_container = ContainerCounts {
                interface: passed,
                port: InOut { inbound: outbound, outbound: inbound },
                elsewhere: 0,
                delivered: inbound,
            };
            let endpoint = world.container(number).endpoint.clone();
            world.facts(number).counts = Some(Counts {
                milliseconds: 5000,
                is_exact,
                containers: [(endpoint, at_container)].into(),
                left_out: 0,
                tunnel: passed,
                underlay: [(vtep(if number == 1 { 2 } else { 1 }), passed)].into(),
            });
        }
        world
    }

    fn counts(&mut self, number: usize) -> &mut Counts {
        self.facts(number).counts.as_mut().unwrap()
    }

    fn at_container(&mut self, number: usize) -> &mut ContainerCounts {
        self.counts(number).containers.values_mut().next().unwrap()
    }

    fn trace(&self, asked: &AskWhy) -> Trace {
        trace(asked, "foo", &self.hosts, 5000).unwrap()
    }

    fn cause(&self) -> String {
        let found = self.trace(&question());
        found.explanation.cause().map_or_else(String::new, |cause| cause.text.clone())
    }
}

/// All packets of a probe passed all places.
pub(super) fn counted() -> World {
    World::counted(true)
}

/// Nothing passed the underlay.
trait Silence {
    fn silence(&mut self);
}

impl Silence for Counts {
    fn silence(&mut self) {
        self.underlay.values_mut().for_each(|peer| *peer = InOut::default());
    }
}

#[test]
fn a_host_at_whose_tunnel_nobody_counted_is_not_broken() {
    let mut world = World::counted(true);
    world.counts(1).underlay.clear();
    world.counts(2).underlay.clear();
    assert_eq!(world.cause(), "");
}

#[test]
fn a_host_that_did_not_count_is_named_and_what_it_left_out_is_said() {
    let mut world = World::counted(true);
    world.facts(1).counts = None;
    world.facts(1).uncounted = Some("it is busy".to_owned());
    assert_eq!(world.cause(), "host1 did not count packets: it is busy");

    let mut world = World::counted(true);
    world.counts(2).left_out = 7;
    let found = world.trace(&question()).explanation;
    assert_eq!(found.cause(), None);
    assert!(found.findings.iter().any(|finding| finding.text.starts_with("7 containers or hosts")));
}

#[test]
fn the_way_is_shown_in_its_order_and_nothing_is_broken() {
    for is_exact in [false, true] {
        for from in [None, Some("c1".to_owned())] {
            let found = World::counted(is_exact).trace(&AskWhy { from, ..question() });
            assert_eq!(found.explanation.cause(), None);
            let places: Vec<&str> = found.counts.iter().map(|count| count.place.as_str()).collect();
            assert_eq!(
                places,
                [
                    "eth0 of c1",
                    "port of c1",
                    "VXLAN device",
                    "underlay, to host2",
                    "underlay, from host1",
                    "VXLAN device",
                    "port of c2",
                    "eth0 of c2",
                ]
            );
            assert!(found.counts.iter().all(|count| count.packets == SENT), "{found:?}");
        }
    }
}

type Loss = (fn(&mut World), &'static str);

/// Places after which packets are missing, and all later places.
const LOSSES: &[Loss] = &[
    (
        |world| {
            world.at_container(1).interface.outbound = 0;
        },
        "c1 sent no packet to 224.1.1.1 (UDP port 5001)",
    ),
    (
        |world| {
            world.at_container(1).interface.outbound = 0;
            world.at_container(1).elsewhere = 7;
        },
        "c1 sent 7 packets to 224.1.1.1 (UDP port 5001) by another interface, and none by eth0",
    ),
    (
        |world| world.at_container(1).port.inbound = 0,
        "none of 1000 packets that passed the interface eth0 of c1 reached its port",
    ),
    (
        |world| world.counts(1).tunnel.outbound = 400,
        "600 of 1000 packets that passed the containers' ports on host1 did not reach its VXLAN",
    ),
    (
        |world| world.counts(1).silence(),
        "none of 1000 packets that passed the VXLAN device of host1 reached its interface towards",
    ),
    (
        |world| world.counts(2).silence(),
        "none of 1000 packets that passed the interface of host1 reached that of host2",
    ),
    (
        |world| world.counts(2).tunnel.inbound = 0,
        "none of 1000 packets that passed the underlay of host2 reached its VXLAN device",
    ),
    (
        |world| world.at_container(2).port.outbound = 0,
        "none of 1000 packets that passed the bridge of host2 reached the port of c2",
    ),
    (
        |world| world.at_container(2).interface.inbound = 0,
        "none of 1000 packets that passed the port of c2 reached its interface eth0",
    ),
    (
        |world| world.at_container(2).delivered = 3,
        "997 of 1000 packets that passed the interface eth0 of c2 did not reach its sockets",
    ),
];

#[test]
fn the_first_place_that_packets_do_not_pass_is_the_cause() {
    for (from, (lose, expected)) in LOSSES.iter().enumerate() {
        let mut world = World::counted(true);
        // What is lost at one place cannot reach a later one.
        for (later, _) in LOSSES.iter().skip(from.max(1) + 1).rev() {
            later(&mut world);
        }
        lose(&mut world);
        assert!(world.cause().contains(expected), "{}: {expected}", world.cause());
    }
}

#[test]
fn packets_at_the_edges_of_the_time_are_not_lost() {
    let mut world = World::counted(false);
    world.counts(2).underlay.values_mut().for_each(|peer| peer.inbound -= 20);
    assert_eq!(world.cause(), "");
    world.counts(2).underlay.values_mut().for_each(|peer| peer.inbound -= 100);
    assert!(world.cause().contains("120 of 1000"), "{}", world.cause());

    let mut world = World::counted(true);
    world.counts(2).underlay.values_mut().for_each(|peer| peer.inbound -= 1);
    assert!(world.cause().contains("1 of 1000"), "{}", world.cause());
}

#[test]
fn what_a_container_does_not_want_is_not_lost() {
    let mut world = World::counted(true);
    world.at_container(2).port.outbound = 0;
    world.at_container(2).interface.inbound = 0;
    world.at_container(2).delivered = 0;
    world.container(2).port.as_mut().unwrap().filter =
        Some(SourceFilter::Include([ip("10.0.0.1")].into()));
    let asked = AskWhy { from: None, ..question() };
    // Of several sources, it is not known how many packets are the selected one's.
    assert_eq!(world.trace(&asked).explanation.cause(), None);
}

#[test]
fn packets_prove_that_the_senders_routes_do_not_matter() {
    let mut world = World::counted(true);
    world.inside(1).route = Some("eth1".to_owned());
    assert_eq!(world.cause(), "");
}

#[test]
fn no_sender_at_all_is_said() {
    let mut world = World::counted(false);
    world.at_container(1).interface.outbound = 0;
    let found = world.trace(&AskWhy { from: None, ..question() });
    let text = &found.explanation.cause().unwrap().text;
    assert_eq!(text, "no container on network foo sent a packet to 224.1.1.1 (UDP port 5001)");
}
