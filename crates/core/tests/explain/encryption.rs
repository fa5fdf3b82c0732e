//! Encrypted networks: what is wrong with WireGuard is named first, with its port.

use shoutd_core::explain::{Answer, AskWhy, EncryptionFacts, HostFacts, Verdict, explain};
use shoutd_core::tunnel::Carriage;

use super::packets::counted;
use super::{World, question, questions, vtep};

const PORT: u16 = 7000;

/// Why a host cannot encrypt.
const FAILURE: &str = "WireGuard in user space: there is no /dev/net/tun";

/// The network is encrypted; host 1 receives at port 7001, host 2 at 7002.
fn encrypted(mut world: World) -> World {
    for number in [1, 2] {
        let port = PORT + u16::try_from(number).unwrap();
        world.facts(number).encryption = Some(EncryptionFacts { port, failure: None });
    }
    world
}

fn fail(world: &mut World, number: usize) {
    world.facts(number).encryption.as_mut().unwrap().failure = Some(FAILURE.to_owned());
}

fn cause(world: &World, asked: &AskWhy) -> Option<(String, String)> {
    let found = explain(asked, "foo", &world.hosts).unwrap();
    let cause = found.cause()?;
    Some((cause.text.clone(), cause.remedy.clone().unwrap_or_default()))
}

#[test]
fn nothing_is_broken_where_wireguard_works() {
    let world = encrypted(World::healthy());
    for asked in questions() {
        assert_eq!(cause(&world, &asked), None, "{asked:?}");
    }
}

#[test]
fn wireguard_that_does_not_work_is_named_before_what_follows_from_it() {
    for number in [1, 2] {
        let mut world = encrypted(World::healthy());
        fail(&mut world, number);
        world.facts(2).tunnels.insert(vtep(1), Carriage::Silent);
        for asked in questions() {
            let (text, remedy) = cause(&world, &asked).unwrap();
            let expected = format!("WireGuard does not work on host{number}: {FAILURE}");
            assert_eq!(text, expected, "{asked:?}");
            assert!(remedy.contains(&format!("on host{number}: shoutdctl status")), "{remedy}");
        }
    }
}

#[test]
fn a_blocked_direction_is_named_with_the_port_of_its_receiver() {
    let mut world = encrypted(World::healthy());
    world.facts(2).tunnels.insert(vtep(1), Carriage::Silent);
    let (text, remedy) = cause(&world, &question()).unwrap();
    assert_eq!(text, "nothing that host1 sends through the encrypted tunnel arrives at host2");
    assert!(remedy.contains("UDP port 7002 (WireGuard) from host1 to host2"), "{remedy}");
}

#[test]
fn a_host_on_which_no_container_can_start_is_named() {
    let mut world = encrypted(World::healthy());
    let own = EncryptionFacts { port: PORT, failure: Some(FAILURE.to_owned()) };
    let facts = HostFacts { encryption: Some(own), ..HostFacts::default() };
    let [first, second] = world.hosts.clone();
    let hosts = [first, second, Answer { host: "host3".into(), vtep: vtep(3), facts: Ok(facts) }];
    for asked in questions() {
        let found = explain(&asked, "foo", &hosts).unwrap();
        let expected = format!(
            "host3 cannot encrypt, so no container of network foo can start there: {FAILURE}"
        );
        let finding = found.findings.iter().find(|finding| finding.text == expected).unwrap();
        // Where the user names both containers, the third host does not matter.
        let both = asked.from.is_some() && asked.to.is_some();
        let verdict = if both { Verdict::Unknown } else { Verdict::Broken };
        assert_eq!(finding.verdict, verdict, "{asked:?}");
        assert_eq!(found.cause().map(|cause| &cause.text), (!both).then_some(&expected));
    }
    // With containers, what does not work is another finding.
    fail(&mut world, 1);
    assert!(cause(&world, &question()).unwrap().0.starts_with("WireGuard does not work on host1"));
}

#[test]
fn packets_are_counted_at_the_wireguard_devices() {
    let mut world = encrypted(counted());
    let found = shoutd_core::explain::trace(&question(), "foo", &world.hosts, 5000).unwrap();
    let places: Vec<&str> = found.counts.iter().map(|count| count.place.as_str()).collect();
    assert_eq!(places[3..5], ["WireGuard device, to host2", "WireGuard device, from host1"]);
    assert_eq!(found.explanation.cause(), None);

    let counts = world.facts(2).counts.as_mut().unwrap();
    counts.underlay.values_mut().for_each(|peer| peer.inbound = 0);
    let found = shoutd_core::explain::trace(&question(), "foo", &world.hosts, 5000).unwrap();
    let cause = found.explanation.cause().unwrap();
    let expected =
        "none of 1000 packets that passed the WireGuard device of host1 reached that of host2";
    assert_eq!(cause.text, expected);
    assert!(cause.remedy.as_ref().unwrap().contains("UDP port 7002"), "{cause:?}");
}
