//! Advertisements: for any loss, delay and reordering of messages, every host in the end has what
//! each other host advertises, and never anything that was not advertised.
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
    (any::<bool>(), sources).prop_map(|(include, sources)| {
        if include { SourceFilter::Include(sources) } else { SourceFilter::Exclude(sources) }
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
    fn a_delta_turns_the_old_content_into_the_new(
        old in content(),
        new in content(),
        most in 4..12usize,
    ) {
        let (delta, complete) = Delta::between(&old, &new, usize::MAX);
        prop_assert!(complete && delta.check().is_ok());
        prop_assert_eq!(delta.is_empty(), old == new);
        let mut content = old.clone();
        delta.apply(&mut content);
        prop_assert_eq!(&content, &new);
        // The same in parts.
        let mut content = old;
        for _ in 0..100 {
            let (delta, complete) = Delta::between(&content, &new, most);
            delta.apply(&mut content);
            prop_assert_eq!(complete, content == new);
            if complete {
                return Ok(());
            }
        }
        prop_assert!(false, "the delta never becomes complete");
    }
}

/// An event in the simulated cluster.
#[derive(Debug, Clone)]
enum Event {
    /// A host has different content to advertise.
    Change { host: u64, content: Content },
    /// A request arrives, and so does its answer.
    Exchange { which: usize },
    /// A request arrives, and its answer is lost.
    LoseAnswer { which: usize },
    /// The caller times out. The request may arrive later.
    Delay { which: usize },
    /// A request arrives that was delayed or has arrived before.
    Late { which: usize },
    /// A host's daemon is killed and started again.
    Restart { host: u64 },
    /// Time passes.
    Wait { seconds: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1..=HOSTS, content()).prop_map(|(host, content)| Event::Change { host, content }),
        10 => any::<usize>().prop_map(|which| Event::Exchange { which }),
        3 => any::<usize>().prop_map(|which| Event::LoseAnswer { which }),
        3 => any::<usize>().prop_map(|which| Event::Delay { which }),
        4 => any::<usize>().prop_map(|which| Event::Late { which }),
        1 => (1..=HOSTS).prop_map(|host| Event::Restart { host }),
        3 => prop_oneof![3 => 0..4u64, 1 => 5..8u64, 1 => 299..302u64]
            .prop_map(|seconds| Event::Wait { seconds }),
    ]
}

const HOSTS: u64 = 3;

#[derive(Debug)]
struct Daemon {
    run: u64,
    content: Content,
    /// All content that it has advertised in this run.
    history: Vec<Content>,
    outbound: OutboundSessions,
    inbound: InboundSessions,
}

impl Daemon {
    /// The last incarnation of another host that it knows.
    fn incarnation_of(&self, from: HostId) -> Option<Incarnation> {
        self.inbound.get(from)?.position().map(|(incarnation, _)| incarnation)
    }
}

#[derive(Debug, Clone)]
struct Request {
    from: HostId,
    to: HostId,
    /// The caller's run.
    run: u64,
    message: Message,
}

/// Hosts that share all networks, and the messages between them.
#[derive(Debug)]
struct World {
    /// The last random number.
    entropy: u64,
    /// The host and run of each incarnation.
    runs: BTreeMap<u64, (HostId, u64)>,
    now: Duration,
    cluster: Cluster,
    hosts: BTreeMap<HostId, Daemon>,
    in_flight: Vec<Request>,
    late: Vec<Request>,
    /// Pairs of hosts where the first applied a request of the second after that had timed out.
    misled: BTreeSet<(HostId, HostId)>,
    /// The position that each host last had of each other host.
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
            in_flight: Vec::new(),
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
            outbound: OutboundSessions::default(),
            inbound: InboundSessions::default(),
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
        daemon.outbound.address(cluster, id, audience, || {
            *entropy += 1;
            *entropy
        });
    }

    /// All hosts send what is due.
    fn send(&mut self) {
        for (from, daemon) in &mut self.hosts {
            for (to, message) in daemon.outbound.next(self.now) {
                let run = daemon.run;
                self.runs.insert(message.incarnation.0, (*from, run));
                self.in_flight.push(Request { from: *from, to, run, message: sent(&message) });
            }
        }
    }

    /// A request arrives.
    fn arrive(&mut self, request: &Request) -> Reply {
        let now = self.now;
        let daemon = self.hosts.get_mut(&request.to).unwrap();
        daemon.inbound.expire(now);
        let before = daemon.incarnation_of(request.from);
        let reply = daemon.inbound.receive(request.from, &request.message, now).unwrap();
        let after = daemon.incarnation_of(request.from);
        daemon.outbound.received_from(request.from, before != after, now);
        self.check(request);
        reply
    }

    /// Checks that what a host has of another was advertised, and does not go back.
    fn check(&mut self, request: &Request) {
        let session = self.hosts[&request.to].inbound.get(request.from).unwrap();
        let state = session.peer_state(None, self.now);
        let sender = &self.hosts[&request.from];
        let Some((incarnation, sequence)) = session.position() else {
            assert!(state.networks.is_empty());
            return;
        };
        let last = self.taken.insert((request.to, request.from), (incarnation, sequence));
        let went_back = last.is_some_and(|last| last.0 == incarnation && last.1 > sequence);
        assert!(!went_back, "it went back from {last:?} to {incarnation:?}, {sequence}");
        if self.runs[&incarnation.0].1 == sender.run && session.is_whole() {
            assert!(sender.history.contains(&state.networks), "it never advertised that");
        }
    }

    fn position(&self, request: &Request) -> Option<(Incarnation, u64)> {
        self.hosts[&request.to].inbound.get(request.from).and_then(InboundSession::position)
    }

    fn answer(&mut self, request: &Request, reply: Option<Reply>) {
        let now = self.now;
        let daemon = self.hosts.get_mut(&request.from).unwrap();
        if daemon.run == request.run {
            self.entropy += 1;
            daemon.outbound.answered(request.to, reply, self.entropy, now);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Change { host: id, content } => self.change(host(id), &content),
            Event::Exchange { which } => {
                if let Some(request) = pick(&mut self.in_flight, which) {
                    let reply = self.arrive(&request);
                    self.answer(&request, Some(reply));
                    self.late.push(request);
                }
            }
            Event::LoseAnswer { which } => {
                if let Some(request) = pick(&mut self.in_flight, which) {
                    self.arrive(&request);
                    self.answer(&request, None);
                }
            }
            Event::Delay { which } => {
                if let Some(request) = pick(&mut self.in_flight, which) {
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
                // Requests of the host get no answers, and neither do requests to it.
                let (lost, kept) = std::mem::take(&mut self.in_flight)
                    .into_iter()
                    .partition(|request| request.from == host(id) || request.to == host(id));
                self.in_flight = kept;
                for request in Vec::from_iter::<Vec<Request>>(lost) {
                    self.answer(&request, None);
                    self.late.push(request);
                }
            }
            Event::Wait { seconds } => self.now += Duration::from_secs(seconds),
        }
        self.send();
    }

    /// The network works again: in the end all hosts are in sync.
    fn settle(&mut self) {
        for _ in 0..400 {
            self.send();
            let requests = std::mem::take(&mut self.in_flight);
            for request in requests {
                let reply = self.arrive(&request);
                self.answer(&request, Some(reply));
            }
            self.now += Duration::from_millis(100);
            if self.unsettled().is_none() {
                return;
            }
        }
        if let Some((to, from)) = self.unsettled() {
            let (session, sender) = (self.hosts[&to].inbound.get(from), &self.hosts[&from]);
            panic!("{to} does not have what {from} advertises: {session:?}, {sender:?}");
        }
    }

    /// The first pair of hosts where one does not have what the other advertises.
    fn unsettled(&self) -> Option<(HostId, HostId)> {
        self.hosts
            .keys()
            .flat_map(|to| self.hosts.keys().map(move |from| (*to, *from)))
            .find(|(to, from)| to != from && !self.knows(*to, *from))
    }

    /// Whether a host has what another advertises.
    fn knows(&self, to: HostId, from: HostId) -> bool {
        let content = &self.hosts[&from].content;
        // A late request may be all that a host has of another host which advertises nothing more.
        // It counts until the hold time.
        if content.is_empty() && self.misled.contains(&(to, from)) {
            return true;
        }
        let state = self.hosts[&to].inbound.peer_state(from, self.now).unwrap_or_default();
        (state.in_sync || content.is_empty()) && state.networks == *content
    }
}

fn pick(requests: &mut Vec<Request>, which: usize) -> Option<Request> {
    let which = which.checked_rem(requests.len())?;
    Some(requests.swap_remove(which))
}

proptest! {
    #[test]
    fn all_hosts_get_in_sync(events in proptest::collection::vec(event(), 0..120)) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
        }
        world.settle();
    }
}
