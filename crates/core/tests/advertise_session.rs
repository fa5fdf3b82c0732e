//! Advertisements from one host to one peer: the content of the messages, limits, silence, and
//! invalid messages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use shoutd_core::advertise::{
    AdvertisedNetwork, ClaimValidation, Content, InboundSession, InboundSessions,
    InvalidAdvertisement, Known, OutboundSession, PeerStates, Reply,
};
use shoutd_core::cluster::Cluster;
use shoutd_core::limits::{
    ADVERTISED_ITEMS_MAX, ADVERTISEMENTS_PER_HOST, BEAT_INTERVAL, HOLD_TIME, MESSAGE_ITEMS_MAX,
    SILENCE_MAX,
};
use shoutd_core::local::Local;
use shoutd_core::multicast::{Memberships, SourceFilter};

use crate::common::{groups, host, network_id, sent};

/// Delivers all messages of one session without loss, and returns how many there were.
fn deliver_all(
    outbound: &mut OutboundSession,
    inbound: &mut InboundSession,
    sequence: &mut u64,
    now: Duration,
) -> usize {
    let mut count = 0;
    while let Some(message) = outbound.next(sequence, now) {
        let reply = inbound.receive(&sent(&message), now).unwrap();
        outbound.answered(&reply, 1, now);
        count += 1;
    }
    count
}

fn one_network(groups_of_it: u32) -> Content {
    let memberships = groups(groups_of_it);
    [(network_id(0), Arc::new(AdvertisedNetwork { memberships, ..AdvertisedNetwork::default() }))]
        .into()
}

#[test]
fn large_content_is_sent_in_parts_and_counts_once_it_is_complete() {
    let now = Duration::from_secs(1);
    let (mut outbound, mut inbound, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
    let content = one_network(u32::try_from(MESSAGE_ITEMS_MAX).unwrap() * 5 / 2);
    outbound.want(content.clone());
    for part in 1..=3 {
        let message = outbound.next(&mut sequence, now).unwrap();
        assert!(serde_json::to_vec(&*message).unwrap().len() < 2 << 20);
        assert!(
            inbound.peer_state(None, now).networks.is_empty()
                && !inbound.peer_state(None, now).in_sync
        );
        outbound.answered(&inbound.receive(&sent(&message), now).unwrap(), 1, now);
        assert_eq!(outbound.is_up_to_date(), part == 3);
    }
    let state = inbound.peer_state(None, now);
    assert!(state.in_sync && state.networks == content);
}

#[test]
fn changes_made_while_a_message_is_in_flight_are_merged() {
    let now = Duration::from_secs(1);
    let (mut outbound, mut inbound, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
    outbound.want(one_network(1));
    let message = outbound.next(&mut sequence, now).unwrap();
    for count in 2..1000 {
        outbound.want(one_network(count));
        assert!(outbound.next(&mut sequence, now).is_none());
    }
    outbound.answered(&inbound.receive(&message, now).unwrap(), 1, now);
    assert_eq!(deliver_all(&mut outbound, &mut inbound, &mut sequence, now), 1);
    assert_eq!(inbound.peer_state(None, now).networks, one_network(999));
    // Nothing more is sent until a keepalive is due, which changes nothing.
    assert_eq!(deliver_all(&mut outbound, &mut inbound, &mut sequence, now + BEAT_INTERVAL / 2), 0);
    assert!(outbound.wake().unwrap() <= now + BEAT_INTERVAL);
    assert_eq!(deliver_all(&mut outbound, &mut inbound, &mut sequence, now + BEAT_INTERVAL), 1);
}

#[test]
fn a_silent_host_is_out_of_sync_then_withdrawn_and_returns_with_a_snapshot() {
    let mut now = Duration::from_secs(1);
    let (mut outbound, mut inbound, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
    outbound.want(one_network(3));
    deliver_all(&mut outbound, &mut inbound, &mut sequence, now);
    now += SILENCE_MAX;
    let state = inbound.peer_state(None, now);
    assert!(
        !state.in_sync && state.networks == one_network(3),
        "its advertisement is kept, and it is sent every group"
    );
    // A keepalive is enough.
    assert_eq!(deliver_all(&mut outbound, &mut inbound, &mut sequence, now), 1);
    assert!(inbound.peer_state(None, now).in_sync);
    inbound.mark_not_in_sync();
    assert!(!inbound.peer_state(None, now).in_sync);
    // While something comes through the tunnel, only TCP can be at fault.
    for _ in 0..3 {
        now += HOLD_TIME / 2;
        inbound.note_tunnelled(now);
        inbound.expire(now);
        let state = inbound.peer_state(None, now);
        assert!(!state.in_sync && state.networks == one_network(3), "it is still sent everything");
    }
    now += HOLD_TIME;
    inbound.expire(now);
    let state = inbound.peer_state(Some(&[network_id(0)].into()), now);
    assert!(
        state.in_sync && state.networks == Content::from([(network_id(0), Arc::default())]),
        "it is known to have no members"
    );
    assert_eq!(inbound.wake(now), None);
    assert_eq!(deliver_all(&mut outbound, &mut inbound, &mut sequence, now), 2);
    assert_eq!(inbound.peer_state(None, now).networks, one_network(3));
}

#[test]
fn a_host_has_no_members_on_a_network_that_it_withdrew_even_if_it_is_agreed_to_have_it() {
    let now = Duration::from_secs(1);
    let (mut outbound, mut inbound, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
    outbound.want(one_network(3));
    deliver_all(&mut outbound, &mut inbound, &mut sequence, now);
    assert_eq!(second_network(&inbound, now), None, "it has not advertised it yet");
    let two: Content = one_network(3)
        .into_iter()
        .chain([(network_id(1), one_network(2)[&network_id(0)].clone())])
        .collect();
    outbound.want(two.clone());
    deliver_all(&mut outbound, &mut inbound, &mut sequence, now);
    assert_eq!(second_network(&inbound, now).as_ref(), two.get(&network_id(1)));
    outbound.want(one_network(3));
    deliver_all(&mut outbound, &mut inbound, &mut sequence, now);
    assert_eq!(second_network(&inbound, now), Some(Arc::default()));
    // Agreed not to have it, and then to have it: its absence is news again.
    inbound.prune(None);
    assert_eq!(second_network(&inbound, now), None);
}

/// What the peer advertises of network 1, if it is agreed to have networks 0 and 1.
fn second_network(inbound: &InboundSession, now: Duration) -> Option<Arc<AdvertisedNetwork>> {
    let agreed = BTreeSet::from([network_id(0), network_id(1)]);
    inbound.peer_state(Some(&agreed), now).networks.get(&network_id(1)).cloned()
}

#[test]
fn a_host_over_its_rate_limit_is_told_to_wait_and_loses_nothing() {
    let now = Duration::from_secs(1);
    let (mut outbound, mut inbound, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
    let mut waits = 0;
    for count in 1..=ADVERTISEMENTS_PER_HOST.0 + 50 {
        outbound.want(one_network(count));
        let Some(message) = outbound.next(&mut sequence, now) else { continue };
        let reply = inbound.receive(&message, now).unwrap();
        waits += u32::from(matches!(reply, Reply::TooOften { .. }));
        assert!(!inbound.ignores_wait(), "being told to wait is not a fault");
        outbound.answered(&reply, 1, now);
    }
    assert_eq!(waits, 1);
    let later = outbound.wake().unwrap();
    assert!(later < now + Duration::from_millis(10));
    assert_eq!(deliver_all(&mut outbound, &mut inbound, &mut sequence, later), 1);
    assert_eq!(
        inbound.peer_state(None, later).networks,
        one_network(ADVERTISEMENTS_PER_HOST.0 + 50)
    );
    assert!(!inbound.ignores_wait());
}

#[test]
fn a_host_that_does_not_wait_is_at_fault_and_messages_from_the_peer_do_not_shorten_the_wait() {
    let now = Duration::from_secs(1);
    let (mut outbound, mut sequence) = (OutboundSession::new(1), 0);
    outbound.want(one_network(1));
    outbound.next(&mut sequence, now).unwrap();
    outbound.failed(now);
    outbound.retry_now(now);
    outbound.next(&mut sequence, now).unwrap();
    outbound.answered(&Reply::TooOften { wait: 5 }, 1, now);
    outbound.retry_now(now);
    assert!(outbound.next(&mut sequence, now).is_none());
    let message = outbound.next(&mut sequence, now + Duration::from_millis(5)).unwrap();

    let mut inbound = InboundSession::new(now);
    let taken = (0..1000)
        .map(|_| inbound.receive(&message, now))
        .take_while(|answer| !matches!(answer, Ok(Reply::TooOften { .. })))
        .count();
    assert_eq!(taken, usize::try_from(ADVERTISEMENTS_PER_HOST.0).unwrap());
    assert!(!inbound.ignores_wait());
    assert!(
        matches!(inbound.receive(&message, now), Ok(Reply::TooOften { .. }))
            && inbound.ignores_wait()
    );
    let later = now + Duration::from_secs(1);
    assert!(
        matches!(inbound.receive(&message, later), Ok(Reply::Has { .. }))
            && !inbound.ignores_wait()
    );
}

#[test]
fn an_invalid_advertisement_is_refused_and_the_host_is_out_of_sync() {
    let now = Duration::from_secs(1);
    let (mut outbound, mut inbound, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
    outbound.want(one_network(1));
    deliver_all(&mut outbound, &mut inbound, &mut sequence, now);
    let unicast = IpAddr::from([10, 0, 0, 1]);
    let mut memberships = groups(1);
    memberships.groups.insert(unicast, SourceFilter::all());
    let bad = AdvertisedNetwork { memberships, ..AdvertisedNetwork::default() };
    outbound.want([(network_id(0), Arc::new(bad))].into());
    let message = outbound.next(&mut sequence, now).unwrap();
    assert!(matches!(inbound.receive(&message, now), Err(InvalidAdvertisement::Invalid { .. })));
    assert!(!inbound.peer_state(None, now).in_sync);
    assert_eq!(inbound.peer_state(None, now).networks, one_network(1));

    // Later messages are accepted.
    outbound.refused(now);
    outbound.want(one_network(2));
    assert!(outbound.next(&mut sequence, now).is_none(), "it is not repeated at once");
    let later = outbound.wake().unwrap();
    assert_eq!(deliver_all(&mut outbound, &mut inbound, &mut sequence, later), 1);
    let state = inbound.peer_state(None, later);
    assert!(state.in_sync && state.networks == one_network(2));

    let (mut outbound, mut inbound) = (OutboundSession::new(2), InboundSession::new(now));
    outbound.want(one_network(u32::try_from(ADVERTISED_ITEMS_MAX).unwrap()));
    let refused = (0..10).find_map(|_| {
        let message = outbound.next(&mut sequence, now).unwrap();
        inbound.receive(&message, now).map(|reply| outbound.answered(&reply, 1, now)).err()
    });
    assert!(
        matches!(refused, Some(InvalidAdvertisement::TooMuch { .. }))
            && !inbound.peer_state(None, now).in_sync
    );
}

/// A host that receives the advertisements of host 2.
#[derive(Default)]
struct Receiver {
    inbound: InboundSessions,
    validation: ClaimValidation,
    peers: Arc<PeerStates>,
}

impl Receiver {
    /// Receives the next message, and returns whether it changes the peer state.
    fn receive(
        &mut self,
        outbound: &mut OutboundSession,
        sequence: &mut u64,
        now: Duration,
    ) -> bool {
        let before = self.peers.clone();
        let message = outbound.next(sequence, now).unwrap();
        outbound.answered(&self.inbound.receive(host(2), &message, now).unwrap(), 1, now);
        let known = Known { cluster: &Cluster::default(), local: &Local::default() };
        let state = self.inbound.peer_state(host(2), now);
        self.validation.update(&mut self.peers, host(2), state, known, now);
        !Arc::ptr_eq(&before, &self.peers)
    }
}

#[test]
fn a_keepalive_does_not_change_the_peer_state() {
    let now = Duration::from_secs(1);
    let (mut outbound, mut receiver, mut sequence) =
        (OutboundSession::new(1), Receiver::default(), 0);
    outbound.want(one_network(3));
    assert!(receiver.receive(&mut outbound, &mut sequence, now));
    assert_eq!(receiver.peers.hosts[&host(2)].networks, one_network(3));
    let later = now + BEAT_INTERVAL;
    assert!(!receiver.receive(&mut outbound, &mut sequence, later));
    outbound.want(one_network(4));
    assert!(receiver.receive(&mut outbound, &mut sequence, later));
    assert!(!receiver.inbound.peer_state(host(2), later + SILENCE_MAX).unwrap().in_sync);
}

#[test]
fn content_of_maximum_size_can_be_replaced_by_other_content_of_that_size() {
    let now = Duration::from_secs(1);
    let (mut outbound, mut inbound, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
    // The network itself counts as one item.
    let most = u32::try_from(ADVERTISED_ITEMS_MAX).unwrap() - 1;
    let before = one_network(most);
    let after = (0..most)
        .map(|index| (IpAddr::from(Ipv4Addr::from(0xe800_0000 + index)), SourceFilter::all()));
    let memberships = Memberships { groups: after.collect(), router: false };
    let after: Content = [(
        network_id(0),
        Arc::new(AdvertisedNetwork { memberships, ..AdvertisedNetwork::default() }),
    )]
    .into();
    for content in [before, after] {
        outbound.want(content.clone());
        deliver_all(&mut outbound, &mut inbound, &mut sequence, now);
        let state = inbound.peer_state(None, now);
        assert!(state.in_sync && state.networks == content);
    }
}
