//! Hosts that boot: whether shoutd or its engine starts first, the containers that should run do
//! run, with their addresses.

use std::fs;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{Cluster, Container, Network, SOON, Stream, one_on_each, run_checks};
use shoutd_lab::{Host, Process, wait_until};

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("boot", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("shoutd first", |cluster| {
                reboot(cluster, |host| {
                    host.boot_shoutd()?;
                    host.start_engine()
                })
            }),
            ("Docker first, shoutd at once after it", |cluster| {
                reboot(cluster, |host| {
                    thread::scope(|scope| {
                        let engine = scope.spawn(|| host.start_engine());
                        wait_until("dockerd", SOON, || {
                            Ok((!host.pids_of("dockerd")?.is_empty()).then_some(()))
                        })?;
                        host.boot_shoutd()?;
                        engine.join().unwrap_or_else(|_| bail!("a thread panicked"))
                    })
                })
            }),
            ("Docker first, shoutd when Docker has given up", |cluster| {
                reboot(cluster, |host| {
                    host.start_engine()?;
                    let engine = host.engine_log()?;
                    ensure!(
                        engine.contains(r#"plugin \"shoutd\" not found"#),
                        "the engine did not miss shoutd"
                    );
                    host.boot_shoutd()
                })
            }),
            ("systemd's unit comes with the start and goes with the leave", unit_of_systemd),
        ],
    )
}

/// Boots the second host, which has an origin and a mirror. Some of its containers should run
/// afterwards, and some should not.
fn reboot(cluster: &mut Cluster, boot: fn(&Host) -> Result<()>) -> Result<()> {
    let hosts = cluster.three()?;
    let [_, host, _] = &hosts;
    let networks = [
        Network::create(cluster, host, "foo", &["--subnet", "10.44.0.0/24"])?,
        Network::create(cluster, &hosts[0], "own", &["--ipam-driver", "shoutd"])?,
    ];
    let others = one_on_each(&[hosts[0].clone(), hosts[2].clone()], "foo", &[])?;
    let always = Container::start(host, "foo", &["--restart=always", "--ip=10.44.0.21"])?;
    let unless_stopped = Container::start(host, "own", &["--restart=unless-stopped"])?;
    let stopped = Container::start(host, "own", &["--restart=unless-stopped"])?;
    let once = Container::start(host, "foo", &[])?;
    host.docker(["stop", "--time=0", &stopped.name])?;
    let before = unless_stopped.address("own")?;
    host.power_off()?;

    host.boot()?;
    boot(host)?;
    for container in [&always, &unless_stopped] {
        let what = format!("{} to run", container.name);
        wait_until(&what, SOON, || {
            Ok((container.inspect("{{.State.Running}}")? == "true").then_some(()))
        })
        .with_context(|| container.inspect("{{json .State}}").unwrap_or_default())?;
    }
    ensure!(
        always.address("foo")?.to_string() == "10.44.0.21",
        "{} has another address",
        always.name
    );
    let receivers: Vec<_> = others.iter().collect();
    Stream::default().send(&always, &receivers, 1)?;
    let neighbour = Container::start(&hosts[0], "own", &[])?;
    neighbour.ping(&unless_stopped.address("own")?.to_string())?;
    println!(
        "        {} had {before} and has {}",
        unless_stopped.name,
        unless_stopped.address("own")?
    );
    for container in [&stopped, &once] {
        let state = container.inspect("{{.State.Status}}")?;
        ensure!(state == "exited", "{} is {state}, and nothing started it", container.name);
    }
    drop((others, always, unless_stopped, stopped, once, neighbour));
    networks.into_iter().try_for_each(|network| network.remove_on(host))
}

/// A stand-in for systemctl. The lab's hosts run no systemd but have its programs, which work
/// offline as far as possible; this does the rest. `long_systemd` has a real systemd.
const SYSTEMCTL: &str = r#"#!/bin/sh
case "$*" in
    "show --property=MainPID --value shoutd.service")
        cat /run/test/main-pid 2>/dev/null || echo 0 ;;
    "start shoutd.service")
        command=$(sed -n 's/^ExecStart=//p' /etc/systemd/system/shoutd.service)
        NOTIFY_SOCKET=/run/notify setsid $command </dev/null >>/var/log/shoutd.log 2>&1 &
        echo $! > /run/test/main-pid ;;
    *) SYSTEMD_OFFLINE=1 exec /usr/bin/systemctl "$@" ;;
esac
"#;

fn unit_of_systemd(cluster: &mut Cluster) -> Result<()> {
    let [first, _, host] = cluster.three()?;
    let unit = "/etc/systemd/system/shoutd.service";
    let link = "/etc/systemd/system/multi-user.target.wants/shoutd.service";
    ensure!(!host.run(["test", "-e", unit])?.success(), "without systemd there should be no unit");
    host.sh("mkdir -p /run/systemd/system /run/test")?;
    fs::write(host.file("/run/test/systemctl")?, SYSTEMCTL)
        .context("write a stand-in for systemctl")?;
    host.sh("chmod +x /run/test/systemctl")?;
    let manager = host.spawn(["socat", "-u", "UNIX-RECV:/run/notify", "STDOUT"])?;
    wait_until("the socket to notify", SOON, || {
        Ok(host.run(["test", "-S", "/run/notify"])?.success().then_some(()))
    })?;

    // shoutd runs already, by itself: systemd gets a unit and runs it from now on. shoutd reports
    // that it is ready once it serves Docker's socket.
    let before = host.pids_of("shoutd")?;
    let told = start_with_stand_in(&host, "")?;
    ensure!(told.contains("starts it at boot") && told.contains("shoutd serves Docker"), "{told}");
    host.sh(&format!("test -L {link} && systemd-analyze verify {unit}"))?;
    await_notification(&manager, "READY=1")?;
    host.sh("test -S /run/docker/plugins/shoutd.sock")?;
    let after = host.pids_of("shoutd")?;
    ensure!(
        after != before && host.sh("cat /run/test/main-pid")?.trim() == format!("{}", after[0]),
        "{after:?} runs"
    );
    let told = start_with_stand_in(&host, "")?;
    ensure!(!told.contains("when this host boots"), "the unit was there already: {told}");
    ensure!(host.pids_of("shoutd")? == after, "systemd ran it already");
    host.sh("shoutdctl stop")?;
    await_notification(&manager, "STOPPING=1")?;

    start_with_stand_in(&host, "&& shoutdctl stop --leave")?;
    ensure!(
        !host.run(["ls", unit])?.success() && !host.run(["test", "-L", link])?.success(),
        "the unit is still there"
    );
    host.sh("rm -r /run/test && rmdir /run/systemd/system")?;
    cluster.join(&host, &first)
}

/// Starts shoutd where `systemctl` is the stand-in; `more` continues the command line.
fn start_with_stand_in(host: &Host, more: &str) -> Result<String> {
    host.sh(&format!("PATH=/run/test:$PATH; shoutdctl start {more}"))
}

/// Waits until shoutd has notified its service manager of this.
fn await_notification(manager: &Process, what: &str) -> Result<()> {
    wait_until(what, SOON, || Ok(manager.printed().0.contains(what).then_some(())))
}
