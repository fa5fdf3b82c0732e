use proptest::prelude::*;
use rustls::pki_types::UnixTime;

use super::*;
use crate::certificate::{Distrust, Usage};

fn seven() -> ClusterId {
    ClusterId::new(7)
}

fn secret() -> Secret {
    Secret::from_digits(&"5a".repeat(16)).unwrap()
}

fn at(now: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap())
}

#[test]
fn a_prepared_cluster_is_the_same_on_every_host_and_in_every_version() {
    let (one, two) =
        (Prepared::from_secret(&secret()).unwrap(), Prepared::from_secret(&secret()).unwrap());
    assert_eq!(one.authority.certificate(), two.authority.certificate());
    assert_eq!((one.cluster, &one.seal_key), (two.cluster, &two.seal_key));
    // These must never change: a prepared token works with every later version.
    assert_eq!(
        one.authority.certificate().fingerprint().to_string(),
        "83d85adb58e4e427b9fc8458f28fdb36d97aec4cecd8eff5a99f0748bc2e0c1f"
    );
    assert_eq!(one.cluster.to_string(), "cf0a8cf841ea27c42fa3484f6bb0ace9");
    assert_eq!(
        *one.seal_key.reveal(),
        "3a746bcd11ae5323f12ddded50299d3bd53bb31c41add52d25764b3a94971569"
    );
}

#[test]
fn a_prepared_token_is_distinguished_from_others() {
    let token = Prepared::draw_token().unwrap();
    let prepared = Prepared::from_token(&token).unwrap().unwrap();
    assert_eq!(prepared.authority.certificate().fingerprint(), token.authority);
    let other =
        Token { authority: Authority::draw().unwrap().certificate().fingerprint(), ..token };
    assert!(Prepared::from_token(&other).unwrap().is_none());
}

#[test]
fn a_certificate_is_valid_for_one_host_of_one_cluster_for_a_limited_time() {
    let (authority, key, now) =
        (Authority::draw().unwrap(), HostKey::draw().unwrap(), SystemTime::now());
    let certificate = authority.issue(key.public(), seven(), now).unwrap();
    assert_eq!((certificate.host(), certificate.cluster()), (key.host(), seven()));
    assert_eq!(certificate.key(), key.public());
    for usage in [Usage::Client, Usage::Server] {
        // Also by a clock that is slow.
        for then in [now, now - VALIDITY, now + VALIDITY - Duration::from_secs(1)] {
            assert_eq!(certificate.check(authority.certificate(), usage, at(then)), Ok(()));
        }
        let then = SystemTime::UNIX_EPOCH + VALID_FROM - Duration::from_secs(1);
        let early = certificate.check(authority.certificate(), usage, at(then));
        let then = now + VALIDITY + Duration::from_secs(3 * 86_400);
        let late = certificate.check(authority.certificate(), usage, at(then));
        assert!(matches!(early, Err(Distrust::NotYetValid(_))), "{early:?}");
        assert_eq!(
            late.unwrap_err().to_string(),
            "its certificate expired 3 days ago; check the clocks of both hosts"
        );
    }
    let other = Authority::draw().unwrap();
    assert_eq!(
        certificate.check(other.certificate(), Usage::Client, at(now)),
        Err(Distrust::OtherAuthority)
    );
    assert_eq!(
        certificate.check_at_any_time(authority.certificate(), at(now + 2 * VALIDITY)),
        Ok(())
    );
    assert_eq!(
        certificate.check_at_any_time(other.certificate(), at(now + 2 * VALIDITY)),
        Err(Distrust::OtherAuthority)
    );
}

#[test]
fn a_clock_that_is_far_off_is_an_error_or_a_certificate() {
    let (authority, key) = (Authority::draw().unwrap(), HostKey::draw().unwrap());
    let epoch = SystemTime::UNIX_EPOCH;
    for now in [
        epoch,
        epoch - Duration::from_secs(1 << 40),
        epoch + Duration::from_secs(SECONDS_MAX - VALIDITY.as_secs()),
    ] {
        assert!(authority.issue(key.public(), seven(), now).is_ok(), "{now:?}");
    }
    for now in [epoch + Duration::from_secs(SECONDS_MAX), epoch + Duration::from_secs(1 << 60)] {
        assert!(authority.issue(key.public(), seven(), now).is_err(), "{now:?}");
    }
}

#[test]
fn a_certificate_whose_name_is_not_that_of_its_key_is_refused() {
    let (authority, key, other) =
        (Authority::draw().unwrap(), HostKey::draw().unwrap(), HostKey::draw().unwrap());
    let forged = forge(&authority, key.public(), member_name(other.host(), seven()));
    assert_eq!(
        Certificate::from_der(&forged),
        Err(Distrust::OtherName { names: other.host(), is: key.host() })
    );
    let forged = forge(&authority, key.public(), own_name(key.host()));
    assert_eq!(Certificate::from_der(&forged), Err(Distrust::NoCluster));
    for name in
        ["example.com".to_owned(), format!("{}.7.shoutd", key.host()), format!("x.{}", key.host())]
    {
        let error = Certificate::from_der(&forge(&authority, key.public(), name)).unwrap_err();
        assert!(matches!(error, Distrust::Malformed(_)), "{error:?}");
    }
    assert_eq!(
        Certificate::from_der(own_certificate(&key).unwrap().der()),
        Err(Distrust::NoCluster)
    );
}

#[test]
fn the_authoritys_key_is_readable_only_with_the_seal_key_and_for_its_cluster() {
    let (authority, key) = (Authority::draw().unwrap(), SealKey::draw().unwrap());
    let sealed = authority.seal(&key, seven()).unwrap();
    let opened = Authority::unseal(&sealed, &key, seven()).unwrap();
    assert_eq!(opened.certificate(), authority.certificate());
    assert_eq!(opened.key.seed(), authority.key.seed());
    assert_ne!(
        authority.seal(&key, seven()).unwrap().sealed_key,
        sealed.sealed_key,
        "a nonce must be used once only"
    );
    let mut damaged = sealed.clone();
    damaged
        .sealed_key
        .replace_range(40..41, if &sealed.sealed_key[40..41] == "0" { "1" } else { "0" });
    for (sealed, key, cluster) in [
        (&sealed, &SealKey::draw().unwrap(), seven()),
        (&sealed, &key, ClusterId::new(8)),
        (&damaged, &key, seven()),
    ] {
        let error = Authority::unseal(sealed, key, cluster).unwrap_err();
        assert_eq!(error, AuthorityError::WrongSeal);
    }
    let other = Authority::draw().unwrap().seal(&key, seven()).unwrap();
    let swapped = cluster::Authority { certificate: other.certificate, ..sealed };
    let error = Authority::unseal(&swapped, &key, seven()).unwrap_err();
    assert!(matches!(error, AuthorityError::Damaged(_)), "{error:?}");
}

#[test]
fn debug_output_contains_no_secret() {
    let prepared = Prepared::from_secret(&secret()).unwrap();
    let printed = format!("{prepared:?} {:?}", prepared.seal_key);
    assert!(!printed.contains(prepared.seal_key.reveal().as_str()));
    assert!(!printed.contains(&hex::encode(prepared.authority.key.seed())));
}

proptest! {
    #[test]
    fn any_bytes_are_a_certificate_or_an_error(bytes: Vec<u8>) {
        prop_assert!(Certificate::from_der(&bytes).is_err());
        prop_assert!(AuthorityCertificate::from_der(&bytes).is_err());
    }

    #[test]
    fn a_damaged_certificate_is_an_error_or_not_trusted(
        position: prop::sample::Index,
        flip in 1..=255u8,
    ) {
        let prepared = Prepared::from_secret(&secret()).unwrap();
        let key = PrivateKey::from_seed(Zeroizing::new([3; 32])).unwrap();
        let now = SystemTime::now();
        let certificate = prepared.authority.issue(key.public(), seven(), now).unwrap();
        let mut der = certificate.der().to_vec();
        let position = position.index(der.len());
        der[position] ^= flip;
        let trusted = Certificate::from_der(&der).and_then(|read| {
            read.check(prepared.authority.certificate(), Usage::Client, at(now))
        });
        prop_assert!(trusted.is_err());
        let mut authority = prepared.authority.certificate().der().to_vec();
        let position = position % authority.len();
        authority[position] ^= flip;
        let _ = AuthorityCertificate::from_der(&authority);
    }

    #[test]
    fn any_text_is_a_sealed_authority_or_an_error(
        certificate: String,
        sealed_key: String,
        digits in "[0-9a-f]{0,200}",
    ) {
        let key = SealKey(Zeroizing::new([1; 32]));
        let agreed = cluster::Authority { certificate, sealed_key };
        prop_assert!(Authority::unseal(&agreed, &key, seven()).is_err());
        let prepared = Prepared::from_secret(&secret()).unwrap();
        let certificate = hex::encode(prepared.authority.certificate().der());
        let agreed = cluster::Authority { certificate, sealed_key: digits };
        prop_assert!(Authority::unseal(&agreed, &key, seven()).is_err());
    }
}
