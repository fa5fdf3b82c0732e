//! Something else on a host removes what shoutd made in the kernel.

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{
    Cluster, Container, GroupSocket, Network, SOON, Sources, await_members, await_network,
    one_on_each, status,
};
use shoutd_lab::{Host, Process, wait_until};

use super::{GROUP, cause, ensure_named};

/// A program that does this on a host again and again, until it is dropped.
fn again_and_again(host: &Host, command: &str) -> Result<Process> {
    let script = format!("while :; do {command}; sleep 0.05; done");
    host.spawn(["sh", "-c", &script])
}

fn await_cause(hosts: &[Host], options: &[&str], text: &str) -> Result<()> {
    let mut last = String::new();
    let named = wait_until(&format!("{text:?} to be named"), SOON, || {
        let named = ensure_named(hosts, options, text);
        last = named.as_ref().err().map(ToString::to_string).unwrap_or_default();
        Ok(named.is_ok().then_some(()))
    });
    named.with_context(|| last)
}

fn await_nothing_broken(asked: &Host, options: &[&str]) -> Result<()> {
    wait_until("nothing to be broken", SOON, || Ok(cause(asked, options)?.is_none().then_some(())))
}

pub(crate) fn what_is_removed_again_and_again(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let network = Network::create(cluster, first, "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receiver, _] = &containers[..] else { anyhow::bail!("three containers") };
    let member = GroupSocket::open(receiver, true, 5001)?;
    member.join("224.1.1.1".parse()?, Sources::All)?;
    await_members(first, "224.1.1.1", &[second])?;
    let ends = ["--from", &sender.name, "--to", &receiver.name];
    let options = [&ends[..], &[GROUP]].concat();
    await_nothing_broken(third, &options)?;
    let segment = network.segment_name()?;
    let flood = format!(
        "bridge -netns {segment} fdb del 00:00:00:00:00:00 dev shoutvx0 dst {}",
        second.address()
    );
    for (host, command, what) in [
        (first, format!("ip -netns {segment} link del shoutvx0"), "VXLAN device"),
        (second, format!("ip -netns {segment} link del shoutvx0"), "VXLAN device"),
        (first, flood, "flood entry"),
    ] {
        let removes = again_and_again(host, &command)?;
        let text = format!("something else on {} removes the network's {what} again", host.name());
        await_cause(std::slice::from_ref(third), &options, &text)?;
        let problem = format!("something else on this host removed its {what}");
        wait_until(&format!("{} to tell it", host.name()), SOON, || {
            Ok(status(host)?["problems"].to_string().contains(&problem).then_some(()))
        })?;
        drop(removes);
        await_nothing_broken(third, &options)?;
    }
    an_entry_is_removed(&network, &hosts, &options)?;
    snooping_is_switched_off(second, &segment, &options)
}

/// A bridge that does not snoop floods multicast: nothing is lost, and its host's status says so.
fn snooping_is_switched_off(host: &Host, segment: &str, options: &[&str]) -> Result<()> {
    let off = format!("ip -netns {segment} link set shoutbr0 type bridge mcast_snooping 0");
    let switches = again_and_again(host, &off)?;
    wait_until("the bridge that does not snoop to be told", SOON, || {
        let problems = status(host)?["problems"].to_string();
        Ok(problems.contains("the bridge on this host does not snoop").then_some(()))
    })?;
    ensure!(cause(host, options)?.is_none(), "{:?}", cause(host, options)?);
    drop(switches);
    wait_until("the host to be well again", SOON, || {
        Ok(status(host)?["problems"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })
}

/// The table is read every 10 s: until then the entry is missing.
fn an_entry_is_removed(network: &Network, hosts: &[Host; 3], options: &[&str]) -> Result<()> {
    let [first, second, third] = hosts;
    let text = format!("does not send 224.1.1.1 to {}", second.name());
    let group = "224.1.1.1".parse()?;
    let named = wait_until("the missing entry to be named", SOON, || {
        network.remove_tunnel_group(first, group)?;
        let found = cause(third, options)?;
        Ok(found.is_some_and(|found| found.contains(&text)).then_some(()))
    });
    named?;
    await_nothing_broken(third, options)
}

/// A host has another Docker network of the same name.
pub(crate) fn another_network_of_the_name(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    third.docker(["network", "create", "--subnet", "10.99.0.0/24", "foo"])?;
    let _foo = Network::create_here(cluster, first, "foo", &[])?;
    await_network(second, "foo")?;
    let containers = one_on_each(&hosts[..2], "foo", &[])?;
    let text = "network foo cannot be created on this host, which already has a Docker network";
    let mut last = String::new();
    wait_until("the other network to be named", SOON, || {
        let output = second.run(["shoutdctl", "why", "--network", "foo"])?;
        last = output.to_string();
        let named = last.lines().any(|line| line.contains(&third.name()) && line.contains(text));
        Ok(named.then_some(()))
    })
    .with_context(|| last)?;
    drop(containers);
    third.docker(["network", "rm", "foo"])?;
    await_network(third, "foo")
}

/// The host of the receiver was removed from the cluster, and still has its containers.
pub(crate) fn a_removed_host(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _foo = Network::create(cluster, first, "foo", &[])?;
    let sender = Container::start(first, "foo", &[])?;
    let receiver = Container::start(third, "foo", &[])?;
    first.sh(&format!("shoutdctl remove --force {}", third.name()))?;
    let options =
        ["why", "--network", "foo", "--from", &sender.name, "--to", &receiver.name, GROUP];
    let output = second.run(["shoutdctl"].iter().chain(&options))?;
    let text = format!("network foo has no container {}", receiver.name);
    ensure!(output.code == 1 && output.stderr.contains(&text), "{output}");
    let mut last = String::new();
    wait_until("the removed host to say so", SOON, || {
        let output = third.run(["shoutdctl", "status"])?;
        last = output.to_string();
        Ok((!output.success() && last.contains("removed")).then_some(()))
    })
    .with_context(|| last)?;
    third.sh("rm -rf /var/lib/shoutd/*")?;
    cluster.join(third, first)?;
    receiver.remove()
}

/// The engine of the receiver's host hangs: the containers are still known by name.
pub(crate) fn an_engine_that_hangs(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _foo = Network::create(cluster, first, "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receiver, _] = &containers[..] else { anyhow::bail!("three containers") };
    let options = ["--from", &sender.name, "--to", &receiver.name, GROUP];
    ensure_named(std::slice::from_ref(third), &options, "has not joined 224.1.1.1")?;
    let engine = second.pids_of("dockerd")?;
    second.signal("STOP", &engine)?;
    let named = ensure_named(std::slice::from_ref(third), &options, "has not joined 224.1.1.1");
    let told = wait_until("the engine that hangs to be a problem", SOON, || {
        let output = third.run(["shoutdctl", "status", "--cluster"])?;
        Ok(output.stdout.contains("does not serve its Docker Engine").then_some(()))
    });
    second.signal("CONT", &engine)?;
    named.and(told)?;
    wait_until("the engine to be well", SOON, || {
        let output = third.run(["shoutdctl", "status", "--cluster"])?;
        Ok(output.success().then_some(()))
    })
}
