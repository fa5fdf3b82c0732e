//! The lesser tiers, hosts with different tiers, and changes of the tier.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::time::Instant;

use shoutd_core::plane::Tier;
use shoutd_netlink::Filtering;

use crate::cluster::{Cluster, PORT};
use crate::igmp_mld_filter::report;
use crate::support::{Capture, PATIENCE, Running, Stream, run, udp};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);

/// A group with a member on one host, and one without members.
fn reached(cluster: &Cluster, from: usize) -> [BTreeSet<usize>; 2] {
    let sender = cluster.sender(from);
    [GROUP, Ipv4Addr::new(239, 9, 9, 9)].map(|group| cluster.reaches(&sender, (group, PORT)))
}

#[test]
fn each_host_replicates_by_its_own_tier() {
    let mut cluster =
        Cluster::start(&[Tier::VxlanMdb, Tier::MulticastFdb, Tier::Flood, Tier::VxlanMdb]);
    let receiver = cluster.receiver(3);
    receiver.join_multicast_v4(&GROUP, &cluster.address(3)).unwrap();
    cluster.until(3, "the membership", |memberships| {
        memberships.groups.contains_key(&IpAddr::from(GROUP))
    });
    cluster.advertise();
    assert_eq!(reached(&cluster, 0), [BTreeSet::from([3]), BTreeSet::new()]);
    assert_eq!(reached(&cluster, 1), [BTreeSet::from([3]), BTreeSet::new()]);
    assert_eq!(reached(&cluster, 2), [BTreeSet::from([0, 1, 3]), BTreeSet::from([0, 1, 3])]);
    assert_eq!(cluster.entries(1) + cluster.entries(2), 0);
}

/// Through every tier and back, each time with a restarted daemon: nothing of the other tiers is
/// left, and no packet is lost.
#[test]
fn changing_the_tier_loses_no_packet_and_leaves_nothing_behind() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 3]);
    let receiver = cluster.receiver(1);
    receiver.join_multicast_v4(&GROUP, &cluster.address(1)).unwrap();
    cluster.until(1, "the membership", |memberships| {
        memberships.groups.contains_key(&IpAddr::from(GROUP))
    });
    cluster.advertise();
    let stream = Stream::start(
        udp(&cluster.containers[0], (cluster.address(0), 0)),
        (GROUP, PORT),
        receiver,
    );
    let ways = [
        Tier::MulticastFdb,
        Tier::MulticastFdb,
        Tier::VxlanMdb,
        Tier::VxlanMdb,
        Tier::Flood,
        Tier::MulticastFdb,
        Tier::Flood,
        Tier::VxlanMdb,
    ];
    let admitted = Filtering::Whole(BTreeSet::from([GROUP.into()]));
    for tier in ways {
        if cluster.filtering(0) == admitted {
            // As another version of shoutd may have made it.
            let accept = "insert rule bridge shoutd-groups forward accept";
            cluster.hosts[0].segment().run(|| run("nft", &[accept])).unwrap();
        }
        cluster.running[0] = Running::start_with(&mut cluster.hosts[0], tier);
        let (groups, macs) = (cluster.entries(0), cluster.group_macs(0));
        let expected = match tier {
            Tier::VxlanMdb => (3, 0, Filtering::Absent),
            Tier::MulticastFdb => (0, 1, admitted.clone()),
            Tier::Flood => (0, 0, Filtering::Absent),
        };
        assert_eq!((groups, macs, cluster.filtering(0)), expected, "{tier}");
    }
    let (sent, lost) = stream.stop();
    assert!(sent > 50, "{sent}");
    assert_eq!(lost, Vec::<u32>::new());
}

/// The time from a join until the other hosts know it, and until their kernels replicate to it,
/// beside ten thousand other groups. It is printed; the bound only allows for a busy machine.
#[test]
fn joins_are_quick_beside_many_groups() {
    for tier in [Tier::VxlanMdb, Tier::MulticastFdb] {
        join_beside_many_groups(tier);
    }
}

fn join_beside_many_groups(tier: Tier) {
    let mut cluster = Cluster::start(&[tier; 2]);
    // Two more hosts have all the other groups, one per address family.
    let others = (0..10_000_u32).map(|number| IpAddr::from(Ipv4Addr::from(0xef01_0000 + number)));
    let remote = cluster.hosts[1].address;
    let replication = Arc::make_mut(&mut cluster.hosts[0].segment_mut().replication);
    replication.groups.extend(others.map(|group| ((None, group), BTreeSet::from([remote]))));
    cluster.running[0].apply(&cluster.hosts[0]);
    assert_eq!(groups_kept_apart(&cluster), 10_000);
    // A container's kernel delays its reports; this one is sent at once.
    let reporter = Capture::open(&cluster.containers[1], "eth0");
    let (mut known, mut programmed) = (Vec::new(), Vec::new());
    for number in 0..10 {
        let group = Ipv4Addr::new(239, 200, 0, number);
        let begin = Instant::now();
        reporter.send(&report(group));
        cluster.until(1, "the membership", |memberships| {
            memberships.groups.contains_key(&IpAddr::from(group))
        });
        known.push(begin.elapsed());
        let segment = cluster.hosts[0].segment_mut();
        Arc::make_mut(&mut segment.replication)
            .groups
            .insert((None, group.into()), BTreeSet::from([remote]));
        let desired = cluster.hosts[0].desired.clone();
        let begin = Instant::now();
        cluster.running[0].apply_this(desired);
        programmed.push(begin.elapsed());
    }
    known.sort();
    programmed.sort();
    println!("{tier}: known after {:?}, programmed after {:?} (medians)", known[5], programmed[5]);
    assert!(known[5] < PATIENCE && programmed[5] < PATIENCE);
    assert_eq!(groups_kept_apart(&cluster), 10_010);
}

/// The number of groups that the first host replicates to some of the remotes only.
fn groups_kept_apart(cluster: &Cluster) -> usize {
    match cluster.filtering(0) {
        Filtering::Whole(admitted) if admitted.len() == cluster.group_macs(0) => admitted.len(),
        _ => cluster.entries(0) - 2,
    }
}

/// By MAC address, as on kernels before 6.4: 32 IPv4 groups share an address and go where any of
/// them has members, except for groups without members. When others join and leave, members lose no
/// packet.
#[test]
fn groups_of_one_mac_address_go_to_the_hosts_that_listen_to_any() {
    let mut cluster = Cluster::start(&[Tier::MulticastFdb; 3]);
    let twin = Ipv4Addr::new(239, 129, 2, 3);
    let (first, second) = (cluster.receiver(1), cluster.receiver(2));
    first.join_multicast_v4(&GROUP, &cluster.address(1)).unwrap();
    cluster.until(1, "the membership", |memberships| {
        memberships.groups.contains_key(&IpAddr::from(GROUP))
    });
    cluster.advertise();
    assert_eq!(cluster.group_macs(0), 1);
    let sender = cluster.sender(0);
    let both = [GROUP, twin].map(|group| cluster.reaches(&sender, (group, PORT)));
    assert_eq!(both, [BTreeSet::from([1]), BTreeSet::new()]);

    let stream =
        Stream::start(udp(&cluster.containers[0], (cluster.address(0), 0)), (GROUP, PORT), first);
    second.join_multicast_v4(&twin, &cluster.address(2)).unwrap();
    cluster.until(2, "the membership", |memberships| {
        memberships.groups.contains_key(&IpAddr::from(twin))
    });
    cluster.advertise();
    let both = [GROUP, twin].map(|group| cluster.reaches(&sender, (group, PORT)));
    assert_eq!(both, [(); 2].map(|()| BTreeSet::from([1, 2])));
    second.leave_multicast_v4(&twin, &cluster.address(2)).unwrap();
    cluster.until(2, "the leave", |memberships| memberships.groups.is_empty());
    cluster.advertise();
    assert_eq!(cluster.reaches(&sender, (twin, PORT)), BTreeSet::new());
    assert_eq!(stream.stop().1, Vec::<u32>::new());
    assert_eq!((cluster.entries(0), cluster.group_macs(0)), (0, 1));
}

/// By MAC address, a group can share the address of a link-local one, which must still reach all
/// other hosts: mDNS, all nodes, neighbour discovery. Groups of applications must reach their
/// members.
#[test]
fn link_local_groups_that_share_a_mac_address_with_others_reach_who_they_should() {
    let mut cluster = Cluster::start(&[Tier::MulticastFdb; 4]);
    let shared =
        ["ff05::fb", "ff05::1", "ff05::1:ff00:5"].map(|group| group.parse::<Ipv6Addr>().unwrap());
    let wide: Ipv6Addr = "ff1e::ffff:239.255.0.1".parse().unwrap();
    let narrow: Ipv6Addr = "ff02::ffff:239.255.0.1".parse().unwrap();
    let (mut receivers, twin) = (vec![cluster.receiver(1)], Ipv4Addr::new(239, 0, 0, 251));
    receivers[0].join_multicast_v4(&twin, &cluster.address(1)).unwrap();
    receivers.extend(shared.into_iter().chain([wide]).map(|group| cluster.receiver_v6(1, group)));
    receivers.push(cluster.receiver_v6(2, narrow));
    let awaited: Vec<IpAddr> =
        shared.into_iter().chain([wide]).map(IpAddr::from).chain([twin.into()]).collect();
    cluster.until(1, "the groups", |memberships| {
        awaited.iter().all(|group| memberships.groups.contains_key(group))
    });
    cluster.until(2, "the link-local group", |memberships| {
        memberships.groups.contains_key(&narrow.into())
    });
    cluster.advertise();
    // The last two groups reach both hosts, as each has a member of one of them.
    assert_eq!(cluster.group_macs(0), 2);

    let all = BTreeSet::from([1, 2, 3]);
    assert_eq!(cluster.reaches(&cluster.sender(0), (Ipv4Addr::new(224, 0, 0, 251), PORT)), all);
    let own = cluster.link_local(0);
    let interface = cluster.interface(0);
    let sender = udp(&cluster.containers[0], SocketAddrV6::new(own, 0, 0, interface));
    for (group, hosts) in [
        ("ff02::fb".parse().unwrap(), &all),
        ("ff02::1".parse().unwrap(), &all),
        (wide, &BTreeSet::from([1, 2])),
        (narrow, &BTreeSet::from([1, 2])),
    ] {
        let to = SocketAddrV6::new(group, PORT, 0, interface);
        assert_eq!(&cluster.reaches_from(&sender, own.into(), to), hosts, "{group}");
    }
    // No host has this address, and the kernel asks all for it by ff02::1:ff00:5.
    let neighbour: Ipv6Addr = "fe80::5".parse().unwrap();
    let to = SocketAddrV6::new(neighbour, PORT, 0, interface);
    let reached =
        cluster.reached(0, &neighbour.octets(), || _ = sender.send_to(b"who has it?", to).unwrap());
    assert_eq!(reached, all);
}

/// The group filter before the tunnel drops them, of both families. While not all hosts have
/// advertised, or one has a multicast router, they go to all.
#[test]
fn groups_that_nobody_listens_to_go_nowhere_by_mac_address_either() {
    let mut cluster = Cluster::start(&[Tier::MulticastFdb; 3]);
    let own = cluster.link_local(0);
    let (sender, index) = (cluster.sender(0), cluster.interface(0));
    let sender_v6 = udp(&cluster.containers[0], SocketAddrV6::new(own, 0, 0, index));
    let reached = |cluster: &Cluster, groups: [&str; 2]| {
        let to = |group: &str| SocketAddrV6::new(group.parse().unwrap(), PORT, 0, index);
        let v4 = cluster.reaches(&sender, (groups[0].parse::<Ipv4Addr>().unwrap(), PORT));
        [v4, cluster.reaches_from(&sender_v6, own.into(), to(groups[1]))]
    };
    let (nobody, all) = (BTreeSet::new(), BTreeSet::from([1, 2]));
    let (wide, link_local) = (["239.9.9.9", "ff1e::9:9:9"], ["224.0.0.99", "ff12::9:9:9"]);
    assert_eq!(reached(&cluster, wide), [(); 2].map(|()| nobody.clone()));
    assert_eq!(reached(&cluster, ["224.0.1.1", "ff03::fb"]), [(); 2].map(|()| nobody.clone()));
    assert_eq!(reached(&cluster, link_local), [(); 2].map(|()| all.clone()));

    let router = cluster.hosts[2].address;
    Arc::make_mut(&mut cluster.hosts[0].segment_mut().replication).unregistered.insert(router);
    cluster.running[0].apply(&cluster.hosts[0]);
    assert_eq!(cluster.filtering(0), Filtering::Absent);
    assert_eq!(reached(&cluster, wide), [(); 2].map(|()| all.clone()));
    cluster.advertise();
    assert_eq!(reached(&cluster, wide), [(); 2].map(|()| nobody.clone()));
    let receivers = [(); 2].map(|()| cluster.receiver_v6(1, wide[1].parse().unwrap()));
    cluster.until(1, "the group", |memberships| {
        memberships.groups.contains_key(&wide[1].parse().unwrap())
    });
    cluster.advertise();
    assert_eq!(reached(&cluster, wide), [nobody, BTreeSet::from([1])]);
    drop(receivers);
}
