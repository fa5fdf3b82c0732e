use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use shoutd_core::multicast::Replication;
use shoutd_core::plane::Forwarding;

use super::*;
use crate::testing::FakeForwarding;

/// Two networks with these groups, each with one remote.
fn desired(groups: [Range<u32>; 2]) -> Arc<Desired> {
    Arc::new(Desired {
        segments: [7, 8]
            .map(|vni| Vni::new(vni).unwrap())
            .into_iter()
            .zip(groups.map(segment))
            .collect(),
        ..Desired::default()
    })
}

/// A segment with one remote, which is a member of these groups.
fn segment(groups: Range<u32>) -> Segment {
    let vtep = Vtep { address: remote(1), port: 7789, encrypted: false };
    let mut replication = Replication::default();
    for number in groups {
        let group = (None, Ipv4Addr::from(0xef01_0000 + number).into());
        replication.groups.insert(group, BTreeSet::from([remote(2)]));
    }
    Segment {
        remotes: BTreeSet::from([remote(2)]),
        replication: Arc::new(replication),
        ..Segment::empty("a".repeat(64).parse().unwrap(), 1450, vtep)
    }
}

fn remote(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

/// How many times tables were read in full, and how many changes were made.
fn counted(fake: &FakeForwarding) -> (usize, usize) {
    let content = fake.content();
    (content.reads, content.changes)
}

fn is_as_wanted(fake: &FakeForwarding, desired: &Desired) -> bool {
    let content = fake.content();
    desired
        .segments
        .iter()
        .all(|(vni, segment)| content.tables[vni] == Forwarding::wanted(segment, Tier::VxlanMdb))
}

#[test]
fn additions_precede_removals_and_a_newer_state_preempts_removals() {
    let fake = FakeForwarding::default();
    let mut replicator =
        Replicator::new(Box::new(fake.clone()), Tier::VxlanMdb, Arc::new(())).unwrap();
    let before = desired([0..2000, 0..0]);
    assert!(replicator.round(Generation(1), Revision(0), &before).is_some());
    assert!(is_as_wanted(&fake, &before));
    let (reads, changes) = counted(&fake);

    // All groups of the first network are withdrawn, and one of the second is joined. During
    // that, one of the first is joined.
    let (then, last) = (desired([0..0, 7..8]), desired([5000..5001, 7..8]));
    replicator.post.apply(Generation(3), last.clone());
    let is_done = replicator.round(Generation(2), Revision(0), &then).is_some();
    assert!(!is_done, "the newer state was not noticed");
    assert_eq!(replicator.status.borrow().generation, Generation(2), "the join is not programmed");
    assert_eq!(counted(&fake), (reads, changes + 1 + CHANGES_AT_ONCE));
    assert!(replicator.round(Generation(3), Revision(0), &last).is_some());
    assert!(is_as_wanted(&fake, &last));
    assert_eq!(
        counted(&fake),
        (reads, changes + 1 + 2000 + 1),
        "something was read or changed twice"
    );
}

#[test]
fn preemption_never_leaves_an_entry_with_only_some_of_its_remotes() {
    let fake = FakeForwarding::default();
    let mut replicator =
        Replicator::new(Box::new(fake.clone()), Tier::VxlanMdb, Arc::new(())).unwrap();
    let vni = Vni::new(7).unwrap();
    let none = desired([0..0, 0..0]);
    let mut some = Desired::clone(&desired([0..300, 0..0]));
    let segment = some.segments.get_mut(&vni).unwrap();
    for remotes in Arc::make_mut(&mut segment.replication).groups.values_mut() {
        *remotes = (2..7).map(remote).collect();
    }
    let whole = Forwarding::wanted(segment, Tier::VxlanMdb);
    let some = Arc::new(some);
    // During the additions, and during the removals.
    for (generation, desired, newer) in [(1, &some, &none), (3, &none, &some)] {
        replicator.post.apply(Generation(generation + 1), newer.clone());
        let is_done = replicator.round(Generation(generation), Revision(0), desired).is_some();
        assert!(!is_done);
        for (key, hosts) in &fake.content().tables[&vni].groups {
            assert_eq!(whole.groups[key], *hosts);
        }
        let next = Generation(generation + 1);
        assert!(replicator.round(next, Revision(0), &some).is_some());
        assert!(is_as_wanted(&fake, &some));
    }
}
