//! Multicast reaches the hosts with members, and no others.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::SockaddrIn6;
use shoutd_core::multicast::SourceFilter;
use shoutd_core::plane::{DeviceName, Tier};
use shoutd_dataplane::group_members;

use crate::cluster::{Cluster, PORT};
use crate::support::{ip, run, udp, vni};

#[test]
fn a_group_goes_to_the_hosts_with_members() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 3]);
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let receiver = cluster.receiver(1);
    let sender = cluster.sender(0);
    assert_eq!(cluster.reaches(&sender, (group, PORT)), BTreeSet::new());

    receiver.join_multicast_v4(&group, &cluster.address(1)).unwrap();
    cluster
        .until(1, "the membership", |memberships| memberships.groups.contains_key(&group.into()));
    let path = cluster.hosts[1].segment_path();
    let listening = group_members(path.parent().unwrap(), vni()).unwrap();
    let told: Vec<_> = listening.iter().filter(|(_, found)| *found == Some(group.into())).collect();
    assert!(told.len() == 1 && told[0].0.as_str().starts_with("shp"), "{listening:?}");
    cluster.advertise();
    assert_eq!(cluster.reaches(&sender, (group, PORT)), BTreeSet::from([1]));
    assert_eq!(cluster.reaches(&sender, (Ipv4Addr::new(239, 1, 2, 4), PORT)), BTreeSet::new());
    assert_eq!(
        cluster.reaches(&sender, (Ipv4Addr::new(224, 0, 0, 251), PORT)),
        BTreeSet::from([1, 2])
    );

    receiver.leave_multicast_v4(&group, &cluster.address(1)).unwrap();
    cluster.until(1, "the leave", |memberships| memberships.groups.is_empty());
    cluster.advertise();
    assert_eq!(cluster.reaches(&sender, (group, PORT)), BTreeSet::new());
}

/// The kernel reports a container's join milliseconds before the container's report. Here all
/// reports are dropped.
#[test]
fn a_join_is_known_before_its_report() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 2]);
    let segment = cluster.hosts[1].segment();
    if shoutd_netlink::JoinMonitor::open(&segment).unwrap().is_none() {
        eprintln!("this kernel does not notify of joins (before 6.14): skipping early joins");
        return;
    }
    segment
        .run(|| {
            run("nft", &["add table bridge deaf"]);
            run("nft", &["add chain bridge deaf in { type filter hook prerouting priority 0; }"]);
            run("nft", &["add rule bridge deaf in ip protocol igmp drop"]);
            run("nft", &["add rule bridge deaf in icmpv6 type { 131, 132, 143 } drop"]);
        })
        .unwrap();
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let group_v6: Ipv6Addr = "ff05::1:2:3".parse().unwrap();
    let receiver = cluster.receiver(1);
    receiver.join_multicast_v4(&group, &cluster.address(1)).unwrap();
    cluster
        .until(1, "the membership", |memberships| memberships.groups.contains_key(&group.into()));
    cluster.advertise();
    assert_eq!(cluster.reaches(&cluster.sender(0), (group, PORT)), BTreeSet::from([1]));

    let receiver_v6 = udp(&cluster.containers[1], (Ipv6Addr::UNSPECIFIED, PORT + 1));
    let interface =
        cluster.containers[1].run(|| nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap();
    receiver_v6.join_multicast_v6(&group_v6, interface).unwrap();
    cluster.until(1, "the IPv6 membership", |memberships| {
        memberships.groups.contains_key(&group_v6.into())
    });
    // The sources of an SSM group are looked up. A lookup between the join and the selection of
    // sources can be too early, but not every time.
    let (source, source_v6) = (cluster.address(0), cluster.link_local(0));
    for last in 1..=16 {
        let chosen = Ipv4Addr::new(232, 1, 2, last);
        source_filter(
            &receiver,
            nix::libc::IP_ADD_SOURCE_MEMBERSHIP,
            cluster.address(1),
            chosen,
            source,
        );
        join_source_v6(
            &receiver_v6,
            interface,
            Ipv6Addr::new(0xff35, 0, 0, 0, 0, 0, 1, last.into()),
            source_v6,
        );
    }
    for (is_of_family, source) in [
        (IpAddr::is_ipv4 as fn(&IpAddr) -> bool, IpAddr::from(source)),
        (IpAddr::is_ipv6, source_v6.into()),
    ] {
        let only = SourceFilter::Include(BTreeSet::from([source]));
        cluster.until(1, "a membership for one source", |memberships| {
            memberships.groups.iter().any(|(group, filter)| is_of_family(group) && *filter == only)
        });
    }
}

/// Joins an (S,G) of IPv6 on a container's UDP socket.
fn join_source_v6(socket: &UdpSocket, interface: u32, group: Ipv6Addr, source: Ipv6Addr) {
    let request = nix::libc::group_source_req {
        gsr_interface: interface,
        gsr_group: storage(group),
        gsr_source: storage(source),
    };
    ask(socket, nix::libc::IPPROTO_IPV6, nix::libc::MCAST_JOIN_SOURCE_GROUP, &request);
}

fn storage(address: Ipv6Addr) -> nix::libc::sockaddr_storage {
    let address = SockaddrIn6::from(SocketAddrV6::new(address, 0, 0, 0));
    // SAFETY: all zeros is an address of no family, with room for one of IPv6.
    unsafe {
        let mut storage: nix::libc::sockaddr_storage = std::mem::zeroed();
        (&raw mut storage).cast::<nix::libc::sockaddr_in6>().write(*address.as_ref());
        storage
    }
}

/// Sets a socket option with a group request.
fn ask<T>(socket: &UdpSocket, level: i32, option: i32, request: &T) {
    let length = u32::try_from(size_of_val(request)).unwrap();
    // SAFETY: the pointer is to a request of that length, which outlives the call.
    let result = unsafe {
        nix::libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(request).cast(),
            length,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// A container's UDP socket that joined a group from one source, or from all but one.
fn source_filter(
    socket: &UdpSocket,
    option: i32,
    interface: Ipv4Addr,
    group: Ipv4Addr,
    source: Ipv4Addr,
) {
    let request = nix::libc::ip_mreq_source {
        imr_multiaddr: nix::libc::in_addr { s_addr: u32::from(group).to_be() },
        imr_interface: nix::libc::in_addr { s_addr: u32::from(interface).to_be() },
        imr_sourceaddr: nix::libc::in_addr { s_addr: u32::from(source).to_be() },
    };
    ask(socket, nix::libc::IPPROTO_IP, option, &request);
}

#[test]
fn sources_go_to_the_hosts_that_select_them() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 4]);
    let group = Ipv4Addr::new(232, 1, 2, 3);
    let (first, second) = (cluster.address(0), cluster.address(1));
    let second_address = IpAddr::from(second);
    // Host 1 selects the source on host 0, host 2 the one on host 1, and host 3 excludes the one on
    // host 1.
    let receivers: Vec<UdpSocket> = (1..4).map(|host| cluster.receiver(host)).collect();
    source_filter(
        &receivers[0],
        nix::libc::IP_ADD_SOURCE_MEMBERSHIP,
        cluster.address(1),
        group,
        first,
    );
    source_filter(
        &receivers[1],
        nix::libc::IP_ADD_SOURCE_MEMBERSHIP,
        cluster.address(2),
        group,
        second,
    );
    receivers[2].join_multicast_v4(&group, &cluster.address(3)).unwrap();
    source_filter(&receivers[2], nix::libc::IP_BLOCK_SOURCE, cluster.address(3), group, second);
    let member = IpAddr::from(group);
    let first_only = SourceFilter::Include(BTreeSet::from([first.into()]));
    let second_only = SourceFilter::Include(BTreeSet::from([second_address]));
    let not_second = SourceFilter::Exclude(BTreeSet::from([second_address]));
    for (host, filter) in [(1, first_only), (2, second_only), (3, not_second)] {
        cluster.until(host, "its source filter", |memberships| {
            memberships.groups.get(&member) == Some(&filter)
        });
    }
    cluster.advertise();
    let senders: Vec<UdpSocket> = (0..3).map(|host| cluster.sender(host)).collect();
    assert_eq!(cluster.reaches(&senders[0], (group, PORT)), BTreeSet::from([1, 3]));
    assert_eq!(cluster.reaches(&senders[1], (group, PORT)), BTreeSet::from([2]));
    assert_eq!(cluster.reaches(&senders[2], (group, PORT)), BTreeSet::from([3]));

    // The end of the exclusion takes effect on that host.
    source_filter(&receivers[2], nix::libc::IP_UNBLOCK_SOURCE, cluster.address(3), group, second);
    cluster.until(3, "all", |memberships| {
        memberships.groups.get(&member) == Some(&SourceFilter::all())
    });
    cluster.advertise();
    assert_eq!(cluster.reaches(&senders[1], (group, PORT)), BTreeSet::from([2, 3]));
}

/// The bridge first gets an early (\*,G) join. The report with the source must replace it.
#[test]
fn an_ssm_join_outside_the_ssm_range_gets_only_its_source() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 2]);
    let group = Ipv4Addr::new(239, 1, 2, 5);
    let member = IpAddr::from(group);
    let source_only = SourceFilter::Include(BTreeSet::from([cluster.address(0).into()]));
    let receiver = cluster.receiver(1);
    source_filter(
        &receiver,
        nix::libc::IP_ADD_SOURCE_MEMBERSHIP,
        cluster.address(1),
        group,
        cluster.address(0),
    );
    cluster.until(1, "the source alone", |memberships| {
        memberships.groups.get(&member) == Some(&source_only)
    });
    cluster.advertise();
    assert_eq!(cluster.reaches(&cluster.sender(0), (group, PORT)), BTreeSet::from([1]));

    // Another member with (\*,G) gets all sources, whatever the query finds.
    let other = udp(&cluster.containers[1], (Ipv4Addr::UNSPECIFIED, PORT + 1));
    other.join_multicast_v4(&group, &cluster.address(1)).unwrap();
    cluster.until(1, "all sources", |memberships| {
        memberships.groups.get(&member) == Some(&SourceFilter::all())
    });
}

#[test]
fn a_multicast_router_gets_every_group() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 3]);
    let port = DeviceName::port(&cluster.hosts[2].endpoint(1));
    for (value, is_router) in [("2", true), ("1", false), ("2", true)] {
        let arguments =
            ["link", "set", port.as_str(), "type", "bridge_slave", "mcast_router", value];
        cluster.hosts[2].segment().run(|| ip(&arguments)).unwrap();
        cluster.until(2, "the port's setting", |memberships| memberships.router == is_router);
    }
    cluster.advertise();
    let group = Ipv4Addr::new(239, 7, 7, 7);
    let sender = cluster.sender(0);
    assert_eq!(cluster.reaches(&sender, (group, PORT)), BTreeSet::from([2]));
    let receiver = cluster.receiver(1);
    receiver.join_multicast_v4(&group, &cluster.address(1)).unwrap();
    cluster.until(1, "the membership", |memberships| {
        memberships.groups.contains_key(&IpAddr::from(group))
    });
    cluster.advertise();
    assert_eq!(cluster.reaches(&sender, (group, PORT)), BTreeSet::from([1, 2]));
}

#[test]
fn ipv6_groups_go_to_the_hosts_with_members_and_link_local_ones_to_all() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 3]);
    let group: Ipv6Addr = "ff05::1:3".parse().unwrap();
    let receiver = udp(&cluster.containers[1], (Ipv6Addr::UNSPECIFIED, PORT));
    receiver.join_multicast_v6(&group, cluster.interface(1)).unwrap();
    let (own, interface) = (cluster.link_local(0), cluster.interface(0));
    let sender = udp(&cluster.containers[0], SocketAddrV6::new(own, 0, 0, interface));
    cluster.until(1, "the membership", |memberships| {
        memberships.groups.contains_key(&IpAddr::from(group))
    });
    // Before it is advertised, it goes nowhere.
    let to = SocketAddrV6::new(group, PORT, 0, interface);
    assert_eq!(cluster.reaches_from(&sender, own.into(), to), BTreeSet::new());
    cluster.advertise();
    for (group, hosts) in [
        ("ff05::1:3", BTreeSet::from([1])),
        ("ff05::1:4", BTreeSet::new()),
        ("ff02::fb", BTreeSet::from([1, 2])),
        ("ff12::77", BTreeSet::from([1, 2])),
        ("ff02::1", BTreeSet::from([1, 2])),
    ] {
        let to = SocketAddrV6::new(group.parse().unwrap(), PORT, 0, interface);
        assert_eq!(cluster.reaches_from(&sender, own.into(), to), hosts, "{group}");
    }
}

#[test]
fn five_thousand_groups_are_replicated() {
    let mut cluster = Cluster::start(&[Tier::VxlanMdb; 2]);
    let groups: Vec<Ipv4Addr> =
        (0..5000_u32).map(|number| Ipv4Addr::from(0xef01_0000 + number)).collect();
    cluster.containers[1]
        .run(|| run("sysctl", &["-qw", "net.ipv4.igmp_max_memberships=6000"]))
        .unwrap();
    let sockets: Vec<UdpSocket> = groups
        .chunks(1000)
        .map(|groups| {
            let socket = udp(&cluster.containers[1], (Ipv4Addr::UNSPECIFIED, 0));
            groups
                .iter()
                .for_each(|group| socket.join_multicast_v4(group, &cluster.address(1)).unwrap());
            socket
        })
        .collect();
    cluster.until(1, "all memberships", |memberships| memberships.groups.len() == groups.len());
    cluster.advertise();
    let sender = cluster.sender(0);
    for group in groups.iter().step_by(1024) {
        assert_eq!(cluster.reaches(&sender, (*group, PORT)), BTreeSet::from([1]));
    }
    assert_eq!(cluster.reaches(&sender, (Ipv4Addr::new(239, 2, 0, 0), PORT)), BTreeSet::new());
    let own: IpAddr = cluster.hosts[1].address;
    assert_eq!(cluster.entries(0), 5002, "{own}");
    drop(sockets);
}
