//! Faults of hosts, and wrong questions.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{
    Cluster, Container, GroupSocket, Network, SOON, Sources, one_on_each, status, view,
};
use shoutd_lab::{Host, wait_until};

use super::{GROUP, cause, ensure_named};

/// How soon a tunnel that does not carry must be known, and how much longer a busy machine may
/// take.
const KNOWN_WITHIN: Duration = Duration::from_secs(15);

/// The daemon of a receiver's host does not run, then that of a sender's.
pub(crate) fn a_daemon_that_does_not_run(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers: Vec<Container> = one_on_each(&hosts, "foo", &[])?;
    let others = [hosts[0].clone(), hosts[2].clone()];
    hosts[1].sh("shoutdctl stop")?;
    let named = format!("shoutd on {} does not answer", hosts[1].name());
    ensure_named(&others, &["--from", &containers[0].name, GROUP], &named)?;
    ensure_named(&others, &["--to", &containers[0].name, GROUP], &named)?;
    // A host of another tier sends and receives as before.
    hosts[1].sh("shoutdctl start --replication=multicast-fdb")?;
    let member = GroupSocket::open(&containers[1], true, 5001)?;
    member.join("224.1.1.1".parse()?, Sources::All)?;
    for (from, to) in [(0, 1), (1, 2), (2, 1)] {
        let options = ["--from", &containers[from].name, "--to", &containers[to].name, GROUP];
        let expected = (to == 2).then_some("has not joined 224.1.1.1");
        wait_until("hosts of two tiers to understand each other", SOON, || {
            let found = cause(&hosts[0], &options)?;
            let is_right = match (&found, expected) {
                (None, None) => true,
                (Some(found), Some(expected)) => found.contains(expected),
                _ => false,
            };
            Ok(is_right.then_some(()))
        })?;
    }
    hosts[1].sh("shoutdctl stop; shoutdctl start --replication=vxlan-mdb").map(drop)
}

pub(crate) fn what_does_not_exist(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &[])?;
    for (arguments, code, expected) in [
        ("--network bar 224.1.1.1", 1, "there is no network bar in the cluster"),
        ("--network foo 10.0.0.1", 1, "10.0.0.1 is not a multicast address"),
        ("--network foo --to web 224.1.1.1", 1, "network foo has no container web; it has none"),
        ("--network foo group", 2, "not a group"),
    ] {
        let output = hosts[0].run(["sh", "-c", &format!("shoutdctl why {arguments}")])?;
        ensure!(
            output.code == code
                && output.stderr.contains(expected)
                && output.stderr.trim().lines().count() == 1,
            "shoutdctl why {arguments}: {output}"
        );
    }
    Ok(())
}

/// What is dropped of VXLAN, and what is said then of the tunnel from the first host to the second.
const BLOCKED: [[&str; 2]; 2] =
    [["", "nothing that"], ["meta length '>' 1000", "large packets that"]];

/// VXLAN from the first host to the second is blocked, TCP is not.
pub(crate) fn a_tunnel_that_does_not_carry(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers: Vec<Container> = one_on_each(&hosts, "foo", &[])?;
    let member = GroupSocket::open(&containers[1], true, 5001)?;
    member.join("224.1.1.1".parse()?, Sources::All)?;
    let options = ["--from", &containers[0].name, "--to", &containers[1].name, GROUP];
    await_carrying(&hosts)?;
    ensure!(cause(&hosts[2], &options)?.is_none(), "{:?}", cause(&hosts[2], &options)?);
    for [condition, said] in BLOCKED {
        hosts[1].sh(&format!(
            "nft add table ip blocked && nft add chain ip blocked input '{{ type filter hook \
             input priority 0; }}' && nft add rule ip blocked input ip saddr {} udp dport 7789 \
             {condition} drop",
            hosts[0].address()
        ))?;
        let begin = Instant::now();
        let text = format!("{said} {} sends through the tunnel", hosts[0].name());
        for host in &hosts[..2] {
            wait_until(&format!("{} to know it", host.name()), SOON, || {
                let status = status(host)?;
                let mut problems = status["problems"].as_array().into_iter().flatten();
                let is_said =
                    problems.any(|one| one.as_str().is_some_and(|one| one.contains(&text)));
                Ok(is_said.then_some(()))
            })?;
        }
        println!("{said}: known after {:?} of {KNOWN_WITHIN:?}", begin.elapsed());
        ensure_named(&hosts, &options, &text).context("why")?;
        ensure!(
            status(&hosts[2])?["problems"].as_array().is_some_and(Vec::is_empty),
            "the third host has problems: {}",
            status(&hosts[2])?["problems"]
        );
        // The other direction carries.
        let back = ["--from", &containers[1].name, "--to", &containers[0].name];
        let found = cause(&hosts[2], &back)?;
        ensure!(found.is_none(), "the other direction: {found:?}");
        hosts[1].sh("nft delete table ip blocked")?;
        await_carrying(&hosts)?;
    }
    Ok(())
}

/// Waits until each host sees that its tunnels to the others carry in both directions.
fn await_carrying(hosts: &[Host]) -> Result<()> {
    for host in hosts {
        wait_until(&format!("the tunnels of {} to carry", host.name()), SOON, || {
            let rows = view(host, "hosts")?;
            let others = rows.as_array().context("a list")?.iter();
            let mut others = others.filter(|row| row["this_host"] == false);
            let carries = others.all(|row| {
                row["tunnel"]["inbound"] == "carries" && row["tunnel"]["outbound"] == "carries"
            });
            Ok(carries.then_some(()))
        })?;
    }
    Ok(())
}
