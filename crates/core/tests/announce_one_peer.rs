//! Announcements from one host to one other: what goes in which message, limits, silence, and what
//! is refused.
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
    ANNOUNCED_ITEMS_MAX, ANNOUNCEMENTS_PER_HOST, BEAT_INTERVAL, HOLD_TIME, MESSAGE_ITEMS_MAX,
    SILENCE_MAX,
};
use shoutd_core::local::Local;
use shoutd_core::multicast::{Memberships, SourceFilter};

use crate::common::{groups, host, network_id, sent};

/// Carries the messages of one speaker to one listener, without loss; returns how many there were.
fn converse(
    speaker: &mut OutboundSession,
    listener: &mut InboundSession,
    sequence: &mut u64,
    now: Duration,
) -> usize {
    let mut count = 0;
    while let Some(message) = speaker.next(sequence, now) {
        let reply = listener.hear(&sent(&message), now).unwrap();
        speaker.answered(&reply, 1, now);
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
fn what_does_not_fit_into_one_message_goes_in_parts_and_counts_when_all_is_there() {
    let now = Duration::from_secs(1);
    let (mut speaker, mut listener, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
    let content = one_network(u32::try_from(MESSAGE_ITEMS_MAX).unwrap() * 5 / 2);
    speaker.want(content.clone());
    for part in 1..=3 {
        let message = speaker.next(&mut sequence, now).unwrap();
        assert!(serde_json::to_vec(&*message).unwrap().len() < 2 << 20);
        assert!(
            listener.heard(None, now).networks.is_empty() && !listener.heard(None, now).in_sync
        );
        speaker.answered(&listener.hear(&sent(&message), now).unwrap(), 1, now);
        assert_eq!(speaker.is_up_to_date(), part == 3);
    }
    let heard = listener.heard(None, now);
    assert!(heard.in_sync && heard.networks == content);
}

#[test]
fn changes_that_come_while_a_message_is_under_way_go_in_one() {
    let now = Duration::from_secs(1);
    let (mut speaker, mut listener, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
    speaker.want(one_network(1));
    let message = speaker.next(&mut sequence, now).unwrap();
    for count in 2..1000 {
        speaker.want(one_network(count));
        assert!(speaker.next(&mut sequence, now).is_none());
    }
    speaker.answered(&listener.hear(&message, now).unwrap(), 1, now);
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
    let (mut speaker, mut listener, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
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
    let (mut speaker, mut listener, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
    let agreed: BTreeSet<_> = [network_id(0), network_id(1)].into();
    let of_the_second = |listener: &InboundSession| {
        listener.heard(Some(&agreed), now).networks.get(&network_id(1)).cloned()
    };
    speaker.want(one_network(3));
    converse(&mut speaker, &mut listener, &mut sequence, now);
    assert_eq!(of_the_second(&listener), None, "it has yet to announce it");
    let two: Content = one_network(3)
        .into_iter()
        .chain([(network_id(1), one_network(2)[&network_id(0)].clone())])
        .collect();
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
    let (mut speaker, mut listener, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
    let mut waits = 0;
    for count in 1..=ANNOUNCEMENTS_PER_HOST.0 + 50 {
        speaker.want(one_network(count));
        let Some(message) = speaker.next(&mut sequence, now) else { continue };
        let reply = listener.hear(&message, now).unwrap();
        waits += u32::from(matches!(reply, Reply::TooOften { .. }));
        assert!(!listener.is_impatient(), "that is no fault: nothing is lost by it");
        speaker.answered(&reply, 1, now);
    }
    assert_eq!(waits, 1);
    let later = speaker.wake().unwrap();
    assert!(later < now + Duration::from_millis(10));
    assert_eq!(converse(&mut speaker, &mut listener, &mut sequence, later), 1);
    assert_eq!(listener.heard(None, later).networks, one_network(ANNOUNCEMENTS_PER_HOST.0 + 50));
    assert!(!listener.is_impatient());
}

#[test]
fn a_host_waits_when_it_is_told_to_even_if_it_is_heard_meanwhile_and_one_that_does_not_is_at_fault()
{
    let now = Duration::from_secs(1);
    let (mut speaker, mut sequence) = (OutboundSession::new(1), 0);
    speaker.want(one_network(1));
    speaker.next(&mut sequence, now).unwrap();
    speaker.failed(now);
    speaker.hurry(now);
    speaker.next(&mut sequence, now).unwrap();
    speaker.answered(&Reply::TooOften { wait: 5 }, 1, now);
    speaker.hurry(now);
    assert!(speaker.next(&mut sequence, now).is_none());
    let message = speaker.next(&mut sequence, now + Duration::from_millis(5)).unwrap();

    let mut listener = InboundSession::new(now);
    let is_told = |listener: &mut InboundSession| {
        matches!(listener.hear(&message, now), Ok(Reply::TooOften { .. }))
    };
    let taken = (0..1000).take_while(|_| !is_told(&mut listener)).count();
    assert_eq!(taken, usize::try_from(ANNOUNCEMENTS_PER_HOST.0).unwrap());
    assert!(!listener.is_impatient());
    assert!(is_told(&mut listener) && listener.is_impatient());
    let later = now + Duration::from_secs(1);
    assert!(
        matches!(listener.hear(&message, later), Ok(Reply::Has { .. })) && !listener.is_impatient()
    );
}

#[test]
fn what_no_host_can_announce_is_refused_and_the_host_is_out_of_sync() {
    let now = Duration::from_secs(1);
    let (mut speaker, mut listener, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
    speaker.want(one_network(1));
    converse(&mut speaker, &mut listener, &mut sequence, now);
    let unicast = IpAddr::from([10, 0, 0, 1]);
    let mut memberships = groups(1);
    memberships.groups.insert(unicast, SourceFilter::all());
    let bad = AdvertisedNetwork { memberships, ..AdvertisedNetwork::default() };
    speaker.want([(network_id(0), Arc::new(bad))].into());
    let message = speaker.next(&mut sequence, now).unwrap();
    assert!(matches!(listener.hear(&message, now), Err(InvalidAdvertisement::Invalid { .. })));
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

    let (mut speaker, mut listener) = (OutboundSession::new(2), InboundSession::new(now));
    speaker.want(one_network(u32::try_from(ANNOUNCED_ITEMS_MAX).unwrap()));
    let refused = (0..10).find_map(|_| {
        let message = speaker.next(&mut sequence, now).unwrap();
        listener.hear(&message, now).map(|reply| speaker.answered(&reply, 1, now)).err()
    });
    assert!(
        matches!(refused, Some(InvalidAdvertisement::TooMuch { .. }))
            && !listener.heard(None, now).in_sync
    );
}

#[test]
fn a_beat_changes_nothing_of_what_is_known() {
    let now = Duration::from_secs(1);
    let (mut speaker, mut listeners, mut sequence) =
        (OutboundSession::new(1), InboundSessions::default(), 0);
    let (mut heard, mut beliefs) = (Arc::<PeerStates>::default(), ClaimValidation::default());
    let mut hear = |speaker: &mut OutboundSession, heard: &mut Arc<PeerStates>, now| {
        let before = heard.clone();
        let message = speaker.next(&mut sequence, now).unwrap();
        speaker.answered(&listeners.hear(host(2), &message, now).unwrap(), 1, now);
        let known = Known { cluster: &Cluster::default(), local: &Local::default() };
        beliefs.update(heard, host(2), listeners.heard_host(host(2), now), known, now);
        !Arc::ptr_eq(&before, heard)
    };
    speaker.want(one_network(3));
    assert!(hear(&mut speaker, &mut heard, now));
    assert_eq!(heard.hosts[&host(2)].networks, one_network(3));
    assert!(!hear(&mut speaker, &mut heard, now + BEAT_INTERVAL));
    speaker.want(one_network(4));
    assert!(hear(&mut speaker, &mut heard, now + BEAT_INTERVAL));
    assert!(!listeners.heard_host(host(2), now + BEAT_INTERVAL + SILENCE_MAX).unwrap().in_sync);
}

#[test]
fn as_much_as_may_be_announced_can_be_replaced_by_as_much() {
    let now = Duration::from_secs(1);
    let (mut speaker, mut listener, mut sequence) =
        (OutboundSession::new(1), InboundSession::new(now), 0);
    // With the network itself.
    let most = u32::try_from(ANNOUNCED_ITEMS_MAX).unwrap() - 1;
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
        speaker.want(content.clone());
        converse(&mut speaker, &mut listener, &mut sequence, now);
        let heard = listener.heard(None, now);
        assert!(heard.in_sync && heard.networks == content);
    }
}
