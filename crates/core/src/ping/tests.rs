//! Hosts that ping each other, with a network that loses, doubles and cuts.

use std::collections::BTreeSet;
use std::time::Duration;

use super::exchange::{Echo, Exchange};
use super::result::PingAnswer;
use super::*;

const MTU: u16 = 1450;

fn host(number: u64) -> HostId {
    HostId::new(number).unwrap()
}

fn asked(count: u16, sizes: Sizes) -> AskEchoes {
    let ask = AskPing { network: None, to: None, count, sizes };
    AskEchoes {
        network: "1".repeat(64).parse().unwrap(),
        to: None,
        session: 7,
        hosts: (1..=3).map(host).collect(),
        requests: ask.requests().unwrap(),
    }
}

/// Three hosts ping each other. `copies` says how often an echo arrives at a host.
fn ping(asked: &AskEchoes, copies: impl Fn(&Echo, HostId) -> usize) -> Ping {
    let mut hosts: Vec<(HostId, Exchange)> =
        asked.hosts.iter().map(|id| (*id, Exchange::new(*id, asked, MTU))).collect();
    let mut now = Duration::ZERO;
    while hosts.iter().any(|(_, exchange)| exchange.next().is_some()) {
        let sent = hosts.iter_mut().filter_map(|(_, exchange)| exchange.request(now));
        let mut in_flight: Vec<Echo> = sent.collect();
        while !in_flight.is_empty() {
            now += Duration::from_micros(100);
            let mut answers = Vec::new();
            for echo in in_flight {
                for (id, exchange) in hosts.iter_mut().filter(|(id, _)| *id != echo.from) {
                    for _ in 0..copies(&echo, *id) {
                        answers.extend(exchange.receive(&echo, now));
                    }
                }
            }
            in_flight = answers;
        }
    }
    let answers = hosts.into_iter().map(|(id, exchange)| PingAnswer {
        id,
        name: format!("host{}", id.get()),
        echoes: Ok(exchange.finish()),
    });
    let answers: Vec<PingAnswer> = answers.collect();
    Ping::new("foo".to_owned(), None, asked.requests.sizes, &answers, None)
}

fn pair<'a>(ping: &'a Ping, from: &str, to: &str) -> &'a PingPair {
    ping.pairs.iter().find(|pair| pair.from == from && pair.to == to).unwrap()
}

#[test]
fn everything_arrives_and_each_host_answers_its_share() {
    let ping = ping(&asked(100, Sizes::Fixed(SIZE_MIN)), |_, _| 1);
    assert_eq!(ping.problems, Vec::<String>::new());
    assert_eq!(ping.pairs.len(), 6);
    for pair in &ping.pairs {
        assert_eq!((pair.sent, pair.received, pair.duplicates), (100, 100, 0));
        let times = pair.round_trip.unwrap();
        assert_eq!((times.samples, times.p50, times.p99), (50, 200, 200));
    }
}

#[test]
fn a_loss_belongs_to_its_direction() {
    let lost = |echo: &Echo, to: HostId| usize::from(!(echo.from == host(1) && to == host(3)));
    let ping = ping(&asked(50, Sizes::Fixed(SIZE_MIN)), lost);
    assert_eq!(pair(&ping, "host1", "host3").received, 0);
    assert_eq!(pair(&ping, "host3", "host1").received, 50);
    // Requests arrive there, but its answers do not.
    assert_eq!(pair(&ping, "host3", "host1").round_trip, None);
    assert_eq!(pair(&ping, "host1", "host3").round_trip, None);
    assert_eq!(ping.problems.len(), 1);
    assert!(ping.problems[0].starts_with("host1 to host3: none of 50 requests"), "{ping:?}");
}

#[test]
fn what_comes_twice_is_counted_once() {
    let twice = |echo: &Echo, to: HostId| if to == host(2) && !echo.answers { 2 } else { 1 };
    let ping = ping(&asked(10, Sizes::Fixed(SIZE_MIN)), twice);
    let doubled = pair(&ping, "host1", "host2");
    assert_eq!((doubled.received, doubled.duplicates), (10, 10));
    assert_eq!(doubled.round_trip.unwrap().samples, 5);
    assert!(ping.problems.is_empty());
}

#[test]
fn a_sweep_finds_the_largest_size_that_passes() {
    let cut =
        |echo: &Echo, to: HostId| usize::from(echo.answers || echo.size <= 1372 || to != host(3));
    let ping = ping(&asked(1, Sizes::Sweep), cut);
    assert_eq!(pair(&ping, "host1", "host3").largest, Some(1372));
    assert_eq!(pair(&ping, "host1", "host2").largest, Some(MTU));
    assert_eq!(ping.problems.len(), 2);
    assert!(ping.problems[0].contains("nothing larger than 1372 octets"), "{ping:?}");
    assert!(ping.problems[0].contains("driver.mtu=1372"), "{ping:?}");
}

#[test]
fn echoes_of_others_are_ignored() {
    let asked = asked(10, Sizes::Fixed(SIZE_MIN));
    let mut exchange = Exchange::new(host(1), &asked, MTU);
    let good =
        Echo { session: 7, from: host(2), to: host(1), number: 0, size: SIZE_MIN, answers: false };
    let wrong = [
        Echo { session: 8, ..good },
        Echo { from: host(9), ..good },
        Echo { from: host(1), ..good },
        Echo { number: 10, ..good },
        // An answer to a request that was not sent.
        Echo { answers: true, ..good },
    ];
    for echo in wrong {
        assert_eq!(exchange.receive(&echo, Duration::ZERO), None, "{echo:?}");
    }
    assert!(exchange.receive(&good, Duration::ZERO).is_some());
    let echoes = exchange.finish();
    assert_eq!(echoes.heard.values().map(|heard| heard.requests).sum::<u16>(), 1);
}

#[test]
fn with_a_group_only_hosts_with_members_receive() {
    let echoes = Echoes { sent: 5, mtu: MTU, ..Echoes::default() };
    let answers: Vec<PingAnswer> = (1..=3)
        .map(|number| PingAnswer {
            id: host(number),
            name: format!("host{number}"),
            echoes: if number == 3 { Err("it is down".to_owned()) } else { Ok(echoes.clone()) },
        })
        .collect();
    let group = "239.1.1.1".parse().unwrap();
    let listeners = BTreeSet::from(["host2".to_owned()]);
    let sizes = Sizes::Fixed(SIZE_MIN);
    let ping = Ping::new("foo".to_owned(), Some(group), sizes, &answers, Some(&listeners));
    assert_eq!(ping.pairs.len(), 1);
    assert_eq!((ping.pairs[0].from.as_str(), ping.pairs[0].to.as_str()), ("host1", "host2"));
    assert_eq!(ping.problems.len(), 2);
    assert_eq!(ping.problems[0], "host3 did not take part: it is down");
}

#[test]
fn an_address_is_pinged_by_each_host() {
    let asked = AskEchoes { to: Some([10, 0, 0, 9].into()), ..asked(4, Sizes::Fixed(SIZE_MIN)) };
    let answers: Vec<PingAnswer> = (1..=2)
        .map(|number| {
            let mut exchange = Exchange::with_address(host(number), &asked, MTU);
            while exchange.request(Duration::ZERO).is_some() {}
            for request in 0..2 * number - 1 {
                let request = u16::try_from(request).unwrap();
                exchange.answered(request, Duration::from_millis(3));
                // Once more, and one that was not sent.
                exchange.answered(request, Duration::from_millis(4));
                exchange.answered(77, Duration::from_millis(4));
            }
            let name = format!("host{number}");
            PingAnswer { id: host(number), name, echoes: Ok(exchange.finish()) }
        })
        .collect();
    let ping = Ping::new("foo".to_owned(), asked.to, asked.requests.sizes, &answers, None);
    let counts: Vec<_> =
        ping.pairs.iter().map(|pair| (pair.from.as_str(), pair.sent, pair.received)).collect();
    assert_eq!(counts, [("host1", 4, 1), ("host2", 4, 3)]);
    assert_eq!(ping.pairs[0].round_trip, Some(RoundTrip { samples: 1, p50: 3000, p99: 3000 }));
    assert!(
        ping.problems[0].starts_with("host1 to 10.0.0.9: 3 of 4 requests were not answered"),
        "{ping:?}"
    );
}

#[test]
fn wrong_questions_are_refused() {
    let right = AskPing { network: None, to: None, count: 1, sizes: Sizes::Fixed(SIZE_MIN) };
    assert!(right.requests().is_ok());
    let wrong = [
        AskPing { count: 0, ..right.clone() },
        AskPing { count: PING_REQUESTS_MAX + 1, ..right.clone() },
        AskPing { sizes: Sizes::Fixed(SIZE_MIN - 1), ..right },
    ];
    for ask in wrong {
        assert!(ask.requests().is_err(), "{ask:?}");
    }
    let mut asked = asked(1, Sizes::Sweep);
    assert!(asked.check().is_ok());
    asked.requests.count = 2000;
    assert!(asked.check().is_err());
}
