//! Damage is repaired; foreign devices and addresses are left alone.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use shoutd_core::plane::{DeviceName, WAY_OUT_BRIDGE, diff};
use shoutd_dataplane::{Kernel, reconcile};
use shoutd_netlink::Namespace;

use crate::support::{
    GATEWAYS, Host, Running, Stream, World, connected, eventually, ip, network, run, udp, vni,
};

/// How soon damage is repaired: at once, plus the time that a busy machine takes.
const SOON: Duration = Duration::from_secs(1);

/// How long to wait for a look that finds addresses changing all the time.
const STORM_TIME_MAX: Duration = Duration::from_secs(30);

/// Whether the host has everything desired, as seen by a new kernel interface.
fn is_whole(host: &Host) -> bool {
    let sandboxes = host
        .desired
        .segments
        .values()
        .flat_map(|s| s.ports.values())
        .filter_map(|p| p.sandbox.clone())
        .collect();
    diff(&host.desired, &host.fresh_kernel().observe(&sandboxes).unwrap()).is_empty()
}

/// Some engines enable IPv6 in a container last. The kernel must not do duplicate address detection
/// on its link-local address, from which nothing could be sent until then.
#[test]
fn ipv6_that_is_enabled_late_can_be_used_at_once() {
    let (mut world, containers) = connected(1);
    set_ipv6(&containers[0], &["disable_ipv6=1", "dad_transmits=100"]);
    world.hosts[0].settle();
    set_ipv6(&containers[0], &["disable_ipv6=0"]);
    assert_link_local_is_good(&containers[0]);
}

/// Addresses for which duplicate address detection started before shoutd switched it off can be
/// used at once, too.
#[test]
fn duplicate_address_detection_in_progress_is_ended() {
    let (mut world, containers) = connected(1);
    let host = &mut world.hosts[0];
    set_ipv6(
        &containers[0],
        &["disable_ipv6=1", "accept_dad=1", "dad_transmits=100", "disable_ipv6=0"],
    );
    let addresses = ipv6_addresses(&containers[0]);
    assert!(addresses.contains("tentative"), "the kernel looks for duplicates: {addresses}");
    reconcile(&mut host.kernel, &host.desired).unwrap();
    assert_link_local_is_good(&containers[0]);
}

/// Changes IPv6 settings of a container's interface in sequence.
fn set_ipv6(container: &Namespace, settings: &[&str]) {
    for setting in settings {
        container
            .run(|| run("sysctl", &["-qw", &format!("net.ipv6.conf.eth0.{setting}")]))
            .unwrap();
    }
}

fn ipv6_addresses(container: &Namespace) -> String {
    container.run(|| run("ip", &["-6", "-oneline", "address", "show", "dev", "eth0"])).unwrap()
}

/// The kernel ends duplicate address detection in a work queue, a moment later; with a hundred
/// transmissions it would take minutes.
fn assert_link_local_is_good(container: &Namespace) {
    eventually("a link-local address that is not tentative", || {
        let addresses = ipv6_addresses(container);
        addresses.contains("inet6 fe80::") && !addresses.contains("tentative")
    });
}

#[test]
fn damage_is_repaired_soon() {
    let (mut world, containers) = connected(2);
    let mut host = world.hosts.remove(0);
    let running = Running::start(&mut host);
    let (segment, container) = (host.segment(), &containers[0]);
    let port = DeviceName::port(&host.endpoint(1));
    let port = port.as_str();
    let address = format!("{}/24", host.container_address(1));

    let in_segment: [&[&str]; 22] = [
        &["link", "delete", "shoutup0"],
        &["link", "set", "shoutup0", "down"],
        &["link", "set", "shoutup0", "mtu", "1300"],
        &["address", "flush", "dev", "shoutup0"],
        &["address", "add", "10.99.0.77/24", "dev", "shoutup0"],
        &["route", "delete", "default"],
        &["address", "delete", GATEWAYS[0], "dev", "shoutbr0"],
        &["link", "set", "shoutbr0", "address", "06:00:00:00:00:01"],
        &["link", "delete", "shoutvx0"],
        &["link", "delete", "shoutbr0"],
        &["link", "delete", port],
        &["link", "set", "shoutvx0", "down"],
        &["link", "set", "shoutbr0", "down"],
        &["link", "set", port, "nomaster"],
        &["link", "set", "shoutvx0", "nomaster"],
        &["link", "set", "shoutbr0", "mtu", "1300"],
        &["link", "set", "shoutbr0", "type", "bridge", "mcast_snooping", "0"],
        &["link", "set", "shoutbr0", "type", "bridge", "mcast_querier", "0"],
        &["link", "set", "shoutvx0", "type", "bridge_slave", "mcast_router", "1"],
        &["link", "set", "shoutvx0", "type", "vxlan", "nolearning"],
        &["link", "set", "shoutvx0", "alias", ""],
        &["address", "flush", "dev", "shoutbr0"],
    ];
    let in_container: [&[&str]; 3] = [
        &["route", "delete", "224.0.0.0/4"],
        &["address", "delete", &address, "dev", "eth0"],
        &["link", "set", "eth0", "mtu", "1200"],
    ];
    let damage = in_segment
        .iter()
        .map(|command| (&segment, command))
        .chain(in_container.iter().map(|command| (container, command)));
    for (namespace, command) in damage {
        assert!(is_whole(&host));
        namespace.run(|| ip(command)).unwrap();
        let begin = Instant::now();
        eventually(&format!("repairing {command:?}"), || is_whole(&host));
        assert!(begin.elapsed() < SOON, "repairing {command:?} took {:?}", begin.elapsed());
    }
    segment
        .run(|| {
            run(
                "bridge",
                &["fdb", "delete", "00:00:00:00:00:00", "dev", "shoutvx0", "dst", "192.0.2.2"],
            )
        })
        .unwrap();
    eventually("repairing an FDB entry", || is_whole(&host));
    segment.run(|| run("nft", &["delete", "table", "bridge", "shoutd"])).unwrap();
    eventually("repairing the IGMP/MLD filter", || is_whole(&host));
    segment
        .run(|| run("nft", &["insert", "rule", "bridge", "shoutd", "output", "accept"]))
        .unwrap();
    eventually("repairing the filter's rules", || is_whole(&host));
    damage_to_the_way_out_is_repaired(&host);

    // The network works again.
    let receiver = udp(container, (Ipv4Addr::UNSPECIFIED, 5000));
    let sender = udp(&containers[1], (Ipv4Addr::UNSPECIFIED, 0));
    drop(running);
    let (_, lost) = Stream::start(sender, (host.container_address(1), 5000), receiver).stop();
    assert_eq!(lost, Vec::<u32>::new());
}

fn damage_to_the_way_out_is_repaired(host: &Host) {
    let segment = host.segment();
    segment.run(|| run("nft", &["delete", "table", "ip", "shoutd"])).unwrap();
    eventually("repairing the filter of the way out", || is_whole(host));
    segment.run(|| run("sysctl", &["-qw", "net.ipv4.conf.shoutbr0.forwarding=0"])).unwrap();
    eventually("repairing the routing", || is_whole(host));
    let far = format!("shg{}", vni());
    let in_host: [&[&str]; 4] = [
        &["link", "set", &far, "nomaster"],
        &["link", "set", &far, "down"],
        &["link", "set", &far, "mtu", "1300"],
        &["link", "delete", &far],
    ];
    for command in in_host {
        host.namespace.run(|| ip(command)).unwrap();
        eventually(&format!("repairing {command:?}"), || is_whole(host));
    }
}

#[test]
fn a_deleted_namespace_comes_back_with_its_ports_in_their_containers() {
    let (mut world, containers) = connected(2);
    let mut host = world.hosts.remove(0);
    let running = Running::start(&mut host);
    nix::mount::umount2(&host.segment_path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    std::fs::remove_file(host.segment_path()).unwrap();
    eventually("the namespace", || host.segment_path().exists() && is_whole(&host));

    let receiver = udp(&containers[0], (Ipv4Addr::UNSPECIFIED, 5000));
    let sender = udp(&containers[1], (Ipv4Addr::UNSPECIFIED, 0));
    let (_, lost) = Stream::start(sender, (host.container_address(1), 5000), receiver).stop();
    assert_eq!(lost, Vec::<u32>::new());
    drop(running);
}

#[test]
fn addresses_that_users_add_in_a_container_stay() {
    let (mut world, containers) = connected(1);
    let host = &mut world.hosts[0];
    containers[0]
        .run(|| {
            ip(&["address", "add", "10.99.0.1/24", "dev", "eth0"]);
            ip(&["route", "delete", "224.0.0.0/4"]);
        })
        .unwrap();
    assert_eq!(host.settle().done.len(), 1);
    let addresses = containers[0].run(|| run("ip", &["-br", "address", "show", "eth0"])).unwrap();
    assert!(
        addresses.contains("10.99.0.1/24") && addresses.contains("10.7.7.17/24"),
        "{addresses}"
    );
}

#[test]
fn foreign_devices_survive_and_keep_their_namespace() {
    let (mut world, _containers) = connected(1);
    let host = &mut world.hosts[0];
    let segment = host.segment();
    segment.run(|| ip(&["link", "add", "mine", "type", "bridge"])).unwrap();
    host.settle();
    host.desired.segments.clear();
    host.settle();
    let links = segment.run(|| run("ip", &["-br", "link"])).unwrap();
    assert!(links.contains("mine") && !links.contains("sho") && !links.contains("shp"), "{links}");
    assert!(host.segment_path().exists());
    assert_eq!(segment.run(|| run("nft", &["list", "ruleset"])).unwrap().trim(), "");

    // A returning network takes the namespace over.
    host.want_segment(&[]);
    host.settle();
    assert!(segment.run(|| run("ip", &["-br", "link"])).unwrap().contains("mine"));
}

#[test]
fn a_foreign_device_with_our_name_is_reported() {
    let mut world = World::new(1);
    let host = &mut world.hosts[0];
    host.want_segment(&[]);
    host.desired.segments.values_mut().for_each(|segment| segment.ports.clear());
    host.settle();
    let segment = host.segment();
    segment
        .run(|| {
            ip(&["link", "delete", "shoutvx0"]);
            ip(&["link", "add", "shoutvx0", "type", "bridge"]);
        })
        .unwrap();
    let report = reconcile(&mut host.kernel, &host.desired).unwrap();
    let complaints: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(
        complaints[0].contains("device shoutvx0 in namespace shout-1048577 is not shoutd's"),
        "{complaints:?}"
    );
}

#[test]
fn nothing_is_left_of_a_network_that_is_removed() {
    let (mut world, containers) = connected(2);
    for host in &mut world.hosts {
        host.desired.segments.clear();
        host.settle();
        assert!(!host.segment_path().exists());
    }
    for (host, container) in world.hosts.iter().zip(&containers) {
        for namespace in [&host.namespace, container] {
            let links = namespace.run(|| run("ip", &["-br", "link"])).unwrap();
            let links = links.replace(WAY_OUT_BRIDGE, "Docker's");
            assert!(!links.contains("sh"), "{links}");
        }
    }
}

#[test]
fn a_segment_whose_vni_had_another_network_is_recreated() {
    let (mut world, _containers) = connected(1);
    let host = &mut world.hosts[0];
    host.segment_mut().network = "b".repeat(64).parse().unwrap();
    host.segment_mut().ports.clear();
    host.settle();
    let mark = host.segment().run(|| run("ip", &["link", "show", "shoutbr0"])).unwrap();
    assert!(mark.contains(&"b".repeat(64)) && !mark.contains(network().as_str()), "{mark}");
}

#[test]
fn a_container_that_is_gone_is_closed() {
    let (mut world, mut containers) = connected(1);
    let mut host = world.hosts.remove(0);
    let running = Running::start(&mut host);
    let sandbox = host.sandbox_path(1);
    let id = containers[0].id();
    containers.clear();
    nix::mount::umount2(&sandbox, nix::mount::MntFlags::MNT_DETACH).unwrap();
    std::fs::remove_file(&sandbox).unwrap();
    // Its namespace ends only when no process has a socket in it. Then its veth is gone, and with
    // it the port in the segment.
    eventually("the port to go", || running.handle.observed().segments[&vni()].ports.is_empty());
    let observed = running.handle.observed();
    assert!(observed.missing_sandboxes.contains(&sandbox), "{observed:?} {id:?}");
    assert!(running.handle.failures().is_empty());
}

#[test]
fn docker_setting_up_an_interface_is_not_disturbed() {
    let mut world = World::new(1);
    let mut host = world.hosts.remove(0);
    host.want_segment(&[]);
    host.want_endpoint(1);
    let running = Running::start(&mut host);
    // Docker first reports the sandbox, then works on the interface step by step. The reconciler
    // completes a round before each step.
    let container = host.make_container(1);
    let device = DeviceName::container(&host.endpoint(1));
    let path = host.sandbox_path(1);
    host.set_sandbox(1);
    running.apply(&host);
    let address = format!("{}/24", host.container_address(1));
    host.namespace
        .run(|| ip(&["link", "set", device.as_str(), "netns", path.to_str().unwrap()]))
        .unwrap();
    let steps: [&[&str]; 4] = [
        &["link", "set", device.as_str(), "name", "eth0"],
        &["address", "add", &address, "dev", "eth0"],
        &["link", "set", "eth0", "up"],
        &["route", "add", "224.0.0.0/4", "dev", "eth0"],
    ];
    for step in steps {
        running.apply(&host);
        container.run(|| ip(step)).unwrap();
    }
    // Once complete, it is maintained.
    eventually("the interface to be seen complete", || {
        let observed = running.handle.observed();
        // Links are read before routes: a reading may have the route, and the interface still down.
        let mut ports = observed.segments.values().flat_map(|segment| segment.ports.values());
        let is_up = ports.all(|port| port.container_end.as_ref().is_some_and(|end| end.up));
        is_up && diff(&host.desired, &observed).is_empty()
    });
    container.run(|| ip(&["route", "delete", "224.0.0.0/4"])).unwrap();
    eventually("the route to be put back", || is_whole(&host));
}

/// Its addresses change all the time, so a dump of them is never consistent.
#[test]
fn an_unreadable_container_does_not_affect_others() {
    let (mut world, containers) = connected(1);
    let host = &mut world.hosts[0];
    let lines: String = (0..9000)
        .map(|n| format!("address add 10.99.{}.{}/32 dev lo\n", n / 250, n % 250))
        .collect();
    let batch = std::env::temp_dir().join(format!("shoutd-addresses-{}", std::process::id()));
    std::fs::write(&batch, lines).unwrap();
    containers[0].run(|| run("ip", &["-batch", batch.to_str().unwrap()])).unwrap();
    std::fs::remove_file(&batch).unwrap();
    host.want_endpoint(2);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Several threads, so that one of them runs during each look on a busy machine.
        for address in ["10.98.0.1/32", "10.98.0.2/32", "10.98.0.3/32", "10.98.0.4/32"] {
            let mut route = shoutd_netlink::Route::open(&containers[0]).unwrap();
            let (address, stop) = (address.parse().unwrap(), &stop);
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    route.add_address(1, address).unwrap();
                    route.remove_address(1, address).unwrap();
                }
            });
        }
        let (mut looks, mut problems) = (Vec::new(), Vec::new());
        // The scheduler decides whether an address changes while they are read.
        let begin = Instant::now();
        while looks.len() < 5 || (problems.is_empty() && begin.elapsed() < STORM_TIME_MAX) {
            let mut kernel = host.fresh_kernel();
            looks.push(shoutd_dataplane::reconcile(&mut kernel, &host.desired));
            problems.extend(host.observe().problems());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for look in looks {
            assert!(look.unwrap().failures.is_empty());
        }
        let path = host
            .desired
            .segments
            .values()
            .flat_map(|segment| segment.ports.values())
            .find_map(|p| p.sandbox.clone());
        let path = path.unwrap().display().to_string();
        assert!(
            !problems.is_empty() && problems.iter().all(|line| line.contains(&path)),
            "{problems:?}"
        );
    });
    assert_eq!(host.observe().segments[&crate::support::vni()].ports.len(), 2);
    assert!(host.observe().unreadable_sandboxes.is_empty());
}
