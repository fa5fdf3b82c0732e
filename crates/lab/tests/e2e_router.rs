//! A container that routes multicast from one network to another.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

mod common;

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use common::{BOTH, Capture, Cluster, Container, Datagrams, Frame, Network, SOON, Stream, listen, run_checks, view};
use shoutd_lab::{Host, wait_until};

/// The router has two networks, and of the machine's own programs the one that routes.
const AS_ROUTER: [&str; 3] =
    ["--cap-add=NET_ADMIN", "--volume=/usr/lib:/usr/lib:ro", "--volume=/usr/sbin/smcrouted:/usr/bin/smcrouted:ro"];

/// Routes a range of groups of IPv4, and tells that it is a router by Multicast Router Discovery (RFC 4286), every four seconds. Of IPv6 it routes one group, which it has joined.
const CONFIG: [&str; 5] = [
    "phyint shout0 enable mrdisc",
    "phyint shout1 enable mrdisc",
    "mroute from shout0 group 239.131.0.0/16 to shout1",
    "mgroup from shout0 group ff15::131:1",
    "mroute from shout0 group ff15::131:1 to shout1",
];

#[test]
fn a_container_routes_multicast_between_networks() {
    let mut cluster = Cluster::up("router", 3).unwrap();
    cluster.form([1, 2, 3]).unwrap();
    run_checks(
        &mut cluster,
        &[("a container with smcroute gets every group and forwards to another network's hosts", smcroute)],
    );
}

fn smcroute(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let _from =
        Network::create(cluster, &first, "from", &["--subnet=10.131.0.0/24", "--ipv6", "--subnet=fd00:131::/64"])?;
    let _to = Network::create(cluster, &third, "to", &["--subnet=10.132.0.0/24", "--ipv6", "--subnet=fd00:132::/64"])?;
    let sender = Container::start(&first, "from", &[])?;
    let _bystander = Container::start(&third, "from", &[])?;
    let receiver = Container::start(&third, "to", &["--cap-add=NET_ADMIN"])?;
    // iperf hears only those whom it could answer.
    receiver.sh("ip -6 route add fd00:131::/64 dev shout0")?;
    let router = Container::start(&second, "from", &AS_ROUTER)?;
    second.docker(["network", "connect", "to", &router.name])?;
    router.sh(&format!("printf '%s\\n' '{}' > /tmp/smcroute.conf", CONFIG.join("' '")))?;
    let routing = router.spawn("smcrouted -n -N -m 4 -l info -f /tmp/smcroute.conf")?;
    // Who has no container on a network knows nothing of it.
    for (asked, network) in [(&first, "from"), (&third, "from"), (&third, "to")] {
        await_routers(asked, network, &[&second]).with_context(|| routing.printed().1)?;
    }
    ensure_everything_goes_there(&sender, &second, &third).with_context(|| routing.printed().1)?;

    // Nobody but the router listens on the network of the sender.
    let datagrams = Datagrams {
        receive: "UDP4-RECV:6111,ip-add-membership=239.131.2.2:shout0".to_owned(),
        send: "UDP4-DATAGRAM:239.131.2.2:6111".to_owned(),
    };
    let listening = listen(&receiver, &datagrams)?;
    for (text, ttl) in [("near", 1), ("far", 2)] {
        sender.sh(&format!("echo {text} | socat -u - {},ip-multicast-ttl={ttl}", datagrams.send))?;
    }
    wait_until("the datagram to be forwarded", SOON, || Ok(listening.printed().0.contains("far").then_some(())))
        .with_context(|| routing.printed().1)?;
    ensure!(!listening.printed().0.contains("near"), "a datagram went further than its TTL");
    receiver.sh("killall socat")?;

    // The bystander's host is where the receiver is, on the other network.
    let without = Capture::of_underlay(&third)?;
    let streams = [Stream { group: "239.131.1.1", ..BOTH[0] }, Stream { group: "ff15::131:1", ..BOTH[1] }];
    for stream in streams {
        stream.send_undisturbed(&sender, &[&receiver], 2).with_context(|| routing.printed().1)?;
    }
    let groups = streams.map(|stream| stream.group.parse::<IpAddr>());
    let groups = groups.into_iter().collect::<Result<Vec<_>, _>>()?;
    let frames = without.stop()?;
    let sent = frames.iter().filter_map(Frame::tunnelled).filter(|(from, ..)| *from == first.address());
    let surplus = sent.filter_map(|(.., frame)| frame.destination()).filter(|to| groups.contains(to)).count();
    ensure!(surplus == 0, "host3 does not listen on the sender's network and was sent {surplus} packets");

    // Without the router nothing goes there any more.
    router.remove()?;
    await_routers(&first, "from", &[])?;
    await_routers(&third, "from", &[])
}

/// Waits until `asked` knows that just these hosts have a multicast router on the network.
fn await_routers(asked: &Host, network: &str, wanted: &[&Host]) -> Result<()> {
    let wanted: Vec<String> = wanted.iter().map(|host| host.name()).collect();
    wait_until(&format!("{wanted:?} to have a router on {network}, as {} knows", asked.name()), SOON, || {
        let rows = view(asked, "groups")?;
        let rows = rows.as_array().context("a list")?.iter();
        let routers = rows.filter(|row| row["network"] == network && row["group"].is_null());
        let hosts = routers.filter_map(|row| row["hosts"].as_array()).flatten();
        let names: Vec<&str> = hosts.filter_map(|host| host["name"].as_str()).collect();
        Ok((names == wanted).then_some(()))
    })
}

/// Waits until what is sent to groups that nobody has joined goes to the router's host, and to no other.
fn ensure_everything_goes_there(sender: &Container, router: &Host, other: &Host) -> Result<()> {
    const GROUPS: [Ipv4Addr; 3] =
        [Ipv4Addr::new(239, 9, 9, 1), Ipv4Addr::new(225, 9, 9, 2), Ipv4Addr::new(239, 131, 9, 9)];
    let seen = |capture: &Capture, group: Ipv4Addr| {
        let frames = capture.frames();
        frames.iter().filter_map(Frame::tunnelled).any(|(.., frame)| frame.is_to(group))
    };
    wait_until("only the router's host to be sent everything", SOON, || {
        let (there, nowhere) = (Capture::of_underlay(router)?, Capture::of_underlay(other)?);
        for group in GROUPS {
            sender.sh(&format!("echo any | socat -u - UDP4-DATAGRAM:{group}:6112,ip-multicast-ttl=4"))?;
        }
        wait_until("every group to come", SOON, || Ok(GROUPS.iter().all(|group| seen(&there, *group)).then_some(())))?;
        Ok((!GROUPS.iter().any(|group| seen(&nowhere, *group))).then_some(()))
    })
}
