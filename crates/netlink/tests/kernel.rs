//! Tests against the real kernel, in their own namespaces.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by failing"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, unshare};
use shoutd_netlink::{
    BridgeSettings, DatabaseMonitor, Filtering, Gateways, GroupFilter, IgmpMldFilter, Join, Kind,
    LinkChange, MdbEntry, Monitor, NamedNamespaces, Namespace, NewVeth, NewVxlan, Pinned, Route,
    SegmentRules, TunnelGroup, VethEnd,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn namespace() -> Namespace {
    Namespace::anonymous().expect("these tests need root: they make network namespaces")
}

fn run(namespace: &Namespace, command: &str) {
    let mut words = command.split(' ');
    let status = namespace
        .run(|| Command::new(words.next().unwrap()).args(words).status())
        .unwrap()
        .unwrap();
    assert!(status.success(), "{command}");
}

fn end(name: &str) -> VethEnd<'_> {
    VethEnd { name, group: 0, mtu: 1400, mac: None }
}

fn vxlan(name: &str, vni: u32) -> NewVxlan<'_> {
    NewVxlan {
        name,
        group: 5,
        vni,
        local: Ipv4Addr::new(192, 0, 2, 1).into(),
        port: 7789,
        ttl: 64,
        addresses_max: 100,
    }
}

const BRIDGE: BridgeSettings = BridgeSettings {
    snooping: true,
    querier: true,
    query_use_ifaddr: false,
    multicast_router: 2,
    igmp_version: 3,
    mld_version: 2,
    groups_max: 8192,
    membership_interval: Some(30_000),
    forward_delay: 0,
    stp: false,
    learned_max: None,
};

#[test]
fn a_bridge_reads_back_as_created_and_changed() {
    let mut route = Route::open(&namespace()).unwrap();
    route.create_bridge("bridge", 7, &BRIDGE).unwrap();
    let bridge = route.link("bridge").unwrap().unwrap();
    // A kernel with the limit starts without one.
    let learned_max = learned_max(&bridge.kind);
    assert!(learned_max.is_none_or(|most| most == 0));
    let made = BridgeSettings { learned_max, ..BRIDGE };
    assert_eq!((&bridge.kind, bridge.group, bridge.up), (&Kind::Bridge(made), 7, false));

    let changed =
        BridgeSettings { querier: false, groups_max: 4096, learned_max: Some(77), ..BRIDGE };
    route.change_bridge(bridge.index, &changed).unwrap();
    let mac = Some([2, 0, 0, 0, 0, 1]);
    let change =
        LinkChange { mtu: Some(1400), mac, alias: Some("an alias"), up: Some(true), master: None };
    route.change_link(bridge.index, &change).unwrap();
    let bridge = route.link_at(bridge.index).unwrap().unwrap();
    let changed = BridgeSettings { learned_max: learned_max.and(Some(77)), ..changed };
    assert_eq!(bridge.kind, Kind::Bridge(changed));
    assert_eq!(
        (bridge.mtu, bridge.mac, bridge.alias.as_deref(), bridge.up),
        (1400, mac, Some("an alias"), true)
    );
    assert_eq!(
        route.links().unwrap().into_iter().find(|link| link.name == "bridge"),
        Some(bridge.clone())
    );

    route.delete_link(bridge.index).unwrap();
    route.delete_link(bridge.index).unwrap();
    assert_eq!(route.link("bridge").unwrap(), None);
}

fn learned_max(kind: &Kind) -> Option<u32> {
    let Kind::Bridge(settings) = kind else {
        panic!("no bridge: {kind:?}");
    };
    settings.learned_max
}

#[test]
fn a_vxlan_device_learns_up_to_its_limit() {
    let segment = namespace();
    let mut route = Route::open(&segment).unwrap();
    route.create_vxlan(&NewVxlan { addresses_max: 3, ..vxlan("tunnel", 5) }, &segment).unwrap();
    let index = route.link("tunnel").unwrap().unwrap().index;
    let remote = Ipv4Addr::new(192, 0, 2, 7).into();
    let pins =
        [1, 2, 3, 4, 5].map(|last| (Pinned::Tunnel { mac: [2, 0, 0, 0, 0, last], remote }, true));
    let failed = route.change_pinned(index, &pins).unwrap();
    assert!(
        !failed.is_empty() && failed.iter().all(|(_, error)| error.errno() == Some(Errno::ENOSPC)),
        "{failed:?}"
    );
}

#[test]
fn a_veth_is_created_with_both_ends_in_place() {
    let (near, far) = (namespace(), namespace());
    let (mut near_route, mut far_route) = (Route::open(&near).unwrap(), Route::open(&far).unwrap());
    near_route.create_bridge("bridge", 0, &BRIDGE).unwrap();
    let bridge = near_route.link("bridge").unwrap().unwrap().index;
    let mac = Some([2, 0, 0, 0, 0, 9]);
    let new = NewVeth {
        near: end("near"),
        master: Some(bridge),
        far: VethEnd { mac, ..end("far") },
        far_namespace: &far,
    };
    near_route.create_veth(&new).unwrap();

    let near_end = near_route.link("near").unwrap().unwrap();
    let far_end = far_route.link("far").unwrap().unwrap();
    assert_eq!((near_end.master, near_end.mtu, near_end.kind), (Some(bridge), 1400, Kind::Veth));
    assert_eq!((far_end.master, far_end.mtu, far_end.mac), (None, 1400, mac));
    let peer = near_end.peer.unwrap();
    assert_eq!(peer.index, far_end.index);
    assert_eq!(peer.namespace, near_route.namespace_number(&far).unwrap());
    assert_eq!(near_route.namespace_number(&namespace()).unwrap(), None);

    // If one end cannot be made, neither is.
    let refusal = near_route.create_veth(&NewVeth { near: end("other"), ..new }).unwrap_err();
    assert_eq!(refusal.errno(), Some(Errno::EEXIST));
    assert_eq!(near_route.link("other").unwrap(), None);
}

#[test]
fn a_vxlan_device_floods_to_the_hosts_it_is_given() {
    let (host, segment) = (namespace(), namespace());
    let mut route = Route::open(&segment).unwrap();
    Route::open(&host).unwrap().create_vxlan(&vxlan("tunnel", 77), &segment).unwrap();
    let tunnel = route.link("tunnel").unwrap().unwrap();
    let Kind::Vxlan(settings) = tunnel.kind else { unreachable!("{tunnel:?}") };
    assert_eq!((settings.vni, settings.local, settings.port), (77, Some(vxlan("", 0).local), 7789));
    assert!(settings.learning && tunnel.group == 5);

    let remotes: Vec<IpAddr> = (2..200).map(|last| Ipv4Addr::new(192, 0, 2, last).into()).collect();
    for &remote in remotes.iter().chain(&remotes[..3]) {
        route.add_flood(tunnel.index, remote).unwrap();
    }
    let mut found = route.learned_entries(tunnel.index, false, 0).unwrap().flood;
    found.sort_unstable();
    assert_eq!(found, remotes);
    route.remove_flood(tunnel.index, remotes[0]).unwrap();
    route.remove_flood(tunnel.index, remotes[0]).unwrap();
    assert_eq!(
        route.learned_entries(tunnel.index, false, 0).unwrap().flood.len(),
        remotes.len() - 1
    );

    route.set_vxlan_learning(tunnel.index, false).unwrap();
    let Kind::Vxlan(settings) = route.link_at(tunnel.index).unwrap().unwrap().kind else {
        unreachable!()
    };
    assert!(!settings.learning);
}

#[test]
fn refusals_include_the_kernels_extended_acknowledgement() {
    let (host, segment) = (namespace(), namespace());
    let mut route = Route::open(&host).unwrap();
    route.create_vxlan(&vxlan("first", 5), &segment).unwrap();
    let refusal = route.create_vxlan(&vxlan("second", 5), &segment).unwrap_err();
    assert_eq!(refusal.errno(), Some(Errno::EEXIST));
    assert_eq!(
        refusal.to_string(),
        "cannot create VXLAN device second (VNI 5, 192.0.2.1 port 7789): A VXLAN device with the \
         specified VNI already exists (File exists)"
    );
}

#[test]
fn addresses_and_routes_are_added_once() {
    let namespace = namespace();
    let mut route = Route::open(&namespace).unwrap();
    route.create_bridge("bridge", 0, &BRIDGE).unwrap();
    let index = route.link("bridge").unwrap().unwrap().index;
    route.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
    for net in ["10.1.2.3/24", "2001:db8::3/64", "fe80::3/64"] {
        let net = net.parse().unwrap();
        route.add_address(index, net).unwrap();
        route.add_address(index, net).unwrap();
        assert!(
            route
                .addresses()
                .unwrap()
                .iter()
                .any(|address| address.link == index && address.net == net)
        );
    }
    let multicast = "224.0.0.0/4".parse().unwrap();
    route.add_connected_route(index, multicast).unwrap();
    route.add_connected_route(index, multicast).unwrap();
    let found: Vec<_> = route
        .routes()
        .unwrap()
        .into_iter()
        .filter(|route| route.destination == multicast)
        .collect();
    assert_eq!(found.len(), 1);
    assert!(found[0].connected && found[0].link == index);
    assert!(route.routes_of(index).unwrap().contains(&found[0]));
    assert_eq!(route.routes_of(1).unwrap(), []);
    assert_eq!(route.routes_of(99).unwrap(), []);
}

#[test]
fn a_containers_own_routes_are_not_a_change() {
    let container = namespace();
    assert_eq!(Route::open(&container).unwrap().routes_of(1).unwrap(), []);
    let monitor = Monitor::sandbox(&container).unwrap();
    run(&container, "ip link add dummy type bridge");
    run(&container, "ip link set dummy up");
    assert!(hears(&monitor, PATIENCE));
    while hears(&monitor, Duration::from_millis(200)) {}
    run(&container, "ip route add 10.1.0.0/16 dev dummy");
    run(&container, "ip -6 route add 2001:db8::/32 dev dummy");
    assert!(!hears(&monitor, Duration::from_millis(200)));
    run(&container, "ip route add 239.0.0.0/8 dev dummy");
    assert!(hears(&monitor, PATIENCE));
}

fn limited() -> SegmentRules {
    let addresses = ["10.9.0.1", "fd00::1"].map(|address| address.parse().unwrap());
    let gateways = Gateways { mac: [2, 0x73, 0, 0, 0, 1], addresses: addresses.into() };
    SegmentRules { max_rate: Some(500), gateways: Some(gateways) }
}

#[test]
fn a_changed_igmp_mld_filter_is_not_whole() {
    let namespace = namespace();
    let mut igmp_mld_filter = IgmpMldFilter::open(&namespace).unwrap();
    assert!(igmp_mld_filter.is_whole("tunnel").unwrap().is_none());
    igmp_mld_filter.install("tunnel", &limited()).unwrap();
    assert_eq!(igmp_mld_filter.is_whole("tunnel").unwrap(), Some(limited()));
    assert!(igmp_mld_filter.is_whole("other").unwrap().is_none());
    for damage in [
        "nft flush table bridge shoutd",
        "nft flush chain bridge shoutd output",
        "nft flush chain bridge shoutd prerouting",
        "nft insert rule bridge shoutd forward accept",
        "nft add rule bridge shoutd forward drop",
        "nft add table bridge shoutd { flags dormant ; }",
        "nft delete table bridge shoutd",
    ] {
        run(&namespace, damage);
        assert!(igmp_mld_filter.is_whole("tunnel").unwrap().is_none(), "{damage}");
        igmp_mld_filter.install("tunnel", &limited()).unwrap();
        assert!(igmp_mld_filter.is_whole("tunnel").unwrap().is_some(), "{damage}");
    }
    // Other tables do not matter.
    run(&namespace, "nft add table bridge other");
    assert!(igmp_mld_filter.is_whole("tunnel").unwrap().is_some());
    igmp_mld_filter.remove().unwrap();
    igmp_mld_filter.remove().unwrap();
    assert!(igmp_mld_filter.is_whole("tunnel").unwrap().is_none());
}

/// Waits until the filter reads back with these groups. The kernel dumps a set in parts, and skips
/// what the earlier parts had by number. If a worker makes the set's hash table larger in the
/// meantime (rhashtable), some elements are left out of the dump.
fn await_groups(filter: &mut GroupFilter, groups: &BTreeSet<IpAddr>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let Filtering::Whole(found) = filter.read("tunnel").unwrap() else {
            panic!("the filter is broken");
        };
        if found == *groups {
            return;
        }
        assert!(found.is_subset(groups), "there are others");
        assert!(Instant::now() < deadline, "{} of {} groups", found.len(), groups.len());
    }
}

#[test]
fn a_group_filter_reads_back_as_installed_and_changed() {
    let namespace = namespace();
    let mut filter = GroupFilter::open(&namespace).unwrap();
    assert_eq!(filter.read("tunnel").unwrap(), Filtering::Absent);
    // More than fit into one message, and than the kernel returns in one.
    let v4 = (0..5000_u32).map(|number| IpAddr::from(Ipv4Addr::from(0xef01_0000 + number)));
    let v6 = (0..3000_u32).map(|number| format!("ff05::2:{number:x}").parse::<IpAddr>().unwrap());
    let mut groups: BTreeSet<IpAddr> = v4.chain(v6).collect();
    filter.install("tunnel", &groups).unwrap();
    await_groups(&mut filter, &groups);
    assert_eq!(filter.read("other").unwrap(), Filtering::Broken);

    let more: Vec<IpAddr> = ["239.9.9.9", "ff0e::9"].map(|group| group.parse().unwrap()).to_vec();
    let less: Vec<IpAddr> = groups.iter().step_by(3).copied().collect();
    // Admitting an admitted group is not an error.
    let added = more.iter().chain(&less).map(|group| (*group, true));
    let changes: Vec<(IpAddr, bool)> =
        added.chain(less.iter().map(|group| (*group, false))).collect();
    filter.change(&changes).unwrap();
    groups.extend(more);
    less.iter().for_each(|group| _ = groups.remove(group));
    await_groups(&mut filter, &groups);
    let refusal = filter.change(&[("239.8.8.8".parse().unwrap(), false)]).unwrap_err();
    assert_eq!(refusal.errno(), Some(Errno::ENOENT));

    for damage in [
        "nft flush table bridge shoutd-groups",
        "nft add rule bridge shoutd-groups forward drop",
        "nft add chain bridge shoutd-groups other",
        "nft add table bridge shoutd-groups { flags dormant ; }",
    ] {
        run(&namespace, damage);
        assert_eq!(filter.read("tunnel").unwrap(), Filtering::Broken, "{damage}");
        filter.install("tunnel", &groups).unwrap();
        await_groups(&mut filter, &groups);
    }
    // The two filters do not affect each other.
    let mut igmp_mld_filter = IgmpMldFilter::open(&namespace).unwrap();
    igmp_mld_filter.install("tunnel", &SegmentRules::default()).unwrap();
    assert!(igmp_mld_filter.is_whole("tunnel").unwrap().is_some());
    assert_eq!(filter.read("tunnel").unwrap(), Filtering::Whole(groups));
    filter.remove().unwrap();
    filter.remove().unwrap();
    assert_eq!(filter.read("tunnel").unwrap(), Filtering::Absent);
    assert!(igmp_mld_filter.is_whole("tunnel").unwrap().is_some());
}

fn hears(monitor: &Monitor, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        let _ = poll(&mut [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)], 50_u8);
        if monitor.drain() {
            return true;
        }
    }
    false
}

#[test]
fn monitors_report_changes_and_not_traffic() {
    let (host, segment) = (namespace(), namespace());
    let mut route = Route::open(&segment).unwrap();
    let (monitor, filters) =
        (Monitor::segment(&segment).unwrap(), Monitor::filters(&segment).unwrap());
    Route::open(&host).unwrap().create_vxlan(&vxlan("tunnel", 5), &segment).unwrap();
    assert!(hears(&monitor, PATIENCE));
    let index = route.link("tunnel").unwrap().unwrap().index;
    while hears(&monitor, Duration::from_millis(200)) {}

    // An entry as devices learn them.
    run(&segment, "bridge fdb add 02:00:00:00:00:07 dev tunnel dst 192.0.2.7 dynamic");
    assert!(!hears(&monitor, Duration::from_millis(200)));
    route.add_flood(index, Ipv4Addr::new(192, 0, 2, 7).into()).unwrap();
    assert!(hears(&monitor, PATIENCE));
    route.remove_flood(index, Ipv4Addr::new(192, 0, 2, 7).into()).unwrap();
    assert!(hears(&monitor, PATIENCE));

    assert!(!filters.drain());
    IgmpMldFilter::open(&segment).unwrap().install("tunnel", &limited()).unwrap();
    assert!(hears(&filters, PATIENCE));
    let mut groups = GroupFilter::open(&segment).unwrap();
    groups.install("tunnel", []).unwrap();
    assert!(hears(&filters, PATIENCE));
    while hears(&filters, Duration::from_millis(200)) {}
    groups.change(&[(Ipv4Addr::new(239, 1, 1, 1).into(), true)]).unwrap();
    assert!(!hears(&filters, Duration::from_millis(200)));
}

/// A directory that only the calling thread sees, including mounts in it, and that leaves nothing
/// behind.
struct OwnDirectory(tempfile::TempDir);

impl OwnDirectory {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS)
            .expect("these tests need root: they make mount namespaces");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        mount(Some("tests"), directory.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .unwrap();
        Self(directory)
    }

    fn named(&self) -> NamedNamespaces {
        NamedNamespaces::new(self.0.path().join("netns"))
    }
}

impl Drop for OwnDirectory {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
fn named_namespaces_are_made_found_and_deleted() {
    let directory = OwnDirectory::new();
    let named = directory.named();
    assert_eq!(named.list().unwrap(), Vec::<String>::new());
    assert!(named.open("one").unwrap().is_none());
    let one = named.create("one", || Ok(())).unwrap();
    assert_ne!(one.id(), Namespace::current().unwrap().id());
    assert_eq!(named.open("one").unwrap().unwrap().id(), one.id());
    assert_eq!(named.create("one", || Ok(())).unwrap().id(), one.id());
    assert_ne!(named.create("two", || Ok(())).unwrap().id(), one.id());

    // A file that a crash left without a namespace does not count and does not interfere.
    std::fs::write(named.path("three"), "").unwrap();
    assert!(named.open("three").unwrap().is_none());
    named.create("three", || Ok(())).unwrap();
    assert!(named.open("three").unwrap().is_some());

    let failure = named.create("four", || Err(std::io::Error::other("no"))).unwrap_err();
    assert_eq!(failure.to_string(), "cannot make the network namespace four: no");
    for name in ["one", "two", "three", "four"] {
        named.delete(name).unwrap();
        named.delete(name).unwrap();
    }
    assert_eq!(named.list().unwrap(), Vec::<String>::new());
}

#[test]
fn names_are_seen_in_other_mount_namespaces() {
    let directory = OwnDirectory::new();
    let named = directory.named();
    named.create("first", || Ok(())).unwrap();
    std::thread::scope(|scope| {
        let (made, made_here) = std::sync::mpsc::channel::<()>();
        let (seen, seen_there) = std::sync::mpsc::channel();
        let named = &named;
        scope.spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            seen.send(named.open("first").unwrap().is_some()).unwrap();
            made_here.recv().unwrap();
            seen.send(named.open("second").unwrap().is_some()).unwrap();
        });
        assert!(seen_there.recv_timeout(PATIENCE).unwrap());
        named.create("second", || Ok(())).unwrap();
        made.send(()).unwrap();
        assert!(seen_there.recv_timeout(PATIENCE).unwrap());
    });
    named.delete("first").unwrap();
    named.delete("second").unwrap();
}

#[test]
fn a_plain_file_is_not_opened_as_a_namespace() {
    for path in ["/", "/etc/hostname", "/dev/null", "/no/such/file", ""] {
        assert!(Namespace::open(Path::new(path)).is_err(), "{path}");
    }
    assert!(Namespace::open(Path::new("/proc/self/ns/net")).is_ok());
}

/// A bridge with one port, and the indexes of both.
fn bridge_with_port(namespace: &Namespace) -> (Route, u32, u32) {
    let mut route = Route::open(namespace).unwrap();
    route.create_bridge("bridge", 0, &BRIDGE).unwrap();
    let bridge = route.link("bridge").unwrap().unwrap().index;
    let new = NewVeth {
        near: end("near"),
        master: Some(bridge),
        far: end("far"),
        far_namespace: namespace,
    };
    route.create_veth(&new).unwrap();
    ["bridge", "near", "far"]
        .iter()
        .for_each(|device| run(namespace, &format!("ip link set {device} up")));
    let port = route.link("near").unwrap().unwrap().index;
    // The kernel enables a port asynchronously, after both ends are up.
    let deadline = Instant::now() + PATIENCE;
    let member = [join(port, Ipv4Addr::new(239, 0, 0, 1).into())];
    while route.bridge_groups(bridge).unwrap().is_empty() {
        assert!(Instant::now() < deadline, "the port takes no group");
        route.join_groups(bridge, &member).unwrap();
    }
    (route, bridge, port)
}

/// A (\*,G) join.
fn join(port: u32, group: IpAddr) -> Join {
    Join { port, group, sources: BTreeSet::new() }
}

fn groups(count: u32) -> impl Iterator<Item = IpAddr> {
    (0..count).map(|number| Ipv4Addr::from(0xef01_0000 + number).into())
}

#[test]
fn a_bridges_mdb_can_be_read_while_the_tunnels_mdb_changes() {
    let segment = namespace();
    let (mut route, bridge, port) = bridge_with_port(&segment);
    let members: Vec<Join> = groups(5).map(|group| join(port, group)).collect();
    route.join_groups(bridge, &members).unwrap();
    route.create_vxlan(&vxlan("tunnel", 7), &segment).unwrap();
    let tunnel = route.link("tunnel").unwrap().unwrap().index;
    let one = TunnelGroup {
        source: None,
        group: Ipv4Addr::new(239, 9, 9, 9).into(),
        remote: Ipv4Addr::new(192, 0, 2, 2).into(),
        vni: None,
    };
    let entries: Vec<(TunnelGroup, bool)> =
        groups(4000).map(|group| (TunnelGroup { group, ..one }, true)).collect();
    let mut other = Route::open(&segment).unwrap();
    if !other.change_tunnel_groups(tunnel, 115, &entries).is_ok_and(|failed| failed.is_empty()) {
        eprintln!(
            "this kernel has no MDB of VXLAN devices (before 6.4): nothing of the kind changes"
        );
        return;
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                other.change_tunnel_groups(tunnel, 115, &[(one, true), (one, false)]).unwrap();
            }
        });
        let read: Vec<_> = (0..20).map(|_| route.bridge_groups(bridge)).collect();
        stop.store(true, Ordering::Relaxed);
        for listed in read {
            let listed = listed.unwrap();
            assert!(members.iter().all(|join| {
                listed.iter().any(|entry| {
                    matches!(entry,
                MdbEntry::Member(member) if (member.port, member.group) == (join.port, join.group))
                })
            }));
        }
    });
}

#[test]
fn discarded_events_are_not_returned() {
    let segment = namespace();
    let (mut route, bridge, port) = bridge_with_port(&segment);
    let monitor = DatabaseMonitor::open(&segment).unwrap();
    // More than are read at once.
    let members: Vec<Join> = groups(6000).map(|group| join(port, group)).collect();
    route.join_groups(bridge, &members).unwrap();
    monitor.discard();
    assert_eq!(monitor.changes(), Some(Vec::new()));
    let later = join(port, Ipv4Addr::new(239, 9, 9, 9).into());
    route.join_groups(bridge, &[later]).unwrap();
    assert!(monitor.changes().is_some_and(|changes| !changes.is_empty()));
}
