//! Hosts that are removed, that are away for a long time, or that receive nothing.

use std::time::Duration;

use shoutd_consensus::{JoinError, ProposeError, Role, Timeouts};
use shoutd_core::HostId;
use shoutd_core::cluster::Refusal;
use tokio::time::{sleep, timeout};

use crate::common::{Node, Place, SOON, cluster, cluster_with, create, eventually, stop_all};

fn take_leader(nodes: &mut Vec<Node>) -> Node {
    nodes.remove(nodes.iter().position(Node::leads).expect("a host leads"))
}

fn take_follower(nodes: &mut Vec<Node>) -> Node {
    nodes.remove(nodes.iter().position(|node| !node.leads()).expect("a host follows"))
}

fn is_voter(node: &Node) -> bool {
    node.status().voters.contains(&node.host())
}

/// Checks that a host got its removal notice and has stopped.
async fn is_removed(node: &Node, place: &Place) {
    let line = timeout(SOON, node.consensus.stopped()).await.expect("it stops");
    let begin = format!("this host ({}) was removed from the cluster at 20", place.name);
    let end = format!(
        "Z; to let it join again, stop shoutd and remove its data directory {}",
        place.directory.display()
    );
    assert!(line.starts_with(&begin) && line.ends_with(&end), "{line}");
    assert_eq!(node.consensus.removed(), Some(line.clone()));
    assert_eq!((node.status().role, node.status().fault), (Role::Stopped, Some(line.clone())));
    let proposed = node.consensus.propose(create(node.host(), 999), SOON).await.unwrap_err();
    assert_eq!(proposed, ProposeError::Removed(line));
}

fn place_of(places: &[Place], host: HostId) -> &Place {
    places.iter().find(|place| place.host == host).unwrap()
}

async fn only_these_remain(nodes: &[Node], removed: HostId) {
    for node in nodes {
        node.until("the removal", |state| !state.hosts.contains_key(&removed)).await;
        eventually("it has left the Raft membership", || {
            let status = node.status();
            !status.voters.contains(&removed) && !status.learners.contains(&removed)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_host_is_told_and_the_others_continue() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 3).await;
    nodes[2].create(1).await;
    let removed = take_follower(&mut nodes);
    let follower = nodes.iter().find(|node| !node.leads()).unwrap();
    // Any host can be asked, and asking twice is no error.
    follower.consensus.remove_host(removed.host(), SOON).await.unwrap();
    assert!(!follower.state().hosts.contains_key(&removed.host()));
    follower.consensus.remove_host(removed.host(), SOON).await.unwrap();
    is_removed(&removed, place_of(&places, removed.host())).await;
    only_these_remain(&nodes, removed.host()).await;
    assert_eq!(nodes[0].status().voters.len(), 2);
    nodes[0].create(2).await;
    nodes[1].create(3).await;
    let host = removed.host();
    removed.stop().await;
    // It has the notice on disk, and needs no other host.
    let back = place_of(&places, host).start().await;
    is_removed(&back, place_of(&places, host)).await;
    stop_all(vec![back]).await;
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_leader_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 3).await;
    let leader = take_leader(&mut nodes);
    let host = leader.host();
    // As `stop --leave`.
    leader.consensus.remove_host(host, SOON).await.unwrap();
    nodes[0].create(1).await;
    only_these_remain(&nodes, host).await;
    is_removed(&leader, place_of(&places, host)).await;
    // Asked at another host, until one is left.
    let second = take_leader(&mut nodes);
    nodes[0].consensus.remove_host(second.host(), SOON).await.unwrap();
    nodes[0].create(2).await;
    only_these_remain(&nodes, second.host()).await;
    is_removed(&second, place_of(&places, second.host())).await;
    let last = nodes[0].consensus.remove_host(nodes[0].host(), SOON).await.unwrap_err();
    assert_eq!(last, ProposeError::Refused(Refusal::LastHost));
    let unknown = HostId::new(77).unwrap();
    let unknown = (
        nodes[0].consensus.remove_host(unknown, SOON).await.unwrap_err(),
        Refusal::UnknownHost(unknown),
    );
    assert_eq!(unknown.0, ProposeError::Refused(unknown.1));
    stop_all(vec![leader, second]).await;
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_removed_while_down_is_told_when_it_is_back_and_does_not_disturb_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 4).await;
    // A voter and a learner.
    let voter =
        nodes.remove(nodes.iter().position(|node| is_voter(node) && !node.leads()).unwrap());
    let learner = nodes.remove(nodes.iter().position(|node| !is_voter(node)).unwrap());
    for dead in [voter, learner] {
        let host = dead.host();
        dead.stop().await;
        nodes[0].consensus.remove_host(host, SOON).await.unwrap();
        only_these_remain(&nodes, host).await;
        let (term, leader) = (nodes[0].status().term, nodes[0].status().leader);
        let back = place_of(&places, host).start().await;
        is_removed(&back, place_of(&places, host)).await;
        let joining = back.consensus.join(&[nodes[0].address], SOON).await.unwrap_err();
        assert!(matches!(joining, JoinError::Removed(_)) && !joining.may_pass(), "{joining}");
        nodes[0].create(u16::try_from(term).unwrap()).await;
        assert_eq!((nodes[0].status().term, nodes[0].status().leader), (term, leader));
        back.stop().await;
    }
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_would_cost_the_quorum_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 3).await;
    assert!(nodes[0].leads());
    nodes.remove(1).stop().await;
    let left = format!("{}, {}", places[0].name, places[1].name);
    eventually("its absence is noticed", || {
        nodes[0]
            .status()
            .peer_health
            .iter()
            .any(|contact| contact.host == places[1].host && !contact.reachable)
    })
    .await;
    let error = nodes[1].consensus.remove_host(places[2].host, SOON).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "removing h3 leaves the voters {left}, but h2 does not answer: the cluster would \
             have no quorum; bring h2 back first, or see shoutdctl recover"
        )
    );
    assert!(nodes[0].state().hosts.contains_key(&places[2].host));
    // The host that is down can be removed, and then the other.
    nodes[1].consensus.remove_host(places[1].host, SOON).await.unwrap();
    nodes[1].consensus.remove_host(places[2].host, SOON).await.unwrap();
    nodes[0].create(1).await;
    assert_eq!(nodes[0].status().voters, [places[0].host]);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_is_away_for_long_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let patience = Timeouts { voter_away: Duration::from_secs(2) };
    let (places, mut nodes) = cluster_with(directory.path(), 4, patience).await;
    let spare = nodes.iter().find(|node| node.status().role == Role::Learner).unwrap().host();
    let gone =
        nodes.remove(nodes.iter().position(|node| !node.leads() && node.host() != spare).unwrap());
    let host = gone.host();
    gone.stop().await;
    eventually("the spare host votes", || {
        let mut voters = nodes.iter().map(|node| node.status().voters);
        voters.all(|voters| voters.contains(&spare) && voters.len() == 3)
    })
    .await;
    assert_eq!(nodes[0].status().learners, [host]);
    nodes[0].create(1).await;
    // It comes back as a learner; the voters do not change again.
    let back = place_of(&places, host).start_with(patience).await;
    back.create(2).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!((back.status().role, back.status().learners), (Role::Learner, vec![host]));
    nodes.push(back);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_receives_nothing_does_not_depose_the_leader() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 3).await;
    let deaf = take_follower(&mut nodes);
    let (term, leader, host) = (nodes[0].status().term, nodes[0].status().leader, deaf.host());
    let deaf = deaf.deafen().await;
    // It would have stood for election several times.
    sleep(Duration::from_secs(6)).await;
    assert_eq!((deaf.status().term, deaf.status().role), (term, Role::Follower));
    deaf.shutdown().await;
    drop(deaf);
    let back = place_of(&places, host).start().await;
    back.create(1).await;
    for node in nodes.iter().chain([&back]) {
        assert_eq!((node.status().term, node.status().leader), (term, leader));
    }
    nodes.push(back);
    stop_all(nodes).await;
}
