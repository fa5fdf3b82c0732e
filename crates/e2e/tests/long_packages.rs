//! Hosts on which one way of installation replaces another, and a package's version another one,
//! while containers receive a stream.

#[path = "packages/mod.rs"]
mod packages;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use packages::Packages;
use shoutd_e2e::{Cluster, Network, Stream, one_on_each, run_checks};
use shoutd_lab::Host;

/// Makes `/usr` of a lab's host, which is the machine's, the host's own, and with it dpkg's files.
const OWN_USR: &str = "mkdir -p /run/own-usr /run/own-usr.work && mount -t overlay overlay -o \
                       lowerdir=/usr,upperdir=/run/own-usr,workdir=/run/own-usr.work /usr";

fn main() -> ExitCode {
    run_checks(
        || Cluster::up("packages", 3),
        &[("archive, package, upgrade, downgrade and wheel during a stream", ways)],
    )
}

fn ways(cluster: &mut Cluster) -> Result<()> {
    let packages = Packages::find()?;
    let hosts = cluster.three()?;
    for host in &hosts {
        host.sh(OWN_USR)?;
        host.sh(&format!(
            "mkdir -p /run/archive && tar -xf {} -C /run/archive --strip-components=1",
            packages.archive.display()
        ))?;
    }
    let archive = "/run/archive/bin/shoutdctl";
    let [first, others @ ..] = &hosts;
    first.sh(&format!("{archive} start {}", first.address()))?;
    let token = cluster.token()?;
    for host in others {
        let peer = first.address();
        host.sh(&format!("{archive} start {} --peer-addresses={peer} {token}", host.address()))?;
    }
    let network = Network::create(cluster, first, "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    let running = Stream::default().begin(sender, &receivers.iter().collect::<Vec<_>>())?;
    for host in &hosts {
        let go_on = || running.await_more(50);
        runs(host, archive)?;
        install(host, &packages.deb, archive)?;
        go_on()?;
        install(host, &packages.newer_deb, "/usr/bin/shoutdctl")?;
        go_on()?;
        install(host, &packages.deb, "/usr/bin/shoutdctl")?;
        go_on()?;
        let told = host.sh("dpkg --remove shoutd")?;
        ensure!(told.contains("Containers stay connected"), "the removal says: {told}");
        ensure!(host.pids_of("shoutd")?.is_empty(), "the removed package's daemon runs");
        go_on()?;
        host.sh(&format!(
            "/usr/bin/python3 -m venv /run/venv && /run/venv/bin/pip install --quiet --no-index {}",
            packages.wheel.display()
        ))?;
        host.sh("/run/venv/bin/shoutdctl start")?;
        runs(host, "/run/venv/bin/shoutdctl")?;
        go_on()?;
    }
    running.finish()?;

    drop(containers);
    network.remove_on(first)?;
    for host in hosts.iter().rev() {
        // The only host of a cluster cannot leave it.
        let leave = if host.number() == 1 { "" } else { "--leave" };
        host.sh(&format!("/run/venv/bin/shoutdctl stop {leave}"))?;
        host.sh("dpkg --purge shoutd && umount -l /usr && rm -r /run/venv /run/archive")?;
    }
    Ok(())
}

/// Installs the package, and has it replace the daemon of `before`.
fn install(host: &Host, deb: &Path, before: &str) -> Result<()> {
    let told = host.sh(&format!("dpkg --install {}", deb.display()))?;
    ensure!(told.contains("'shoutdctl stop; shoutdctl start'"), "the installation says: {told}");
    host.sh(&format!("{before} stop && /usr/bin/shoutdctl start"))?;
    runs(host, "/usr/bin/shoutdctl")
}

/// Checks that the daemon beside this program runs, and that all is well.
fn runs(host: &Host, program: &str) -> Result<()> {
    let daemon = Path::new(program).with_file_name("shoutd");
    let pids = host.pids_of("shoutd")?;
    let [pid] = pids.as_slice() else { bail!("{pids:?} run on {}", host.name()) };
    let runs = host.sh(&format!("readlink /proc/{pid}/exe"))?;
    ensure!(Path::new(runs.trim()) == daemon, "{} runs {runs}", host.name());
    host.sh(&format!("{program} status")).map(drop)
}
