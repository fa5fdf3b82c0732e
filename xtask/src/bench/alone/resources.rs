//! What shoutd takes of the machine.

use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};
use shoutd_lab::{Host, wait_until};

use super::finding;
use crate::bench::report::Finding;
use crate::bench::ways::{End, Ends};

/// The groups that are joined and left.
const CHURNED: Ipv4Addr = Ipv4Addr::new(239, 80, 0, 0);

/// Joins a second.
const JOINS: u32 = 1000;

/// The networks, and the groups joined in each.
const NETWORKS: u8 = 100;
const GROUPS: u32 = 100;

/// The first of the groups.
const HELD: Ipv4Addr = Ipv4Addr::new(239, 81, 0, 0);

/// How long the groups are held, in seconds; how long shoutd has to hear of them, of that.
const HOLD: f64 = 20.0;
const SETTLE: Duration = Duration::from_secs(8);

/// How long 100 networks may take to be there on other hosts, or to be gone.
const NETWORKS_DEADLINE: Duration = Duration::from_secs(60);

/// At rest, with one network and one container on each host.
pub(super) fn at_rest(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let time = Duration::from_secs(if quick { 5 } else { 20 });
    let hosts = [1, 2, 3].map(|number| ends.on(number).map(|end| &end.host));
    let hosts = hosts.into_iter().collect::<Result<Vec<_>>>()?;
    let before = hosts.iter().map(|host| processor_seconds(host)).collect::<Result<Vec<_>>>()?;
    thread::sleep(time);
    let mut used = Vec::new();
    let mut memory = Vec::new();
    for (host, before) in hosts.iter().zip(before) {
        used.push((processor_seconds(host)? - before) / time.as_secs_f64() * 100.0);
        memory.push(resident_mebibytes(host)?);
    }
    let processor = "of one processor; one sample a host";
    let memory = finding("shoutd's resident memory at rest", "MiB", memory);
    let used = finding("shoutd's processor time at rest", "%", used);
    Ok(vec![
        Finding { most: Some(25.0), remark: "one sample a host".to_owned(), ..memory },
        Finding { remark: processor.to_owned(), ..used },
    ])
}

/// While a container joins and leaves groups.
pub(super) fn under_joins(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let end = ends.on(2)?;
    let others = [1, 3].map(|number| ends.on(number).map(|end| &end.host));
    let hosts: Vec<&Host> = [Ok(&end.host)].into_iter().chain(others).collect::<Result<_>>()?;
    let seconds = if quick { 3.0 } else { 10.0 };
    let before = hosts.iter().map(|host| processor_seconds(host)).collect::<Result<Vec<_>>>()?;
    let arguments = format!("churn --interface {} --first {CHURNED} --rate {JOINS} --seconds {seconds}", end.address);
    let begin = Instant::now();
    let done = end.run_helper(&arguments, seconds)?;
    let elapsed = begin.elapsed().as_secs_f64();
    let mut used = Vec::new();
    for (host, before) in hosts.iter().zip(before) {
        used.push((processor_seconds(host)? - before) / elapsed * 100.0);
    }
    let others = used.split_off(1);
    let remark =
        format!("{} joins and as many leaves in {seconds} s", done.get("joined").context("no count of joins")?);
    let memory = vec![resident_mebibytes(&end.host)?];
    Ok(vec![
        Finding { remark, ..finding("processor time under 1,000 joins a second, on their host", "%", used) },
        finding("the same on the other hosts", "%", others),
        finding("shoutd's resident memory after that", "MiB", memory),
    ])
}

/// With a container that is on 100 networks and has joined 100 groups in each.
pub(super) fn with_many(ends: &Ends, _quick: bool) -> Result<Vec<Finding>> {
    let (host, other) = (&ends.on(1)?.host, &ends.on(2)?.host);
    let measured = hold_many(host, other);
    let removed = slowly(
        host,
        "docker rm --force bench-many >/dev/null 2>&1
        docker network ls --format '{{.Name}}' | grep ^many | xargs --no-run-if-empty docker network rm",
    );
    let findings = measured?;
    removed.context("remove the 100 networks")?;
    Ok(findings)
}

fn hold_many(host: &Host, other: &Host) -> Result<Vec<Finding>> {
    let created = format!(
        "for n in $(seq 1 {NETWORKS}); do
            docker network create --driver shoutd --subnet 10.210.$n.0/24 many$n || exit 1
        done"
    );
    slowly(host, &created)?;
    wait_until("100 networks on the second host", NETWORKS_DEADLINE, || {
        let listed = other.docker(["network", "ls", "--format", "{{.Name}}"])?;
        let there = listed.lines().filter(|name| name.starts_with("many")).count();
        Ok((there >= usize::from(NETWORKS)).then_some(()))
    })?;
    slowly(host, "docker run --detach --name bench-many --network=many1 debian sleep 100000")?;
    let connected =
        format!("for n in $(seq 2 {NETWORKS}); do docker network connect many$n bench-many || exit 1; done");
    slowly(host, &connected)?;
    let addresses = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
    let listed = host.docker(["inspect", "--format", addresses, "bench-many"])?;
    let interfaces: Vec<&str> = listed.split_whitespace().collect();
    ensure!(interfaces.len() >= usize::from(NETWORKS), "the container is on {} networks", interfaces.len());
    let end = End::running(host, "bench-many", "many1")?;
    let arguments =
        format!("hold --first {HELD} --count {GROUPS} --seconds {HOLD} --interfaces {}", interfaces.join(","));
    let mut holding = end.ready_helper(&arguments)?;
    thread::sleep(SETTLE);
    let memory = vec![resident_mebibytes(host)?, resident_mebibytes(other)?];
    let before = processor_seconds(host)?;
    thread::sleep(Duration::from_secs(5));
    let used = (processor_seconds(host)? - before) / 5.0 * 100.0;
    ensure!(!holding.has_ended()?, "{} ended too early", holding.what());
    holding.kill()?;
    let memory = finding("shoutd's resident memory with 100 networks and 10,000 groups", "MiB", memory);
    let remark = "on the host of the receiver, and on another".to_owned();
    Ok(vec![
        Finding { most: Some(100.0), remark, ..memory },
        finding("shoutd's processor time then, on the receiver's host", "%", vec![used]),
    ])
}

/// Runs lines of shell that take longer than a command should.
fn slowly(host: &Host, script: &str) -> Result<()> {
    let output = host.run_for(Duration::from_secs(180), ["sh", "-c", script])?;
    ensure!(output.success(), "on {}: {script} failed, {output}", host.name());
    Ok(())
}

/// `VmRSS` of proc_pid_status(5).
fn resident_mebibytes(host: &Host) -> Result<f64> {
    let status = of_shoutd(host, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS of shoutd")?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().context("read VmRSS")?;
    Ok(kibibytes / 1024.0)
}

/// `utime` and `stime` of proc_pid_stat(5), fields 14 and 15.
fn processor_seconds(host: &Host) -> Result<f64> {
    let stat = of_shoutd(host, "stat")?;
    // The second field may have spaces in it, and ends with a bracket.
    let (_, rest) = stat.rsplit_once(')').context("no name in the stat of shoutd")?;
    let fields: Vec<f64> = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    let ticks = sysconf(SysconfVar::CLK_TCK).context("read the clock's rate")?.context("no rate of the clock")?;
    #[expect(clippy::cast_precision_loss, reason = "it is 100")]
    Ok(fields.iter().sum::<f64>() / ticks as f64)
}

/// A file of shoutd's process in the host's `/proc`.
fn of_shoutd(host: &Host, name: &str) -> Result<String> {
    let pids = host.pids_of("shoutd")?;
    let pid = pids.first().with_context(|| format!("shoutd does not run on {}", host.name()))?;
    let path = host.file(&format!("/proc/{pid}/{name}"))?;
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}
