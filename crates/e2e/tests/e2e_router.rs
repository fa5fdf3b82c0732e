//! Containers that route multicast from one network to another.

#[path = "router/mld.rs"]
mod mld;
#[path = "router/setup.rs"]
mod setup;

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use setup::{Group, Routed, SUBNETS, SUBNETS_WITH_IPV6};
use shoutd_e2e::{
    BOTH, Capture, Cluster, Container, Datagrams, Frame, SOON, Stream, run_checks, start_receiver,
    view,
};
use shoutd_lab::{Host, Process, wait_until};

/// A router has two networks, and the machine's routing program.
const AS_ROUTER: [&str; 3] = [
    "--cap-add=NET_ADMIN",
    "--volume=/usr/lib:/usr/lib:ro",
    "--volume=/usr/sbin/smcrouted:/usr/bin/smcrouted:ro",
];

/// The same for routers that learn memberships: FRR's pimd, which needs a group of users and sets
/// its own capabilities, and igmpproxy.
const AS_DYNAMIC_ROUTER: [&str; 7] = [
    "--cap-add=NET_ADMIN",
    "--cap-add=SYS_ADMIN",
    "--volume=/usr/lib:/usr/lib:ro",
    "--volume=/usr/lib/frr/zebra:/usr/bin/zebra:ro",
    "--volume=/usr/lib/frr/pimd:/usr/bin/pimd:ro",
    "--volume=/usr/share/yang:/usr/share/yang:ro",
    "--volume=/usr/sbin/igmpproxy:/usr/bin/igmpproxy:ro",
];

/// Forwards by IGMP memberships.
const IGMPPROXY: &str = "quickleave\nphyint eth0 upstream ratelimit 0 threshold 1\n altnet \
                         0.0.0.0/0\nphyint eth1 downstream ratelimit 0 threshold 1\n";

/// Routes a range of IPv4 groups and one IPv6 group, which it has joined. It advertises itself by
/// Multicast Router Discovery (RFC 4286) every four seconds.
const CONFIG: [&str; 5] = [
    "phyint eth0 enable mrdisc",
    "phyint eth1 enable mrdisc",
    "mroute from eth0 group 239.131.0.0/16 to eth1",
    "mgroup from eth0 group ff15::131:1",
    "mroute from eth0 group ff15::131:1 to eth1",
];

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("router", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            (
                "a container with smcroute gets every group and forwards to another network's \
                 hosts",
                smcroute,
            ),
            ("routers that learn by IGMP know of members on other hosts", dynamic),
            ("routers that learn by MLD know of members on other hosts", mld::pim6),
        ],
    )
}

fn dynamic(cluster: &mut Cluster) -> Result<()> {
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 131, 3, 3);
    let [first, _, third] = cluster.three()?;
    let routed = Routed::start(cluster, SUBNETS, &AS_DYNAMIC_ROUTER)?;
    let router = &routed.router;
    let receivers = [Container::start(&third, "to", &[])?, Container::start(&first, "to", &[])?];
    let group = Group {
        send: format!("UDP4-DATAGRAM:{GROUP}:6113,ip-multicast-ttl=8"),
        receive: format!("UDP4-RECV:6113,ip-add-membership={GROUP}:eth0"),
        routes: "/proc/net/ip_mr_cache",
        // In the byte order of the kernel's memory.
        shown: format!("{:08X}", u32::from_ne_bytes(GROUP.octets())),
    };
    for (name, receivers) in
        [("igmpproxy", &receivers[..]), ("IGMPv3", &receivers[..]), ("IGMPv2", &receivers[..1])]
    {
        let routing = if name == "igmpproxy" { igmpproxy(router)? } else { pimd(router, name)? };
        for receiver in receivers {
            routed.ensure_comes_and_goes(receiver, &group).with_context(|| {
                let printed: String = routing.iter().map(|process| process.printed().1).collect();
                format!("{name}, {}: {printed}", receiver.host.name())
            })?;
        }
        router.sh("killall igmpproxy pimd zebra 2>/dev/null; rm -f /tmp/*.pid /tmp/*.api; true")?;
    }
    Ok(())
}

fn igmpproxy(router: &Container) -> Result<Vec<Process>> {
    router.sh(&format!("printf '{IGMPPROXY}' > /tmp/igmpproxy.conf"))?;
    Ok(vec![router.spawn("igmpproxy -n -v /tmp/igmpproxy.conf")?])
}

/// FRR's pimd, which is the rendezvous point itself and queries every eight seconds.
fn pimd(router: &Container, version: &str) -> Result<Vec<Process>> {
    let version = version.trim_start_matches("IGMPv");
    let lines =
        format!("ip pim\\n ip igmp\\n ip igmp version {version}\\n ip igmp query-interval 8\\n");
    let point = format!("ip pim rp {} 224.0.0.0/4", router.address("from")?);
    let config = format!("{point}\\ninterface eth0\\n {lines}interface eth1\\n {lines}");
    router.sh(&format!(
        "grep -q frrvty /etc/group || echo frrvty:x:9999:root >> /etc/group; mkdir -p \
         /var/tmp/frr /var/run/frr; printf '{config}' > /tmp/pimd.conf"
    ))?;
    let options = "-u root -g root -z /tmp/zserv.api --vty_socket /tmp --log stdout";
    Ok(vec![
        router.spawn(&format!("zebra {options} -i /tmp/zebra.pid"))?,
        router.spawn(&format!("pimd {options} -i /tmp/pimd.pid -f /tmp/pimd.conf"))?,
    ])
}

/// Waits until the router's kernel has a route for the stream. Until then it holds three packets
/// (`ipmr_cache_unresolved` in net/ipv4/ipmr.c) and drops the others.
fn warm_up(sender: &Container, router: &Container, stream: Stream<'_>) -> Result<()> {
    const ROUTES: &str = "cat /proc/net/ip_mr_cache /proc/net/ip6_mr_cache | grep -cE ' \
                          [0-9]+:[0-9]+ *$' || true";
    let count = || -> Result<usize> { Ok(router.sh(ROUTES)?.trim().parse()?) };
    let before = count()?;
    let to = match stream.group.parse()? {
        IpAddr::V4(group) => format!("UDP4-DATAGRAM:{group}:6999"),
        IpAddr::V6(group) => format!("UDP6-DATAGRAM:[{group}]:6999,so-bindtodevice=eth0"),
    };
    sender.sh(&format!("echo | socat -u - {to}"))?;
    wait_until("a route of the router", SOON, || Ok((count()? > before).then_some(())))
}

fn smcroute(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let Routed { networks: _networks, sender, router } =
        Routed::start(cluster, SUBNETS_WITH_IPV6, &AS_ROUTER)?;
    let _bystander = Container::start(&third, "from", &[])?;
    let receiver = Container::start(&third, "to", &["--cap-add=NET_ADMIN"])?;
    // iperf receives only from sources that it could answer.
    receiver.sh("ip -6 route add fd00:131::/64 dev eth0")?;
    router.sh(&format!("printf '%s\\n' '{}' > /tmp/smcroute.conf", CONFIG.join("' '")))?;
    let routing = router.spawn("smcrouted -n -N -m 4 -l info -f /tmp/smcroute.conf")?;
    // A host without a container on a network has no memberships of it.
    for (asked, network) in [(&first, "from"), (&third, "from"), (&third, "to")] {
        await_routers(asked, network, &[&second]).with_context(|| routing.printed().1)?;
    }
    ensure_everything_goes_there(&sender, &second, &third).with_context(|| routing.printed().1)?;

    // Only the router is a receiver on the sender's network.
    let datagrams = Datagrams {
        receive: "UDP4-RECV:6111,ip-add-membership=239.131.2.2:eth0".to_owned(),
        send: "UDP4-DATAGRAM:239.131.2.2:6111".to_owned(),
    };
    let receiving = start_receiver(&receiver, &datagrams)?;
    for (text, ttl) in [("near", 1), ("far", 2)] {
        sender
            .sh(&format!("echo {text} | socat -u - {},ip-multicast-ttl={ttl}", datagrams.send))?;
    }
    wait_until("the datagram to be forwarded", SOON, || {
        Ok(receiving.printed().0.contains("far").then_some(()))
    })
    .with_context(|| routing.printed().1)?;
    ensure!(!receiving.printed().0.contains("near"), "a datagram went further than its TTL");
    receiver.sh("killall socat")?;

    // The receiver's host is not on the sender's network.
    let without = Capture::of_underlay(&third)?;
    let streams =
        [Stream { group: "239.131.1.1", ..BOTH[0] }, Stream { group: "ff15::131:1", ..BOTH[1] }];
    for stream in streams {
        warm_up(&sender, &router, stream)?;
        stream.send_undisturbed(&sender, &[&receiver], 2).with_context(|| routing.printed().1)?;
    }
    let groups = streams.map(|stream| stream.group.parse::<IpAddr>());
    let groups = groups.into_iter().collect::<Result<Vec<_>, _>>()?;
    let frames = without.stop()?;
    let sent =
        frames.iter().filter_map(Frame::tunnelled).filter(|(from, ..)| *from == first.address());
    let surplus =
        sent.filter_map(|(.., frame)| frame.destination()).filter(|to| groups.contains(to)).count();
    ensure!(
        surplus == 0,
        "host3 has no receiver on the sender's network and was sent {surplus} packets"
    );

    // Without the router nothing is sent there.
    router.remove()?;
    await_routers(&first, "from", &[])?;
    await_routers(&third, "from", &[])
}

/// Waits until exactly these hosts have a multicast router on the network, as seen by `asked`.
fn await_routers(asked: &Host, network: &str, wanted: &[&Host]) -> Result<()> {
    let wanted: Vec<String> = wanted.iter().map(|host| host.name()).collect();
    wait_until(
        &format!("{wanted:?} to have a router on {network}, as {} knows", asked.name()),
        SOON,
        || {
            let rows = view(asked, "groups")?;
            let rows = rows.as_array().context("a list")?.iter();
            let routers = rows.filter(|row| row["network"] == network && row["group"].is_null());
            let hosts = routers.filter_map(|row| row["hosts"].as_array()).flatten();
            let names: Vec<&str> = hosts.filter_map(|host| host["name"].as_str()).collect();
            Ok((names == wanted).then_some(()))
        },
    )
}

/// Waits until packets to groups without members go to the router's host and to no other.
fn ensure_everything_goes_there(sender: &Container, router: &Host, other: &Host) -> Result<()> {
    const GROUPS: [Ipv4Addr; 3] =
        [Ipv4Addr::new(239, 9, 9, 1), Ipv4Addr::new(225, 9, 9, 2), Ipv4Addr::new(239, 131, 9, 9)];
    wait_until("only the router's host to be sent everything", SOON, || {
        let (there, nowhere) = (Capture::of_underlay(router)?, Capture::of_underlay(other)?);
        for group in GROUPS {
            sender.sh(&format!(
                "echo any | socat -u - UDP4-DATAGRAM:{group}:6112,ip-multicast-ttl=4"
            ))?;
        }
        wait_until("every group to come", SOON, || {
            Ok(GROUPS.iter().all(|group| is_seen(&there, *group)).then_some(()))
        })?;
        Ok((!GROUPS.iter().any(|group| is_seen(&nowhere, *group))).then_some(()))
    })
}

/// Whether a capture has a tunnelled packet to a group.
fn is_seen(capture: &Capture, group: Ipv4Addr) -> bool {
    let frames = capture.frames();
    frames.iter().filter_map(Frame::tunnelled).any(|(.., frame)| frame.is_to(group))
}
