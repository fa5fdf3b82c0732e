//! More groups than a bridge's MDB can hold.

use std::net::{Ipv4Addr, UdpSocket};

use shoutd_core::multicast::MdbUsage;
use shoutd_core::plane::DeviceName;
use shoutd_dataplane::{Kernel, MdbPressure};
use shoutd_netlink::Namespace;

use crate::followed::{Followed, group, groups};
use crate::support::{Capture, eventually, ip, run, udp};

const PORT: u16 = 5000;

/// Waits until the first host's container no longer receives groups that it did not join.
fn await_filter(sender: &UdpSocket, followed: &Followed) {
    eventually("a bridge that filters", || {
        let mut capture = Capture::open(&followed.containers[0], "eth0");
        for (number, text) in [(9999, b"surplus"), (0, b"wanted!")] {
            sender.send_to(text, (group(number), PORT)).unwrap();
        }
        loop {
            let frame = capture.receive();
            if frame.windows(7).any(|window| window == b"surplus") {
                break false;
            }
            if frame.windows(7).any(|window| window == b"wanted!") {
                break true;
            }
        }
    });
}

/// With the kernel's own limit, `mcast_hash_max`, lowered: one more group, and the bridge silently
/// floods all ports.
fn set_bridge(segment: &Namespace, setting: &str, value: &str) {
    segment.run(|| ip(&["link", "set", "shoutbr0", "type", "bridge", setting, value])).unwrap();
}

fn snoops(segment: &Namespace) -> bool {
    segment
        .run(|| run("ip", &["-d", "link", "show", "shoutbr0"]))
        .unwrap()
        .contains("mcast_snooping 1")
}

/// Checks that a datagram to each of some of the groups arrives.
fn check_delivery(sender: &UdpSocket, receiver: &UdpSocket) {
    for number in [0_u32, 489, 490, 599] {
        sender.send_to(&number.to_be_bytes(), (group(number), PORT)).unwrap();
        let mut datagram = [0; 4];
        receiver.recv(&mut datagram).unwrap();
        assert_eq!(u32::from_be_bytes(datagram), number);
    }
}

#[test]
fn a_full_bridge_loses_nothing_and_its_largest_ports_are_named() {
    let mut followed = Followed::start(2, &["mcast_hash_max", "512"]);
    let segment = followed.segment();
    let port = DeviceName::port(&followed.world.hosts[0].endpoint(1));

    let mut sockets = followed.join(0..400);
    followed.await_bridge("400 groups", &groups(0..400));
    // The initial period in which the bridge floods is short if its querier starts with a short
    // interval.
    set_bridge(&segment, "mcast_query_response_interval", "10");
    set_bridge(&segment, "mcast_querier", "0");
    set_bridge(&segment, "mcast_querier", "1");
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
    assert!(followed.known.router && snoops(&segment));
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
    eventually("the end of snooping", || !snoops(&segment));
    let receiver = udp(&followed.containers[0], (Ipv4Addr::UNSPECIFIED, PORT));
    check_delivery(&sender, &receiver);
    followed.follow();
    assert!(followed.known.router);

    // With room for all, as the reconciler sets it, nothing is lost while the members answer, which
    // takes time.
    set_bridge(&segment, "mcast_query_response_interval", "500");
    followed.world.hosts[0].settle();
    assert!(snoops(&segment));
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
    check_delivery(&sender, &receiver);
    followed.await_bridge("all groups", &groups(0..600));
    check_delivery(&sender, &receiver);
    eventually("the end of the MDB pressure", || {
        followed.follow();
        !followed.known.router && followed.source.mdb_pressures().is_empty()
    });
    assert_eq!(followed.known_groups().len(), 600);
}
