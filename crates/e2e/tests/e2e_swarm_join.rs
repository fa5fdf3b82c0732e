//! Nodes of a Docker Swarm start shoutd without an address and without a token: the Swarm says who
//! may join.

use std::process::ExitCode;
use std::thread;

use anyhow::{Result, bail, ensure};
use shoutd_e2e::swarm::receive_from_each_other;
use shoutd_e2e::{Cluster, Network, SOON, one_on_each, run_checks};
use shoutd_lab::{Host, wait_until};

fn main() -> ExitCode {
    run_checks(
        || Cluster::up("swarm-join", 3),
        &[
            ("a host outside of a Swarm must be told its address", outside),
            ("two managers and a worker that start at the same moment are one cluster", together),
            ("a host that leaves the Swarm stays in the cluster", leaves_swarm),
            ("a node that the Swarm has removed is refused", removed_node),
            ("a node of another Swarm founds a cluster of its own", other_swarm),
            ("a manager can be told to let no node in", closed),
        ],
    )
}

fn outside(cluster: &mut Cluster) -> Result<()> {
    let output = cluster.host(3)?.run(["shoutdctl", "start"])?;
    ensure!(
        !output.success() && output.stderr.contains("is not in a Docker Swarm; give its address"),
        "{output}"
    );
    Ok(())
}

/// Joins the Swarm of the first host.
fn join_swarm(manager: &Host, host: &Host, role: &str) -> Result<()> {
    let token = manager.docker(["swarm", "join-token", "--quiet", role])?;
    let advertise = format!("--advertise-addr={}", host.address());
    let address = format!("{}:2377", manager.address());
    host.docker(["swarm", "join", "--token", token.trim(), &advertise, &address]).map(|_| ())
}

fn begin_swarm(host: &Host) -> Result<()> {
    host.docker(["swarm", "init", &format!("--advertise-addr={}", host.address())]).map(|_| ())
}

/// Waits until `shoutdctl hosts` of this host lists so many.
fn await_hosts(host: &Host, count: usize) -> Result<()> {
    wait_until(&format!("{} to know {count} hosts", host.name()), SOON, || {
        let listed: serde_json::Value = serde_json::from_str(&host.sh("shoutdctl hosts --json")?)?;
        Ok((listed.as_array().map(Vec::len) == Some(count)).then_some(()))
    })
}

fn together(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, worker] = &hosts;
    begin_swarm(first)?;
    join_swarm(first, second, "manager")?;
    join_swarm(first, worker, "worker")?;
    thread::scope(|scope| {
        let starting: Vec<_> =
            hosts.iter().map(|host| scope.spawn(|| host.start_shoutd(&[]))).collect();
        starting.into_iter().try_for_each(|start| match start.join() {
            Ok(started) => started.map(|_| ()),
            Err(_) => bail!("a thread panicked"),
        })
    })?;
    hosts.iter().try_for_each(|host| await_hosts(host, 3))?;
    let network = Network::create(cluster, worker, "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    receive_from_each_other(&containers)?;
    drop(containers);
    network.remove_on(first)
}

fn removed_node(cluster: &mut Cluster) -> Result<()> {
    let (manager, host) = (cluster.host(1)?, cluster.add_host()?);
    join_swarm(&manager, &host, "worker")?;
    let node = host.docker(["info", "--format", "{{.Swarm.NodeID}}"])?;
    // The node does not hear of it: its certificate stays, and its engine stays active.
    host.sh("iptables -A OUTPUT -p tcp --dport 2377 -j DROP")?;
    manager.docker(["node", "rm", "--force", node.trim()])?;
    let output = host.run(["shoutdctl", "start"])?;
    host.sh("iptables -D OUTPUT -p tcp --dport 2377 -j DROP")?;
    ensure!(
        !output.success()
            && output.stderr.contains(&format!("its Swarm has no node {}", node.trim())),
        "{output}"
    );
    host.docker(["swarm", "leave", "--force"])?;
    await_hosts(&manager, 3)
}

fn other_swarm(cluster: &mut Cluster) -> Result<()> {
    let host = cluster.host(4)?;
    begin_swarm(&host)?;
    host.start_shoutd(&[])?;
    await_hosts(&host, 1)?;
    await_hosts(&cluster.host(1)?, 3)?;
    host.sh("shoutdctl stop && rm -r /var/lib/shoutd/* && docker swarm leave --force").map(|_| ())
}

fn leaves_swarm(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [_, _, worker] = &hosts;
    worker.docker(["swarm", "leave"])?;
    worker.sh("shoutdctl stop && shoutdctl start")?;
    await_hosts(worker, 3)?;
    let network = Network::create(cluster, worker, "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    receive_from_each_other(&containers)?;
    drop(containers);
    network.remove_on(worker)
}

fn closed(cluster: &mut Cluster) -> Result<()> {
    let (first, second, host) = (cluster.host(1)?, cluster.host(2)?, cluster.host(4)?);
    for manager in [&first, &second] {
        manager.sh("shoutdctl stop && shoutdctl start --swarm-join=off")?;
    }
    join_swarm(&first, &host, "worker")?;
    // It waits until an administrator approves it.
    let output = host.run(["timeout", "5", "shoutdctl", "start"])?;
    ensure!(output.to_string().contains("waits for approval"), "{output}");
    host.sh("shoutdctl stop && docker swarm leave")?;
    await_hosts(&first, 3)
}
