//! Rollback, duplicate identities, `recover` after the majority is lost, and `restore` from a
//! backup.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use shoutd_consensus::{
    BackupError, NoticeKind, RecoverError, RestoreError, Role, Settings, StoreError, recover,
    restore,
};
use shoutd_core::ClusterId;
use shoutd_core::cluster::{Command as Agreed, WantedAddress};
use tokio::time::timeout;

use crate::common::{
    Node, Place, SOON, cluster, create, eventually, founded, network_id, stop_all,
};

const NOW: Duration = Duration::from_secs(1_700_000_000);

/// Leases an address of network 1 to this host.
async fn claim(node: &Node, address: &str) -> bool {
    let address = WantedAddress::Exactly(address.parse().unwrap());
    let claim = Agreed::ClaimAddress { network: network_id(1), host: node.host(), address };
    node.consensus.propose(claim, SOON).await.is_ok()
}

async fn stops_with(node: &Node, words: &str) {
    let line = timeout(SOON, node.consensus.stopped()).await.expect("it stops");
    assert!(line.contains(words) && !line.contains('\n'), "{line}");
    assert_eq!(node.consensus.removed(), Some(line));
}

fn data(place: &Place) -> PathBuf {
    place.directory.join("agreed.redb")
}

async fn notice(node: &Node, kind: NoticeKind, words: &str) {
    let notice = timeout(SOON, node.consensus.next_notice()).await.expect("it tells");
    assert!(notice.kind == kind && notice.text.contains(words), "{notice:?}");
}

/// As by a snapshot of a virtual machine or a restored copy of the directory.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_is_detected_and_the_host_gets_back_what_it_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 3).await;
    for (round, lost) in (0_u16..).zip([1_u16, 5, 20]) {
        let index = nodes.iter().position(|node| !node.leads()).unwrap();
        let follower = nodes.remove(index);
        let place = places.iter().find(|place| place.host == follower.host()).unwrap();
        follower.stop().await;
        let before = fs::read(data(place)).unwrap();
        let follower = place.start().await;
        let numbers = round * 100..round * 100 + lost;
        for number in numbers.clone() {
            follower.create(number).await;
        }
        follower.stop().await;
        fs::write(data(place), before).unwrap();
        let follower = place.start().await;
        notice(&follower, NoticeKind::Rollback, "but had acknowledged").await;
        let leader = nodes.iter().find(|node| node.leads()).unwrap();
        notice(leader, NoticeKind::Rollback, "lacks the last of them").await;
        follower
            .until("what it lost", |state| {
                numbers.clone().all(|n| state.networks.contains_key(&network_id(n)))
            })
            .await;
        eventually("nothing is wrong", || follower.consensus.troubles().is_empty()).await;
        follower.create(round * 100 + 50).await;
        // It votes again: without its vote there would be no majority.
        let index = nodes.iter().position(Node::leads).unwrap();
        let leader = nodes.remove(index);
        let place = places.iter().find(|place| place.host == leader.host()).unwrap();
        leader.stop().await;
        follower.create(round * 100 + 51).await;
        nodes.push(follower);
        nodes.push(place.start().await);
        eventually("a leader", || nodes.iter().any(Node::leads)).await;
    }
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_went_on_from_rolled_back_data_without_its_cluster_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let (mut places, mut nodes) = cluster(directory.path(), 1).await;
    nodes.remove(0).stop().await;
    let alone = fs::read(data(&places[0])).unwrap();
    nodes.push(places[0].start().await);
    for number in [2, 3] {
        let place = Place::new(directory.path(), number);
        let node = place.start().await;
        node.consensus.join(&[nodes[0].address], SOON).await.unwrap();
        nodes.push(node);
        places.push(place);
    }
    eventually("all vote", || nodes.iter().all(|node| node.status().voters.len() == 3)).await;
    nodes[0].create(1).await;
    stop_all(nodes).await;
    fs::write(data(&places[0]), alone).unwrap();
    let founder = places[0].start().await;
    // It knows no other host.
    founder.create(2).await;
    let others = [places[1].start().await, places[2].start().await];
    let told = timeout(SOON, founder.consensus.stopped()).await.expect("it stops");
    let what = format!("remove {} here, and start it with", places[0].directory.display());
    assert!(told.contains(&what) && !told.contains('\n'), "{told}");
    others[0].create(3).await;
    assert!(others[1].has(1) && !others[0].has(2));
    founder.stop().await;
    for node in others {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_host_and_its_copy_one_runs_and_each_names_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 3).await;
    let (original, host) = (&places[2], places[2].host);
    nodes.remove(2).stop().await;
    // While the original is down, its copy is started elsewhere.
    let copy = Place {
        directory: directory.path().join("copy"),
        address: Place::new(directory.path(), 9).address,
        ..original.clone()
    };
    let copying =
        Command::new("cp").arg("-a").args([&original.directory, &copy.directory]).status();
    assert!(copying.unwrap().success());
    let running = copy.start().await;
    nodes[0].until("the copy", |state| state.hosts[&host].address == copy.address).await;
    let late = original.start().await;
    let told = timeout(SOON, late.consensus.until_participating())
        .await
        .expect("it looks around")
        .expect("it must not");
    for address in [copy.address, original.address] {
        assert!(told.contains(&address.to_string()) && !told.contains('\n'), "{told}");
    }
    notice(&running, NoticeKind::Copied, &original.address.to_string()).await;
    assert!(
        running.consensus.troubles().iter().any(|line| line.contains("copy of the data directory"))
    );
    late.stop().await;
    running.create(1).await;
    running.stop().await;
    // Without the copy, the original finds its cluster by itself.
    let back = original.start().await;
    assert_eq!(timeout(SOON, back.consensus.until_participating()).await.unwrap(), None);
    nodes[0].until("the original", |state| state.hosts[&host].address == original.address).await;
    back.until("the network that it missed", |state| state.networks.contains_key(&network_id(1)))
        .await;
    back.create(2).await;
    nodes.push(back);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_recovers_the_cluster_and_the_lost_ones_cannot_fork_it() {
    let directory = tempfile::tempdir().unwrap();
    let (places, mut nodes) = cluster(directory.path(), 3).await;
    nodes[0].create(1).await;
    for (node, address) in nodes.iter().zip(["10.0.1.1", "10.0.1.2", "10.0.1.3"]) {
        assert!(claim(node, address).await);
    }
    let first = nodes.remove(0);
    first.until("all leases", |state| state.networks[&network_id(1)].leases.len() == 3).await;
    first.stop().await;
    // The others go on without it, and a fourth joins, which the first does not know.
    nodes[0].create(5).await;
    let fourth = Place::new(directory.path(), 4);
    let node = fourth.start().await;
    node.consensus.join(&[nodes[0].address], SOON).await.unwrap();
    node.create(2).await;
    nodes.push(node);
    stop_all(nodes).await;

    let recovered = recover(&places[0].directory, founded(), NOW).unwrap();
    let names: Vec<_> = recovered.lost.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!((recovered.host, recovered.networks, names.len()), (places[0].host, 1, 2));
    assert!(names.contains(&"h2") && names.contains(&"h3"), "{names:?}");
    // A second time does nothing.
    assert_eq!(recover(&places[0].directory, founded(), NOW).unwrap().lost, []);
    let first = places[0].start().await;
    first.create(3).await;
    assert!(first.has(1) && !first.has(2));
    assert_eq!(first.status().voters, [first.host()]);

    // The others come back, a majority of the old cluster.
    let before = first.status();
    let mut back = Vec::new();
    for place in [&places[1], &places[2]] {
        let node = place.start().await;
        stops_with(&node, "was removed from the cluster at 2023-11-14T22:13:20Z").await;
        back.push(node);
    }
    let node = fourth.start().await;
    stops_with(&node, "is no longer part of the cluster, which was recovered without it").await;
    back.push(node);
    assert_eq!((first.status().term, first.status().role), (before.term, Role::Leader));
    first.create(4).await;
    assert!(back.iter().all(|node| !node.has(4)));
    stop_all(back).await;

    // A lost host joins again. Its former addresses are free once an administrator removes it.
    fs::remove_dir_all(&places[1].directory).unwrap();
    let rejoining = Place::new(directory.path(), 2);
    let node = rejoining.start().await;
    node.consensus.join(&[first.address], SOON).await.unwrap();
    assert!(!claim(&node, "10.0.1.2").await, "the old host is not removed yet");
    node.consensus.remove_host(places[1].host, SOON).await.unwrap();
    assert!(claim(&node, "10.0.1.2").await);
    eventually("both vote", || first.status().voters.len() == 2).await;
    stop_all(vec![first, node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_is_hard_to_do_by_accident() {
    let directory = tempfile::tempdir().unwrap();
    let (places, nodes) = cluster(directory.path(), 2).await;
    let error = recover(&places[0].directory, founded(), NOW).unwrap_err();
    assert!(matches!(error, RecoverError::Store(StoreError::InUse { .. })), "{error}");
    nodes[0].consensus.remove_host(places[1].host, SOON).await.unwrap();
    timeout(SOON, nodes[1].consensus.stopped()).await.unwrap();
    stop_all(nodes).await;
    let error = recover(&places[0].directory, ClusterId::new(8), NOW).unwrap_err();
    assert!(matches!(error, RecoverError::NotConfirmed { .. }), "{error}");
    let error = recover(&places[1].directory, founded(), NOW).unwrap_err();
    assert!(matches!(error, RecoverError::Removed), "{error}");
    let nothing = directory.path().join("nothing");
    let error = recover(&nothing, founded(), NOW).unwrap_err();
    assert!(matches!(error, RecoverError::NoCluster { .. }), "{error}");
    assert!(!nothing.exists());
    assert_eq!(recover(&places[0].directory, founded(), NOW).unwrap().lost, []);
    let node = places[0].start().await;
    node.create(1).await;
    node.stop().await;
}

fn settings(place: &Place) -> Settings {
    Settings { advertise: place.address, name: place.name.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_founds_the_cluster_again() {
    let directory = tempfile::tempdir().unwrap();
    let (places, nodes) = cluster(directory.path(), 2).await;
    nodes[0].create(1).await;
    assert!(claim(&nodes[0], "10.0.1.1").await && claim(&nodes[1], "10.0.1.2").await);
    nodes[0].until("both leases", |state| state.networks[&network_id(1)].leases.len() == 2).await;
    let mut backup = Vec::new();
    let summary = nodes[0].consensus.backup(&mut backup, NOW).unwrap();
    assert_eq!((summary.cluster, summary.networks, summary.voters.len()), (founded(), 1, 2));
    nodes[0].create(2).await;
    let old = places[0].host;
    stop_all(nodes).await;

    // The machine of the first host, with an empty disk.
    fs::remove_dir_all(&places[0].directory).unwrap();
    let place = Place::new(directory.path(), 1);
    assert_ne!(place.host, old);
    let restored =
        restore(&mut backup.as_slice(), &place.directory, place.host, &settings(&place), NOW)
            .unwrap();
    assert_eq!((restored.cluster, restored.networks, restored.made), (founded(), 1, NOW));
    let again =
        restore(&mut backup.as_slice(), &place.directory, place.host, &settings(&place), NOW)
            .unwrap_err();
    assert!(matches!(again, RestoreError::NotEmpty { .. }), "{again}");
    let node = place.start().await;
    node.consensus.found(founded(), SOON).await.unwrap();
    node.create(3).await;
    assert!(node.has(1) && !node.has(2));
    // This host has its leases again; those of the other stay leased to it.
    let leases = node.state().networks[&network_id(1)].leases.clone();
    assert_eq!(leases.values().copied().collect::<Vec<_>>(), [node.host(), places[1].host]);
    let other = places[1].start().await;
    stops_with(&other, "was removed from the cluster").await;
    other.stop().await;
    fs::remove_dir_all(&places[1].directory).unwrap();
    let other = Place::new(directory.path(), 2).start().await;
    other.consensus.join(&[node.address], SOON).await.unwrap();
    other.create(4).await;
    eventually("both vote", || node.status().voters.len() == 2).await;
    // The restored state survives a restart, and can be backed up again.
    stop_all(vec![node, other]).await;
    let node = place.start().await;
    assert!(node.has(1) && node.has(3));
    node.consensus.backup(&mut Vec::new(), NOW).unwrap();
    node.stop().await;
}

/// Why a backup cannot be restored at this place.
fn refusal(at: &Place, mut backup: &[u8]) -> BackupError {
    match restore(&mut backup, &at.directory, at.host, &settings(at), NOW) {
        Err(RestoreError::Backup(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_is_refused_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let (_, nodes) = cluster(directory.path(), 1).await;
    for number in 1..20 {
        nodes[0].create(number).await;
    }
    let mut backup = Vec::new();
    nodes[0].consensus.backup(&mut backup, NOW).unwrap();
    let lonely = Place::new(directory.path(), 9);
    for part in [0, 1, 40, 400, backup.len() / 2, backup.len() - 1] {
        let error = refusal(&lonely, &backup[..part]);
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    for position in (0..backup.len()).step_by(37) {
        let mut damaged = backup.clone();
        damaged[position] ^= 0x20;
        // A change of the first line may be harmless, for example of the time.
        let mut reader = damaged.as_slice();
        let elsewhere = tempfile::tempdir().unwrap();
        let restored = restore(&mut reader, elsewhere.path(), lonely.host, &settings(&lonely), NOW);
        let header = backup.iter().position(|byte| *byte == b'\n').unwrap();
        assert!(restored.is_err() || position < header, "damage at {position}");
    }
    for no_backup in [b"garbage\n".repeat(1000), b"{}\n{}".to_vec()] {
        assert!(matches!(refusal(&lonely, &no_backup), BackupError::NoBackup(_)));
    }
    let newer = String::from_utf8(backup.clone()).unwrap().replacen(
        "\"shoutd_backup\":1",
        "\"shoutd_backup\":2",
        1,
    );
    assert_eq!(
        refusal(&lonely, newer.as_bytes()).to_string(),
        "the backup was made by a newer shoutd (format 2, this one knows 1): upgrade shoutd"
    );
    assert!(!lonely.directory.join("agreed.redb").exists());
    let nothing = Place::new(directory.path(), 2).start().await;
    let error = nothing.consensus.backup(&mut Vec::new(), NOW).unwrap_err();
    assert!(matches!(error, BackupError::NoCluster), "{error}");
    nothing.stop().await;
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_has_no_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let (_, nodes) = cluster(directory.path(), 1).await;
    let authority = shoutd_core::cluster::Authority {
        certificate: "c0ffee".to_owned(),
        sealed_key: "5ea1ed".to_owned(),
    };
    nodes[0].consensus.propose(Agreed::SetAuthority { authority }, SOON).await.unwrap();
    nodes[0].consensus.propose(create(nodes[0].host(), 1), SOON).await.unwrap();
    let mut backup = Vec::new();
    nodes[0].consensus.backup(&mut backup, NOW).unwrap();
    assert!(!String::from_utf8(backup).unwrap().contains("5ea1ed"));
    stop_all(nodes).await;
}
