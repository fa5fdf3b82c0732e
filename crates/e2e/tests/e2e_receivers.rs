//! Receivers with older protocol versions, several receivers on one host, and their end.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

#[path = "receivers/vlans.rs"]
mod vlans;

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{
    BOTH, Cluster, Container, Datagrams, GroupSocket, JOIN_BOTH, Network, Running, SOON, Sources,
    WITH_IPV6, await_members, await_more, begin_both, run_checks, start_receiver,
};
use shoutd_lab::{Host, wait_until};

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("receivers", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("receivers that know IGMPv1 and MLDv1", |cluster| older_versions(cluster, 1)),
            ("receivers that know IGMPv2 and MLDv1", |cluster| older_versions(cluster, 2)),
            ("each multicast route of a container is one network's", routes),
            ("all receivers on a host but one leave, and that is killed", several_on_a_host),
            ("receivers in VLANs of a container are asked there", vlans::joined_in_vlans),
            (
                "receivers that only answer queries are served for several lifetimes, and others \
                 are not",
                lifetimes,
            ),
        ],
    )
}

/// RFC 1112 or RFC 2236, and RFC 2710: other hosts learn of such members, they receive, and they
/// are forgotten with their container.
fn older_versions(cluster: &mut Cluster, igmp: u8) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let _network = Network::create(cluster, &first, "foo", &[])?;
    let sender = Container::start(&first, "foo", &[WITH_IPV6])?;
    let igmp = format!("--sysctl=net.ipv4.conf.all.force_igmp_version={igmp}");
    let options = [WITH_IPV6, &igmp, "--sysctl=net.ipv6.conf.all.force_mld_version=1"];
    let receiver = Container::start(&second, "foo", &options)?;
    for (group, receive, send) in [
        (
            "239.7.7.7",
            "UDP4-RECV:6091,ip-add-membership=239.7.7.7:eth0",
            "UDP4-DATAGRAM:239.7.7.7:6091,ip-multicast-ttl=4",
        ),
        (
            "ff15::7:7",
            "UDP6-RECV:6092,ipv6-join-group=[ff15::7:7]:eth0",
            "UDP6-DATAGRAM:[ff15::7:7]:6092,so-bindtodevice=eth0",
        ),
    ] {
        let datagrams = Datagrams { receive: receive.to_owned(), send: send.to_owned() };
        let receiving = start_receiver(&receiver, &datagrams)?;
        await_members(&first, group, &[&second])?;
        sender.sh(&format!("echo received | socat -u - {send}"))?;
        wait_until("the datagram to be received", SOON, || {
            Ok(receiving.printed().0.contains("received").then_some(()))
        })
        .context(group)?;
    }
    second.docker(["kill", &receiver.name])?;
    await_members(&first, "239.7.7.7", &[])?;
    await_members(&first, "ff15::7:7", &[])
}

/// A container on three networks and on `bridge`: each network carries the groups that it is for.
/// When the container leaves a network, its groups move to another network that is for them.
fn routes(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let _all = Network::create(cluster, &first, "all", &["--subnet=10.41.0.0/24"])?;
    let _some = Network::create(
        cluster,
        &second,
        "some",
        &["--subnet=10.42.0.0/24", "--opt=shoutd.multicast-route=239.0.0.0/8"],
    )?;
    let _quiet = Network::create(
        cluster,
        &third,
        "quiet",
        &["--subnet=10.43.0.0/24", "--opt=shoutd.multicast-route=off"],
    )?;
    let sender = Container::start(&first, "quiet", &[])?;
    ensure_multicast_routes(&sender, &[])?;
    for network in ["some", "bridge", "all"] {
        first.docker(["network", "connect", network, &sender.name])?;
    }
    ensure_multicast_routes(&sender, &["224.0.0.0/4", "239.0.0.0/8"])?;

    let on_all = Container::start(&second, "all", &[])?;
    let on_some = Container::start(&third, "some", &[])?;
    ensure_received(&sender, &on_all, "225.7.7.7")?;
    ensure_received(&sender, &on_some, "239.7.7.7")?;

    first.docker(["network", "disconnect", "some", &sender.name])?;
    ensure_received(&sender, &on_all, "239.7.7.8")?;
    first.docker(["network", "connect", "some", &sender.name])?;
    first.docker(["network", "disconnect", "all", &sender.name])?;
    ensure_received(&sender, &on_some, "239.7.7.9")?;
    // The network with `multicast-route=off` takes none, even if no other is left.
    ensure_multicast_routes(&sender, &["239.0.0.0/8"])?;
    let refused = first.run([
        "docker",
        "network",
        "create",
        "--driver=shoutd",
        "--opt=shoutd.multicast-route=10.0.0.0/8",
        "no",
    ])?;
    ensure!(!refused.success() && refused.stderr.contains("IPv4 multicast prefixes"), "{refused}");
    Ok(())
}

/// Checks that a container has these IPv4 multicast routes and no others.
fn ensure_multicast_routes(container: &Container, wanted: &[&str]) -> Result<()> {
    let shown = container.sh("ip -4 route show")?;
    let routes: Vec<&str> = shown
        .lines()
        .filter(|line| line.starts_with("224.") || line.starts_with("239."))
        .filter_map(|line| line.split_once(' '))
        .map(|(destination, _)| destination)
        .collect();
    ensure!(routes == wanted, "{routes:?}");
    Ok(())
}

/// Checks that one receives what the other sends to this group without naming an interface.
fn ensure_received(sender: &Container, receiver: &Container, group: &str) -> Result<()> {
    let receive = format!("UDP4-RECV:6093,reuseaddr,ip-add-membership={group}:eth0");
    let receiving = start_receiver(receiver, &Datagrams { receive, send: String::new() })?;
    wait_until("the datagram to be received", SOON, || {
        sender.sh(&format!(
            "echo received | socat -u - UDP4-DATAGRAM:{group}:6093,ip-multicast-ttl=4"
        ))?;
        Ok(receiving.printed().0.contains("received").then_some(()))
    })
    .with_context(|| format!("from {} to {}, {group}", sender.name, receiver.name))
}

/// Starts a container with IPv6 on the network.
fn start(host: &Host) -> Result<Container> {
    Container::start(host, "foo", &[WITH_IPV6])
}

fn several_on_a_host(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let network = Network::create(cluster, &first, "foo", &[])?;
    let (sender, staying, leaving) = (start(&first)?, start(&second)?, start(&second)?);
    let inner = behind(&staying)?;
    let streams = begin_both(&sender, &[&staying])?;
    // Another program in the same container, one behind the same bridge port with another MAC
    // address, and one at another port.
    let same = join_both(&staying, [0, 0])?;
    let others =
        [&inner, &leaving].map(|container| join_both(container, BOTH.map(|stream| stream.port)));
    let others = others.into_iter().collect::<Result<Vec<_>>>()?;
    await_ports(&network, &second, 2)?;
    for socket in others.iter().flatten() {
        wait_until("the stream to be received by all", SOON, || {
            Ok((!socket.received()?.is_empty()).then_some(()))
        })?;
    }
    drop((same, others));
    // The bridge queries for the last member equally long at both ports, and the host stays a
    // member.
    await_ports(&network, &second, 1)?;
    await_more(&streams, 100)?;
    await_both(&first, &[&second])?;
    streams.into_iter().try_for_each(Running::finish)?;
    let _receiving = JOIN_BOTH.map(|program| staying.spawn(program));
    await_both(&first, &[&second])?;
    second.docker(["kill", &staying.name])?;
    await_both(&first, &[])
}

/// Starts a container without a network, with a macvlan interface on that of another container.
fn behind(outer: &Container) -> Result<Container> {
    let container = Container::start(&outer.host, "none", &[])?;
    let (outside, inside) =
        (outer.inspect("{{.State.Pid}}")?, container.inspect("{{.State.Pid}}")?);
    outer.host.sh(&format!(
        "nsenter --net=/proc/{outside}/ns/net ip link add link eth0 name eth0 netns {inside} \
         type macvlan mode bridge && nsenter --net=/proc/{inside}/ns/net sh -c 'echo 0 > \
         /proc/sys/net/ipv6/conf/eth0/disable_ipv6 && ip link set eth0 up'"
    ))?;
    Ok(container)
}

/// Opens a socket for the group of each stream, on these ports.
fn join_both(container: &Container, ports: [u16; 2]) -> Result<Vec<GroupSocket>> {
    let sockets = BOTH.iter().zip(ports).map(|(stream, port)| {
        let group: IpAddr = stream.group.parse()?;
        let socket = GroupSocket::open(container, group.is_ipv4(), port)?;
        socket.join(group, Sources::All)?;
        Ok(socket)
    });
    sockets.collect()
}

/// Waits until `count` ports of a host's bridge are members of both groups.
fn await_ports(network: &Network, host: &Host, count: usize) -> Result<()> {
    let show = format!("bridge -netns {} mdb show dev shoutbr0", network.segment_name()?);
    wait_until(&format!("{count} ports to be members on {}", host.name()), SOON, || {
        let listed = host.sh(&show)?;
        let are_members = BOTH.iter().all(|stream| {
            let group = format!(" grp {} ", stream.group);
            listed.lines().filter(|line| line.contains(&group)).count() == count
        });
        Ok(are_members.then_some(()))
    })
}

/// Waits until `asked` has exactly these hosts as members of both groups.
fn await_both(asked: &Host, wanted: &[&Host]) -> Result<()> {
    BOTH.iter().try_for_each(|stream| await_members(asked, stream.group, wanted))
}

/// With the bridges' timers at a hundredth of those of RFC 3376 and RFC 3810: a query every second,
/// and a membership that is not renewed times out after 2.5 s.
fn lifetimes(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let network = Network::create(cluster, first, "foo", &[])?;
    let (sender, receivers) = (start(first)?, [start(second)?, start(third)?]);
    let segment = network.segment_name()?;
    for host in &hosts {
        // Restarting the querier makes the bridge use the new interval at once.
        host.sh(&format!(
            "ip -netns {segment} link set shoutbr0 type bridge mcast_query_interval 100 \
             mcast_startup_query_interval 100 mcast_query_response_interval 50 \
             mcast_membership_interval 250 mcast_querier 0 && ip -netns {segment} link set \
             shoutbr0 type bridge mcast_querier 1"
        ))?;
    }
    let streams = begin_both(&sender, &receivers.each_ref())?;
    for (host, stream) in
        [second, third].into_iter().flat_map(|host| BOTH.map(|stream| (host, stream)))
    {
        wait_until("the membership to have a short life", SOON, || {
            let listed = host.sh(&format!("bridge -netns {segment} -statistics mdb show"))?;
            let lines =
                listed.lines().filter(|line| line.contains(&format!(" grp {} ", stream.group)));
            let mut left =
                lines.filter_map(|line| line.split_whitespace().next_back()?.parse::<f32>().ok());
            Ok(left.any(|seconds| seconds <= 2.5).then_some(()))
        })?;
    }
    // 89 datagrams a second: more than three membership intervals.
    await_more(&streams, 800)?;
    for host in &hosts {
        let settings = host.sh(&format!("ip -netns {segment} -details link show shoutbr0"))?;
        ensure!(
            settings.contains("mcast_membership_interval 250 "),
            "shoutd changed the interval: {settings}"
        );
    }
    streams.into_iter().try_for_each(Running::finish)?;
    run_out(&network, &sender, &receivers[0])
}

/// A receiver whose reports are lost is forgotten when its membership times out, and known again
/// when its reports arrive again.
fn run_out(network: &Network, sender: &Container, receiver: &Container) -> Result<()> {
    let (asked, host) = (&sender.host, &receiver.host);
    let _receiving = join_both(receiver, [0, 0])?;
    await_both(asked, &[host])?;
    let inside = format!("nsenter --net=/proc/{}/ns/net nft", receiver.inspect("{{.State.Pid}}")?);
    host.sh(&format!(
        "{inside} 'table inet mute {{ chain output {{ type filter hook output priority 0; meta \
         l4proto igmp drop; icmpv6 type {{ mld-listener-report, mld-listener-done, \
         mld2-listener-report }} drop; }}; }}'"
    ))?;
    await_both(asked, &[])?;
    wait_until("the sender's kernel not to send there", SOON, || {
        let entries = network.tunnel_groups(asked)?;
        Ok((!entries.iter().any(|entry| entry.remote == host.address())).then_some(()))
    })?;
    host.sh(&format!("{inside} delete table inet mute"))?;
    await_both(asked, &[host])
}
