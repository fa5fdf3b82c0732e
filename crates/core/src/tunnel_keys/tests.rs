use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn key(number: u8, rotation: u64) -> PairKey {
    PairKey {
        rotation,
        drawn: Duration::from_secs(1000),
        digest: KeyDigest::new(number.into()),
        key: PresharedKey::new(&[number; 32]).unwrap(),
    }
}

fn pair(current: Option<u8>, other: Option<u8>) -> PairKeys {
    let of = |number: u8| key(number, 0);
    PairKeys { current: current.map(of), other: other.map(of) }
}

fn claims(number: u8) -> Claim {
    Claim { current: Some(KeyDigest::new(number.into())), programmed: true }
}

fn standing<'a>(keys: &'a PairKeys, claim: Option<(Claim, Duration)>) -> Standing<'a> {
    Standing {
        keys,
        programmed: true,
        claim,
        session: Some(SECOND),
        rotation: 0,
        now: Duration::from_secs(1010),
    }
}

#[test]
fn a_secret_is_never_shown() {
    let keys = pair(Some(0x5a), Some(0x5b));
    let shown = format!("{keys:?} {keys:#?} {:?}", keys.current);
    assert!(!shown.contains("5a, ") && !shown.contains("90, 90") && !shown.contains("WlpaW"));
    assert!(shown.contains("PresharedKey(…)"));
    assert_eq!(PresharedKey::new(&[0; 32]), None);
}

#[test]
fn a_digest_is_read_as_it_is_written() {
    let digest = KeyDigest::new(0xabc);
    let text = serde_json::to_string(&digest).unwrap();
    assert_eq!(serde_json::from_str::<KeyDigest>(&text).unwrap(), digest);
    for wrong in ["", "0", "+0000000000000000000000000000abc", &"g".repeat(32)] {
        assert!(wrong.parse::<KeyDigest>().is_err(), "{wrong}");
    }
}

#[test]
fn a_leader_asks_first_and_offers_only_to_a_host_that_has_just_answered() {
    let none = pair(None, None);
    assert_eq!(next(&standing(&none, None)), Step::Ask);
    assert_eq!(next(&standing(&none, Some((Claim::default(), SECOND)))), Step::Offer);
    assert_eq!(next(&standing(&none, Some((Claim::default(), ASK_RETRY)))), Step::Ask);
    let one = pair(Some(1), None);
    assert_eq!(next(&standing(&one, Some((claims(1), SECOND)))), Step::Nothing);
    assert_eq!(next(&standing(&one, Some((claims(1), ASK_RETRY)))), Step::Nothing);
    assert_eq!(next(&standing(&one, Some((claims(1), ASK_PERIOD)))), Step::Ask);
    assert_eq!(next(&standing(&one, Some((claims(2), SECOND)))), Step::Offer);
    // The follower has it on disk, but not yet in WireGuard.
    let unprogrammed = Claim { programmed: false, ..claims(1) };
    assert_eq!(next(&standing(&one, Some((unprogrammed, SECOND)))), Step::Nothing);
    assert_eq!(next(&standing(&one, Some((unprogrammed, ASK_RETRY)))), Step::Ask);
}

#[test]
fn a_leader_takes_the_key_that_the_follower_has_and_then_forgets_the_other() {
    let offered = pair(Some(1), Some(2));
    assert_eq!(next(&standing(&offered, Some((claims(2), SECOND)))), Step::Swap);
    let swapped = offered.swapped();
    assert_eq!(next(&standing(&swapped, Some((claims(2), SECOND)))), Step::Settle);
    let unprogrammed =
        Standing { programmed: false, ..standing(&swapped, Some((claims(2), SECOND))) };
    assert_eq!(next(&unprogrammed), Step::Nothing);
    assert!(settles(&swapped, true, &claims(2)));
    assert!(!settles(&swapped, true, &claims(1)));
    assert!(!settles(&swapped, false, &claims(2)));
    assert!(!settles(&swapped.settled(), true, &claims(2)));
}

#[test]
fn a_key_is_replaced_when_users_ask_or_when_it_is_old_but_not_before_a_handshake() {
    let one = pair(Some(1), None);
    let settled = standing(&one, Some((claims(1), SECOND)));
    assert_eq!(next(&Standing { rotation: 1, ..settled }), Step::Offer);
    let later = Duration::from_secs(1000) + PRESHARED_KEY_AGE_MAX;
    assert_eq!(next(&Standing { now: later, ..settled }), Step::Offer);
    assert_eq!(next(&Standing { now: later - SECOND, ..settled }), Step::Nothing);
    // The clock was set back.
    assert_eq!(next(&Standing { now: SECOND, ..settled }), Step::Offer);
    for (age, step) in [(99, Step::Offer), (100, Step::Nothing), (139, Step::Nothing)] {
        let session = Some(Duration::from_secs(age));
        assert_eq!(next(&Standing { session, rotation: 1, ..settled }), step, "{age}");
    }
    assert_eq!(next(&Standing { session: None, rotation: 1, ..settled }), Step::Offer);
    assert!(is_behind(&one, 1) && !is_behind(&one, 0) && is_behind(&pair(None, None), 0));
}

#[test]
fn a_follower_keeps_the_key_that_the_leader_has() {
    let digest = |number: u8| Some(KeyDigest::new(number.into()));
    let one = pair(Some(1), None);
    assert_eq!(one.taking(key(2, 0), digest(1)), pair(Some(2), Some(1)));
    assert_eq!(pair(Some(1), Some(3)).taking(key(2, 0), digest(3)), pair(Some(2), Some(3)));
    assert_eq!(pair(Some(1), Some(3)).taking(key(2, 0), digest(9)), pair(Some(2), Some(1)));
    assert_eq!(pair(Some(2), Some(1)).taking(key(2, 0), digest(1)), pair(Some(2), Some(1)));
    assert_eq!(pair(None, None).taking(key(2, 0), None), pair(Some(2), None));
}
