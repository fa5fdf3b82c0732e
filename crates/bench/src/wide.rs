//! One sender and many hosts.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use shoutd_lab::{Host, Lab};
use shoutd_tooling::terminal::show_progress;

use super::alone::await_members;
use super::compared::{Measurement, Stream};
use super::report::{Finding, Limit};
use super::ways::{End, Ends, Group, Way, findings, number};
use super::{Found, MANY_HOSTS, Options, measure_once};

/// The stream that is counted on the underlay: datagrams per second, and seconds.
const RATE: u32 = 1000;
const SECONDS: f64 = 2.0;

/// Measures a sender's throughput to all of many hosts, then to three of the largest number of
/// hosts.
pub(super) fn measure(
    lab: &mut Lab,
    join: &[String],
    ways: &mut [Ends],
    options: &Options,
    deadline: Instant,
    found: &mut Found,
) -> Result<()> {
    let receivers = grow(lab, join, ways, options.hosts().min(MANY_HOSTS), deadline)? - 1;
    let (large, small) = (
        format!("1 → {receivers}, 1400 B, per receiver"),
        format!("1 → {receivers}, 64 B, per receiver"),
    );
    let to_all = [
        Measurement::multicast(Stream::Throughput, Group::All, "to all hosts", &large),
        Measurement::multicast(Stream::PacketRate, Group::All, "to all hosts", &small),
    ];
    measure_rounds(to_all, ways, options, deadline, found);
    let hosts = grow(lab, join, ways, options.hosts(), deadline)?;
    let (large, small) = (
        format!("1 → 3 of {hosts}, 1400 B, per receiver"),
        format!("1 → 3 of {hosts}, 64 B, per receiver"),
    );
    let to_three = [
        Measurement::multicast(Stream::Throughput, Group::Three, "to three of all hosts", &large),
        Measurement::multicast(Stream::PacketRate, Group::Three, "to three of all hosts", &small),
    ];
    measure_rounds(to_three, ways, options, deadline, found);
    let ours = ways.iter().find(|ends| ends.way == Way::Shoutd).context("no way of shoutd's")?;
    match copies(ours, lab.hosts()) {
        Ok(findings) => found.findings.extend(findings),
        Err(error) => {
            found.note(&format!("copies to hosts without receivers, of {hosts}: {error:#}"));
        }
    }
    Ok(())
}

/// Brings hosts up until there are as many as wanted, and returns their number. Fails when no time
/// is left.
fn grow(
    lab: &mut Lab,
    join: &[String],
    ways: &mut [Ends],
    wanted: u8,
    deadline: Instant,
) -> Result<usize> {
    while lab.hosts().len() < wanted.into() {
        let hosts = lab.hosts().len();
        ensure!(
            Instant::now() < deadline,
            "no time was left for more than {hosts} of {wanted} hosts"
        );
        let host = lab.add_host()?.clone();
        show_progress(&format!("{}: joining", host.name()));
        let address = host.address().to_string();
        let arguments: Vec<&str> =
            [address.as_str()].into_iter().chain(join.iter().map(String::as_str)).collect();
        host.start_shoutd(&arguments)?;
        for ends in ways.iter_mut().filter(|ends| matches!(ends.way, Way::ByHand | Way::Shoutd)) {
            ends.extend(&host)
                .with_context(|| format!("extend to {}: {}", host.name(), ends.way))?;
        }
    }
    Ok(lab.hosts().len())
}

fn measure_rounds(
    mut measurements: [Measurement; 2],
    ways: &[Ends],
    options: &Options,
    deadline: Instant,
    found: &mut Found,
) {
    for round in 1..=options.rounds() {
        if Instant::now() > deadline {
            found.note(&format!(
                "no time was left for more than {} rounds with many hosts",
                round - 1
            ));
            break;
        }
        for measurement in &mut measurements {
            measure_once(measurement, round, ways, options, found);
        }
    }
    found.measurements.extend(measurements);
}

/// The copies that reach the hosts without receivers while three hosts have one.
fn copies(ends: &Ends, hosts: &[Host]) -> Result<Vec<Finding>> {
    let at = format!("{}:5040", Group::Three.address());
    let limit = SECONDS + 20.0;
    let (with, without): (Vec<&Host>, Vec<&Host>) =
        hosts.iter().skip(1).partition(|host| Group::Three.is_received_on(host.number()));
    let mut receivers = Vec::new();
    for host in with {
        let end = ends.on(host.number().into())?;
        receivers
            .push(end.ready_helper(&format!("receive {at} {} --seconds {limit}", end.place()))?);
    }
    await_members(&ends.on(1)?.host, Group::Three.address(), receivers.len())?;
    let watched = SECONDS + 4.0;
    let group = Group::Three.address();
    let mut watching = Vec::new();
    for host in &without {
        let arguments = format!("watch --interface eth0 --group {group} --seconds {watched}");
        watching.push(End::of_host(host).ready_helper(&arguments)?);
    }
    let near = ends.on(1)?;
    let send = format!("send {at} {} --size 1000 --rate {RATE} --seconds {SECONDS}", near.place());
    let sent = near.run_helper(&send, SECONDS)?;
    let mut frames = Vec::new();
    for process in &mut watching {
        frames.push(number(&findings(process, watched)?, "frames")?);
    }
    for process in &mut receivers {
        findings(process, limit)?;
    }
    Ok(vec![Finding {
        title: format!(
            "copies sent to each of {} hosts without receivers, of {}",
            without.len(),
            hosts.len()
        ),
        unit: "packets",
        samples: frames,
        most: Some(Limit::Each(0.0)),
        remark: format!(
            "{} packets were sent to a group with receivers on three hosts",
            number(&sent, "sent")?
        ),
    }])
}
