//! What gotatun does while the two ends of a tunnel have different preshared keys: the crate's
//! documentation promises it. Without devices, sockets or privileges.

#![expect(clippy::panic, clippy::expect_used, reason = "a test says what it expects by failing")]

use std::sync::Arc;

use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::noise::{Tunn, TunnResult};
use gotatun::packet::{Packet, WgKind};
use gotatun::x25519::{PublicKey, StaticSecret};

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

/// How many sessions an end remembers.
const SESSIONS: usize = 8;

/// Two ends with the old preshared key and a session, which the first end initiated.
fn ends() -> (Tunn, Tunn) {
    let secrets = [StaticSecret::from([3; 32]), StaticSecret::from([4; 32])];
    let [one, two] = secrets.each_ref().map(PublicKey::from);
    let end = |own: &StaticSecret, other| {
        let limiter = Arc::new(RateLimiter::new(&PublicKey::from(own), 1000));
        Tunn::new(own.clone(), other, Some(OLD), None, IndexTable::from_os_rng(), limiter)
    };
    let (mut one, mut two) = (end(&secrets[0], two), end(&secrets[1], one));
    assert!(handshake(&mut one, &mut two));
    assert!(passes(&mut one, &mut two) && passes(&mut two, &mut one));
    (one, two)
}

/// A handshake, which need not succeed.
fn handshake(initiator: &mut Tunn, responder: &mut Tunn) -> bool {
    let initiation = initiator.format_handshake_initiation(true).expect("an initiation");
    let answer = responder.handle_incoming_packet(WgKind::HandshakeInit(initiation));
    let TunnResult::WriteToNetwork(answer) = answer else { panic!("no answer: {answer:?}") };
    match initiator.handle_incoming_packet(answer) {
        TunnResult::WriteToNetwork(confirmation) => {
            responder.handle_incoming_packet(confirmation);
            true
        }
        TunnResult::Err(_) => false,
        other => panic!("{other:?}"),
    }
}

/// Whether a packet gets from one end to the other.
fn passes(from: &mut Tunn, to: &mut Tunn) -> bool {
    let packet = Packet::from_bytes([0x45; 32].as_slice().into());
    let Some(WgKind::Data(data)) = from.handle_outgoing_packet(packet, None) else { return false };
    matches!(to.handle_incoming_packet(WgKind::Data(data)), TunnResult::WriteToTunnel(_))
}

#[test]
fn a_session_outlives_a_change_of_the_preshared_key() {
    for initiator_first in [true, false] {
        let (mut one, mut two) = ends();
        let (first, second) =
            if initiator_first { (&mut one, &mut two) } else { (&mut two, &mut one) };
        first.set_preshared_key(Some(NEW));
        assert!(passes(first, second) && passes(second, first));
        second.set_preshared_key(Some(NEW));
        assert!(passes(first, second) && passes(second, first));
        assert!(handshake(&mut one, &mut two));
        assert!(passes(&mut one, &mut two) && passes(&mut two, &mut one));
    }
}

/// An end begins a handshake each five seconds until one succeeds.
#[test]
fn seven_failed_handshakes_cost_nothing_and_the_eighth_costs_the_session() {
    for initiator_has_new in [true, false] {
        let (mut one, mut two) = ends();
        let end = if initiator_has_new { &mut one } else { &mut two };
        end.set_preshared_key(Some(NEW));
        for _ in 1..SESSIONS {
            assert!(!handshake(&mut one, &mut two));
            assert!(passes(&mut one, &mut two) && passes(&mut two, &mut one));
        }
        assert!(!handshake(&mut one, &mut two));
        assert!(!passes(&mut one, &mut two) && !passes(&mut two, &mut one));
        // Both ends have the same key again: the next handshake ends it.
        one.set_preshared_key(Some(NEW));
        two.set_preshared_key(Some(NEW));
        assert!(handshake(&mut one, &mut two));
        assert!(passes(&mut one, &mut two) && passes(&mut two, &mut one));
    }
}
