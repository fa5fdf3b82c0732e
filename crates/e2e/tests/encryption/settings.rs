//! The settings of encryption: the cluster's default, the port, and which WireGuard is used.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use shoutd_e2e::{
    Cluster, Container, Network, Numbered, NumberedReceiver, SOON, one_on_each, status,
};
use shoutd_lab::{Host, wait_until};

use crate::userspace;

pub fn always(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    if userspace(second)?.is_some() {
        second.sh("mount --bind /dev/null /dev/net/tun")?;
        let refused = second.run(["shoutdctl", "start", "--encrypt=always"])?;
        second.sh("umount /dev/net/tun")?;
        let told = "--encrypt=always is not in force: this host cannot encrypt";
        ensure!(!refused.success() && refused.stderr.contains(told), "it is told: {refused}");
    }
    second.sh("shoutdctl start --encrypt=always")?;
    for host in &hosts {
        wait_until("the default to be agreed", SOON, || {
            Ok((status(host)?["encryption"]["encrypt"] == "always").then_some(()))
        })?;
    }
    let network = Network::create(cluster, third, "foo", &[])?;
    ensure!(network.row(first)?["encrypted"] == true, "it is not encrypted");
    let shown = first.docker(["network", "inspect", "foo"])?;
    ensure!(shown.contains("\"shoutd.encrypted\": \"true\""), "it is not shown: {shown}");
    let plain = ["--opt=encrypted=false", "--subnet=10.96.0.0/24", "bar"];
    let plain = ["docker", "network", "create", "--driver=shoutd"].iter().chain(&plain);
    let refused = first.run(plain)?;
    let told = "all new networks of this cluster are encrypted";
    ensure!(!refused.success() && refused.stderr.contains(told), "it is told: {refused}");
    let containers = one_on_each(&hosts, "foo", &[])?;
    containers[0].ping(&containers[2].name)?;
    drop(containers);
    network.remove_on(second)?;
    // The next start asks for nothing: the default is the cluster's.
    restart(second, &[])?;
    ensure!(status(second)?["encryption"]["encrypt"] == "always", "it is forgotten");
    first.sh("shoutdctl start --encrypt=on-request")?;
    let network = Network::create(cluster, first, "foo", &["--opt", "encrypted=false"])?;
    ensure!(network.row(third)?["encrypted"] == false, "it is encrypted");
    network.remove_on(first)
}

fn restart(host: &Host, arguments: &[&str]) -> Result<()> {
    host.sh("shoutdctl stop")?;
    host.start_shoutd(arguments).map(drop)
}

/// Whether a program or the kernel receives at this UDP port of a host.
fn has_port(host: &Host, port: u16) -> Result<bool> {
    Ok(host.sh("cat /proc/net/udp /proc/net/udp6")?.contains(&format!(":{port:04X} ")))
}

pub fn port(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let network = Network::create(cluster, first, "foo", &["--opt", "encrypted"])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let to: SocketAddr = (containers[1].address("foo")?, 6021).into();
    let mut receiver = NumberedReceiver::start(&containers[1], to)?;
    let sender = Numbered::begin(&containers[0], &[to])?;
    receiver.await_number(0)?;
    restart(second, &["--wireguard-port=7793"])?;
    wait_until("the other port to be open", SOON, || {
        Ok((has_port(second, 7793)? && !has_port(second, 7792)?).then_some(()))
    })?;
    ensure!(status(second)?["encryption"]["wireguard_port"] == 7793, "it is not shown");
    sender.await_more(100)?;
    let last = sender.end()?;
    receiver.await_number(last)?;
    let received = u32::try_from(receiver.received()?.len())?;
    println!("{} of {} datagrams were lost", last + 1 - received, last + 1);
    all_reach(&containers)?;
    occupied(third)?;
    all_reach(&containers)?;
    for host in [second, third] {
        restart(host, &[])?;
        wait_until("the usual port to be open", SOON, || {
            Ok((has_port(host, 7792)? && !has_port(host, 7793)?).then_some(()))
        })?;
    }
    all_reach(&containers)?;
    drop(containers);
    network.remove_on(first)
}

/// Another program has the port, and ends.
fn occupied(host: &Host) -> Result<()> {
    let mut other = host.spawn(["socat", "-u", "UDP4-RECV:7793", "-"])?;
    wait_until("another program to have the port", SOON, || {
        Ok(has_port(host, 7793)?.then_some(()))
    })?;
    restart(host, &["--wireguard-port=7793"])?;
    wait_until("the port to be missed", SOON, || {
        let problems = status(host)?["problems"].to_string();
        Ok(problems.contains("UDP port 7793 is in use by another program").then_some(()))
    })?;
    other.kill()?;
    wait_until("the problem to be gone", SOON, || {
        Ok((status(host)?["problems"] == serde_json::json!([])).then_some(()))
    })
}

fn all_reach(containers: &[Container]) -> Result<()> {
    for from in containers {
        for to in containers {
            let address = to.address("foo")?;
            wait_until("all containers to reach each other", SOON, || {
                let ping = from.try_sh(&format!("ping -c 1 -W 1 {address}"))?;
                Ok(ping.success().then_some(()))
            })?;
        }
    }
    Ok(())
}

/// The other WireGuard takes over, if this kernel has both; else the missing one is refused.
pub fn tier(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, _] = &hosts;
    let network = Network::create(cluster, first, "foo", &["--opt", "encrypted"])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    if userspace(second)?.is_some() {
        second.sh("shoutdctl stop")?;
        let refused = second.run(["shoutdctl", "start", "--wireguard=kernel"])?;
        let told = "this kernel has no WireGuard, which --wireguard=kernel needs";
        ensure!(!refused.success() && refused.stderr.contains(told), "it is told: {refused}");
        second.start_shoutd(&["--wireguard=userspace"])?;
    } else {
        restart(second, &["--wireguard=userspace"])?;
        wait_until("WireGuard in user space", SOON, || userspace(second))?;
    }
    ensure!(status(second)?["encryption"]["wireguard"] == "userspace", "it is not shown");
    all_reach(&containers)?;
    restart(second, &[])?;
    all_reach(&containers)?;
    drop(containers);
    network.remove_on(first)
}
