//! Time over the network: linuxptp's master on one host, its slaves on the others.
//!
//! No clock is ever set: with `free_running` ptp4l only measures, and the containers lack
//! `CAP_SYS_TIME`. A slave that sets no clock stays UNCALIBRATED and prints what it measures. All
//! hosts have the machine's clock, so a slave with a master has to measure an offset near zero.

use std::thread;

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{Cluster, Container, Network, SOON, WITH_IPV6, one_on_each};
use shoutd_lab::{Host, Process, wait_until};

/// linuxptp and its libraries, and no capability beyond Docker's defaults.
const WITH_PTP: [&str; 3] =
    ["--volume=/usr/lib:/usr/lib:ro", "--volume=/usr/sbin/ptp4l:/usr/bin/ptp4l:ro", WITH_IPV6];

/// Intervals are powers of two, in seconds. They are shorter than linuxptp's defaults, so that the
/// test is short.
const QUICK: &str = "--free_running=1 -S -m -q -i eth0 --uds_address=/tmp/ptp4l \
                     --logAnnounceInterval=-1 --logSyncInterval=-3 --logMinDelayReqInterval=-3 \
                     --freq_est_interval=0 --summary_interval=-3";

/// Measurements that a slave has to print without a fault; it prints one a second.
const MEASUREMENTS: usize = 5;

/// How far off the measurement nearest to zero may be, in nanoseconds. Time stamps are taken in
/// software, on a busy machine.
const OFFSET_MAX: i64 = 2_000_000;

/// One master and its slaves.
#[derive(Clone, Copy)]
struct Domain {
    name: &'static str,
    /// The options of all of them.
    options: &'static str,
    /// Whether the slaves ask the master for its messages by unicast.
    negotiates: bool,
}

const MULTICAST: [Domain; 3] = [
    Domain { name: "UDP over IPv4", options: "-4", negotiates: false },
    Domain { name: "UDP over IPv6", options: "-6", negotiates: false },
    Domain { name: "Ethernet", options: "-2", negotiates: false },
];

/// Domains in which at least the slaves' delay requests are unicast.
const UNICAST: [Domain; 3] = [
    Domain { name: "hybrid over IPv4", options: "-4 --hybrid_e2e=1", negotiates: false },
    Domain { name: "hybrid over IPv6", options: "-6 --hybrid_e2e=1", negotiates: false },
    Domain {
        name: "unicast over IPv4",
        options: "-4 --domainNumber=1 --unicast_listen=1",
        negotiates: true,
    },
];

/// IEEE 1588-2019, by each of its transports at the same time.
pub fn multicast(cluster: &mut Cluster) -> Result<()> {
    serve_all(cluster, &MULTICAST)
}

/// IEEE 1588-2019 where slaves, or all, send by unicast.
pub fn unicast(cluster: &mut Cluster) -> Result<()> {
    serve_all(cluster, &UNICAST)
}

fn serve_all(cluster: &Cluster, domains: &[Domain]) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[0], "foo", &["--subnet=10.124.0.0/24"])?;
    let hosts = &hosts;
    thread::scope(|scope| {
        let running: Vec<_> = domains
            .iter()
            .map(|domain| {
                scope.spawn(move || {
                    serve(hosts, *domain).with_context(|| format!("PTP by {}", domain.name))
                })
            })
            .collect();
        let mut joined = running.into_iter().map(thread::ScopedJoinHandle::join);
        joined.try_for_each(|result| result.unwrap_or_else(|_| bail!("a thread panicked")))
    })
}

/// A master on the first host serves slaves on the others, in containers of their own.
fn serve(hosts: &[Host; 3], domain: Domain) -> Result<()> {
    let containers = one_on_each(hosts, "foo", &WITH_PTP)?;
    let master = start_ptp4l(&containers[0], domain, "")?;
    let became =
        master.wait_for_line(SOON, |line| line.contains("assuming the grand master role"))?;
    let table = format!(
        "[unicast_master_table]\\ntable_id 1\\nlogQueryInterval 0\\nUDPv4 \
         {}\\n[eth0]\\nunicast_master_table 1\\n",
        containers[0].address("foo")?
    );
    let slaves = containers[1..].iter().map(|container| {
        container.sh(&format!("printf '{table}' > /tmp/ptp4l.conf"))?;
        let role = if domain.negotiates { "-s -f /tmp/ptp4l.conf" } else { "-s" };
        start_ptp4l(container, domain, role)
    });
    let slaves = slaves.collect::<Result<Vec<_>>>()?;
    for slave in &slaves {
        ensure_measures(slave)
            .with_context(|| format!("the master said {became:?} and then {}", said(&master)))?;
    }
    slaves.iter().chain([&master]).try_for_each(ensure_no_fault)
}

fn start_ptp4l(container: &Container, domain: Domain, more: &str) -> Result<Process> {
    container.spawn(&format!("ptp4l {QUICK} {} {more}", domain.options))
}

/// Waits until a slave has printed so many measurements, and checks the best one.
fn ensure_measures(slave: &Process) -> Result<()> {
    let mut measured = Vec::new();
    wait_until("a slave to measure", SOON, || {
        ensure_no_fault(slave)?;
        measured = said(slave).lines().filter_map(measurement).collect();
        Ok((measured.len() >= MEASUREMENTS).then_some(()))
    })
    .with_context(|| said(slave))?;
    let (offset, delay) =
        measured.iter().min_by_key(|(offset, _)| offset.abs()).context("a measurement")?;
    ensure!(
        offset.abs() < OFFSET_MAX,
        "the clock that all share is off by {offset} ns: {}",
        said(slave)
    );
    ensure!((1..1_000_000_000).contains(delay), "a path delay of {delay} ns: {}", said(slave));
    Ok(())
}

/// The offset and the path delay, in nanoseconds, of a line such as
/// `ptp4l[12.3]: master offset -1234 s0 freq +567 path delay 8901`.
fn measurement(line: &str) -> Option<(i64, i64)> {
    let mut words = line.split_once("master offset")?.1.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next_back()?.parse().ok()?))
}

fn ensure_no_fault(process: &Process) -> Result<()> {
    let said = said(process);
    for fault in ["FAULT", "unexpected socket error", "timed out while polling for tx timestamp"] {
        ensure!(!said.contains(fault), "{}: {said}", process.what());
    }
    Ok(())
}

fn said(process: &Process) -> String {
    let (output, errors) = process.printed();
    output + &errors
}
