//! Leases, enrollment and removal of hosts in agreed state, and the size of stocks.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::time::Duration;

use shoutd_core::cluster::{
    Authority, Cluster, Command, Outcome, Pass, Pool, Refusal, STATE_WITH_ENCRYPTION,
    STATE_WITHOUT_ENCRYPTION, Token, WantedAddress,
};
use shoutd_core::limits::FORMER_AUTHORITIES_MAX;
use shoutd_core::stock::stock_size;
use shoutd_core::{Fingerprint, HostId, NetworkId, TokenHash};

use crate::common::{admission, founded};

#[test]
fn addresses_are_leased_from_the_top_and_never_twice() {
    let mut cluster = founded();
    let host = common::host;
    for value in 1..=2u64 {
        let address = format!("192.0.2.{value}:7789").parse().unwrap();
        cluster
            .apply(&Command::AdmitHost { host: host(value), name: "h".to_owned(), address })
            .unwrap();
    }
    let id: NetworkId = "00000000000000aa".parse().unwrap();
    let pool = Pool { gateway: Some("10.9.0.1".parse().unwrap()), ..common::pool("10.9.0.0/29") };
    let subnet = pool.subnet;
    let settings = common::settings(pool);
    cluster.apply(&Command::CreateNetwork { id, origin: host(1), settings }).unwrap();
    // 10.9.0.0/29 has six host addresses; one is the gateway's.
    let any = WantedAddress::Highest { subnet, count: 1 };
    for last in [6, 5, 4, 3, 2] {
        let expected = Outcome::Leased(vec![format!("10.9.0.{last}/29").parse().unwrap()]);
        assert_eq!(claim(&mut cluster, 1 + last % 2, any), Ok(expected));
    }
    assert_eq!(
        claim(&mut cluster, 1, any).unwrap_err().to_string(),
        "subnet 10.9.0.0/29 of network 000000000000 has no free address left"
    );
    let taken = WantedAddress::Exactly("10.9.0.5".parse().unwrap());
    let refusal = claim(&mut cluster, 1, taken).unwrap_err().to_string();
    assert!(
        refusal.starts_with("address 10.9.0.5 of network 000000000000 is in use on host h;"),
        "{refusal}"
    );
    let gateway = WantedAddress::Exactly("10.9.0.1".parse().unwrap());
    let refusal = claim(&mut cluster, 1, gateway).unwrap_err().to_string();
    assert!(refusal.contains("reserved"), "{refusal}");
}

/// A host claims an address of the network 00000000000000aa.
fn claim(cluster: &mut Cluster, host: u64, address: WantedAddress) -> Result<Outcome, Refusal> {
    let network = "00000000000000aa".parse().unwrap();
    cluster.apply(&Command::ClaimAddress { network, host: common::host(host), address })
}

fn enroll(cluster: &mut Cluster, host: u64, pass: Pass, now: Duration) -> Result<Outcome, Refusal> {
    cluster.apply(&Command::Enroll { host: HostId::new(host).unwrap(), pass, now })
}

#[test]
fn tokens_and_approvals_admit_hosts_as_long_as_they_are_valid() {
    let mut cluster = founded();
    let (hash, key) = (TokenHash([1; 32]), Fingerprint([2; 32]));
    let now = Duration::from_secs(1000);
    let (token, approval) = (Pass::Token(hash), Pass::Approval(key));
    assert_eq!(enroll(&mut cluster, 1, token, now), Err(Refusal::UnknownToken));
    assert_eq!(enroll(&mut cluster, 1, approval, now), Err(Refusal::NotApproved));
    let single = Token { expires: Some(now + Duration::from_secs(10)), uses: Some(1) };
    cluster.apply(&Command::AddToken { hash, token: single, now }).unwrap();
    assert_eq!(
        enroll(&mut cluster, 1, token, now + Duration::from_secs(10)),
        Err(Refusal::TokenExpired)
    );
    assert_eq!(enroll(&mut cluster, 1, token, now), Ok(Outcome::Done));
    assert_eq!(
        enroll(&mut cluster, 1, token, now),
        Ok(Outcome::Done),
        "the same host again, as after a timeout"
    );
    assert_eq!(enroll(&mut cluster, 2, token, now), Err(Refusal::TokenUsedUp));
    cluster
        .apply(&Command::AddToken { hash, token: Token { expires: None, uses: None }, now })
        .unwrap();
    assert_eq!(enroll(&mut cluster, 2, token, now), Ok(Outcome::Done));
    assert_eq!(enroll(&mut cluster, 3, token, now), Ok(Outcome::Done));
    cluster.apply(&Command::RevokeTokens).unwrap();
    assert_eq!(enroll(&mut cluster, 4, token, now), Err(Refusal::UnknownToken));
    cluster.apply(&Command::Approve { key, until: now + Duration::from_secs(5), now }).unwrap();
    assert_eq!(
        enroll(&mut cluster, 5, approval, now + Duration::from_secs(5)),
        Err(Refusal::NotApproved)
    );
    assert_eq!(enroll(&mut cluster, 5, approval, now), Ok(Outcome::Done));
    assert_eq!(
        enroll(&mut cluster, 6, approval, now),
        Err(Refusal::NotApproved),
        "an approval is for one host"
    );
}

fn authority(number: usize) -> Authority {
    Authority { certificate: format!("ce{number:02x}"), sealed_key: format!("5e{number:02x}") }
}

#[test]
fn the_authority_is_replaced_once_and_with_it_end_all_tokens() {
    let mut cluster = founded();
    cluster.apply(&admission(1)).unwrap();
    let now = Duration::from_secs(1);
    let replace = |cluster: &mut Cluster, former: usize, new: usize| {
        let former = authority(former).certificate;
        cluster.apply(&Command::ReplaceAuthority { former, authority: authority(new) })
    };
    assert_eq!(replace(&mut cluster, 0, 1), Err(Refusal::OtherAuthority), "there is none yet");
    cluster.apply(&Command::SetAuthority { authority: authority(0) }).unwrap();
    assert_eq!(cluster.state_version(), STATE_WITHOUT_ENCRYPTION);
    let hash = TokenHash([1; 32]);
    let token = Token { expires: None, uses: None };
    cluster.apply(&Command::AddToken { hash, token, now }).unwrap();
    enroll(&mut cluster, 5, Pass::Token(hash), now).unwrap();

    assert_eq!(replace(&mut cluster, 0, 1), Ok(Outcome::Done));
    assert_eq!(cluster.state_version(), STATE_WITH_ENCRYPTION, "older builds must not skip it");
    assert!(cluster.admissions.enrolled.is_empty() && cluster.admissions.tokens.is_empty());
    assert_eq!(enroll(&mut cluster, 5, Pass::Token(hash), now), Err(Refusal::UnknownToken));
    // Again after a timeout, and by another host that did not know of the first.
    assert_eq!(replace(&mut cluster, 0, 1), Ok(Outcome::Done));
    assert_eq!(replace(&mut cluster, 0, 2), Err(Refusal::OtherAuthority));
    assert_eq!(cluster.admissions.authority, Some(authority(1)));
    for number in 1..FORMER_AUTHORITIES_MAX + 2 {
        replace(&mut cluster, number, number + 1).unwrap();
    }
    let former: Vec<_> =
        (2..FORMER_AUTHORITIES_MAX + 2).map(|number| authority(number).certificate).collect();
    assert_eq!(cluster.admissions.former_authorities, former, "the oldest are forgotten");
}

#[test]
fn a_removed_host_holds_nothing_and_is_not_admitted_again() {
    let mut cluster = founded();
    let host = common::host;
    cluster.apply(&admission(1)).unwrap();
    let now = Duration::from_secs(1);
    assert_eq!(cluster.apply(&Command::RemoveHost { host: host(1), now }), Err(Refusal::LastHost));
    cluster.apply(&admission(2)).unwrap();
    let id: NetworkId = "00000000000000aa".parse().unwrap();
    let settings = common::settings(common::pool("10.9.0.0/24"));
    cluster.apply(&Command::CreateNetwork { id: id.clone(), origin: host(2), settings }).unwrap();
    let address = WantedAddress::Exactly("10.9.0.7".parse().unwrap());
    cluster.apply(&Command::ClaimAddress { network: id.clone(), host: host(2), address }).unwrap();
    for _ in 0..2 {
        assert_eq!(cluster.apply(&Command::RemoveHost { host: host(2), now }), Ok(Outcome::Done));
    }
    assert!(cluster.networks[&id].leases.is_empty());
    assert_eq!(
        cluster.apply(&Command::RemoveHost { host: host(3), now }),
        Err(Refusal::UnknownHost(host(3)))
    );
    assert!(matches!(cluster.apply(&admission(2)), Err(Refusal::HostRemoved { .. })));
}

#[test]
fn the_stock_size_follows_the_subnet_and_all_stocks_fit_into_it() {
    let pool = common::pool;
    assert_eq!(stock_size(&pool("10.0.0.0/16"), 3), 8);
    assert_eq!(stock_size(&pool("10.0.0.0/24"), 10), 6);
    assert_eq!(stock_size(&pool("10.0.0.0/29"), 3), 0);
    assert_eq!(stock_size(&pool("fd00::/64"), 1000), 8);
    for hosts in 1..200 {
        assert!(stock_size(&pool("10.0.0.0/24"), hosts) * 2 * hosts <= 254);
    }
}

#[test]
fn the_default_encrypts_new_networks_and_refuses_plain_ones() {
    let mut cluster = common::cluster_of(1);
    let command = |number: u8, options: &[(&str, &str)]| {
        let options = options.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let mut settings = common::settings(common::pool(&format!("10.{number}.0.0/24")));
        settings.options = options.collect();
        let (id, origin) = (common::network_id(number), common::host(1));
        Command::CreateNetwork { id, origin, settings }
    };
    let is_encrypted =
        |cluster: &Cluster, number| cluster.networks[&common::network_id(number)].encrypted;
    cluster.apply(&command(1, &[])).unwrap();
    cluster.apply(&command(2, &[("shoutd.encrypted", "false")])).unwrap();
    cluster.apply(&Command::SetEncryption { always: true }).unwrap();
    assert!(cluster.encryption.wanted, "the hosts publish their ends at once");
    cluster.apply(&command(3, &[])).unwrap();
    assert!(!is_encrypted(&cluster, 1) && is_encrypted(&cluster, 3));
    let refused = cluster.apply(&command(4, &[("encrypted", "False")])).unwrap_err();
    assert_eq!(refused, Refusal::MustBeEncrypted("encrypted".to_owned()));
    assert!(!cluster.networks.contains_key(&common::network_id(4)));
    cluster.apply(&command(5, &[("encrypted", ""), ("shoutd.encrypted", "false")])).unwrap();
    // Repeated, they find what they did before, whatever the default is now.
    assert_eq!(cluster.apply(&command(2, &[("shoutd.encrypted", "false")])), Ok(Outcome::Done));
    cluster.apply(&Command::SetEncryption { always: false }).unwrap();
    assert_eq!(cluster.apply(&command(3, &[])), Ok(Outcome::Done));
    assert!(is_encrypted(&cluster, 3) && is_encrypted(&cluster, 5));
    cluster.apply(&command(6, &[])).unwrap();
    assert!(!is_encrypted(&cluster, 6));
}
