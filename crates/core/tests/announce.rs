//! Announcements: whatever happens to the messages, in the end every host has what every other announces, and never something that it did not announce.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use shoutd_core::announce::{
    AnnouncedEndpoint, AnnouncedNetwork, Content, Delta, Heard, Incarnation, Listener, Listeners, Message, Reply,
    Speaker, Speakers, Unsound,
};
use shoutd_core::cluster::{Cluster, Command};
use shoutd_core::limits::{
    ANNOUNCED_ITEMS_MAX, ANNOUNCEMENTS_PER_HOST, BEAT_INTERVAL, HOLD_TIME, MESSAGE_ITEMS_MAX, SILENCE_MAX,
};
use shoutd_core::multicast::{Memberships, SourceFilter};
use shoutd_core::{ClusterId, EndpointId, HostId, MacAddress, NetworkId};

fn host(value: u64) -> HostId {
    HostId::new(value).unwrap()
}

fn network_id(index: u8) -> NetworkId {
    format!("{index:016x}").parse().unwrap()
}

fn endpoint_id(index: u8) -> EndpointId {
    format!("e{index:015x}").parse().unwrap()
}

fn groups(count: u32) -> Memberships {
    let group = |index: u32| (IpAddr::V4(Ipv4Addr::from(0xef00_0000 + index)), SourceFilter::all());
    Memberships { groups: (0..count).map(group).collect(), router: false }
}

fn filter() -> impl Strategy<Value = SourceFilter> {
    let sources = proptest::collection::btree_set((1..4u8).prop_map(|last| IpAddr::from([10, 0, 0, last])), 0..3);
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

fn network() -> impl Strategy<Value = AnnouncedNetwork> {
    let endpoint = (0..4u8).prop_map(|last| {
        let addresses: BTreeSet<_> = [IpAddr::from([10, 0, 0, last])].into();
        let names = [format!("c{last}").parse().unwrap()].into();
        (endpoint_id(last), AnnouncedEndpoint { mac: MacAddress([2, 0, 0, 0, 0, last]), addresses, names })
    });
    let endpoints = proptest::collection::vec(endpoint, 0..3).prop_map(|endpoints| endpoints.into_iter().collect());
    (endpoints, memberships()).prop_map(|(endpoints, memberships)| AnnouncedNetwork { endpoints, memberships })
}

fn content() -> impl Strategy<Value = Content> {
    proptest::collection::btree_map((0..3u8).prop_map(network_id), network().prop_map(Arc::new), 0..4)
}

/// As it goes over the wire.
fn sent(message: &Message) -> Message {
    serde_json::from_slice(&serde_json::to_vec(message).unwrap()).unwrap()
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
    speakers: Speakers,
    listeners: Listeners,
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
            cluster.apply(&Command::AdmitHost { host: host(id), name: format!("h{id}"), address }).unwrap();
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
            speakers: Speakers::default(),
            listeners: Listeners::default(),
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
        let incarnation =
            |daemon: &Daemon| daemon.listeners.get(request.from)?.position().map(|(incarnation, _)| incarnation);
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
        self.hosts[&request.to].listeners.get(request.from).and_then(Listener::position)
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
                let (run, content) = (self.hosts[&host(id)].run + 1, self.hosts[&host(id)].content.clone());
                self.start(host(id), run, &content);
                self.taken.retain(|(to, _), _| *to != host(id));
                // Nobody waits for an answer to what it sent any more, and what was sent to it is not answered.
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

    /// The first two hosts of which the one does not have what the other announces, and the state of both.
    fn unsettled(&self) -> Option<(HostId, Option<&Listener>, HostId, &Daemon)> {
        let knows = |to: &HostId, from: &HostId| {
            let content = &self.hosts[from].content;
            // What came late may be all that a host knows of another that has nothing more to say. It is believed until that one is found to be silent.
            if content.is_empty() && self.misled.contains(&(*to, *from)) {
                return true;
            }
            let heard = self.hosts[to].listeners.heard_host(*from, self.now).unwrap_or_default();
            (heard.in_sync || content.is_empty()) && heard.networks == *content
        };
        let mut pairs = self.hosts.keys().flat_map(|a| self.hosts.keys().map(move |b| (a, b))).filter(|(a, b)| a != b);
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

/// Carries the messages of one speaker to one listener, without loss; returns how many there were.
fn converse(speaker: &mut Speaker, listener: &mut Listener, sequence: &mut u64, now: Duration) -> usize {
    let mut count = 0;
    while let Some(message) = speaker.next(sequence, now) {
        let reply = listener.hear(&sent(&message), now).unwrap();
        speaker.answered(reply, 1, now);
        count += 1;
    }
    count
}

fn one_network(groups_of_it: u32) -> Content {
    let memberships = groups(groups_of_it);
    [(network_id(0), Arc::new(AnnouncedNetwork { memberships, ..AnnouncedNetwork::default() }))].into()
}

#[test]
fn what_does_not_fit_into_one_message_goes_in_parts_and_counts_when_all_is_there() {
    let now = Duration::from_secs(1);
    let (mut speaker, mut listener, mut sequence) = (Speaker::new(1), Listener::new(now), 0);
    let content = one_network(u32::try_from(MESSAGE_ITEMS_MAX).unwrap() * 5 / 2);
    speaker.want(content.clone());
    for part in 1..=3 {
        let message = speaker.next(&mut sequence, now).unwrap();
        assert!(serde_json::to_vec(&*message).unwrap().len() < 2 << 20);
        assert!(listener.heard(None, now).networks.is_empty() && !listener.heard(None, now).in_sync);
        speaker.answered(listener.hear(&sent(&message), now).unwrap(), 1, now);
        assert_eq!(speaker.is_up_to_date(), part == 3);
    }
    let heard = listener.heard(None, now);
    assert!(heard.in_sync && heard.networks == content);
}

#[test]
fn changes_that_come_while_a_message_is_under_way_go_in_one() {
    let now = Duration::from_secs(1);
    let (mut speaker, mut listener, mut sequence) = (Speaker::new(1), Listener::new(now), 0);
    speaker.want(one_network(1));
    let message = speaker.next(&mut sequence, now).unwrap();
    for count in 2..1000 {
        speaker.want(one_network(count));
        assert!(speaker.next(&mut sequence, now).is_none());
    }
    speaker.answered(listener.hear(&message, now).unwrap(), 1, now);
    assert_eq!(converse(&mut speaker, &mut listener, &mut sequence, now), 1);
    assert_eq!(listener.heard(None, now).networks, one_network(999));
    // And nothing more until a beat is due, which says nothing new.
    assert_eq!(converse(&mut speaker, &mut listener, &mut sequence, now + BEAT_INTERVAL / 2), 0);
    assert!(speaker.wake().unwrap() <= now + BEAT_INTERVAL);
    assert_eq!(converse(&mut speaker, &mut listener, &mut sequence, now + BEAT_INTERVAL), 1);
}

#[test]
fn a_silent_host_is_out_of_sync_then_forgotten_and_comes_back_with_a_snapshot() {
    let mut now = Duration::from_secs(1);
    let (mut speaker, mut listener, mut sequence) = (Speaker::new(1), Listener::new(now), 0);
    speaker.want(one_network(3));
    converse(&mut speaker, &mut listener, &mut sequence, now);
    now += SILENCE_MAX;
    let heard = listener.heard(None, now);
    assert!(!heard.in_sync && heard.networks == one_network(3), "it is kept, and sent everything");
    // A beat is enough.
    assert_eq!(converse(&mut speaker, &mut listener, &mut sequence, now), 1);
    assert!(listener.heard(None, now).in_sync);
    listener.doubt();
    assert!(!listener.heard(None, now).in_sync);
    now += HOLD_TIME;
    listener.expire(now);
    let heard = listener.heard(Some(&[network_id(0)].into()), now);
    assert!(
        heard.in_sync && heard.networks == Content::from([(network_id(0), Arc::default())]),
        "it is known to listen to nothing"
    );
    assert_eq!(listener.wake(now), None);
    assert_eq!(converse(&mut speaker, &mut listener, &mut sequence, now), 2);
    assert_eq!(listener.heard(None, now).networks, one_network(3));
}

#[test]
fn a_network_that_a_host_says_it_has_not_is_known_to_have_no_listeners_there_whatever_is_agreed() {
    let now = Duration::from_secs(1);
    let (mut speaker, mut listener, mut sequence) = (Speaker::new(1), Listener::new(now), 0);
    let agreed: BTreeSet<_> = [network_id(0), network_id(1)].into();
    let of_the_second = |listener: &Listener| listener.heard(Some(&agreed), now).networks.get(&network_id(1)).cloned();
    speaker.want(one_network(3));
    converse(&mut speaker, &mut listener, &mut sequence, now);
    assert_eq!(of_the_second(&listener), None, "it has yet to announce it");
    let two: Content =
        one_network(3).into_iter().chain([(network_id(1), one_network(2)[&network_id(0)].clone())]).collect();
    speaker.want(two.clone());
    converse(&mut speaker, &mut listener, &mut sequence, now);
    assert_eq!(of_the_second(&listener).as_ref(), two.get(&network_id(1)));
    speaker.want(one_network(3));
    converse(&mut speaker, &mut listener, &mut sequence, now);
    assert_eq!(of_the_second(&listener), Some(Arc::default()));
    // Agreed that it has it not, and then that it has it: that is news again.
    listener.prune(None);
    assert_eq!(of_the_second(&listener), None);
}

#[test]
fn a_host_that_announces_too_often_is_told_to_wait_and_loses_nothing() {
    let now = Duration::from_secs(1);
    let (mut speaker, mut listener, mut sequence) = (Speaker::new(1), Listener::new(now), 0);
    let mut waits = 0;
    for count in 1..=ANNOUNCEMENTS_PER_HOST.0 + 50 {
        speaker.want(one_network(count));
        let Some(message) = speaker.next(&mut sequence, now) else { continue };
        let reply = listener.hear(&message, now).unwrap();
        waits += u32::from(matches!(reply, Reply::TooOften { .. }));
        speaker.answered(reply, 1, now);
    }
    assert_eq!(waits, 1);
    let later = speaker.wake().unwrap();
    assert!(later < now + Duration::from_millis(10));
    assert_eq!(converse(&mut speaker, &mut listener, &mut sequence, later), 1);
    assert_eq!(listener.heard(None, later).networks, one_network(ANNOUNCEMENTS_PER_HOST.0 + 50));
}

#[test]
fn what_no_host_can_announce_is_refused_and_the_host_is_out_of_sync() {
    let now = Duration::from_secs(1);
    let (mut speaker, mut listener, mut sequence) = (Speaker::new(1), Listener::new(now), 0);
    speaker.want(one_network(1));
    converse(&mut speaker, &mut listener, &mut sequence, now);
    let unicast = IpAddr::from([10, 0, 0, 1]);
    let mut memberships = groups(1);
    memberships.groups.insert(unicast, SourceFilter::all());
    let bad = AnnouncedNetwork { memberships, ..AnnouncedNetwork::default() };
    speaker.want([(network_id(0), Arc::new(bad))].into());
    let message = speaker.next(&mut sequence, now).unwrap();
    assert!(matches!(listener.hear(&message, now), Err(Unsound::Invalid { .. })));
    assert!(!listener.heard(None, now).in_sync);
    assert_eq!(listener.heard(None, now).networks, one_network(1));

    // What follows is told all the same.
    speaker.refused(now);
    speaker.want(one_network(2));
    assert!(speaker.next(&mut sequence, now).is_none(), "it is not repeated at once");
    let later = speaker.wake().unwrap();
    assert_eq!(converse(&mut speaker, &mut listener, &mut sequence, later), 1);
    let heard = listener.heard(None, later);
    assert!(heard.in_sync && heard.networks == one_network(2));

    let (mut speaker, mut listener) = (Speaker::new(2), Listener::new(now));
    speaker.want(one_network(u32::try_from(ANNOUNCED_ITEMS_MAX).unwrap()));
    let refused = (0..10).find_map(|_| {
        let message = speaker.next(&mut sequence, now).unwrap();
        listener.hear(&message, now).map(|reply| speaker.answered(reply, 1, now)).err()
    });
    assert!(matches!(refused, Some(Unsound::TooMuch { .. })) && !listener.heard(None, now).in_sync);
}

#[test]
fn a_beat_changes_nothing_of_what_is_known() {
    let now = Duration::from_secs(1);
    let (mut speaker, mut listeners, mut sequence) = (Speaker::new(1), Listeners::default(), 0);
    let mut heard = Arc::<Heard>::default();
    let mut hear = |speaker: &mut Speaker, heard: &mut Arc<Heard>, now| {
        let before = heard.clone();
        let message = speaker.next(&mut sequence, now).unwrap();
        speaker.answered(listeners.hear(host(2), &message, now).unwrap(), 1, now);
        listeners.update(heard, host(2), now);
        !Arc::ptr_eq(&before, heard)
    };
    speaker.want(one_network(3));
    assert!(hear(&mut speaker, &mut heard, now));
    assert_eq!(heard.hosts[&host(2)].networks, one_network(3));
    assert!(!hear(&mut speaker, &mut heard, now + BEAT_INTERVAL));
    speaker.want(one_network(4));
    assert!(hear(&mut speaker, &mut heard, now + BEAT_INTERVAL));
    listeners.update(&mut heard, host(2), now + BEAT_INTERVAL + SILENCE_MAX);
    assert!(!heard.hosts[&host(2)].in_sync);
}

#[test]
fn as_much_as_may_be_announced_can_be_replaced_by_as_much() {
    let now = Duration::from_secs(1);
    let (mut speaker, mut listener, mut sequence) = (Speaker::new(1), Listener::new(now), 0);
    // With the network itself.
    let most = u32::try_from(ANNOUNCED_ITEMS_MAX).unwrap() - 1;
    let before = one_network(most);
    let after = (0..most).map(|index| (IpAddr::from(Ipv4Addr::from(0xe800_0000 + index)), SourceFilter::all()));
    let memberships = Memberships { groups: after.collect(), router: false };
    let after: Content =
        [(network_id(0), Arc::new(AnnouncedNetwork { memberships, ..AnnouncedNetwork::default() }))].into();
    for content in [before, after] {
        speaker.want(content.clone());
        converse(&mut speaker, &mut listener, &mut sequence, now);
        let heard = listener.heard(None, now);
        assert!(heard.in_sync && heard.networks == content);
    }
}
