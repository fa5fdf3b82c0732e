//! More groups than a bridge's MDB can hold.

use std::net::{Ipv4Addr, UdpSocket};

use shoutd_core::multicast::MdbUsage;
use shoutd_core::plane::DeviceName;
use shoutd_dataplane::{Kernel, MdbPressure};

use crate::followed::{Followed, group, groups};
use crate::support::{Capture, eventually, ip, run, udp};

const PORT: u16 = 5000;

/// Waits until the first host's container no longer receives groups that it did not join.
fn await_filter(sender: &UdpSocket, followed: &Followed) {
    eventually("a bridge that filters", || {
        let mut capture = Capture::open(&followed.containers[0], "shout0");
        for (number, text) in [(9999, b"surplus"), (0, b"wanted!")] {
            sender.send_to(text, (group(number), PORT)).unwrap();
        }
        loop {
            let frame = capture.receive();
            let has = |text: &[u8]| frame.windows(text.len()).any(|window| window == text);
            if has(b"surplus") || has(b"wanted!") {
                break has(b"wanted!");
            }
        }
    });
}

/// With the kernel's own limit, `mcast_hash_max`, lowered: one more group, and the bridge silently
/// floods all ports.
#[test]
fn a_full_bridge_loses_nothing_and_its_largest_ports_are_named() {
    let mut followed = Followed::start(2, &["mcast_hash_max", "512"]);
    let segment = followed.segment();
    let set = |settings: &[&str]| {
        let change = ["link", "set", "shoutbr0", "type", "bridge"].iter().chain(settings).copied();
        segment.run(|| ip(&change.collect::<Vec<_>>())).unwrap();
    };
    let snoops = || {
        segment
            .run(|| run("ip", &["-d", "link", "show", "shoutbr0"]))
            .unwrap()
            .contains("mcast_snooping 1")
    };
    let port = DeviceName::port(&followed.world.hosts[0].endpoint(1));

    let mut sockets = followed.join(0..400);
    followed.await_bridge("400 groups", &groups(0..400));
    // The initial period in which the bridge floods is short if its querier starts with a short
    // interval.
    set(&["mcast_query_response_interval", "10", "mcast_querier", "0"]);
    set(&["mcast_querier", "1"]);
    let sender = udp(&followed.containers[1], (followed.world.hosts[1].container_address(1), 0));
    await_filter(&sender, &followed);
    followed.follow();
    assert!(
        !followed.known.router && followed.source.mdb_pressures().is_empty(),
        "{:?}",
        followed.source.mdb_pressures()
    );

    // The host advertises that it needs everything before the bridge is full.
    sockets.extend(followed.join(400..490));
    followed.await_bridge("490 groups", &groups(0..490));
    followed.follow();
    assert!(followed.known.router && snoops());
    let mdb_pressures = followed.source.mdb_pressures();
    let [MdbPressure::Bridge { room: MdbUsage { size: 512, taken, snoops: true }, most, .. }] =
        mdb_pressures.as_slice()
    else {
        panic!("{mdb_pressures:?}");
    };
    assert!(
        (490..512).contains(taken) && most[0].0 == port && most[0].1 >= 490,
        "{mdb_pressures:?}"
    );

    // Then the kernel stops snooping.
    sockets.extend(followed.join(490..600));
    eventually("the end of snooping", || !snoops());
    let receiver = udp(&followed.containers[0], (Ipv4Addr::UNSPECIFIED, PORT));
    let hears = |number: u32| {
        sender.send_to(&number.to_be_bytes(), (group(number), PORT)).unwrap();
        let mut datagram = [0; 4];
        receiver.recv(&mut datagram).unwrap();
        assert_eq!(u32::from_be_bytes(datagram), number);
    };
    [0, 489, 490, 599].into_iter().for_each(hears);
    followed.follow();
    assert!(followed.known.router);

    // With room for all, as the reconciler sets it, nothing is lost while the members answer, which
    // takes time.
    set(&["mcast_query_response_interval", "500"]);
    followed.world.hosts[0].settle();
    assert!(snoops());
    // A reader that starts only now also learns that the bridge floods all ports.
    let mut late = followed.world.hosts[0].kernel.memberships();
    late.update(&mut Vec::new()).unwrap();
    let mdb_pressures = late.mdb_pressures();
    assert!(
        matches!(
            mdb_pressures.as_slice(),
            [MdbPressure::Bridge { room: MdbUsage { snoops: false, .. }, .. }]
        ),
        "{mdb_pressures:?}"
    );
    [0, 489, 490, 599].into_iter().for_each(hears);
    followed.await_bridge("all groups", &groups(0..600));
    [0, 489, 490, 599].into_iter().for_each(hears);
    eventually("the end of the MDB pressure", || {
        followed.follow();
        !followed.known.router && followed.source.mdb_pressures().is_empty()
    });
    assert_eq!(followed.known_groups().len(), 600);
}
