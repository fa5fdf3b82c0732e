//! Faults in containers.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBuf;
use shoutd_e2e::{Cluster, Container, GroupSocket, Network, SOON, Sources, one_on_each};
use shoutd_lab::wait_until;

use super::{GROUP, cause, ensure_named};

/// How long a container that comes and goes is a member, and is none.
const FLAPS: Duration = Duration::from_millis(400);

const ADDRESS: Ipv4Addr = Ipv4Addr::new(224, 1, 1, 1);

/// A sender on the first host, a receiver on the second, and a second network on which they are
/// too.
struct Pair {
    sender: Container,
    receiver: Container,
}

impl Pair {
    fn options(&self) -> [&str; 5] {
        ["--from", &self.sender.name, "--to", &self.receiver.name, GROUP]
    }

    /// Runs `ip` in a container's network namespace.
    fn ip(container: &Container, arguments: &str) -> Result<()> {
        let output = container.inside(|| {
            Command::new("ip").args(arguments.split_whitespace()).output().context("run ip")
        })?;
        ensure!(output.status.success(), "ip {arguments}: {output:?}");
        Ok(())
    }

    /// A socket of the receiver that has joined the group.
    fn join(&self, port: u16, group: Ipv4Addr, sources: Sources<'_>) -> Result<GroupSocket> {
        let socket = GroupSocket::open(&self.receiver, true, port)?;
        socket.join(group.into(), sources)?;
        Ok(socket)
    }
}

pub(crate) fn in_containers(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &[])?;
    let _other = Network::create(cluster, &hosts[0], "other", &[])?;
    let pair = Pair {
        sender: Container::start(&hosts[0], "foo", &[])?,
        receiver: Container::start(&hosts[1], "foo", &[])?,
    };
    for container in [&pair.sender, &pair.receiver] {
        container.host.docker(["network", "connect", "other", &container.name])?;
    }
    let _idle = Container::start(&hosts[2], "foo", &[])?;
    let named = |expected: &str| ensure_named(&hosts, &pair.options(), expected);
    let healthy = || {
        wait_until("nothing to be broken", SOON, || {
            Ok(cause(&hosts[2], &pair.options())?.is_none().then_some(()))
        })
    };

    named("has not joined 224.1.1.1, nor any other group").context("did not join")?;
    let general = ["--from", &pair.sender.name, "--to", &pair.receiver.name];
    ensure!(cause(&hosts[0], &general)?.is_none(), "{:?}", cause(&hosts[0], &general)?);

    let socket = pair.join(5001, Ipv4Addr::new(224, 1, 1, 2), Sources::All)?;
    named("it has joined 224.1.1.2").context("another group")?;
    drop(socket);

    let socket = pair.join(5002, ADDRESS, Sources::All)?;
    named("UDP port 5001; its ports are 5002").context("another port")?;
    drop(socket);

    let stranger: IpAddr = [10, 9, 9, 9].into();
    let socket = pair.join(5001, ADDRESS, Sources::Only(&[stranger]))?;
    // The bridge still has the membership of the socket before, until its last query times out.
    wait_until("the source filter to be named", SOON, || {
        Ok(named("the sender, is not one").is_ok().then_some(()))
    })?;
    drop(socket);

    let wrong = pair.receiver.inside(|| {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 5001)).context("open a socket")?;
        Ok(socket)
    })?;
    let address = pair.receiver.address("other")?;
    wrong.join_multicast_v4(&ADDRESS, &address).context("join on the other network")?;
    named("224.1.1.1 on eth1, not on eth0 (network foo)").context("the wrong interface")?;
    drop(wrong);

    let socket = pair.join(5001, ADDRESS, Sources::All)?;
    healthy()?;
    on_the_way(&pair, &hosts, &healthy)?;
    drop(socket);
    full_buffer(&pair, &hosts)
}

/// Faults of interfaces and routes, while the receiver has joined.
fn on_the_way(
    pair: &Pair,
    hosts: &[shoutd_lab::Host],
    healthy: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let named = |expected: &str| ensure_named(hosts, &pair.options(), expected);
    let (sender, receiver) = (&pair.sender, &pair.receiver);

    Pair::ip(sender, "route add 224.1.1.1 dev eth1")?;
    named("send 224.1.1.1 by eth1, not by eth0").context("the sender's routes")?;
    Pair::ip(sender, "route del 224.1.1.1 dev eth1")?;
    healthy()?;

    // Linux sends multicast by the interface of the address to which the socket is bound.
    let other = sender.address("other")?;
    let stream = sender.spawn(&format!("iperf -u -c 224.1.1.1 -T 4 -t 10 -B {other}"))?;
    wait_until("the selected interface to be named", SOON, || {
        Ok(named("sends multicast by eth1, which its program selected").is_ok().then_some(()))
    })?;
    drop(stream);
    wait_until("the program to end", SOON, || Ok(healthy().is_ok().then_some(())))?;

    let from = sender.address("foo")?;
    // Linux sends with a TTL of 0 unless the sender is a member, too.
    let joined =
        sender.spawn("timeout 12 socat UDP4-RECV:7000,ip-add-membership=224.1.1.1:eth0 PIPE")?;
    let silent =
        sender.spawn("timeout 12 socat PIPE UDP4-CONNECT:224.1.1.1:5001,ip-multicast-ttl=0")?;
    wait_until("the TTL to be named", SOON, || {
        Ok(named("sends multicast with a TTL of 0").is_ok().then_some(()))
    })?;
    drop((silent, joined));
    wait_until("the program to end", SOON, || Ok(healthy().is_ok().then_some(())))?;

    Pair::ip(receiver, &format!("route add {from} dev eth1"))?;
    receiver.inside(|| {
        std::fs::write("/proc/sys/net/ipv4/conf/eth0/rp_filter", "1").context("set rp_filter")
    })?;
    named("rp_filter of eth0 is 1").context("the reverse path")?;
    Pair::ip(receiver, &format!("route del {from} dev eth1"))?;
    healthy()?;

    receiver.host.docker(["pause", &receiver.name])?;
    named("is paused").context("paused")?;
    receiver.host.docker(["unpause", &receiver.name])?;
    healthy()?;

    Pair::ip(receiver, "link set eth0 down")?;
    named("interface eth0").context("interface down")?;
    Pair::ip(receiver, "link set eth0 up")?;
    healthy()
}

/// A program that does not read its socket.
fn full_buffer(pair: &Pair, hosts: &[shoutd_lab::Host]) -> Result<()> {
    let lazy = pair.receiver.inside(|| {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 5001)).context("open a socket")?;
        setsockopt(&socket, RcvBuf, &2048).context("set its buffer")?;
        Ok(socket)
    })?;
    lazy.join_multicast_v4(&ADDRESS, &pair.receiver.address("foo")?).context("join")?;
    let stream = pair.sender.spawn("iperf -u -c 224.1.1.1 -T 4 -t 20 -b 1M")?;
    wait_until("the dropped datagrams to be named", SOON, || {
        let found = cause(&hosts[0], &pair.options())?;
        Ok(found.is_some_and(|text| text.contains("fast enough")).then_some(()))
    })?;
    drop((stream, lazy));
    Ok(())
}

/// A container joins and leaves all the time, another one stays.
pub(crate) fn members_come_and_go(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let stays = GroupSocket::open(&containers[1], true, 5001)?;
    stays.join(ADDRESS.into(), Sources::All)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let flapping = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                let socket = GroupSocket::open(&containers[2], true, 5001)?;
                socket.join(ADDRESS.into(), Sources::All)?;
                thread::sleep(FLAPS);
                drop(socket);
                thread::sleep(FLAPS);
            }
            Ok(())
        });
        let asked = (0..30).try_for_each(|round| {
            let found = cause(&hosts[round % 3], &["--from", &containers[0].name, GROUP])?;
            ensure!(found.is_none(), "round {round}: {found:?}");
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        flapping.join().map_err(|_| anyhow!("a thread panicked"))??;
        asked
    })
}
