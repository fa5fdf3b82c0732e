//! Lost events: the memberships are correct nevertheless.

use std::collections::BTreeSet;
use std::net::IpAddr;

use shoutd_core::plane::DeviceName;
use shoutd_netlink::DatabaseMonitor;

use crate::followed::{Followed, groups};
use crate::support::{eventually, run};

fn assert_same(found: &BTreeSet<IpAddr>, wanted: &BTreeSet<IpAddr>) {
    let (surplus, missing) = ((found - wanted).len(), (wanted - found).len());
    assert!(surplus + missing == 0, "{surplus} groups too many, {missing} too few");
}

/// The kernel drops events when the socket's buffer is full, reports it once (`ENOBUFS`), and drops
/// further ones until the socket was read empty.
#[test]
fn memberships_are_correct_after_lost_events() {
    let mut followed = Followed::start(1, &[]);
    let segment = followed.segment();
    let port = DeviceName::port(&followed.world.hosts[0].endpoint(1));
    // With fast leave, a leave takes effect without a last query.
    segment
        .run(|| run("bridge", &["link", "set", "dev", port.as_str(), "fastleave", "on"]))
        .unwrap();
    let before = followed.join(0..100);
    followed.await_bridge("the initial groups", &groups(0..100));
    followed.follow();
    assert_eq!(followed.known_groups(), groups(0..100));

    let witness = DatabaseMonitor::open(&segment).unwrap();
    for round in 0..3 {
        let storm = followed.join(1000..7000);
        let all = &groups(0..100) | &groups(1000..7000);
        followed.await_bridge(&format!("the joins of round {round}"), &all);
        drop(storm);
        followed.await_bridge(&format!("the leaves of round {round}"), &groups(0..100));
    }
    // These produce no events: the buffer is full.
    drop(before);
    let _staying = followed.join(50..200);
    followed.await_bridge("the final groups", &groups(50..200));
    assert!(
        witness.changes().is_none(),
        "a socket with the same buffer got every event: there was no overrun"
    );

    for _ in 0..3 {
        followed.follow();
        assert_same(&followed.bridge_groups(), &groups(50..200));
        assert_same(&followed.known_groups(), &groups(50..200));
    }
    // Events are processed again.
    let later = followed.join(300..310);
    eventually("a later join", || {
        followed.follow();
        followed.known_groups() == &groups(50..200) | &groups(300..310)
    });
    drop(later);
    eventually("a later leave", || {
        followed.follow();
        followed.known_groups() == groups(50..200)
    });
}
