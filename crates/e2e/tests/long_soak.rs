//! A healthy cluster under load for ten minutes: containers join and leave groups, come and go, and
//! daemons and engines restart. `why` must never find anything broken that lasts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use shoutd_e2e::{Cluster, Container, GroupSocket, Network, Sources, one_on_each, run_checks};
use shoutd_lab::Host;

const TIME: Duration = Duration::from_mins(10);

const GROUP: &str = "239.1.1.1";

/// How long a member stays and stays away.
const FLAPS: Duration = Duration::from_millis(700);

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("soak", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[("nothing is broken in ten minutes of work", nothing_is_broken)],
    )
}

/// What `shoutdctl why` finds broken between these containers.
fn broken(asked: &Host, from: &Container, to: &Container) -> Result<Option<String>> {
    let options =
        ["why", "--json", "--network", "foo", "--from", &from.name, "--to", &to.name, GROUP];
    let begin = Instant::now();
    let output = asked.run(["shoutdctl"].iter().chain(&options))?;
    ensure!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
    // The daemon that is killed knows its containers, and the others do not.
    if output.code == 1 && output.stderr.contains("no answer came from") {
        return Ok(None);
    }
    let found: Value = serde_json::from_str(&output.stdout).with_context(|| output.to_string())?;
    let findings = found["findings"].as_array().context("findings")?;
    let first = findings.iter().find(|finding| finding["verdict"] == "broken");
    Ok(first.map(Value::to_string))
}

/// Does this again and again until it is over.
fn until(done: &AtomicBool, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    while !done.load(Ordering::Relaxed) {
        work()?;
    }
    Ok(())
}

fn nothing_is_broken(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _foo = Network::create(cluster, first, "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let members: Vec<GroupSocket> = containers
        .iter()
        .map(|container| {
            let socket = GroupSocket::open(container, true, 5001)?;
            socket.join(GROUP.parse()?, Sources::All)?;
            Ok(socket)
        })
        .collect::<Result<_>>()?;
    let seconds = TIME.as_secs() + 60;
    let load = format!("iperf -u -c {GROUP} -T 4 -t {seconds} -b 2M");
    let _streams = containers.iter().map(|one| one.spawn(&load)).collect::<Result<Vec<_>>>()?;
    let done = AtomicBool::new(false);
    let questions = thread::scope(|scope| {
        let work = [
            scope.spawn(|| until(&done, || flap(&containers[1]))),
            scope.spawn(|| until(&done, || come_and_go(third))),
            scope.spawn(|| until(&done, || restart(second))),
        ];
        let asked = ask(&hosts, &containers, &members);
        done.store(true, Ordering::Relaxed);
        for thread in work {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        asked
    })?;
    println!("{questions} questions, and nothing broken");
    Ok(())
}

/// Asks until the time is over. Returns how often.
fn ask(hosts: &[Host; 3], containers: &[Container], members: &[GroupSocket]) -> Result<usize> {
    let begin = Instant::now();
    let mut asked = 0;
    while begin.elapsed() < TIME {
        let (from, to) = (&containers[asked % 3], &containers[(asked + 1) % 3]);
        // The daemon of the second host restarts.
        let host = &hosts[if asked % 2 == 0 { 0 } else { 2 }];
        if let Some(found) = broken(host, from, to)? {
            // A daemon that restarts does not answer for a moment.
            ensure!(found.contains("does not answer"), "question {asked}: {found}");
        }
        // So that their buffers do not overflow.
        for member in members {
            member.received()?;
        }
        asked += 1;
        thread::sleep(PAUSE);
    }
    Ok(asked)
}

/// A second program joins and leaves.
fn flap(container: &Container) -> Result<()> {
    let socket = GroupSocket::open(container, true, 5002)?;
    socket.join("239.2.2.2".parse()?, Sources::All)?;
    thread::sleep(FLAPS);
    drop(socket);
    thread::sleep(FLAPS);
    Ok(())
}

fn come_and_go(host: &Host) -> Result<()> {
    let container = Container::start(host, "foo", &[])?;
    let socket = GroupSocket::open(&container, true, 5001)?;
    socket.join(GROUP.parse()?, Sources::All)?;
    thread::sleep(FLAPS);
    drop(socket);
    container.remove()
}

fn restart(host: &Host) -> Result<()> {
    thread::sleep(Duration::from_secs(20));
    host.kill_shoutd()?;
    host.start_shoutd(&[]).map(drop)
}
