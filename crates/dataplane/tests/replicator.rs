//! The replicator: retries, rereads, and reports completion.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use shoutd_core::multicast::{Memberships, Replication, SourceFilter, SourceGroup};
use shoutd_core::plane::{Desired, Destination, Forwarding, Segment, Tier, Vtep};
use shoutd_core::{MacAddress, Vni};
use shoutd_dataplane::testing::FakeForwarding;
use shoutd_dataplane::testing::FakeKernel;
use shoutd_dataplane::{Reconciler, Scope, Unsettled};

const PATIENCE: Duration = Duration::from_secs(20);

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn remote(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

/// A network with this many groups, each with one remote.
fn desired(groups: u32) -> Desired {
    let mut replication = Replication::default();
    for number in 0..groups {
        let group = (None, Ipv4Addr::from(0xef01_0000 + number).into());
        replication.groups.insert(group, BTreeSet::from([remote(2)]));
    }
    let vtep = Vtep { address: remote(1), port: 7789, encrypted: false };
    let segment = Segment {
        remotes: BTreeSet::from([remote(2)]),
        replication: Arc::new(replication),
        remote_macs: BTreeMap::from([(MacAddress([2, 0, 0, 0, 0, 9]), remote(2))]),
        ..Segment::empty("a".repeat(64).parse().unwrap(), 1450, vtep)
    };
    Desired { segments: BTreeMap::from([(vni(), segment)]), ..Desired::default() }
}

fn replication_of(desired: &mut Desired) -> &mut Replication {
    Arc::make_mut(&mut desired.segments.get_mut(&vni()).unwrap().replication)
}

fn is_as_wanted(forwarding: &FakeForwarding, desired: &Desired) -> bool {
    is_as_wanted_by(Tier::VxlanMdb, forwarding, desired)
}

fn is_as_wanted_by(tier: Tier, forwarding: &FakeForwarding, desired: &Desired) -> bool {
    let wanted = Forwarding::wanted(&desired.segments[&vni()], tier);
    forwarding.content().tables.get(&vni()) == Some(&wanted)
}

#[tokio::test]
async fn an_applied_state_holds_when_settled_and_a_change_costs_its_size() {
    let kernel = FakeKernel::default();
    let forwarding = kernel.forwarding.clone();
    let handle = Reconciler::spawn(kernel, Tier::VxlanMdb).unwrap();
    let generation = handle.apply(desired(1000));
    handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    assert!(is_as_wanted(&forwarding, &desired(1000)));
    let (reads, changes) = {
        let content = forwarding.content();
        (content.reads, content.changes)
    };
    for groups in [1001, 1002, 1001, 1005] {
        let generation = handle.apply(desired(groups));
        handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
        assert!(is_as_wanted(&forwarding, &desired(groups)));
    }
    let content = forwarding.content();
    assert_eq!(content.changes - changes, 1 + 1 + 1 + 4);
    // Only the clock causes a reread, and the test is faster than that.
    assert!(content.reads <= reads + 1, "{} after {reads}", content.reads);
}

#[tokio::test]
async fn a_failed_change_is_reread_and_retried_until_it_succeeds() {
    for tier in Tier::ALL {
        let kernel = FakeKernel::default();
        let forwarding = kernel.forwarding.clone();
        forwarding.content().faults = (0..700).map(|number| number % 3 == 0).collect();
        let handle = Reconciler::spawn(kernel, tier).unwrap();
        for groups in [300, 200] {
            let generation = handle.apply(desired(groups));
            handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
            assert!(is_as_wanted_by(tier, &forwarding, &desired(groups)), "{tier}");
        }
        assert_eq!(handle.forwarding_problems(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_persistent_failure_is_reported() {
    let kernel = FakeKernel::default();
    kernel.forwarding.content().faults = (0..100_000).map(|_| true).collect();
    let handle = Reconciler::spawn(kernel, Tier::VxlanMdb).unwrap();
    let generation = handle.apply(desired(1));
    let scope = Scope::Segment { vni: vni() };
    let refusal = handle.settled(generation, &scope, Duration::from_millis(300)).await.unwrap_err();
    assert!(
        matches!(&refusal, Unsettled::Unreplicated(failures) if !failures.is_empty()),
        "{refusal:?}"
    );
    assert_eq!(
        handle.forwarding_problems()[0],
        "network with VNI 7, programming replication and pins: injected fault: change"
    );
    // Another port's scope is not affected.
    let other = Scope::Segment { vni: Vni::new(8).unwrap() };
    handle.settled(generation, &other, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn entries_of_another_tier_are_removed() {
    let kernel = FakeKernel::default();
    let forwarding = kernel.forwarding.clone();
    let left = Forwarding::wanted(&desired(5).segments[&vni()], Tier::MulticastFdb);
    forwarding.content().tables.insert(vni(), left);
    let handle = Reconciler::spawn(kernel, Tier::VxlanMdb).unwrap();
    let generation = handle.apply(desired(5));
    handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    assert!(is_as_wanted(&forwarding, &desired(5)));
}

#[tokio::test]
async fn memberships_are_passed_on() {
    let kernel = FakeKernel::default();
    let memberships = Memberships {
        groups: BTreeMap::from([(Ipv4Addr::new(239, 1, 1, 1).into(), SourceFilter::all())]),
        router: false,
    };
    kernel.forwarding.content().memberships.insert(vni(), memberships.clone());
    let handle = Reconciler::spawn(kernel, Tier::VxlanMdb).unwrap();
    let mut watch = handle.memberships();
    let known = watch.wait_for(|all| all.get(&vni()) == Some(&memberships));
    tokio::time::timeout(PATIENCE, known).await.unwrap().unwrap();
}

#[tokio::test]
async fn memberships_are_passed_on_while_another_networks_cannot_be_read() {
    let kernel = FakeKernel::default();
    let memberships = Memberships { router: true, ..Memberships::default() };
    kernel.forwarding.content().memberships.insert(vni(), memberships.clone());
    kernel.forwarding.content().memberships_unreadable = true;
    let handle = Reconciler::spawn(kernel, Tier::VxlanMdb).unwrap();
    let mut watch = handle.memberships();
    let known = watch.wait_for(|all| all.get(&vni()) == Some(&memberships));
    tokio::time::timeout(PATIENCE, known).await.unwrap().unwrap();
}

/// The desired state with these entries, each with the last octets of its remotes' addresses.
fn desired_with(groups: &[(SourceGroup, &[u8])]) -> Desired {
    let mut desired = desired(0);
    let entries =
        groups.iter().map(|(key, hosts)| (*key, hosts.iter().map(|last| remote(*last)).collect()));
    replication_of(&mut desired).groups = entries.collect();
    desired
}

/// When hosts start and stop selecting a source, its entry is added once. After that only hosts
/// that exclude the source are removed from it.
#[tokio::test]
async fn an_sg_entry_is_retained_while_its_group_has_members() {
    let kernel = FakeKernel::default();
    let forwarding = kernel.forwarding.clone();
    let handle = Reconciler::spawn(kernel, Tier::VxlanMdb).unwrap();
    let group = Ipv4Addr::new(239, 1, 1, 1).into();
    let source = (Some(Ipv4Addr::new(10, 0, 0, 1).into()), group);
    let everyone = ((None, group), [2, 3].as_slice());
    let unnamed = desired_with(&[everyone]);
    let named = desired_with(&[everyone, (source, &[2])]);
    let other = ((None, Ipv4Addr::new(239, 1, 1, 2).into()), [2].as_slice());
    // The desired state, the expected number of changes, and the expected remotes of the source.
    let steps = [
        (&unnamed, None, None),
        (&named, Some(1), Some(vec![2])),
        (&unnamed, Some(1), Some(vec![2, 3])),
        (&named, Some(1), Some(vec![2])),
        (&unnamed, Some(1), Some(vec![2, 3])),
        (&desired_with(&[everyone, other]), Some(1), Some(vec![2, 3])),
        (&unnamed, Some(1), Some(vec![2, 3])),
        (&desired_with(&[other]), Some(5), None),
        (&desired_with(&[other, everyone]), Some(2), None),
    ];
    for (number, (desired, changes, hosts)) in steps.into_iter().enumerate() {
        let before = forwarding.content().changes;
        let generation = handle.apply(desired.clone());
        handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
        let content = forwarding.content();
        let hosts = hosts
            .map(|hosts| hosts.into_iter().map(|last| Destination::Host(remote(last))).collect());
        assert_eq!(content.tables[&vni()].groups.get(&source), hosts.as_ref(), "step {number}");
        assert!(changes.is_none_or(|changes| content.changes == before + changes), "step {number}");
    }
}

/// When hosts start and stop selecting a source, its entry is added once. After that only hosts
/// that exclude the source are removed from it.
#[tokio::test]
async fn an_sg_entry_is_retained_through_a_restart() {
    let group = Ipv4Addr::new(239, 1, 1, 1).into();
    let source = (Some(Ipv4Addr::new(10, 0, 0, 1).into()), group);
    let hosts = BTreeSet::from([2, 3].map(remote));
    let mut desired = desired(0);
    replication_of(&mut desired).groups.extend([((None, group), hosts.clone()), (source, hosts)]);
    let kernel = FakeKernel::default();
    let forwarding = kernel.forwarding.clone();
    let found = Forwarding::wanted(&desired.segments[&vni()], Tier::VxlanMdb);
    forwarding.content().tables.insert(vni(), found.clone());

    replication_of(&mut desired).groups.remove(&source);
    let handle = Reconciler::spawn(kernel, Tier::VxlanMdb).unwrap();
    let generation = handle.apply(desired);
    handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    let content = forwarding.content();
    assert_eq!((content.changes, &content.tables[&vni()]), (0, &found));
}

/// A daemon restarts and has not received the other host's advertisement.
#[tokio::test]
async fn found_entries_stay_while_advertisements_are_missing_and_are_not_reread() {
    let kernel = FakeKernel::default();
    let forwarding = kernel.forwarding.clone();
    let mut before = desired(5);
    replication_of(&mut before).unregistered = BTreeSet::from([remote(2)]);
    let found = Forwarding::wanted(&before.segments[&vni()], Tier::VxlanMdb);
    assert_eq!((found.remote_macs.len(), found.ports.len()), (1, 1));
    forwarding.content().tables.insert(vni(), found.clone());

    let mut unheard = before.clone();
    let segment = unheard.segments.get_mut(&vni()).unwrap();
    segment.remote_macs.clear();
    let replication = Arc::make_mut(&mut segment.replication);
    replication.groups.clear();
    replication.provisional = true;
    let handle = Reconciler::spawn(kernel, Tier::VxlanMdb).unwrap();
    let generation = handle.apply(unheard.clone());
    handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    assert!(forwarding.content().tables[&vni()] == found);
    assert_eq!(forwarding.content().changes, 0);

    // A join on another host costs one change and no reread.
    let reads = forwarding.content().reads;
    for group in 100..110 {
        let key = (None, Ipv4Addr::from(0xef01_0000 + group).into());
        let groups = &mut replication_of(&mut unheard).groups;
        groups.insert(key, BTreeSet::from([remote(2)]));
        let generation = handle.apply(unheard.clone());
        handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    }
    assert_eq!(forwarding.content().changes, 10);
    // Only the clock causes a reread, and the test is faster than that.
    let read = forwarding.content().reads;
    assert!(read <= reads + 1, "{read} after {reads}");

    let generation = handle.apply(before.clone());
    handle.settled(generation, &Scope::Everything, PATIENCE).await.unwrap();
    assert!(is_as_wanted(&forwarding, &before));
}
