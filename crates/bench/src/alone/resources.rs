//! shoutd's use of memory and processor time.

use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};
use serde_json::Value;
use shoutd_lab::{Host, wait_until};

use super::finding;
use crate::report::{Finding, Limit};
use crate::ways::{End, Ends};

/// The groups that are joined and left.
const CHURNED: Ipv4Addr = Ipv4Addr::new(239, 80, 0, 0);

/// Joins a second.
const JOINS: u32 = 1000;

/// The networks, and the groups joined in each.
const NETWORKS: u8 = 100;
const GROUPS: u32 = 100;

/// The first of the groups.
const HELD: Ipv4Addr = Ipv4Addr::new(239, 81, 0, 0);

/// The longest time for which the groups are held, in seconds.
const HOLD: f64 = 200.0;

/// How long another host may take to learn all groups.
const GROUPS_DEADLINE: Duration = Duration::from_secs(60);

/// How long the processor time is measured after that.
const MEASURED: Duration = Duration::from_secs(5);

/// How long 100 networks may take to appear on other hosts, or to go.
const NETWORKS_DEADLINE: Duration = Duration::from_secs(60);

/// The container on all of these networks.
const CONTAINER: &str = "bench-many";

/// At rest, with one network and one container on each host.
pub(super) fn at_rest(ends: &Ends, quick: bool) -> Result<Vec<Finding>> {
    let time = Duration::from_secs(if quick { 5 } else { 20 });
    let hosts: Vec<&Host> = ends.hosts().collect();
    let before = hosts.iter().map(|host| processor_seconds(host)).collect::<Result<Vec<_>>>()?;
    thread::sleep(time);
    let mut used = Vec::new();
    let mut memory = Vec::new();
    for (host, before) in hosts.iter().zip(before) {
        used.push((processor_seconds(host)? - before) / time.as_secs_f64() * 100.0);
        memory.push(resident_mebibytes(host)?);
    }
    let processor = "of one processor; one sample per host";
    let memory = finding("shoutd's resident memory at rest", "MiB", memory);
    let used = finding("shoutd's processor time at rest", "%", used);
    Ok(vec![
        Finding {
            most: Some(Limit::Each(25.0)),
            remark: "one sample per host".to_owned(),
            ..memory
        },
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
    let arguments = format!(
        "churn --interface {} --first {CHURNED} --rate {JOINS} --seconds {seconds}",
        end.address
    );
    let begin = Instant::now();
    let done = end.run_helper(&arguments, seconds)?;
    let elapsed = begin.elapsed().as_secs_f64();
    let mut used = Vec::new();
    for (host, before) in hosts.iter().zip(before) {
        used.push((processor_seconds(host)? - before) / elapsed * 100.0);
    }
    let others = used.split_off(1);
    let remark = format!(
        "{} joins and as many leaves in {seconds} s",
        done.get("joined").context("no count of joins")?
    );
    let memory = vec![resident_mebibytes(&end.host)?];
    Ok(vec![
        Finding {
            remark,
            ..finding("processor time at 1,000 joins per second, on their host", "%", used)
        },
        finding("the same on the other hosts", "%", others),
        finding("shoutd's resident memory after that", "MiB", memory),
    ])
}

/// With a container on each of two hosts on 100 networks; one of them has joined 100 groups in
/// each.
pub(super) fn with_many(ends: &Ends, _quick: bool) -> Result<Vec<Finding>> {
    let (host, other) = (&ends.on(1)?.host, &ends.on(2)?.host);
    let measured = hold_many(host, other);
    let removed = [other, host].into_iter().try_for_each(|host| {
        slowly(
            host,
            &format!(
                "docker rm --force {CONTAINER} >/dev/null 2>&1
                docker network ls --format '{{{{.Name}}}}' | grep ^many | xargs --no-run-if-empty \
                 docker network rm"
            ),
        )
    });
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
    [host, other].into_iter().try_for_each(attach_to_many)?;
    let addresses = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
    let listed = host.docker(["inspect", "--format", addresses, CONTAINER])?;
    let interfaces: Vec<&str> = listed.split_whitespace().collect();
    ensure!(
        interfaces.len() >= usize::from(NETWORKS),
        "the container is on {} networks",
        interfaces.len()
    );
    let end = End::running(host, CONTAINER, "many1")?;
    let arguments = format!(
        "hold --first {HELD} --count {GROUPS} --seconds {HOLD} --interfaces {}",
        interfaces.join(",")
    );
    let mut holding = end.ready_helper(&arguments)?;
    let begin = Instant::now();
    await_groups(other, &host.name())?;
    let known_after = begin.elapsed().as_secs_f64();
    let hosts = [host, other];
    let before = hosts.iter().map(|host| processor_seconds(host)).collect::<Result<Vec<_>>>()?;
    thread::sleep(MEASURED);
    let after = hosts.iter().map(|host| processor_seconds(host)).collect::<Result<Vec<_>>>()?;
    let used = before
        .iter()
        .zip(after)
        .map(|(before, after)| (after - before) / MEASURED.as_secs_f64() * 100.0);
    let memory = hosts.iter().map(|host| resident_mebibytes(host)).collect::<Result<Vec<_>>>()?;
    ensure!(!holding.has_ended()?, "{} ended too early", holding.what());
    holding.kill()?;
    let highest = hosts.iter().map(|host| mebibytes(host, "VmHWM:")).collect::<Result<Vec<_>>>()?;
    let highest = highest.into_iter().fold(0.0, f64::max);
    let on =
        "on the receiver's host, and on a host that has the same networks and knows the groups";
    let remark = format!("{on}; at most {highest:.1} since the daemons started");
    let memory =
        finding("shoutd's resident memory with 100 networks and 10,000 groups", "MiB", memory);
    let known = finding("until the other host knows the 10,000 groups", "s", vec![known_after]);
    Ok(vec![
        Finding { most: Some(Limit::Each(100.0)), remark, ..memory },
        Finding {
            remark: on.to_owned(),
            ..finding("shoutd's processor time then", "%", used.collect())
        },
        Finding { remark: "after the last join".to_owned(), ..known },
    ])
}

/// Starts a container and attaches it to all of the networks.
fn attach_to_many(host: &Host) -> Result<()> {
    slowly(
        host,
        &format!(
            "docker run --detach --name {CONTAINER} --network=many1 debian sleep 100000 || exit 1
            for n in $(seq 2 {NETWORKS}); do docker network connect many$n {CONTAINER} || exit 1; \
             done"
        ),
    )
}

/// Waits until a host knows that another is a member of all groups.
fn await_groups(asked: &Host, listener: &str) -> Result<()> {
    let wanted = usize::from(NETWORKS) * GROUPS as usize;
    let mut known = 0;
    let waited =
        wait_until(&format!("{wanted} groups on {}", asked.name()), GROUPS_DEADLINE, || {
            let printed = asked.run(["shoutdctl", "groups", "--json"])?.stdout;
            let rows: Value = serde_json::from_str(&printed)
                .with_context(|| format!("the groups of {}", asked.name()))?;
            let rows = rows.as_array().context("no list of groups")?;
            known = rows.iter().filter(|row| is_held(row, listener)).count();
            Ok((known >= wanted).then_some(()))
        });
    waited.with_context(|| format!("it knows {known}"))
}

/// Whether a row of `shoutdctl groups` is one of the groups, with this host as a member.
fn is_held(row: &Value, listener: &str) -> bool {
    let is_many = row
        .get("network")
        .and_then(Value::as_str)
        .is_some_and(|network| network.starts_with("many"));
    let mut hosts = row.get("hosts").and_then(Value::as_array).into_iter().flatten();
    is_many
        && hosts.any(|host| {
            host.get("name").is_some_and(|name| name == listener)
                && host.get("in_sync").is_some_and(|known| known == true)
        })
}

/// Runs lines of shell that take longer than the usual deadline.
fn slowly(host: &Host, script: &str) -> Result<()> {
    let output = host.run_for(Duration::from_secs(180), ["sh", "-c", script])?;
    ensure!(output.success(), "on {}: {script} failed, {output}", host.name());
    Ok(())
}

fn resident_mebibytes(host: &Host) -> Result<f64> {
    mebibytes(host, "VmRSS:")
}

/// A size of proc_pid_status(5).
fn mebibytes(host: &Host, name: &str) -> Result<f64> {
    let status = of_shoutd(host, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let size = line.with_context(|| format!("no {name} of shoutd"))?.trim();
    let kibibytes: f64 =
        size.trim_end_matches(" kB").parse().with_context(|| format!("read {name} {size}"))?;
    Ok(kibibytes / 1024.0)
}

/// `utime` and `stime` of proc_pid_stat(5), fields 14 and 15.
fn processor_seconds(host: &Host) -> Result<f64> {
    let stat = of_shoutd(host, "stat")?;
    // The second field may contain spaces, and ends with a bracket.
    let (_, rest) = stat.rsplit_once(')').context("no name in the stat of shoutd")?;
    let fields: Vec<f64> =
        rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    let ticks = sysconf(SysconfVar::CLK_TCK)
        .context("read the clock's rate")?
        .context("no rate of the clock")?;
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
