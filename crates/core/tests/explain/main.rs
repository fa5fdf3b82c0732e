//! Why packets do not arrive: one fault at a time is named first, and nothing is named broken where
//! there is none.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

mod encryption;
mod packets;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use shoutd_core::EndpointId;
use shoutd_core::explain::{
    Answer, AskWhy, ContainerFacts, HostFacts, InsideFacts, InterfaceFacts, NetfilterDrops, NoCase,
    PeerFacts, PortFacts, SegmentFacts, SendingSocket, SendsTo, SocketFacts, Station, Verdict,
    explain,
};
use shoutd_core::multicast::{SourceFilter, group_mac};
use shoutd_core::plane::{Destination, Filter, Forwarding};
use shoutd_core::tunnel::Carriage;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const GROUP: &str = "224.1.1.1";

/// Host number 1 has the sender `c1` at 10.0.0.1, host 2 the receiver `c2` at 10.0.0.2.
struct World {
    hosts: [Answer; 2],
}

impl World {
    fn healthy() -> Self {
        let host = |number: u8| Answer {
            host: format!("host{number}"),
            vtep: vtep(number),
            facts: Ok(host_facts(number)),
        };
        Self { hosts: [host(1), host(2)] }
    }

    fn facts(&mut self, number: usize) -> &mut HostFacts {
        self.hosts[number - 1].facts.as_mut().unwrap()
    }

    fn container(&mut self, number: usize) -> &mut ContainerFacts {
        &mut self.facts(number).containers[0]
    }

    fn inside(&mut self, number: usize) -> &mut InsideFacts {
        self.container(number).inside.as_mut().unwrap()
    }

    fn segment(&mut self, number: usize) -> &mut SegmentFacts {
        self.facts(number).segment.as_mut().unwrap().as_mut().unwrap()
    }

    /// The receiver does not join the group on the network.
    fn leave(&mut self) {
        self.inside(2).joined.clear();
        self.container(2).port.as_mut().unwrap().filter = None;
        self.facts(1).peers.get_mut(&vtep(2)).unwrap().filter = None;
        self.segment(1).sends_to.others.clear();
    }
}

fn vtep(number: u8) -> IpAddr {
    [192, 0, 2, number].into()
}

fn host_facts(number: u8) -> HostFacts {
    let other = vtep(3 - number);
    let is_receiver = number == 2;
    let member = is_receiver.then(SourceFilter::all);
    let others = if is_receiver { BTreeSet::new() } else { BTreeSet::from([other]) };
    HostFacts {
        containers: vec![container(number, is_receiver)],
        segment: Some(Ok(SegmentFacts {
            bridge: true,
            snooping: true,
            tunnel: true,
            sends_to: SendsTo { by_source: BTreeMap::new(), others },
            over_rate_now: 0,
            undone: None,
        })),
        peers: BTreeMap::from([(
            other,
            PeerFacts {
                in_sync: true,
                filter: if is_receiver { None } else { Some(SourceFilter::all()) },
            },
        )]),
        tunnels: BTreeMap::from([(other, Carriage::Carries)]),
        encryption: None,
        problems: Vec::new(),
        counts: None,
        uncounted: None,
        kept: Vec::new(),
    }
    .with_member(member)
}

/// Sets the receiver's membership.
trait WithMember {
    fn with_member(self, member: Option<SourceFilter>) -> Self;
}

impl WithMember for HostFacts {
    fn with_member(mut self, member: Option<SourceFilter>) -> Self {
        self.containers[0].port.as_mut().unwrap().filter = member;
        self
    }
}

fn container(number: u8, is_receiver: bool) -> ContainerFacts {
    let socket = SocketFacts { local: "0.0.0.0:5001".parse().unwrap(), drops: 0, drops_now: 0 };
    let joined = if is_receiver { BTreeSet::from(["eth0".to_owned()]) } else { BTreeSet::new() };
    ContainerFacts {
        name: format!("c{number}"),
        endpoint: format!("{number}").repeat(64).parse::<EndpointId>().unwrap(),
        addresses: vec![[10, 0, 0, number].into()],
        paused: Some(false),
        port: Some(PortFacts { up: true, filter: None, router: false }),
        inside: Ok(InsideFacts {
            interface: Some(InterfaceFacts {
                name: "eth0".to_owned(),
                up: true,
                strict_reverse_path: false,
            }),
            route: Some("eth0".to_owned()),
            joined,
            sockets: if is_receiver { vec![socket] } else { Vec::new() },
            ..InsideFacts::default()
        }),
    }
}

fn question() -> AskWhy {
    AskWhy {
        network: "foo".to_owned(),
        group: Some(ip(GROUP)),
        port: Some(5001),
        from: Some("c1".to_owned()),
        to: Some("c2".to_owned()),
    }
}

/// All ways to ask for the same.
fn questions() -> Vec<AskWhy> {
    let full = question();
    vec![
        AskWhy { from: None, ..full.clone() },
        AskWhy { to: None, ..full.clone() },
        AskWhy { from: None, to: None, ..full.clone() },
        AskWhy {
            from: Some("10.0.0.1".to_owned()),
            to: Some("2222222".to_owned()),
            ..full.clone()
        },
        full,
    ]
}

#[test]
fn nothing_is_broken_where_nothing_is() {
    let general = AskWhy { group: None, port: None, ..question() };
    for asked in questions().into_iter().chain([general]) {
        let mut world = World::healthy();
        if asked.group.is_none() {
            // As 224.0.0.1: no membership, flooded by the other host, too.
            world.container(2).port.as_mut().unwrap().filter = None;
        }
        let found = explain(&asked, "foo", &world.hosts).unwrap();
        assert_eq!(found.cause(), None, "{asked:?}");
        assert!(found.findings.iter().all(|finding| finding.verdict == Verdict::Good), "{found:?}");
        assert!(found.findings.is_sorted_by_key(|finding| finding.station));
    }
}

/// A planted fault: its name, the change to the facts, and the texts that the cause must contain.
type Fault = (&'static str, fn(&mut World), &'static [&'static str]);

const FAULTS: &[Fault] = &[
    ("it did not join", World::leave, &["c2 has not joined 224.1.1.1, nor any other group"]),
    (
        "another group",
        |world| {
            world.leave();
            world.inside(2).other_groups = BTreeSet::from([ip("224.1.1.2")]);
        },
        &["c2 has not joined 224.1.1.1", "it has joined 224.1.1.2"],
    ),
    (
        "the wrong interface",
        |world| {
            world.leave();
            world.inside(2).joined = BTreeSet::from(["eth1".to_owned()]);
        },
        &["joined 224.1.1.1 on eth1, not on eth0 (network foo)"],
    ),
    (
        "another port",
        |world| world.inside(2).sockets[0].local.set_port(5002),
        &["no socket of c2 listens at UDP port 5001; its ports are 5002"],
    ),
    (
        "no socket",
        |world| world.inside(2).sockets.clear(),
        &["no socket of c2 listens at UDP port 5001"],
    ),
    (
        "a source filter",
        |world| {
            let filter = SourceFilter::Include(BTreeSet::from([ip("10.0.0.9")]));
            world.container(2).port.as_mut().unwrap().filter = Some(filter.clone());
            world.facts(1).peers.get_mut(&vtep(2)).unwrap().filter = Some(filter);
            world.segment(1).sends_to.others.clear();
        },
        &["(only 10.0.0.9)", "10.0.0.1, the sender, is not one"],
    ),
    (
        "the sender's routes",
        |world| world.inside(1).route = Some("eth1".to_owned()),
        &["the routes of c1 send 224.1.1.1 by eth1, not by eth0"],
    ),
    ("no route", |world| world.inside(1).route = None, &["c1 has no route to 224.1.1.1"]),
    (
        "the reverse path",
        |world| {
            let inside = world.inside(2);
            inside.interface.as_mut().unwrap().strict_reverse_path = true;
            inside.detours = BTreeMap::from([(ip("10.0.0.1"), "eth1".to_owned())]);
        },
        &["c2 drops packets from 10.0.0.1", "rp_filter of eth0 is 1"],
    ),
    (
        "a full receive buffer",
        |world| {
            world.inside(2).sockets[0].drops = 70;
            world.inside(2).sockets[0].drops_now = 7;
        },
        &["does not read its socket 0.0.0.0:5001 fast enough", "70 datagrams, 7 just now"],
    ),
    ("paused", |world| world.container(2).paused = Some(true), &["c2 is paused"]),
    ("paused sender", |world| world.container(1).paused = Some(true), &["c1 is paused"]),
    (
        "interface down",
        |world| {
            world.leave();
            world.inside(2).interface.as_mut().unwrap().up = false;
        },
        &["interface eth0 of c2 is down"],
    ),
    (
        "no interface",
        |world| world.inside(2).interface = None,
        &["c2 has no interface on network foo"],
    ),
    ("no port", |world| world.container(2).port = None, &["port of c2 on the bridge of host2"]),
    (
        "the bridge has no membership",
        |world| world.container(2).port.as_mut().unwrap().filter = None,
        &["the bridge of host2 does not know that c2 has joined"],
    ),
    (
        "no entry in the VXLAN device",
        |world| world.segment(1).sends_to.others.clear(),
        &["the VXLAN device of host1 does not send 224.1.1.1 to host2", "removed the entry"],
    ),
    (
        "not advertised",
        |world| {
            world.segment(1).sends_to.others.clear();
            let peer = world.facts(1).peers.get_mut(&vtep(2)).unwrap();
            *peer = PeerFacts { in_sync: false, filter: None };
        },
        &["host1 has not received that containers of host2 joined", "not in sync"],
    ),
    (
        "unknown host",
        |world| {
            world.segment(1).sends_to.others.clear();
            world.facts(1).peers.clear();
        },
        &["host1 does not know that host2 has containers on foo"],
    ),
    (
        "no VXLAN device",
        |world| world.segment(1).tunnel = false,
        &["VXLAN device on host1 is missing or down"],
    ),
    (
        "no VXLAN device at the receiver",
        |world| world.segment(2).tunnel = false,
        &["VXLAN device on host2 is missing or down"],
    ),
    (
        "the tunnel is silent",
        |world| _ = world.facts(2).tunnels.insert(vtep(1), Carriage::Silent),
        &["nothing that host1 sends through the tunnel arrives at host2"],
    ),
    (
        "the tunnel loses large packets",
        |world| _ = world.facts(2).tunnels.insert(vtep(1), Carriage::SmallOnly),
        &["large packets that host1 sends through the tunnel do not arrive at host2"],
    ),
    (
        "snooping is off",
        |world| {
            world.segment(2).snooping = false;
            world.container(2).port.as_mut().unwrap().filter = None;
            world.facts(1).peers.get_mut(&vtep(2)).unwrap().filter = None;
            world.segment(1).sends_to.others.clear();
        },
        &["bridge on host2 does not snoop", "tell host1 that c2 joined 224.1.1.1"],
    ),
    (
        "more than the limit",
        |world| world.segment(1).over_rate_now = 12,
        &["on host1 sends more", "12 packets were dropped just now"],
    ),
    (
        "something removes the VXLAN device",
        |world| world.segment(2).undone = Some(("VXLAN device".to_owned(), 7)),
        &["something else on host2 removes the network's VXLAN device again and again: 7 times"],
    ),
    ("no bridge", |world| world.segment(2).bridge = false, &["bridge on host2 is missing or down"]),
];

#[test]
fn each_fault_is_the_cause() {
    for (what, break_it, expected) in FAULTS {
        let mut world = World::healthy();
        break_it(&mut world);
        let found = explain(&question(), "foo", &world.hosts).unwrap();
        let cause = found.cause().unwrap_or_else(|| panic!("{what}: nothing is broken"));
        for text in *expected {
            assert!(cause.text.contains(text), "{what}: {}", cause.text);
        }
        assert!(cause.remedy.is_some(), "{what}: no remedy");
        assert!(found.findings.is_sorted_by_key(|finding| finding.station), "{what}");
    }
}

#[test]
fn what_netfilter_drops_may_be_the_group() {
    let mut world = World::healthy();
    let drops = NetfilterDrops { place: "table filter, chain INPUT".to_owned(), packets: 12 };
    for number in [1, 2] {
        world.inside(number).netfilter_now = Some(drops.clone());
    }
    let found = explain(&question(), "foo", &world.hosts).unwrap();
    assert_eq!(found.cause(), None);
    for (name, station) in [("c1", Station::Sender), ("c2", Station::Receiver)] {
        let text = format!("netfilter of {name} dropped 12 packets just now (table filter, chain");
        let finding = found.findings.iter().find(|finding| finding.text.starts_with(&text));
        assert_eq!(finding.map(|finding| finding.station), Some(station), "{found:?}");
    }
}

fn sending(is_connected: bool, ttl: u8, interface: Option<&str>) -> SendingSocket {
    let local = "0.0.0.0:40000".parse().unwrap();
    SendingSocket { local, is_connected, ttl, interface: interface.map(str::to_owned) }
}

#[test]
fn what_a_program_set_on_its_socket_counts_more_than_routes() {
    let cause = |world: &World| {
        let found = explain(&question(), "foo", &world.hosts).unwrap();
        found.cause().map(|cause| cause.text.clone()).unwrap_or_default()
    };
    for is_connected in [true, false] {
        let mut world = World::healthy();
        world.inside(1).senders = vec![sending(is_connected, 1, Some("eth1"))];
        assert!(cause(&world).contains("by eth1, which its program selected"), "{is_connected}");
        world.inside(1).senders = vec![sending(is_connected, 1, Some("eth0"))];
        assert_eq!(cause(&world), "");
        world.inside(1).senders = vec![sending(is_connected, 0, None)];
        assert_eq!(cause(&world), "");
        world.inside(1).joined.insert("eth0".to_owned());
        assert!(cause(&world).contains("with a TTL of 0"), "{is_connected}");
        // Another socket may be the one that sends.
        world.inside(1).senders.push(sending(false, 1, None));
        assert_eq!(cause(&world).contains("with a TTL of 0"), is_connected);
    }
    let mut world = World::healthy();
    world.inside(1).route = Some("eth1".to_owned());
    world.inside(1).senders = vec![sending(true, 1, Some("eth0"))];
    assert_eq!(cause(&world), "");
}

#[test]
fn of_two_faults_the_one_that_a_packet_meets_first_is_the_cause() {
    let mut world = World::healthy();
    world.inside(2).sockets.clear();
    world.inside(1).route = Some("eth1".to_owned());
    let found = explain(&question(), "foo", &world.hosts).unwrap();
    assert!(found.cause().unwrap().text.contains("routes of c1"));
    let broken = found.findings.iter().filter(|finding| finding.verdict == Verdict::Broken);
    assert_eq!(broken.count(), 2);
}

#[test]
fn a_host_that_does_not_answer_is_the_cause_unless_others_matter() {
    let mut world = World::healthy();
    world.hosts[0].facts = Err("cannot be reached".to_owned());
    let asked = AskWhy { from: None, ..question() };
    let found = explain(&asked, "foo", &world.hosts).unwrap();
    assert!(found.cause().unwrap().text.contains("shoutd on host1 does not answer"), "{found:?}");
    let error = explain(&question(), "foo", &world.hosts).unwrap_err();
    assert!(error.to_string().contains("no container c1"), "{error}");
    assert!(error.to_string().contains("no answer came from host1"), "{error}");
}

#[test]
fn what_does_not_exist_is_said() {
    let world = World::healthy();
    let asked = AskWhy { group: Some(ip("10.0.0.1")), ..question() };
    let error = explain(&asked, "foo", &world.hosts).unwrap_err();
    assert_eq!(error, NoCase::NotMulticast(ip("10.0.0.1")));
    let asked = AskWhy { to: Some("c9".to_owned()), ..question() };
    let error = explain(&asked, "foo", &world.hosts).unwrap_err();
    assert_eq!(error.to_string(), "network foo has no container c9; it has c1, c2");
}

#[test]
fn what_is_broken_only_the_second_time_is_left_out() {
    let mut world = World::healthy();
    let first = explain(&question(), "foo", &world.hosts).unwrap();
    world.inside(2).sockets.clear();
    let second = explain(&question(), "foo", &world.hosts).unwrap();
    assert_eq!(second.clone().lasting(&first).cause(), None);
    assert_eq!(second.clone().lasting(&second), second);
}

#[test]
fn a_network_with_one_container_is_not_broken() {
    let mut world = World::healthy();
    world.facts(2).containers.clear();
    let asked = AskWhy { group: None, port: None, to: None, ..question() };
    let found = explain(&asked, "foo", &world.hosts).unwrap();
    assert_eq!(found.cause(), None);
    let said = "no container but c1 is on network foo";
    assert!(found.findings.iter().any(|finding| finding.text == said), "{found:?}");
}

#[test]
fn nobody_who_joined_is_the_cause() {
    let mut world = World::healthy();
    world.leave();
    world.inside(2).other_groups = BTreeSet::from([ip("224.9.9.9")]);
    let asked = AskWhy { to: None, ..question() };
    let found = explain(&asked, "foo", &world.hosts).unwrap();
    let text = &found.cause().unwrap().text;
    assert!(text.contains("no container on network foo but c1 has joined 224.1.1.1"), "{text}");
    assert!(text.contains("c2 has joined 224.9.9.9"), "{text}");
}

#[test]
fn tables_are_read_as_the_kernel_does() {
    let (group, flood) = (ip(GROUP), BTreeSet::from([vtep(2), vtep(3)]));
    let to = |numbers: &[u8]| -> BTreeSet<Destination> {
        numbers.iter().map(|number| Destination::Host(vtep(*number))).collect()
    };
    let read = |tables: &Forwarding, source: Option<&str>, group: IpAddr| {
        SendsTo::read(tables, &flood, group).of(source.map(ip)).clone()
    };
    let hosts = |numbers: &[u8]| numbers.iter().map(|number| vtep(*number)).collect();

    assert_eq!(read(&Forwarding::default(), None, group), flood, "without entries: flooding");
    let mut tables = Forwarding::default();
    tables.groups.insert((None, ip("0.0.0.0")), to(&[3]));
    assert_eq!(read(&tables, None, group), hosts(&[3]), "the entry of all other groups");
    tables.groups.insert((None, group), BTreeSet::from([Destination::Nowhere]));
    assert_eq!(read(&tables, None, group), hosts(&[]));
    tables.groups.insert((Some(ip("10.0.0.1")), group), to(&[2]));
    assert_eq!(read(&tables, Some("10.0.0.1"), group), hosts(&[2]));
    assert_eq!(read(&tables, Some("10.0.0.2"), group), hosts(&[]));
    assert_eq!(read(&tables, None, ip("224.0.0.5")), flood, "link-local groups are flooded");

    let mut tables = Forwarding::default();
    tables.group_macs.insert(group_mac(group), BTreeSet::from([vtep(3)]));
    tables.filter = Filter::On(BTreeSet::from([group]));
    assert_eq!(read(&tables, None, group), hosts(&[3]));
    assert_eq!(read(&tables, None, ip("224.9.9.9")), hosts(&[]), "the group filter");
}
