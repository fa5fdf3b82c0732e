//! Clusters with real connections and files.

use std::time::Duration;

use futures::future::join_all;
use shoutd_consensus::{FoundError, JoinError, ProposeError, Role};
use shoutd_core::cluster::{Command, Refusal};
use shoutd_core::{ClusterId, HostId};
use tokio::time::timeout;

use crate::common::{Node, Place, SOON, cluster, create, eventually, founded, stop_all};

fn remove_leader(nodes: &mut Vec<Node>) -> Node {
    nodes.remove(nodes.iter().position(Node::leads).expect("a host leads"))
}

#[tokio::test(flavor = "multi_thread")]
async fn all_hosts_apply_what_any_of_them_proposes() {
    let directory = tempfile::tempdir().unwrap();
    let (_, nodes) = cluster(directory.path(), 3).await;
    for (number, node) in (1..).zip(&nodes) {
        node.create(number).await;
    }
    for node in &nodes {
        node.until("three networks", |state| state.networks.len() == 3).await;
        assert_eq!(node.state(), nodes[0].state());
        assert_eq!(node.status().leader, Some(nodes[0].host()));
    }
    let same = nodes[2].consensus.propose(create(nodes[1].host(), 1), SOON).await.unwrap_err();
    assert!(matches!(same, ProposeError::Refused(Refusal::NetworkExists(_))), "{same}");
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_leader_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 3).await;
    nodes[1].create(1).await;
    let leader = remove_leader(&mut nodes);
    let lost = places.iter().find(|place| place.host == leader.host()).unwrap();
    leader.stop().await;
    nodes[0].create(2).await;
    nodes[1].create(3).await;
    let back = lost.start().await;
    back.consensus.found(founded(), Duration::ZERO).await.expect("it was founded already");
    assert!(back.has(1), "a restarted host has at once what it acknowledged");
    back.until("the entries that it missed", |state| state.networks.len() == 3).await;
    back.create(4).await;
    nodes.push(back);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_all_hosts_restart_in_any_order() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 3).await;
    for (round, order) in (0_u16..).zip([[0, 1, 2], [2, 1, 0], [1, 2, 0]]) {
        for (number, node) in (0_u16..).zip(&nodes) {
            node.create(round * 3 + number).await;
        }
        let before: Vec<_> = nodes.iter().map(Node::state).collect();
        let hosts: Vec<_> = nodes.iter().map(Node::host).collect();
        stop_all(nodes).await;
        nodes = Vec::new();
        for index in order {
            let node = places[index].start().await;
            let was = hosts.iter().position(|host| *host == node.host()).unwrap();
            let mut networks = before[was].networks.keys();
            assert!(
                networks.all(|id| node.state().networks.contains_key(id)),
                "round {round} host {index}"
            );
            assert_eq!(node.state().id, Some(founded()));
            nodes.push(node);
        }
    }
    nodes[0].create(100).await;
    for node in &nodes {
        node.until("all networks", |state| state.networks.len() == 10).await;
    }
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_host_leads_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 1).await;
    nodes[0].create(1).await;
    nodes.remove(0).stop().await;
    let node = places[0].start().await;
    node.create(2).await;
    assert!(node.has(1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_the_error_names_the_missing_hosts() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 3).await;
    let last = nodes.remove(0);
    assert!(last.leads());
    stop_all(nodes).await;
    let error =
        last.consensus.propose(create(last.host(), 1), Duration::from_secs(3)).await.unwrap_err();
    assert_eq!(error.to_string(), "no leader: 2 of 3 voters unreachable (h2, h3)");
    last.stop().await;
    // The same on a host that did not lead before.
    let follower = places[1].start().await;
    let error = follower
        .consensus
        .propose(create(follower.host(), 2), Duration::from_secs(6))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "no leader: 2 of 3 voters unreachable (h1, h3)");
    let status = follower.status();
    assert!(
        status.peer_health.iter().all(|contact| !contact.reachable)
            && status.peer_health.len() == 2,
        "{status:#?}"
    );
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_joins_late_through_any_member_gets_all_state() {
    let directory = tempfile::tempdir().unwrap();
    let (_, mut nodes) = cluster(directory.path(), 3).await;
    nodes[0].create(1).await;
    let late = Place::new(directory.path(), 4).start().await;
    let followers: Vec<_> =
        nodes.iter().filter(|node| !node.leads()).map(|node| node.address).collect();
    late.consensus.join(&followers, SOON).await.unwrap();
    assert!(late.state().hosts.contains_key(&late.host()));
    late.until("the network", |state| state.networks.len() == 1).await;
    // Four voters would tolerate no more lost hosts than three.
    eventually("a learner beside three voters", || {
        (late.status().role, late.status().voters.len()) == (Role::Learner, 3)
    })
    .await;
    // A second time, as after a lost answer.
    late.consensus.join(&followers, SOON).await.unwrap();
    late.create(2).await;
    nodes.push(late);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sixth_host_is_a_learner() {
    let directory = tempfile::tempdir().unwrap();
    let (_, mut nodes) = cluster(directory.path(), 5).await;
    let sixth = Place::new(directory.path(), 6).start().await;
    sixth.consensus.join(&[nodes[3].address], SOON).await.unwrap();
    sixth.create(1).await;
    let status = sixth.status();
    assert_eq!(
        (status.role, status.voters.len(), status.learners),
        (Role::Learner, 5, vec![sixth.host()])
    );
    nodes.push(sixth);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_behind_a_purged_log_gets_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 1).await;
    let first = nodes.remove(0);
    first.create(1).await;
    // More entries than trigger a snapshot and than are kept after it.
    for _ in 0..1700 {
        first.consensus.propose(create(first.host(), 1), SOON).await.unwrap();
    }
    let second = Place::new(directory.path(), 2).start().await;
    second.consensus.join(&[first.address], SOON).await.unwrap();
    second.until("the network", |state| state.networks.len() == 1).await;
    eventually("it votes", || first.status().voters.len() == 2).await;
    second.create(2).await;
    stop_all(vec![first, second]).await;
    // Both start from their snapshots.
    let first = places[0].start().await;
    assert!(first.has(1));
    let second = Place::new(directory.path(), 2).start().await;
    assert!(second.has(2));
    second.create(3).await;
    stop_all(vec![first, second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_why_a_host_cannot_join() {
    let directory = tempfile::tempdir().unwrap();
    let (_, nodes) = cluster(directory.path(), 1).await;
    let [stranger, other, joiner, absent] =
        [2, 3, 4, 5].map(|number| Place::new(directory.path(), number));
    let stranger = stranger.start().await;
    let other = other.start().await;
    other.consensus.found(ClusterId::new(8), SOON).await.unwrap();
    let second = Duration::from_secs(1);

    let error = other.consensus.join(&[nodes[0].address], SOON).await.unwrap_err();
    assert!(!error.may_pass());
    let told = format!(
        "{} belongs to cluster 00000000000000000000000000000007, this host to cluster \
         00000000000000000000000000000008 by its data directory",
        nodes[0].address
    );
    assert!(error.to_string().starts_with(&told), "{error}");
    let joiner = joiner.start().await;
    let error = joiner.consensus.join(&[stranger.address], second).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{} belongs to no cluster yet: start a cluster there first", stranger.address)
    );
    let error = joiner.consensus.join(&[absent.address], second).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{} cannot be reached: Connection refused (os error 111)", absent.address)
    );
    assert!(error.may_pass());
    let error = joiner.consensus.join(&[joiner.address], second).await.unwrap_err();
    assert!(matches!(error, JoinError::Itself(_)), "{error}");
    let error = joiner.consensus.propose(create(joiner.host(), 1), second).await.unwrap_err();
    assert_eq!(error, ProposeError::Refused(Refusal::NoCluster));
    // One peer that answers is enough.
    joiner
        .consensus
        .join(&[absent.address, stranger.address, nodes[0].address], SOON)
        .await
        .unwrap();
    let error = joiner.consensus.found(ClusterId::new(9), SOON).await.unwrap_err();
    assert!(matches!(error, FoundError::OtherCluster { has } if has == founded()), "{error}");
    stop_all(vec![stranger, other, joiner]).await;
    stop_all(nodes).await;
}

/// Of three hosts, so that there is no majority until the third has found the others.
#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_can_swap_their_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let (mut places, mut nodes) = cluster(directory.path(), 3).await;
    eventually("all vote", || nodes.iter().all(|node| node.status().voters.len() == 3)).await;
    stop_all(nodes.split_off(1)).await;
    let (second, third) = (places[1].address, places[2].address);
    (places[1].address, places[2].address) = (third, second);
    for place in &places[1..] {
        nodes.push(place.start().await);
    }
    for node in &nodes {
        node.until("the new addresses", |state| {
            places.iter().all(|place| state.hosts[&place.host].address == place.address)
        })
        .await;
    }
    for (node, number) in nodes.iter().zip(1..) {
        node.create(number).await;
    }
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_another_host_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (_, nodes) = cluster(directory.path(), 1).await;
    let taken = Command::AdmitHost {
        host: HostId::new(2).unwrap(),
        name: "gone".to_owned(),
        address: "127.0.0.9:1".parse().unwrap(),
    };
    nodes[0].consensus.propose(taken, SOON).await.unwrap();
    let mut place = Place::new(directory.path(), 3);
    place.address = "127.0.0.9:7789".parse().unwrap();
    let joiner = place.start().await;
    let error = joiner.consensus.join(&[nodes[0].address], SOON).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{} does not admit this host: address 127.0.0.9 is already that of host gone",
            nodes[0].address
        )
    );
    joiner.stop().await;
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_asks_to_join_is_a_member_already() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 3).await;
    let leader = remove_leader(&mut nodes);
    let peers: Vec<_> =
        places.iter().filter(|place| place.host != leader.host()).map(|p| p.address).collect();
    leader.consensus.join(&peers, SOON).await.expect("the others point to it");
    nodes.push(leader);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_a_new_address_is_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let (mut places, mut nodes) = cluster(directory.path(), 3).await;
    for moved in [2, 0] {
        nodes.remove(moved).stop().await;
        let mut address = places[moved].address;
        address.set_port(7790);
        places[moved].address = address;
        let node = places[moved].start().await;
        let host = node.host();
        nodes.insert(moved, node);
        for node in &nodes {
            node.until("the new address", |state| state.hosts[&host].address == address).await;
        }
        nodes[moved].create(u16::try_from(moved).unwrap()).await;
    }
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_moved_while_the_leader_changed_finds_the_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let (mut places, mut nodes) = cluster(directory.path(), 5).await;
    nodes.remove(3).stop().await;
    remove_leader(&mut nodes).stop().await;
    nodes[0].create(1).await;
    // The leader that it followed is down, and the new one calls it at its old address.
    places[3].address.set_port(7790);
    let moved = places[3].start().await;
    moved.create(2).await;
    moved
        .until("its address", |state| state.hosts[&places[3].host].address == places[3].address)
        .await;
    nodes.push(moved);
    stop_all(nodes).await;
}

/// None of them is at the address that the others know. A user gives one address, and hosts
/// trust each other's own addresses.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_all_moved_at_once_find_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let (mut places, nodes) = cluster(directory.path(), 5).await;
    stop_all(nodes).await;
    let mut moved = Vec::new();
    for place in &mut places {
        place.address.set_port(7790);
        moved.push(place.start().await);
    }
    let first = [moved[0].address];
    let told = moved[1..].iter().map(|node| node.consensus.join(&first, SOON));
    assert!(join_all(told).await.iter().all(Result::is_ok));
    for node in &moved {
        node.until("all new addresses", |state| {
            state.hosts.values().all(|host| host.address.port() == 7790)
        })
        .await;
    }
    moved[3].create(1).await;
    stop_all(moved).await;
}

/// Each takes the address of the next one, so that at first only the last can change its entry.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_take_each_others_addresses_wait_for_their_turn() {
    let directory = tempfile::tempdir().unwrap();
    let (mut places, nodes) = cluster(directory.path(), 3).await;
    stop_all(nodes).await;
    let mut addresses: Vec<_> = places.iter().map(|place| place.address).collect();
    addresses.push(Place::new(directory.path(), 4).address);
    let mut moved = Vec::new();
    for (place, address) in places.iter_mut().zip(addresses.iter().skip(1)) {
        place.address = *address;
        moved.push(place.start().await);
    }
    drop(join_all(moved.iter().map(|node| node.consensus.join(&addresses[1..], SOON))).await);
    for node in &moved {
        node.until("all new addresses", |state| {
            places.iter().all(|place| state.hosts[&place.host].address == place.address)
        })
        .await;
    }
    stop_all(moved).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_lost_its_data_is_another_host() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 2).await;
    nodes.remove(1).stop().await;
    std::fs::remove_dir_all(&places[1].directory).unwrap();
    let wiped = Place::new(directory.path(), 2).start().await;
    assert_ne!(wiped.host(), places[1].host);
    let wrong = format!("not {}", places[1].host);
    eventually("the leader notices", || {
        let peer_health = nodes[0].status().peer_health;
        peer_health
            .iter()
            .any(|contact| contact.error.as_deref().is_some_and(|error| error.contains(&wrong)))
    })
    .await;
    assert_eq!(wiped.state().id, None);
    assert_eq!(wiped.consensus.identity().cluster(), None);
    stop_all(vec![wiped]).await;
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_founding_continues_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), 1);
    for _ in 0..20 {
        let node = place.start().await;
        // Cancelled at an arbitrary point.
        let _ = timeout(Duration::from_millis(5), node.consensus.found(founded(), SOON)).await;
        node.stop().await;
        let node = place.start().await;
        if node.consensus.identity().cluster().is_some() {
            node.until("itself", |state| state.hosts.len() == 1).await;
            assert_eq!(node.state().id, Some(founded()));
        }
        node.consensus.found(founded(), SOON).await.unwrap();
        node.stop().await;
        std::fs::remove_dir_all(&place.directory).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_concurrent_proposals_are_all_committed() {
    let directory = tempfile::tempdir().unwrap();
    let (_, nodes) = cluster(directory.path(), 3).await;
    let proposals = (0..100_u16).map(|number| nodes[usize::from(number) % 3].create(number));
    timeout(SOON, join_all(proposals)).await.unwrap();
    for node in &nodes {
        node.until("a hundred networks", |state| state.networks.len() == 100).await;
    }
    stop_all(nodes).await;
}
