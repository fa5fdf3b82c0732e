//! The phases of a network's rollout.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use shoutd_core::cluster::{Cluster, Command, Description, Naming, WantedAddress};
use shoutd_core::in_flight::{Operations, Yielded};
use shoutd_core::local::Local;
use shoutd_core::rollout::{Question, is_ready, made_room, phase, question, resolve};
use shoutd_core::view::NetworkPhase;

use crate::common::{cluster_of, host, network_id, pool, settings};

fn cluster() -> Cluster {
    let mut cluster = cluster_of(2);
    let settings = settings(pool("10.9.0.0/24"));
    let create = Command::CreateNetwork { id: network_id(1), origin: host(1), settings };
    cluster.apply(&create).unwrap();
    cluster
}

fn describe(cluster: &mut Cluster) {
    let description = Description { name: "foo".to_owned(), ..Description::default() };
    cluster.apply(&Command::DescribeNetwork { id: network_id(1), description }).unwrap();
}

#[test]
fn a_network_goes_through_its_phases() {
    let (mut cluster, mut local) = (cluster(), Local::default());
    let id = network_id(1);
    assert_eq!(phase(&cluster, &local, None), NetworkPhase::Unknown);
    assert_eq!(phase(&cluster, &local, Some(&network_id(2))), NetworkPhase::Unknown);
    assert_eq!(phase(&cluster, &local, Some(&id)), NetworkPhase::Nameless);
    assert_eq!(resolve(&cluster, "foo"), None);
    assert_eq!(resolve(&cluster, id.as_str()), Some(id.clone()));

    describe(&mut cluster);
    cluster.apply(&Command::Attach { network: id.clone(), host: host(2) }).unwrap();
    let there = NetworkPhase::There(vec!["h2".to_owned()]);
    assert_eq!(phase(&cluster, &local, Some(&id)), there);
    assert_eq!(resolve(&cluster, "foo"), Some(id.clone()));

    local.removals = BTreeSet::from([id.clone()]);
    assert_eq!(phase(&cluster, &local, Some(&id)), NetworkPhase::Asking);

    let address = WantedAddress::Exactly("10.9.0.7".parse().unwrap());
    let claim = Command::ClaimAddress { network: id.clone(), host: host(2), address };
    cluster.apply(&claim).unwrap();
    cluster.apply(&Command::Detach { network: id.clone(), host: host(2) }).unwrap();
    cluster.apply(&Command::RemoveNetwork { id: id.clone() }).unwrap();
    let leaving = NetworkPhase::Leaving(vec!["h2".to_owned()]);
    assert_eq!(phase(&cluster, &local, Some(&id)), leaving);
    assert_eq!(resolve(&cluster, "foo"), Some(id), "until it is gone");
}

#[test]
fn hosts_are_asked_only_when_their_answers_can_be_final() {
    let there = NetworkPhase::There(Vec::new());
    let leaving = NetworkPhase::Leaving(Vec::new());
    for (phase, is_to_go, was_known, expected) in [
        (NetworkPhase::Nameless, false, true, None),
        (NetworkPhase::Asking, true, true, None),
        (NetworkPhase::Unknown, false, false, None),
        (NetworkPhase::Unknown, false, true, Some(Question::None)),
        (NetworkPhase::Unknown, true, false, Some(Question::Gone)),
        (there.clone(), false, true, Some(Question::Present)),
        (there, true, true, Some(Question::None)),
        (leaving.clone(), false, true, Some(Question::None)),
        (leaving, true, true, Some(Question::Gone)),
    ] {
        let answer = is_ready(&phase, is_to_go, was_known).then(|| question(&phase, is_to_go));
        assert_eq!(answer, expected, "{phase:?}, to go: {is_to_go}, known: {was_known}");
    }
}

#[test]
fn a_network_that_lost_its_name_says_to_which_one() {
    let (mut cluster, mut operations, lost) = (cluster(), Operations::default(), network_id(2));
    assert_eq!(cluster.naming(&lost), Naming::Lost);
    assert_eq!(made_room(&cluster, &operations, lost.as_str()), None, "it was never here");
    let why = Yielded { name: "foo".to_owned(), subnets: Vec::new(), refusal: "taken".to_owned() };
    operations.yielding(&lost, why, Duration::ZERO);
    assert_eq!(made_room(&cluster, &operations, lost.as_str()), Some("taken".to_owned()));
    describe(&mut cluster);
    let text = made_room(&cluster, &operations, lost.as_str()).unwrap();
    assert_eq!(
        text,
        format!("taken; that one is {} with subnet 10.9.0.0/24", network_id(1).short())
    );
    assert_eq!(made_room(&cluster, &operations, network_id(1).as_str()), None);
}
