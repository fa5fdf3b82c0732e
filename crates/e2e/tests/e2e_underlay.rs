//! The underlay: IPv4 or IPv6, with any MTU, also one that changes while containers run.

#[path = "underlay/moving.rs"]
mod moving;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::thread;

use anyhow::{Result, bail, ensure};
use shoutd_e2e::{
    BOTH, Capture, Cluster, Container, Frame, GroupSocket, Network, SOON, Sources, Stream,
    WITH_IPV6, await_members, carries_up_to, one_on_each, run_groups, status,
};
use shoutd_lab::{Host, wait_until};

/// The overhead of VXLAN on an IPv4 and on an IPv6 underlay, in octets.
const OVERHEAD_IPV4: u16 = 50;
const OVERHEAD_IPV6: u16 = 70;

/// The groups, and the datagrams sent to each at a time.
const GROUPS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 6, 6, 6)), 6131),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 6, 6)), 6133),
];
const COUNT: usize = 50;

/// Streams of datagrams that need several packets each, at any MTU but the largest.
const LARGE: [Stream<'_>; 2] = [
    Stream { group: "224.1.1.1", port: 5000, rate: "4M", length: 8192 },
    Stream { group: "ff05::1:5", port: 5001, rate: "4M", length: 8192 },
];

fn main() -> ExitCode {
    run_groups(&[
        (
            || {
                let cluster = Cluster::up("underlay4", 3)?;
                cluster.form([1, 2, 3])?;
                Ok(cluster)
            },
            &[
                ("the MTU follows, IPv4", |cluster| mtu_follows(cluster, OVERHEAD_IPV4)),
                (
                    "a host goes on at the address that its interface or network has now",
                    moving::goes_on_at_another_address,
                ),
            ],
        ),
        (
            || {
                let cluster = Cluster::up("underlay6", 3)?;
                refuse_both_families(&cluster)?;
                form(&cluster)?;
                Ok(cluster)
            },
            &[
                ("multicast over IPv6", multicast),
                ("an encrypted network over IPv6", encrypted),
                ("each way of replication over IPv6", ways),
                ("the MTU follows, IPv6", |cluster| mtu_follows(cluster, OVERHEAD_IPV6)),
            ],
        ),
    ])
}

/// Addresses in the forms that users type, with and without a port.
fn form(cluster: &Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let (one, two, three) = (first.address_v6(), second.address_v6(), third.address_v6());
    first.start_shoutd(&[&one.to_string()])?;
    let token = cluster.token()?;
    second.start_shoutd(&[&two.to_string(), &format!("--peer-addresses={one}"), &token])?;
    third.start_shoutd(&[
        &format!("[{three}]:7789"),
        &format!("--peer-addresses={one},[{two}]:7789"),
        &token,
    ])?;
    Ok(())
}

fn refuse_both_families(cluster: &Cluster) -> Result<()> {
    let host = cluster.host(3)?;
    let peers = format!("--peer-addresses={}", cluster.host(1)?.address_v6());
    let output = host.run(["shoutdctl", "start", &host.address().to_string(), &peers])?;
    let is_told = output.stderr.contains("are not of the same address family");
    ensure!(!output.success() && is_told, "both families are not refused: {output}");
    Ok(())
}

fn multicast(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[WITH_IPV6])?;
    all_receive(&containers, BOTH)?;
    containers[2].ping(&containers[0].address("foo")?.to_string())
}

fn encrypted(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let network = Network::create(cluster, &hosts[0], "foo", &["--opt=encrypted"])?;
    let containers = one_on_each(&hosts, "foo", &[WITH_IPV6])?;
    all_receive(&containers, BOTH)?;
    // Of 1500 octets, WireGuard over IPv6 takes 80, and VXLAN over IPv6 takes 70.
    carries_up_to(1350, &containers[2], &containers[0], "foo")?;
    drop(containers);
    network.remove_on(&hosts[1])
}

/// A host sends by each tier: a member receives all, and another host is sent the packets only by
/// flooding.
fn ways(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let network = Network::create(cluster, first, "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[WITH_IPV6])?;
    let [sender, receiver, _bystander] = containers.as_slice() else { bail!("three containers") };
    let last = GroupSocket::open(sender, true, 0)?;
    let (mut sending, mut receiving) = (Vec::new(), Vec::new());
    for at in GROUPS {
        sending.push(GroupSocket::open(sender, at.is_ipv4(), 0)?);
        receiving.push(GroupSocket::open(receiver, at.is_ipv4(), at.port())?);
    }
    receiving.iter().zip(GROUPS).try_for_each(|(socket, at)| socket.join(at.ip(), Sources::All))?;
    for way in ["multicast-fdb", "flood", "vxlan-mdb"] {
        first.sh("shoutdctl stop")?;
        first.start_shoutd(&[&format!("--replication={way}")])?;
        ensure!(status(first)?["replication"] == way, "{way} is not shown: {}", status(first)?);
        for at in GROUPS {
            await_members(first, &at.ip().to_string(), &[second])?;
        }
        wait_until(&format!("{way} to send to those that it should"), SOON, || {
            receiving.iter().try_for_each(|socket| socket.received().map(drop))?;
            let captures = [Capture::of_underlay(second)?, Capture::of_underlay(third)?];
            for (socket, at) in sending.iter().zip(GROUPS) {
                (0..COUNT).try_for_each(|_| socket.send(at, b"datagram"))?;
            }
            // Broadcast goes to all hosts, by the same path.
            let broadcast = network.broadcast()?;
            last.send((broadcast, 6132), b"last")?;
            wait_until("the last datagram to come to both", SOON, || {
                let have_come =
                    captures.iter().all(|capture| sent(capture, first, broadcast.into()) > 0);
                Ok(have_come.then_some(()))
            })?;
            for (socket, at) in receiving.iter().zip(GROUPS) {
                let mut received = 0;
                wait_until("all to be received", SOON, || {
                    received += socket.received()?.len();
                    Ok((received >= COUNT).then_some(()))
                })?;
                ensure!(
                    received == COUNT,
                    "{received} of {COUNT} datagrams to {at} were received, by {way}"
                );
            }
            let wanted = [COUNT, if way == "flood" { COUNT } else { 0 }];
            let is_settled = GROUPS.iter().all(|at| {
                captures.each_ref().map(|capture| sent(capture, first, at.ip())) == wanted
            });
            Ok(is_settled.then_some(()))
        })?;
    }
    Ok(())
}

/// How many packets to an address a host has sent through the IPv6 tunnel, by this capture.
fn sent(capture: &Capture, by: &Host, to: IpAddr) -> usize {
    let frames = capture.frames();
    frames
        .iter()
        .filter_map(Frame::tunnelled_v6)
        .filter(|(from, _, frame)| *from == by.address_v6() && frame.destination() == Some(to))
        .count()
}

/// The MTU of the underlay changes while containers run.
fn mtu_follows(cluster: &mut Cluster, overhead: u16) -> Result<()> {
    let hosts = cluster.three()?;
    let network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let _fixed = Network::create(
        cluster,
        &hosts[0],
        "bar",
        &["--opt", "com.docker.network.driver.mtu=1300"],
    )?;
    let containers = one_on_each(&hosts, "foo", &[WITH_IPV6])?;
    let fixed = Container::start(&hosts[0], "bar", &[])?;
    for mtu in [1400, 9000, 1500] {
        for host in &hosts {
            host.sh(&format!("ip link set eth0 mtu {mtu}"))?;
        }
        for (host, container) in hosts.iter().zip(&containers) {
            await_mtu(host, container, &network, mtu - overhead)?;
        }
        all_receive(&containers, LARGE)?;
    }
    // The smallest MTU counts, and larger datagrams arrive in fragments.
    hosts[0].sh("ip link set eth0 mtu 9000")?;
    for (host, container) in hosts.iter().zip(&containers) {
        await_mtu(host, container, &network, 1500 - overhead)?;
    }
    all_receive(&containers, LARGE)?;
    hosts[0].sh("ip link set eth0 mtu 1500")?;
    ensure!(mtu_of(&fixed)? == 1300, "a network's own MTU did not stay");
    Ok(())
}

/// Waits until the container's interface and all devices of the network on its host have this MTU.
fn await_mtu(host: &Host, container: &Container, network: &Network, wanted: u16) -> Result<()> {
    let show = format!("ip netns exec {} ip -oneline link show", network.segment_name()?);
    wait_until(&format!("MTU {wanted} on {}", host.name()), SOON, || {
        let devices = host.sh(&show)?;
        let mut ours =
            devices.lines().filter(|line| line.contains(": sh") && !line.contains(": shoutup0"));
        let all = ours.all(|line| line.contains(&format!(" mtu {wanted} ")));
        Ok((all && mtu_of(container)? == wanted).then_some(()))
    })
}

fn mtu_of(container: &Container) -> Result<u16> {
    Ok(container.sh("cat /sys/class/net/eth0/mtu")?.trim().parse()?)
}

/// The first container sends these streams at once, and all others must receive them.
fn all_receive(containers: &[Container], streams: [Stream<'_>; 2]) -> Result<()> {
    let [sender, receivers @ ..] = containers else { bail!("no containers") };
    let receivers: Vec<&Container> = receivers.iter().collect();
    thread::scope(|scope| {
        let sending = streams.map(|stream| {
            scope.spawn({
                let receivers = &receivers;
                move || stream.send_undisturbed(sender, receivers, 2)
            })
        });
        sending
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })
}
