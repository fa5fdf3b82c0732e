//! Whether the first datagrams of a container that has just started are received.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::await_members;
use super::finding;
use crate::report::{Finding, Limit};
use crate::ways::{Ends, findings, number};
use crate::{NETWORK, helper_program};

/// The destinations of first datagrams: the network's broadcast address, and a group.
const BROADCAST: &str = "10.202.0.255:5070";
const GROUP: &str = "239.82.0.1:5072";
const GROUP_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 82, 0, 1));

/// How long all of it may take, in seconds.
const SECONDS: f64 = 250.0;

const RUN_DEADLINE: Duration = Duration::from_secs(30);

/// The number that marks the end; see the helper.
const END: u32 = u32::MAX;

/// Starts containers on all hosts in turn, whose programs broadcast and multicast before anything
/// else, while a container on each host receives. The new containers also receive broadcasts from
/// the first host.
pub(super) fn measure(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let containers: u32 = if quick { 8 } else { 40 };
    let hosts = usize::from(ends.count());
    let mut listening = Vec::new();
    for number in 1..=hosts {
        let end = ends.on(number)?;
        let hear =
            format!("hear-first-words {BROADCAST} {GROUP} {} --seconds {SECONDS}", end.place());
        listening.push(end.ready_helper(&hear)?);
    }
    let near = ends.on(1)?;
    ends.hosts().try_for_each(|host| await_members(host, GROUP_ADDRESS, hosts))?;
    let mut beacon = near.ready_helper(&format!("beacon {BROADCAST} --seconds {SECONDS}"))?;
    let mut deaf = Vec::new();
    for container in 0..containers {
        let host = container as usize % hosts + 1;
        deaf.push(say(ends, host, container)?);
    }
    beacon.kill()?;
    near.run_helper(&format!("first-words {BROADCAST} {GROUP} --number {END}"), 5.0)?;
    let (mut broadcast, mut multicast) = (Vec::new(), Vec::new());
    for receiver in &mut listening {
        let received = findings(receiver, SECONDS)?;
        broadcast.push(f64::from(containers) - number(&received, "broadcast")?);
        multicast.push(f64::from(containers) - number(&received, "multicast")?);
    }
    let remark = format!(
        "of {containers} containers, started on all hosts in turn; one sample for each receiving \
         container, one per host"
    );
    let broadcast = finding(
        "a container's first broadcast, sent at its start, not received",
        "datagrams",
        broadcast,
    );
    let multicast = finding("its first multicast not received", "datagrams", multicast);
    let most = Some(Limit::Each(0.0));
    let heard =
        "after the program made its socket; another host sends a broadcast every millisecond";
    let deaf =
        finding("a container that starts: until it receives the others' broadcasts", "ms", deaf);
    Ok(vec![
        Finding { most, remark: remark.clone(), ..broadcast },
        Finding { most, remark, ..multicast },
        Finding { remark: heard.to_owned(), ..deaf },
    ])
}

/// Starts a container that sends this number. Returns for how many milliseconds it did not receive
/// from the others.
fn say(ends: &Ends, host: usize, spoken: u32) -> Result<f64> {
    let host = &ends.on(host)?.host;
    let program = format!("{}:/helper:ro", helper_program()?);
    let (option, spoken) = (format!("--network={NETWORK}"), spoken.to_string());
    let output = host.run_for(
        RUN_DEADLINE,
        [
            "docker",
            "run",
            "--rm",
            "--volume",
            "/usr/lib:/usr/lib:ro",
            "--volume",
            &program,
            &option,
            "debian",
        ]
        .into_iter()
        .chain([
            "/helper",
            "bench-helper",
            "first-words",
            BROADCAST,
            GROUP,
            "--number",
            &spoken,
        ]),
    )?;
    ensure!(
        output.success(),
        "the container that sends {spoken} on {} failed, {output}",
        host.name()
    );
    let Some(line) = output.stdout.lines().next_back() else {
        bail!("the container that sends {spoken} printed nothing")
    };
    let found: Value = serde_json::from_str(line).with_context(|| format!("it said {line:?}"))?;
    number(&found, "deaf")
}
