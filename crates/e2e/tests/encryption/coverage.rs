//! Encrypted networks with the options that networks have, and addresses that move.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{
    Cluster, Container, GroupSocket, Network, SOON, Sources, WITH_IPV6, await_members,
    carries_up_to, one_on_each,
};
use shoutd_lab::wait_until;

/// A group, and the UDP port of its datagrams.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 8, 8);
const PORT: u16 = 6161;

/// Datagrams that a container sends at once, far more than `shoutd.max-rate` lets pass.
const STORM: usize = 500;

/// An address in the middle of the subnet, where neither Docker nor shoutd gives out addresses.
const MOVING: &str = "10.97.0.77";

pub fn options(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let options = [
        "--opt=encrypted",
        "--internal",
        "--ipv6",
        "--subnet=10.97.0.0/24",
        "--subnet=fd00:97::/64",
        "--opt=shoutd.max-rate=20",
        "--opt=shoutd.mac-moves=off",
    ];
    let network = Network::create(cluster, &hosts[0], "foo", &options)?;
    ensure!(network.row(&hosts[2])?["encrypted"] == true, "it is not encrypted");
    let containers = one_on_each(&hosts, "foo", &[WITH_IPV6])?;
    for container in &containers {
        let interfaces = container.sh("ip -oneline -4 address show scope global")?;
        ensure!(interfaces.lines().count() == 1, "on an internal network it has {interfaces}");
    }
    let [sender, receiver, _] = containers.as_slice() else { bail!("no containers") };
    let address = receiver.address_v6("foo")?;
    wait_until("IPv6 to pass", SOON, || {
        let ping = sender.try_sh(&format!("ping6 -c 1 -W 1 {address}"))?;
        Ok(ping.success().then_some(()))
    })?;
    limited(sender, receiver)?;
    // A container with the same address starts on one host after the other.
    for host in [&hosts[1], &hosts[2], &hosts[1]] {
        let moving = Container::start(host, "foo", &[&format!("--ip={MOVING}")])?;
        sender.ping(MOVING).with_context(|| format!("on {}", host.name()))?;
        moving.remove()?;
    }
    drop(containers);
    network.remove_on(&hosts[2])
}

/// Of a storm of multicast, the sender's host lets only a part pass.
fn limited(sender: &Container, receiver: &Container) -> Result<()> {
    let receiving = GroupSocket::open(receiver, true, PORT)?;
    receiving.join(GROUP.into(), Sources::All)?;
    await_members(&sender.host, &GROUP.to_string(), &[&receiver.host])?;
    let to = receiver.address("foo")?;
    for (from, to) in [(sender, to), (receiver, sender.address("foo")?)] {
        from.ping(&to.to_string())?;
    }
    let sending = GroupSocket::open(sender, true, 0)?;
    (0..STORM).try_for_each(|_| sending.send((GROUP, PORT), b"storm"))?;
    sending.send((to, PORT), b"last")?;
    let mut received = Vec::new();
    wait_until("unicast to be received", SOON, || {
        received.extend(receiving.received()?.into_iter().map(|(_, text)| text));
        Ok(received.iter().any(|text| text == b"last").then_some(()))
    })?;
    let passed = received.iter().filter(|text| *text == b"storm").count();
    ensure!((1..STORM / 2).contains(&passed), "of {STORM} datagrams {passed} passed");
    Ok(())
}

pub fn largest(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let network = Network::create(cluster, &hosts[0], "foo", &["--opt=encrypted"])?;
    let containers = one_on_each(&hosts[..2], "foo", &[])?;
    // Of 1500 octets, WireGuard takes 60, and VXLAN over IPv6 takes 70.
    carries_up_to(1370, &containers[0], &containers[1], "foo")?;
    drop(containers);
    network.remove_on(&hosts[0])
}
