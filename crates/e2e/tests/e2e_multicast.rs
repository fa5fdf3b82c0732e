//! The main purpose: containers on different hosts communicate as if on one Ethernet switch.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{
    Capture, Cluster, Container, Datagrams, Frame, Network, SOON, Stream, WITH_IPV6,
    all_receive_from_all, one_on_each, run_checks, start_receiver,
};
use shoutd_lab::{Host, wait_until};

/// The group of most checks, as an address.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 1, 1, 1);

/// A datagram to all on the link (RFC 919).
const LIMITED_BROADCAST: &str = "255.255.255.255:6002,broadcast,so-bindtodevice=eth0";

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("multicast", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("the four lines, with the network created on host1", |cluster| {
                four_lines(cluster, [1, 2, 3])
            }),
            ("the four lines, with the network created on host2", |cluster| {
                four_lines(cluster, [2, 3, 1])
            }),
            ("the four lines, with the network created on host3", |cluster| {
                four_lines(cluster, [3, 1, 2])
            }),
            ("8 s of 1 Mbit/s and of 100 Mbit/s, nothing lost", streams),
            ("ping and TCP between all", ping_and_tcp),
            ("broadcast between all", broadcast),
            ("multicast of all scopes between all", multicast),
            ("IPv6 on a network without an IPv6 subnet", link_local_ipv6),
            ("a network with an IPv6 subnet", ipv6_subnet),
            ("IGMP and MLD stay off the underlay", group_management_stays_inside),
            ("a host without containers on the network gets nothing", no_container_no_packet),
            ("networks are apart from each other", networks_are_apart),
            ("the world outside, and published ports", outside),
            ("an internal network has neither", internal),
            ("packets fit the underlay, and an MTU can be chosen", mtu),
        ],
    )
}

/// The README's four lines. The network is created on the first of these hosts, where the sender
/// runs too.
fn four_lines(cluster: &mut Cluster, order: [u8; 3]) -> Result<()> {
    let [origin, other, another] = order.map(|number| cluster.host(number));
    let (origin, others) = (origin?, [other?, another?]);
    let network = Network::create(cluster, &origin, "foo", &[])?;
    let receivers = one_on_each(&others, "foo", &[])?;
    let sender = Container::start(&origin, "foo", &[])?;
    Stream::default().send(&sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
    // And back, from a host that did not create the network.
    let [answering, receiving] = receivers.as_slice() else { bail!("two receivers") };
    Stream::default().send(answering, &[&sender, receiving], 1)?;
    drop(receivers);
    drop(sender);
    network.remove_on(&others[0])
}

/// To the other hosts, and to another container on the same.
fn streams(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let sender = Container::start(&hosts[0], "foo", &[])?;
    let receivers = one_on_each(&hosts, "foo", &[])?;
    for rate in ["1M", "100M"] {
        let stream = Stream { rate, ..Stream::default() };
        stream
            .send_undisturbed(&sender, &receivers.iter().collect::<Vec<_>>(), 8)
            .with_context(|| rate.to_owned())?;
    }
    Ok(())
}

fn ping_and_tcp(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[1], "foo", &[])?;
    let mut containers = one_on_each(&hosts, "foo", &[])?;
    containers.push(Container::start(&hosts[0], "foo", &[])?);
    for server in &containers {
        let address = server.address("foo")?;
        server.sh("dd if=/dev/urandom of=/tmp/sent bs=64k count=32 2>/dev/null")?;
        let wanted = server.sh("sha256sum < /tmp/sent")?;
        let serving =
            server.spawn("socat -d -d -U TCP4-LISTEN:7000,reuseaddr,fork OPEN:/tmp/sent,rdonly")?;
        serving.wait_for_line(SOON, |line| line.contains("listening on"))?;
        for client in containers.iter().filter(|client| client.name != server.name) {
            // Small packets, packets of almost full size, fragmented packets, and a stream.
            let pings = ["56", "1400", "4000"]
                .map(|size| format!("ping -c 1 -W 5 -s {size} {address} >&2"));
            let received = client.sh(&format!(
                "{} && socat -u TCP4:{address}:7000 - | sha256sum",
                pings.join(" && ")
            ))?;
            ensure!(received == wanted, "{} got something else from {}", client.name, server.name);
        }
    }
    Ok(())
}

fn broadcast(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let network = Network::create(cluster, &hosts[2], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    for (port, destination) in [
        (6001, format!("{}:6001,broadcast", network.broadcast()?)),
        (6002, LIMITED_BROADCAST.to_owned()),
    ] {
        let datagrams = Datagrams {
            receive: format!("UDP4-RECV:{port}"),
            send: format!("UDP4-DATAGRAM:{destination}"),
        };
        all_receive_from_all(&containers, &datagrams).context(destination)?;
    }
    Ok(())
}

fn multicast(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let mut containers = one_on_each(&hosts, "foo", &[WITH_IPV6])?;
    containers.push(Container::start(&hosts[2], "foo", &[WITH_IPV6])?);
    // Link-local (mDNS, VRRP), source-specific, administratively scoped.
    for (port, group) in [
        (6011, "224.0.0.251"),
        (6012, "224.0.0.18"),
        (6013, "232.1.1.1"),
        (6014, "239.255.255.250"),
    ] {
        let datagrams = Datagrams {
            receive: format!("UDP4-RECV:{port},ip-add-membership={group}:eth0"),
            send: format!("UDP4-DATAGRAM:{group}:{port},ip-multicast-ttl=4"),
        };
        all_receive_from_all(&containers, &datagrams).context(group)?;
    }
    // Link-local, site-local, global.
    for (port, group) in [(6021, "ff02::fb"), (6022, "ff15::1234"), (6023, "ff1e::1:2:3")] {
        let datagrams = Datagrams {
            receive: format!("UDP6-RECV:{port},ipv6-join-group=[{group}]:eth0"),
            send: format!("UDP6-DATAGRAM:[{group}]:{port},so-bindtodevice=eth0"),
        };
        all_receive_from_all(&containers, &datagrams).context(group)?;
    }
    Ok(())
}

fn link_local_ipv6(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[WITH_IPV6])?;
    let addresses = containers.iter().map(ipv6_addresses).collect::<Result<Vec<_>>>()?.concat();
    ensure!(addresses.len() == containers.len(), "not one link-local address each: {addresses:?}");
    for container in &containers {
        for address in &addresses {
            container.sh(&format!("ping6 -c 1 -W 5 {address}%eth0"))?;
        }
        let answers = container.sh("ping6 -c 2 -W 5 ff02::1%eth0")?;
        let silent: Vec<_> = addresses
            .iter()
            .filter(|address| !answers.contains(&format!(" {address}: ")))
            .collect();
        ensure!(
            silent.is_empty(),
            "{silent:?} did not answer {}:\n{answers}",
            container.host.name()
        );
    }
    Ok(())
}

fn ipv6_subnet(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let options = ["--ipv6", "--subnet", "10.66.0.0/24", "--subnet", "fd66::/64"];
    let network = Network::create(cluster, &hosts[1], "six", &options)?;
    let mut containers = one_on_each(&hosts, "six", &[])?;
    containers.push(Container::start(&hosts[1], "six", &[])?);
    let addresses = containers.iter().map(ipv6_addresses).collect::<Result<Vec<_>>>()?.concat();
    let global: BTreeSet<_> =
        addresses.iter().filter(|address| address.starts_with("fd66:")).collect();
    ensure!(global.len() == containers.len(), "not one address each: {addresses:?}");
    for container in &containers {
        for address in &global {
            container.sh(&format!("ping6 -c 1 -W 5 {address}"))?;
        }
    }
    drop(containers);
    network.remove_on(&hosts[0])
}

/// The IPv6 addresses of a container's interface, once duplicate address detection has ended.
fn ipv6_addresses(container: &Container) -> Result<Vec<String>> {
    let mut listed = String::new();
    let found = wait_until("IPv6 addresses", SOON, || {
        listed = container.sh("ip -6 address show dev eth0")?;
        Ok((listed.contains("fe80::") && !listed.contains("tentative")).then_some(()))
    });
    found.with_context(|| format!("{} has {listed}", container.name))?;
    let addresses =
        listed.lines().filter_map(|line| line.trim().strip_prefix("inet6 ")?.split('/').next());
    Ok(addresses.map(str::to_owned).collect())
}

fn group_management_stays_inside(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let network = Network::create(cluster, &hosts[0], "foo", &[])?;
    // Captures begin before the first device exists.
    let wires = hosts.iter().map(Capture::of_underlay).collect::<Result<Vec<_>>>()?;
    let containers = one_on_each(&hosts, "foo", &[WITH_IPV6])?;
    let ports = containers
        .iter()
        .map(|container| {
            Capture::start(&network.segment(&container.host)?, &port_of(&network, &container.host)?)
        })
        .collect::<Result<Vec<_>>>()?;
    let mld = Datagrams {
        receive: "UDP6-RECV:6031,ipv6-join-group=[ff15::77]:eth0".to_owned(),
        send: "UDP6-DATAGRAM:[ff15::77]:6031,so-bindtodevice=eth0".to_owned(),
    };
    all_receive_from_all(&containers, &mld)?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
    // Joins, leaves and the bridges' queries did occur on the containers' own links.
    for (container, port) in containers.iter().zip(&ports) {
        container.sh("killall socat")?;
        wait_until(&format!("IGMP and MLD inside {}", container.host.name()), SOON, || {
            let frames = port.frames();
            let igmp = container.name == sender.name || frames.iter().any(Frame::is_igmp);
            let mld = frames.iter().any(|frame| frame.manages_groups() && !frame.is_igmp());
            Ok((igmp && mld).then_some(()))
        })?;
    }
    for (host, wire) in hosts.iter().zip(wires) {
        let tunnelled: Vec<Frame> =
            wire.stop()?.iter().filter_map(Frame::tunnelled).map(|(_, _, frame)| frame).collect();
        ensure!(
            tunnelled.iter().any(|frame| frame.is_to(GROUP)),
            "not even the stream was seen on {}",
            host.name()
        );
        let leaked: Vec<_> = tunnelled.iter().filter(|frame| frame.manages_groups()).collect();
        ensure!(leaked.is_empty(), "on the underlay at {}: {leaked:?}", host.name());
    }
    Ok(())
}

/// The name of the only port of a network's segment on a host.
fn port_of(network: &Network, host: &Host) -> Result<String> {
    let links =
        host.sh(&format!("ip -netns {} -brief link show type veth", network.segment_name()?))?;
    let name = links.split(['@', ' ', '\n']).find(|name| name.starts_with("shp"));
    name.map(str::to_owned).with_context(|| format!("a port on {}", host.name()))
}

fn no_container_no_packet(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let network = Network::create(cluster, first, "foo", &[])?;
    let (sender, receiver) =
        (Container::start(first, "foo", &[])?, Container::start(second, "foo", &[])?);
    only_second_host_gets(&hosts, &sender, &receiver)?;
    // A host with a container gets the stream, and no longer gets it when the container is gone.
    let late = Container::start(third, "foo", &[])?;
    Stream::default().send(&sender, &[&receiver, &late], 1)?;
    late.remove()?;
    for host in [first, second] {
        let script = format!("bridge -netns {} fdb show dev shoutvx0", network.segment_name()?);
        wait_until(&format!("{} to stop sending to host3", host.name()), SOON, || {
            Ok((!host.sh(&script)?.contains(&format!("dst {} ", third.address()))).then_some(()))
        })?;
    }
    only_second_host_gets(&hosts, &sender, &receiver)
}

/// Sends from the first host and captures at the others.
fn only_second_host_gets(
    hosts: &[Host; 3],
    sender: &Container,
    receiver: &Container,
) -> Result<()> {
    let [_, second, third] = hosts;
    let (received, nothing) = (Capture::of_underlay(second)?, Capture::of_underlay(third)?);
    Stream::default().send(sender, &[receiver], 2)?;
    let received: Vec<_> = received.stop()?.iter().filter_map(Frame::tunnelled).collect();
    let nothing: Vec<_> = nothing.stop()?.iter().filter_map(Frame::tunnelled).collect();
    let stream = received.iter().filter(|(_, _, frame)| frame.is_to(GROUP)).count();
    // 2 s of 1 Mbit/s in datagrams of 1470 octets are 178.
    ensure!(stream > 150, "only {stream} datagrams were seen where they should be");
    ensure!(
        nothing.is_empty(),
        "host3 got {} packets, such as {:?}",
        nothing.len(),
        nothing.first()
    );
    Ok(())
}

fn networks_are_apart(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _networks = [
        Network::create(cluster, &hosts[0], "one", &[])?,
        Network::create(cluster, &hosts[1], "two", &["--ipam-driver", "shoutd"])?,
    ];
    let (one, two) = (one_on_each(&hosts, "one", &[])?, one_on_each(&hosts, "two", &[])?);
    let datagrams = Datagrams {
        receive: "UDP4-RECV:6041,ip-add-membership=224.0.0.99:eth0".to_owned(),
        send: "UDP4-DATAGRAM:224.0.0.99:6041".to_owned(),
    };
    let receivers = two
        .iter()
        .map(|container| start_receiver(container, &datagrams))
        .collect::<Result<Vec<_>>>()?;
    all_receive_from_all(&one, &datagrams)?;
    // These come last: anything that went astray would have arrived before them.
    for container in &two {
        container.sh(&format!("echo end | socat -u - {}", datagrams.send))?;
    }
    for (container, receiver) in two.iter().zip(&receivers) {
        wait_until(&format!("all to be received on {}", container.host.name()), SOON, || {
            let (received, _) = receiver.printed();
            let ends = received.lines().filter(|line| *line == "end").count();
            Ok((ends >= 3).then_some(()))
        })?;
        let (received, _) = receiver.printed();
        ensure!(
            received.lines().all(|line| line == "end"),
            "{} received datagrams of network one: {received}",
            container.host.name()
        );
    }
    Ok(())
}

fn outside(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let _network = Network::create(cluster, &second, "foo", &[])?;
    for (host, other) in [(&first, &second), (&second, &third)] {
        let container = Container::start(host, "foo", &["--publish=8080:80"])?;
        // The gateway of the underlay, the container's own host, and another.
        for address in
            ["10.77.0.254".to_owned(), host.address().to_string(), other.address().to_string()]
        {
            container.ping(&address)?;
        }
        let serving =
            container.spawn("socat -d -d -U TCP4-LISTEN:80,reuseaddr,fork OPEN:/etc/hostname")?;
        serving.wait_for_line(SOON, |line| line.contains("listening on"))?;
        let ask = format!("socat -u TCP4:{}:8080,connect-timeout=10 -", host.address());
        let wanted = container.sh("cat /etc/hostname")?;
        ensure!(other.sh(&ask)? == wanted, "another host does not reach the published port");
        let neighbour = Container::start(other, "foo", &[])?;
        ensure!(
            neighbour.sh(&ask)? == wanted,
            "a container on another host does not reach the published port"
        );
    }
    Ok(())
}

fn internal(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[0], "inside", &["--internal"])?;
    let containers = one_on_each(&hosts, "inside", &["--publish=8080:80"])?;
    for (container, other) in containers.iter().zip(hosts.iter().cycle().skip(1)) {
        let routes = container.sh("ip route")?;
        ensure!(!routes.contains("default"), "a way out on {}: {routes}", container.host.name());
        let out = container.try_sh("ping -c 1 -W 1 10.77.0.254")?;
        ensure!(!out.success(), "the underlay can be reached on {}", container.host.name());
        let serving =
            container.spawn("socat -d -d -U TCP4-LISTEN:80,reuseaddr,fork OPEN:/etc/hostname")?;
        serving.wait_for_line(SOON, |line| line.contains("listening on"))?;
        let ask = format!("socat -u TCP4:{}:8080,connect-timeout=2 -", container.host.address());
        ensure!(
            !other.run(["sh", "-c", &ask])?.success(),
            "{} publishes a port",
            container.host.name()
        );
    }
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)
}

fn mtu(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let chosen = ["--opt", "com.docker.network.driver.mtu=1400"];
    // VXLAN over IPv4 takes 50 octets (RFC 7348, section 5) of the underlay's 1500.
    for (name, options, mtu) in [("plain", [].as_slice(), 1450), ("small", chosen.as_slice(), 1400)]
    {
        let network = Network::create(cluster, &hosts[0], name, options)?;
        let containers = one_on_each(&hosts, name, &[])?;
        let full = mtu - 20 - 8;
        for container in &containers {
            let seen = container.sh("cat /sys/class/net/eth0/mtu")?;
            ensure!(
                seen.trim() == mtu.to_string(),
                "{name} has an MTU of {seen} on {}",
                container.host.name()
            );
            for other in &containers {
                container.ping(&format!("-s {full} {}", other.address(name)?))?;
            }
        }
        drop(containers);
        network.remove_on(&hosts[1])?;
    }
    Ok(())
}
