//! A host whose clock is wrong, and one whose certificate expired while it was down. No clock of
//! the machine is touched: a library that is loaded into shoutd tells it another time.

use std::ops::Deref;

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{Cluster, Container, Network, SOON, Stream, one_on_each, status, view};
use shoutd_lab::{Host, Process, wait_until};

use crate::start_all;

/// Begins `shoutdctl start`, with a clock that is so far from the right one (`+200d`, `-12y`).
fn begin_start(host: &Host, offset: &str) -> Result<Process> {
    let library = host.sh("find /usr/lib -name libfaketime.so.1 | head -n 1")?;
    let library = library.trim();
    ensure!(!library.is_empty(), "libfaketime is missing: install Debian's package faketime");
    let variables = [
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME={offset}"),
        // What measures how long something takes goes on as on a host whose clock is wrong.
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    let words =
        ["env"].into_iter().chain(variables.iter().map(Deref::deref)).chain(["shoutdctl", "start"]);
    host.spawn(words)
}

fn start_with_clock(host: &Host, offset: &str) -> Result<()> {
    let output = begin_start(host, offset)?.wait(SOON)?;
    ensure!(
        output.success(),
        "the first start with the clock at {offset} failed on {}: {output}",
        host.name()
    );
    Ok(())
}

fn problems(host: &Host) -> Result<String> {
    Ok(status(host)?["problems"].to_string())
}

fn await_no_problems(hosts: &[Host]) -> Result<()> {
    for host in hosts {
        let mut found = String::new();
        let none = wait_until("nothing to be wrong", SOON, || {
            found = problems(host)?;
            Ok((found == "[]").then_some(()))
        });
        none.with_context(|| format!("on {}: {found}", host.name()))?;
    }
    Ok(())
}

/// Waits until a host says in its status and its events that it and another do not trust each
/// other.
fn await_distrust(host: &Host, other: &Host) -> Result<()> {
    let line = format!("cannot talk to {}: ", other.name());
    let mut found = String::new();
    let told = wait_until("the status to say so", SOON, || {
        found = problems(host)?;
        Ok((found.contains(&line) && found.contains("clock")).then_some(()))
    });
    told.with_context(|| format!("{} on {}, of {}", found, host.name(), other.name()))?;
    wait_until("the events to say so", SOON, || {
        let events = view(host, "events")?;
        let events = events.as_array().context("a list of events")?;
        let is_told = events.iter().any(|event| {
            event["kind"] == "host-distrusted"
                && event["text"].as_str().is_some_and(|text| text.contains(&line))
        });
        Ok(is_told.then_some(()))
    })
}

/// Its containers are served from what the host knows, and new ones start; what is wrong with the
/// other hosts is told on both sides.
pub fn wrong(cluster: &mut Cluster) -> Result<()> {
    let (leader, [other, victim]) = cluster.leader_and_others()?;
    let hosts = [victim.clone(), other.clone(), leader.clone()];
    let network = Network::create(cluster, &leader, "foo", &["--ipam-driver", "shoutd"])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [here, elsewhere @ ..] = containers.as_slice() else { bail!("no containers") };
    let there: Vec<&Container> = elsewhere.iter().collect();
    // After the certificates of the others have expired, and before any was valid.
    for offset in ["+200d", "-12y"] {
        let to_others = Stream::default().begin(here, &there)?;
        victim.kill_shoutd()?;
        start_with_clock(&victim, offset)?;
        await_distrust(&victim, &leader)?;
        await_distrust(&leader, &victim)?;
        to_others.await_more(100)?;
        to_others.finish()?;
        let new = Container::start(&victim, "foo", &[])?;
        new.ping(&elsewhere[0].address("foo")?.to_string())?;
        Stream::default().send(elsewhere.first().context("a container")?, &[here], 1)?;
        victim.kill_shoutd()?;
        victim.start_shoutd(&[])?;
        await_no_problems(&hosts)?;
        Stream::default().send(&elsewhere[0], &[here, &new], 1)?;
    }
    drop(containers);
    network.remove_on(&victim)
}

/// All certificates expire while one host is down, which is the last that learns of the time.
pub fn certificate_expired(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [up @ .., down] = &hosts;
    let network = Network::create(cluster, down, "foo", &["--ipam-driver", "shoutd"])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    for host in &hosts {
        host.kill_shoutd()?;
    }
    let later = "+700d";
    let starting = up.iter().map(|host| begin_start(host, later)).collect::<Result<Vec<_>>>()?;
    for (mut process, host) in starting.into_iter().zip(up) {
        let output = process.wait(SOON * 2)?;
        ensure!(output.success(), "shoutdctl start on {} failed, {output}", host.name());
    }
    start_with_clock(down, later)?;
    await_no_problems(&hosts)?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    let new = Container::start(down, "foo", &[])?;
    Stream::default().send(sender, &receivers.iter().chain([&new]).collect::<Vec<_>>(), 1)?;
    for host in &hosts {
        host.kill_shoutd()?;
    }
    start_all(&hosts)?;
    await_no_problems(&hosts)?;
    drop((containers, new));
    network.remove_on(down)
}
