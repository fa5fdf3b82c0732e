//! Hosts as users have them: Debian 12 with its own kernel and Docker, and systemd, which runs
//! shoutd, through reboots, power failures and changes of the way of installation.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

#[path = "packages/mod.rs"]
mod packages;
#[path = "systemd/ways.rs"]
mod ways;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use packages::Packages;
use shoutd_lab::{VirtualHost, VirtualHosts, wait_until};

/// How long anything may take: these hosts are ten times as slow as others, and slower if the
/// machine does other things.
const SOON: Duration = Duration::from_secs(600);

/// The containers that Docker starts again after a reboot, with names and addresses.
const RECEIVERS: [(&str, &str); 2] = [("rx1", "10.9.0.11"), ("rx2", "10.9.0.12")];

/// A check of both hosts.
type Check = fn([&VirtualHost; 2]) -> Result<()>;

#[test]
fn systemd_runs_shoutd_through_reboots_and_power_failures() {
    let packages = Packages::find().unwrap();
    let files = [&packages.archive, &packages.deb, &packages.newer_deb, &packages.image];
    let hosts = VirtualHosts::boot(&files.map(PathBuf::as_path)).unwrap();
    let hosts = hosts.both().unwrap();
    let checks: [(&str, Check); 9] = [
        ("the lines that users type, and systemd runs shoutd", install),
        ("a shoutd that is killed is started again", kill),
        ("Docker restarted", |[first, second]| {
            second.sh("systemctl restart docker")?;
            all_is_well([first, second])
        }),
        ("a host reboots", |[first, second]| {
            second.reboot()?;
            all_is_well([first, second])
        }),
        ("both hosts' power fails", |hosts| {
            let before = hosts.map(VirtualHost::fail);
            for (host, before) in hosts.iter().zip(before) {
                host.await_boot(&before?)?;
            }
            all_is_well(hosts)
        }),
        ("the package replaces the archive, and goes to another version and back", ways::package),
        ("a host that was removed is left alone by systemd", remove),
        ("shoutd in a container, and a reboot", ways::container),
        ("nothing is left", ways::leave),
    ];
    for (name, check) in checks {
        let begin = std::time::Instant::now();
        check(hosts)
            .with_context(|| format!("{name}; the hosts' journals: {:#?}", hosts.map(journal)))
            .unwrap();
        println!("ok      {name} ({:.0} s)", begin.elapsed().as_secs_f32());
    }
}

/// The first steps of the README.
fn install(hosts: [&VirtualHost; 2]) -> Result<()> {
    let [first, second] = hosts;
    for host in hosts {
        host.sh(
            "mkdir /root/archive && tar -xf /root/shoutd-*-x86_64.tar.gz --strip-components=1 -C \
             /root/archive && install /root/archive/bin/* /usr/local/bin",
        )?;
    }
    let told = first.sh(&format!("shoutdctl start {} --timeout=200", first.address()))?;
    ensure!(told.contains("systemd now runs shoutd"), "{told}");
    let line = told
        .lines()
        .find_map(|line| line.split_once("on every other host: "))
        .context("find what to type")?
        .1;
    let line = line.replace("<its address>", &second.address().to_string());
    let told = second.sh(&format!("{line} --timeout=200"))?;
    ensure!(told.contains("in a cluster of 2 hosts"), "{told}");
    for host in hosts {
        host.sh("systemctl is-enabled shoutd && systemctl is-active shoutd")?;
        ensure!(
            main_process(host)? == host.sh("pidof shoutd")?.trim(),
            "systemd runs another process"
        );
        let journal = host.sh("journalctl --unit=shoutd --no-pager")?;
        ensure!(journal.contains("shoutd has started"), "the journal has: {journal}");
        // A second time, while it runs.
        let told = host.sh("shoutdctl start")?;
        ensure!(
            told.contains("shoutd serves Docker") && !told.contains("systemd now runs"),
            "{told}"
        );
    }
    first.sh("shoutdctl network create --subnet 10.9.0.0/24 foo")?;
    for (host, receiver) in hosts.iter().zip(RECEIVERS) {
        run_receiver(host, receiver)?;
    }
    all_is_well(hosts)
}

fn run_receiver(host: &VirtualHost, (name, address): (&str, &str)) -> Result<()> {
    let run = format!(
        "docker run --detach --restart=always --name={name} --ip={address} --network=foo debian"
    );
    host.sh(&format!("{run} iperf -s -u -B 224.1.1.1")).map(drop)
}

/// The last lines of shoutd and Docker.
fn journal(host: &VirtualHost) -> Result<String> {
    host.sh("journalctl --boot --unit=shoutd --unit=docker --lines=60 --no-pager")
}

/// How many streams a receiver has received to their end.
fn whole_streams(host: &VirtualHost, receiver: &str) -> Result<usize> {
    Ok(host.sh(&format!("docker logs {receiver} 2>&1"))?.matches(" 0/").count())
}

/// Checks that the containers run and receive from both hosts.
fn all_is_well(hosts: [&VirtualHost; 2]) -> Result<()> {
    for (host, (name, address)) in hosts.iter().zip(RECEIVERS) {
        await_true(
            host,
            &format!("test \"$(docker inspect --format '{{{{.State.Running}}}}' {name})\" = true"),
        )?;
        let has = host.sh(&format!(
            "docker inspect --format '{{{{.NetworkSettings.Networks.foo.IPAddress}}}}' {name}"
        ))?;
        ensure!(has.trim() == address, "{name} has {has}");
        await_true(host, &format!("docker exec {name} grep -q 010101E0 /proc/net/igmp"))?;
        await_true(host, "shoutdctl status && systemctl is-active docker")?;
    }
    for host in hosts {
        // A host lists itself first.
        await_true(
            host,
            "shoutdctl groups | grep '224\\.1\\.1\\.1 ' | grep host1 | grep -q host2",
        )?;
    }
    for sender in hosts {
        streams(sender, hosts)?;
    }
    Ok(())
}

/// Checks that every receiver receives a whole stream of this host.
fn streams(sender: &VirtualHost, hosts: [&VirtualHost; 2]) -> Result<()> {
    let before: Vec<usize> = hosts
        .iter()
        .zip(RECEIVERS)
        .map(|(host, (name, _))| whole_streams(host, name))
        .collect::<Result<_>>()?;
    sender.sh("docker run --rm --network=foo debian iperf -u -c 224.1.1.1 -T 2 -t 3 -b 100K")?;
    for ((host, (name, _)), before) in hosts.iter().zip(RECEIVERS).zip(before) {
        wait_until(
            &format!("{name} to have received a whole stream of {}", sender.address()),
            SOON,
            || Ok((whole_streams(host, name)? > before).then_some(())),
        )
        .with_context(|| {
            host.sh(&format!("docker logs --tail=20 {name} 2>&1")).unwrap_or_default()
        })?;
    }
    Ok(())
}

fn kill(hosts: [&VirtualHost; 2]) -> Result<()> {
    let [_, host] = hosts;
    let before = main_process(host)?;
    host.sh(&format!("kill -KILL {before}"))?;
    wait_until("another shoutd", SOON, || {
        Ok((!["0", &before].contains(&main_process(host)?.as_str())).then_some(()))
    })?;
    all_is_well(hosts)?;
    // A daemon stopped by hand stays stopped until it is started by hand.
    host.sh("shoutdctl stop && test \"$(systemctl is-active shoutd)\" = inactive && systemctl \
             start shoutd")?;
    host.sh("shoutdctl stop && shoutdctl start && systemctl is-active shoutd")?;
    all_is_well(hosts)
}

fn remove([first, second]: [&VirtualHost; 2]) -> Result<()> {
    ensure!(
        first.sh("shoutdctl remove host2").is_err(),
        "a host that runs containers is removed without a question"
    );
    first.sh("shoutdctl remove --force host2")?;
    await_true(second, "systemctl is-failed shoutd")?;
    let restarts =
        second.sh("systemctl show --property=NRestarts,ExecMainStatus --value shoutd")?;
    ensure!(restarts.lines().any(|line| line == "77"), "it ended with: {restarts}");
    ensure!(
        second.sh("journalctl --unit=shoutd --no-pager")?.contains("was removed from the cluster"),
        "why is not said"
    );
    Ok(())
}

/// The unit's main process; `0` if there is none.
fn main_process(host: &VirtualHost) -> Result<String> {
    Ok(host.sh("systemctl show --property=MainPID --value shoutd")?.trim().to_owned())
}

fn await_true(host: &VirtualHost, script: &str) -> Result<()> {
    wait_until(script, SOON, || Ok(host.sh(script).is_ok().then_some(())))
        .with_context(|| format!("{:#?}", host.sh(script)))
}
