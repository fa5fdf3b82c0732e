//! Announcements: whatever happens to the messages, in the end every host has what every other
//! announces, and never something that it did not announce.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use shoutd_core::advertise::{
    AdvertisedEndpoint, AdvertisedNetwork, Content, Delta, InboundSession, InboundSessions,
    Incarnation, Message, OutboundSessions, Reply,
};
use shoutd_core::cluster::{Cluster, Command};
use shoutd_core::multicast::{Memberships, SourceFilter};
use shoutd_core::{ClusterId, EndpointId, HostId, MacAddress};

use crate::common::{host, network_id, sent};

fn endpoint_id(index: u8) -> EndpointId {
    format!("e{index:015x}").parse().unwrap()
}

fn filter() -> impl Strategy<Value = SourceFilter> {
    let sources = proptest::collection::btree_set(
        (1..4u8).prop_map(|last| IpAddr::from([10, 0, 0, last])),
        0..3,
    );
    (any::<bool>(), sources).prop_map(|(include, sources)| match include {
        true => SourceFilter::Include(sources),
        false => SourceFilter::Exclude(sources),
    })
}

fn memberships() -> impl Strategy<Value = Memberships> {
    let group = prop_oneof![
        (0..4u8).prop_map(|last| IpAddr::from([239, 0, 0, last])),
        (0..2u16).prop_map(|last| IpAddr::from([0xff05, 0, 0, 0, 0, 0, 0, last]))
    ];
    let groups = proptest::collection::btree_map(group, filter(), 0..4);
    (groups, any::<bool>()).prop_map(|(groups, router)| Memberships { groups, router })
}

fn network() -> impl Strategy<Value = AdvertisedNetwork> {
    let endpoint = (0..4u8).prop_map(|last| {
        let addresses: BTreeSet<_> = [IpAddr::from([10, 0, 0, last])].into();
        let names = [format!("c{last}").parse().unwrap()].into();
        (
            endpoint_id(last),
            AdvertisedEndpoint { mac: MacAddress([2, 0, 0, 0, 0, last]), addresses, names },
        )
    });
    let endpoints = proptest::collection::vec(endpoint, 0..3)
        .prop_map(|endpoints| endpoints.into_iter().collect());
    let mtu = proptest::option::of(1280..9000u16);
    (endpoints, memberships(), mtu).prop_map(|(endpoints, memberships, mtu)| AdvertisedNetwork {
        endpoints,
        memberships,
        mtu,
    })
}

fn content() -> impl Strategy<Value = Content> {
    proptest::collection::btree_map(
        (0..3u8).prop_map(network_id),
        network().prop_map(Arc::new),
        0..4,
    )
}

proptest! {
    #[test]
    fn a_delta_makes_the_new_of_the_old(old in content(), new in content(), most in 4..12usize) {
        let (delta, complete) = Delta::between(&old, &new, usize::MAX);
        prop_assert!(complete && delta.check().is_ok());
        prop_assert_eq!(delta.is_empty(), old == new);
        let mut made = old.clone();
        delta.apply(&mut made);
        prop_assert_eq!(&made, &new);
        // And in parts.
        let mut made = old;
        for _ in 0..100 {
            let (delta, complete) = Delta::between(&made, &new, most);
            delta.apply(&mut made);
            prop_assert_eq!(complete, made == new);
            if complete {
                return Ok(());
            }
        }
        prop_assert!(false, "it comes to no end");
    }
}

/// What may happen.
#[derive(Debug, Clone)]
enum Event {
    /// A host has something else to announce.
    Change { host: u64, content: Content },
    /// A request arrives, and its answer does.
    Exchange { which: usize },
    /// A request arrives; its answer is lost.
    LoseAnswer { which: usize },
    /// The caller gives up; the request may arrive later.
    Delay { which: usize },
    /// A request that was delayed, or one that has arrived before, arrives.
    Late { which: usize },
    /// A host's daemon is killed and started again.
    Restart { host: u64 },
    /// Time goes by.
    Wait { seconds: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    let which = || any::<usize>();
    prop_oneof![
        6 => (1..=HOSTS, content()).prop_map(|(host, content)| Event::Change { host, content }),
        10 => which().prop_map(|which| Event::Exchange { which }),
        3 => which().prop_map(|which| Event::LoseAnswer { which }),
        3 => which().prop_map(|which| Event::Delay { which }),
        4 => which().prop_map(|which| Event::Late { which }),
        1 => (1..=HOSTS).prop_map(|host| Event::Restart { host }),
        3 => prop_oneof![3 => 0..4u64, 1 => 5..8u64, 1 => 299..302u64].prop_map(|seconds| Event::Wait { seconds }),
    ]
}

const HOSTS: u64 = 3;

#[derive(Debug)]
struct Daemon {
    run: u64,
    content: Content,
    /// All that it ever had to announce in this run.
    history: Vec<Content>,
    speakers: OutboundSessions,
    listeners: InboundSessions,
}

#[derive(Debug, Clone)]
struct Request {
    from: HostId,
    to: HostId,
    /// The run of the caller.
    run: u64,
    message: Message,
}

/// Hosts that all share their networks with each other, and the network between them.
#[derive(Debug)]
struct World {
    /// The last random number.
    entropy: u64,
    /// Which run of which host each incarnation is of.
    runs: BTreeMap<u64, (HostId, u64)>,
    now: Duration,
    cluster: Cluster,
    hosts: BTreeMap<HostId, Daemon>,
    under_way: Vec<Request>,
    late: Vec<Request>,
    /// Who took a request of whom though its caller had given it up.
    misled: BTreeSet<(HostId, HostId)>,
    /// What each host last took from each other.
    taken: BTreeMap<(HostId, HostId), (Incarnation, u64)>,
}

impl World {
    fn new() -> Self {
        let mut cluster = Cluster::default();
        cluster.apply(&Command::Found { cluster: ClusterId::new(1) }).unwrap();
        for id in 1..=HOSTS {
            let address = format!("192.0.2.{id}:7789").parse().unwrap();
            cluster
                .apply(&Command::AdmitHost { host: host(id), name: format!("h{id}"), address })
                .unwrap();
        }
        let mut world = Self {
            entropy: 0,
            runs: BTreeMap::new(),
            now: Duration::from_secs(1000),
            cluster,
            hosts: BTreeMap::new(),
            under_way: Vec::new(),
            late: Vec::new(),
            misled: BTreeSet::new(),
            taken: BTreeMap::new(),
        };
        (1..=HOSTS).for_each(|id| world.start(host(id), 0, &Content::new()));
        world
    }

    fn start(&mut self, id: HostId, run: u64, content: &Content) {
        let daemon = Daemon {
            run,
            content: Content::new(),
            history: Vec::new(),
            speakers: OutboundSessions::default(),
            listeners: InboundSessions::default(),
        };
        self.hosts.insert(id, daemon);
        self.change(id, content);
    }

    fn change(&mut self, id: HostId, content: &Content) {
        let cluster = &self.cluster;
        let daemon = self.hosts.get_mut(&id).unwrap();
        daemon.history.push(content.clone());
        daemon.content = content.clone();
        let others = cluster.hosts.keys().filter(|other| **other != id && !content.is_empty());
        let audience = others.map(|other| (*other, content.clone())).collect();
        let entropy = &mut self.entropy;
        daemon.speakers.address(cluster, id, audience, || {
            *entropy += 1;
            *entropy
        });
    }

    /// Everybody sends what there is to send.
    fn send(&mut self) {
        for (from, daemon) in &mut self.hosts {
            for (to, message) in daemon.speakers.next(self.now) {
                let run = daemon.run;
                self.runs.insert(message.incarnation.0, (*from, run));
                self.under_way.push(Request { from: *from, to, run, message: sent(&message) });
            }
        }
    }

    /// A request arrives.
    fn arrive(&mut self, request: &Request) -> Reply {
        let now = self.now;
        let daemon = self.hosts.get_mut(&request.to).unwrap();
        daemon.listeners.expire(now);
        let incarnation = |daemon: &Daemon| {
            daemon.listeners.get(request.from)?.position().map(|(incarnation, _)| incarnation)
        };
        let before = incarnation(daemon);
        let reply = daemon.listeners.hear(request.from, &request.message, now).unwrap();
        let after = incarnation(daemon);
        daemon.speakers.heard_from(request.from, before != after, now);
        self.check(request);
        reply
    }

    /// What a host believes of another is what that one has announced, and never goes back.
    fn check(&mut self, request: &Request) {
        let listener = self.hosts[&request.to].listeners.get(request.from).unwrap();
        let heard = listener.heard(None, self.now);
        let speaker = &self.hosts[&request.from];
        let Some((incarnation, sequence)) = listener.position() else {
            assert!(heard.networks.is_empty());
            return;
        };
        let last = self.taken.insert((request.to, request.from), (incarnation, sequence));
        let went_back = last.is_some_and(|last| last.0 == incarnation && last.1 > sequence);
        assert!(!went_back, "it went back from {last:?} to {incarnation:?}, {sequence}");
        if self.runs[&incarnation.0].1 == speaker.run && listener.is_whole() {
            assert!(speaker.history.contains(&heard.networks), "it never announced that");
        }
    }

    fn position(&self, request: &Request) -> Option<(Incarnation, u64)> {
        self.hosts[&request.to].listeners.get(request.from).and_then(InboundSession::position)
    }

    fn answer(&mut self, request: &Request, reply: Option<Reply>) {
        let now = self.now;
        let daemon = self.hosts.get_mut(&request.from).unwrap();
        if daemon.run == request.run {
            self.entropy += 1;
            daemon.speakers.answered(request.to, reply, self.entropy, now);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Change { host: id, content } => self.change(host(id), &content),
            Event::Exchange { which } => {
                if let Some(request) = pick(&mut self.under_way, which) {
                    let reply = self.arrive(&request);
                    self.answer(&request, Some(reply));
                    self.late.push(request);
                }
            }
            Event::LoseAnswer { which } => {
                if let Some(request) = pick(&mut self.under_way, which) {
                    self.arrive(&request);
                    self.answer(&request, None);
                }
            }
            Event::Delay { which } => {
                if let Some(request) = pick(&mut self.under_way, which) {
                    self.answer(&request, None);
                    self.late.push(request);
                }
            }
            Event::Late { which } => {
                if let Some(request) = pick(&mut self.late, which) {
                    let before = self.position(&request);
                    self.arrive(&request);
                    if self.position(&request) != before {
                        self.misled.insert((request.to, request.from));
                    }
                }
            }
            Event::Restart { host: id } => {
                let (run, content) =
                    (self.hosts[&host(id)].run + 1, self.hosts[&host(id)].content.clone());
                self.start(host(id), run, &content);
                self.taken.retain(|(to, _), _| *to != host(id));
                // Nobody waits for an answer to what it sent any more, and what was sent to it is
                // not answered.
                let (lost, kept) = std::mem::take(&mut self.under_way)
                    .into_iter()
                    .partition(|request| request.from == host(id) || request.to == host(id));
                self.under_way = kept;
                for request in Vec::from_iter::<Vec<Request>>(lost) {
                    self.answer(&request, None);
                    self.late.push(request);
                }
            }
            Event::Wait { seconds } => self.now += Duration::from_secs(seconds),
        }
        self.send();
    }

    /// The network works again: in the end everybody knows what everybody has.
    fn settle(&mut self) {
        for _ in 0..400 {
            self.send();
            let requests = std::mem::take(&mut self.under_way);
            for request in requests {
                let reply = self.arrive(&request);
                self.answer(&request, Some(reply));
            }
            self.now += Duration::from_millis(100);
            if self.unsettled().is_none() {
                return;
            }
        }
        panic!("it comes to no end: {:?}", self.unsettled());
    }

    /// The first two hosts of which the one does not have what the other announces, and the state
    /// of both.
    fn unsettled(&self) -> Option<(HostId, Option<&InboundSession>, HostId, &Daemon)> {
        let knows = |to: &HostId, from: &HostId| {
            let content = &self.hosts[from].content;
            // What came late may be all that a host knows of another that has nothing more to say.
            // It is believed until that one is found to be silent.
            if content.is_empty() && self.misled.contains(&(*to, *from)) {
                return true;
            }
            let heard = self.hosts[to].listeners.heard_host(*from, self.now).unwrap_or_default();
            (heard.in_sync || content.is_empty()) && heard.networks == *content
        };
        let mut pairs = self
            .hosts
            .keys()
            .flat_map(|a| self.hosts.keys().map(move |b| (a, b)))
            .filter(|(a, b)| a != b);
        let (to, from) = pairs.find(|(to, from)| !knows(to, from))?;
        Some((*to, self.hosts[to].listeners.get(*from), *from, &self.hosts[from]))
    }
}

fn pick(requests: &mut Vec<Request>, which: usize) -> Option<Request> {
    let which = which.checked_rem(requests.len())?;
    Some(requests.swap_remove(which))
}

proptest! {
    #[test]
    fn in_the_end_everybody_has_what_everybody_announces(events in proptest::collection::vec(event(), 0..120)) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
        }
        world.settle();
    }
}
