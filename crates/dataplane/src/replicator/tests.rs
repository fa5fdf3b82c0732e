use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use shoutd_core::multicast::Replication;
use shoutd_core::plane::Forwarding;

use super::*;
use crate::testing::FakeForwarding;

/// Two networks with these groups, each with one remote.
fn desired(groups: [Range<u32>; 2]) -> Arc<Desired> {
    let remote = |last| IpAddr::from(Ipv4Addr::new(192, 0, 2, last));
    let group = |number| (None, Ipv4Addr::from(0xef01_0000 + number).into());
    let vtep = Vtep { address: remote(1), port: 7789 };
    let segment = |groups: Range<u32>| Segment {
        remotes: BTreeSet::from([remote(2)]),
        replication: Arc::new(Replication {
            groups: groups.map(|number| (group(number), BTreeSet::from([remote(2)]))).collect(),
            ..Replication::default()
        }),
        ..Segment::empty("a".repeat(64).parse().unwrap(), 1450, vtep)
    };
    Arc::new(Desired {
        segments: [7, 8]
            .map(|vni| Vni::new(vni).unwrap())
            .into_iter()
            .zip(groups.map(segment))
            .collect(),
        ..Desired::default()
    })
}

/// How many times tables were read in full, and how many changes were made.
fn counted(fake: &FakeForwarding) -> (usize, usize) {
    let content = fake.content();
    (content.reads, content.changes)
}

fn is_as_wanted(fake: &FakeForwarding, desired: &Desired) -> bool {
    let wanted = |segment| Forwarding::wanted(segment, Tier::VxlanMdb);
    let content = fake.content();
    desired.segments.iter().all(|(vni, segment)| content.tables[vni] == wanted(segment))
}

#[test]
fn additions_precede_removals_and_a_newer_state_preempts_removals() {
    let fake = FakeForwarding::default();
    let mut replicator = Replicator::new(Box::new(fake.clone()), Tier::VxlanMdb).unwrap();
    let mut round = |generation, desired: &Arc<Desired>, newest: Option<(u64, &Arc<Desired>)>| {
        if let Some((newest, desired)) = newest {
            replicator.post.apply(Generation(newest), desired.clone());
        }
        let is_done = replicator.round(Generation(generation), Revision(0), desired).is_some();
        let published = replicator.status.borrow().generation;
        (is_done, published)
    };
    let before = desired([0..2000, 0..0]);
    assert!(round(1, &before, None).0 && is_as_wanted(&fake, &before));
    let (reads, changes) = counted(&fake);

    // All groups of the first network are withdrawn, and one of the second is joined. During
    // that, one of the first is joined.
    let (then, last) = (desired([0..0, 7..8]), desired([5000..5001, 7..8]));
    assert_eq!(
        round(2, &then, Some((3, &last))),
        (false, Generation(2)),
        "the join was not programmed, or the newer state was not noticed"
    );
    assert_eq!(counted(&fake), (reads, changes + 1 + CHANGES_AT_ONCE));
    assert!(round(3, &last, None).0 && is_as_wanted(&fake, &last));
    assert_eq!(
        counted(&fake),
        (reads, changes + 1 + 2000 + 1),
        "something was read or changed twice"
    );
}

#[test]
fn preemption_never_leaves_an_entry_with_only_some_of_its_remotes() {
    let fake = FakeForwarding::default();
    let mut replicator = Replicator::new(Box::new(fake.clone()), Tier::VxlanMdb).unwrap();
    let wanted = |groups: u32| {
        let mut desired = Desired::clone(&desired([0..groups, 0..0]));
        let replications =
            desired.segments.values_mut().map(|segment| Arc::make_mut(&mut segment.replication));
        for remotes in replications.flat_map(|replication| replication.groups.values_mut()) {
            *remotes = (2..7).map(|last| IpAddr::from(Ipv4Addr::new(192, 0, 2, last))).collect();
        }
        Arc::new(desired)
    };
    let mut round = |generation, desired: &Arc<Desired>, newer: Option<&Arc<Desired>>| {
        newer
            .into_iter()
            .for_each(|newer| replicator.post.apply(Generation(generation + 1), newer.clone()));
        replicator.round(Generation(generation), Revision(0), desired).is_some()
    };
    let (some, none) = (wanted(300), wanted(0));
    // During the additions, and during the removals.
    assert!(!round(1, &some, Some(&none)));
    let is_whole = |fake: &FakeForwarding| {
        let whole = Forwarding::wanted(&some.segments[&Vni::new(7).unwrap()], Tier::VxlanMdb);
        let tables = fake.content().tables[&Vni::new(7).unwrap()].clone();
        tables.groups.iter().all(|(key, hosts)| whole.groups[key] == *hosts)
    };
    assert!(is_whole(&fake));
    assert!(round(2, &some, None) && is_as_wanted(&fake, &some));
    assert!(!round(3, &none, Some(&some)));
    assert!(is_whole(&fake));
    assert!(round(4, &some, None) && is_as_wanted(&fake, &some));
}
