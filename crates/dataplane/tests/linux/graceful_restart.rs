//! A restarted daemon takes over what it finds; the successor of a killed one completes its work.

use std::net::Ipv4Addr;
use std::time::Instant;

use shoutd_core::plane::{Action, Observed, diff};
use shoutd_dataplane::{Kernel, reconcile};

use crate::support::{Host, Running, Stream, World, connected, eventually, run, udp};

#[test]
fn reconciling_and_restarting_lose_no_packet() {
    let (mut world, containers) = connected(2);
    let receiver = udp(&containers[1], (Ipv4Addr::UNSPECIFIED, 5000));
    let group = Ipv4Addr::new(239, 1, 2, 3);
    receiver.join_multicast_v4(&group, &world.hosts[1].container_address(1)).unwrap();
    let sender = udp(&containers[0], (Ipv4Addr::UNSPECIFIED, 0));
    let stream = Stream::start(sender, (group, 5000), receiver);
    while stream.sent() < 1000 {
        for host in &mut world.hosts {
            assert!(host.settle().done.is_empty());
            let mut kernel = host.fresh_kernel();
            let report = reconcile(&mut kernel, &host.desired).unwrap();
            assert!(report.done.is_empty() && report.failures.is_empty(), "{report:?}");
            // Repeating all actions does no harm.
            for action in again(host, &kernel.observe(&std::collections::BTreeSet::new()).unwrap())
            {
                kernel.execute(&action).unwrap();
            }
        }
    }
    assert_eq!(stream.stop().1, Vec::<u32>::new());
}

/// The actions that repair small damage, as if there were any.
fn again(host: &Host, observed: &Observed) -> Vec<Action> {
    let mut damaged = observed.clone();
    for segment in damaged.segments.values_mut() {
        segment.igmp_mld_filter = false;
        segment.flood.clear();
        segment.bridge.as_mut().unwrap().querier = false;
        segment.tunnel.as_mut().unwrap().learning = false;
        segment.ports.values_mut().for_each(|port| port.up = false);
    }
    diff(&host.desired, &damaged)
}

/// Cuts the plan of a new network after every action: the next daemon takes over what was done and
/// completes the rest.
#[test]
fn a_plan_cut_anywhere_is_finished_by_the_next_daemon() {
    let mut world = World::new(1);
    let host = &mut world.hosts[0];
    host.want_segment(&["192.0.2.9".parse().unwrap()]);
    host.want_endpoint(1);
    host.want_endpoint(2);
    let empty = Observed { way_out: host.observe().way_out, ..Observed::default() };
    let whole = diff(&host.desired, &empty);
    assert!(whole.len() >= 9, "{whole:?}");
    for reached in 0..=whole.len() {
        let mut killed = host.fresh_kernel();
        whole[..reached].iter().for_each(|action| killed.execute(action).unwrap());
        drop(killed);
        let report = host.settle();
        assert_eq!(report.done, whole[reached..]);
        let wanted = std::mem::take(&mut host.desired.segments);
        host.settle();
        host.desired.segments = wanted;
        // The previous VXLAN device must be gone, not just being deleted.
        assert!(!host.segment_path().exists());
    }
}

/// A device without an owner tag is completed or recreated.
#[test]
fn incomplete_devices_are_completed_or_recreated() {
    let (mut world, _containers) = connected(1);
    let host = &mut world.hosts[0];
    let segment = host.segment();
    for device in ["shoutbr0", "shoutvx0"] {
        segment.run(|| run("ip", &["link", "set", device, "alias", ""])).unwrap();
        assert!(!host.settle().done.is_empty());
    }
    let port = shoutd_core::plane::DeviceName::port(&host.endpoint(1));
    segment.run(|| run("ip", &["link", "set", port.as_str(), "alias", ""])).unwrap();
    assert_eq!(host.settle().done.len(), 2);
}

#[test]
fn an_interface_is_made_quickly_beside_many_containers() {
    let mut world = World::new(1);
    let mut host = world.hosts.remove(0);
    host.want_segment(&[]);
    for container in 1..=15 {
        host.want_endpoint(container);
        host.settle();
        host.start_container(container);
    }
    host.settle();
    host.segment_mut().ports.pop_last();
    let running = Running::start(&mut host);
    host.want_endpoint(15);
    let begin = Instant::now();
    running.apply(&host);
    println!("made in {:?}", begin.elapsed());
    eventually("the interface in the host's namespace", || {
        host.namespace.run(|| run("ip", &["-br", "link"])).unwrap().contains("shc")
    });
}
