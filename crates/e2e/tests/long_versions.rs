//! A cluster whose hosts run two versions of shoutd: this one and an older one. It is upgraded host
//! by host and rolled back, while containers receive a stream.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{
    Cluster, Container, Datagrams, Network, Running, SOON, Stream, all_receive_from_all,
    await_network, await_no_network, one_on_each, run_checks,
};
use shoutd_lab::{Host, wait_until};

/// The older version, as `git rev-parse` takes it.
const OTHER: &str = "SHOUTD_OTHER_VERSION";

/// The commit before configuration files, packages and clusters of a Swarm's nodes.
const DEFAULT_OTHER: &str = "dcbe9ef0812595553db8f83157e0d4dfb8a533d5";

/// Of the cluster that was backed up, on the host that restores it.
const BACKUP: &str = "/run/cluster.backup";

fn main() -> ExitCode {
    run_checks(
        || Cluster::up("versions", 3),
        &[
            ("host by host to this version and back during a stream", roll),
            ("each version restores the other's backup", restore),
        ],
    )
}

/// A build of shoutd.
struct Version {
    /// Directory of its programs.
    directory: PathBuf,
}

impl Version {
    /// The version that is tested.
    fn this() -> Result<Self> {
        let test = env::current_exe().context("find the running program")?;
        let directory = test.parent().and_then(Path::parent);
        Ok(Self { directory: directory.context("find the build's directory")?.to_owned() })
    }

    /// The older version, which is built from the repository's history.
    fn other() -> Result<Self> {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let name = env::var(OTHER).unwrap_or_else(|_| DEFAULT_OTHER.to_owned());
        let work = root.join("target/versions");
        let source = work.join("source");
        fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
        let script = "set -e; rm -rf \"$2\"; mkdir \"$2\"; git archive \"$1\" | tar -x -C \"$2\"";
        let mut unpack = Command::new("bash");
        unpack.current_dir(root).args(["-o", "pipefail", "-c", script, "bash", &name]).arg(&source);
        ensure!(
            unpack.status().context("run git")?.success(),
            "{name} is not in this repository: fetch its history"
        );
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.current_dir(&source).args(["build", "--quiet", "--workspace", "--bins"]);
        build.arg("--target-dir").arg(work.join("target"));
        ensure!(build.status().context("run cargo")?.success(), "{name} does not build");
        Ok(Self { directory: work.join("target/debug") })
    }

    /// Runs its `shoutdctl` with these arguments.
    fn ctl(&self, host: &Host, arguments: &str) -> Result<String> {
        host.sh(&format!("{}/shoutdctl {arguments}", self.directory.display()))
    }

    /// Starts its daemon, and checks that it is the one that runs.
    fn start(&self, host: &Host, arguments: &str) -> Result<()> {
        self.ctl(host, &format!("start {arguments}"))?;
        let pids = host.pids_of("shoutd")?;
        let [pid] = pids.as_slice() else { bail!("{pids:?} run on {}", host.name()) };
        let runs = host.sh(&format!("readlink /proc/{pid}/exe"))?;
        ensure!(
            fs::canonicalize(runs.trim())? == fs::canonicalize(self.directory.join("shoutd"))?,
            "{} runs {runs}",
            host.name()
        );
        Ok(())
    }

    /// Waits until `shoutdctl status` finds no problem.
    fn await_healthy(&self, host: &Host) -> Result<()> {
        wait_until(&format!("{} to be healthy", host.name()), SOON, || {
            Ok(self.ctl(host, "status").is_ok().then_some(()))
        })
        .with_context(|| format!("{:?}", self.ctl(host, "status")))
    }

    /// Joins the cluster, by way of a host of any version.
    fn join(&self, host: &Host, peer: &Host, token: &str) -> Result<()> {
        let (own, peer) = (host.address(), peer.address());
        self.start(host, &format!("{own} --peer-addresses={peer} {token}"))
    }
}

fn roll(cluster: &mut Cluster) -> Result<()> {
    let (this, other) = (Version::this()?, Version::other()?);
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    other.start(first, &first.address().to_string())?;
    let token = cluster.token()?;
    for host in [second, third] {
        other.join(host, first, &token)?;
    }
    let network = Network::create(cluster, first, "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    let running = Stream::default().begin(sender, &receivers.iter().collect::<Vec<_>>())?;
    let late = cluster.add_host()?;
    for (from, to) in [(&other, &this), (&this, &other)] {
        for (index, host) in hosts.iter().enumerate() {
            from.ctl(host, "stop")?;
            running.await_more(50)?;
            to.start(host, "")?;
            for (number, one) in hosts.iter().enumerate() {
                if number <= index { to } else { from }.await_healthy(one)?;
            }
            println!("host{}: replaced", index + 1);
            works(cluster, &running, [host, &hosts[(index + 1) % 3]])?;
            if index < 2 {
                refuses_what_one_version_lacks(&hosts)?;
            }
        }
        // A host of one version joins by way of a host of the other, and leaves.
        from.join(&late, first, &token)?;
        from.await_healthy(&late)?;
        from.ctl(&late, "stop --leave")?;
    }
    running.finish()?;
    drop(containers);
    network.remove_on(second)?;
    cluster.await_clean()
}

/// No host takes an encrypted network while another would take it for a plain one.
fn refuses_what_one_version_lacks(hosts: &[Host]) -> Result<()> {
    for host in hosts {
        let output = host.run([
            "docker",
            "network",
            "create",
            "--driver",
            "shoutd",
            "--opt",
            "encrypted",
            "--subnet=10.8.0.0/24",
            "vault",
        ])?;
        // The version before says that it cannot encrypt; this one, which host must be upgraded.
        let reasons = ["older version of shoutd", "VXLAN in the clear"];
        let is_told = reasons.iter().any(|reason| output.stderr.contains(reason));
        ensure!(!output.success() && is_told, "on {}: {output}", host.name());
    }
    Ok(())
}

/// Checks what users do, on all hosts: networks, containers that come and go, multicast, names.
fn works(cluster: &Cluster, stream: &Running<'_>, [one, another]: [&Host; 2]) -> Result<()> {
    let hosts = cluster.three()?;
    let network = Network::create_here(
        cluster,
        one,
        "bar",
        &["--subnet=10.9.0.0/24", "--ipv6", "--subnet=fd00:9::/64"],
    )?;
    for host in &hosts {
        await_network(host, "bar")?;
    }
    let containers = one_on_each(&hosts, "bar", &[])?;
    multicast(&containers)?;
    for from in &containers {
        for to in &containers {
            from.ping(&to.name)?;
        }
    }
    stream.await_more(50)?;
    drop(containers);
    another.docker(["network", "rm", "bar"])?;
    for host in &hosts {
        await_no_network(host, "bar")?;
    }
    drop(network);
    Ok(())
}

/// Checks that each container receives from each, in a group other than the stream's.
fn multicast(containers: &[Container]) -> Result<()> {
    let datagrams = Datagrams {
        receive: "UDP4-RECV:6001,ip-add-membership=224.0.0.77:eth0".to_owned(),
        send: "UDP4-DATAGRAM:224.0.0.77:6001".to_owned(),
    };
    all_receive_from_all(containers, &datagrams)
}

fn restore(cluster: &mut Cluster) -> Result<()> {
    let versions = [Version::this()?, Version::other()?];
    let hosts = cluster.three()?;
    let [first, second, _] = &hosts;
    for (from, to) in [(0, 1), (1, 0)] {
        let (from, to) = (&versions[from], &versions[to]);
        leave(cluster)?;
        from.start(first, &first.address().to_string())?;
        let network = Network::create_here(cluster, first, "foo", &[])?;
        let container = one_on_each(&hosts[..1], "foo", &[])?;
        from.ctl(first, &format!("backup {BACKUP}"))?;
        let before = from.ctl(first, "networks")?;
        first.kill_shoutd()?;
        first.sh("rm -rf /var/lib/shoutd/*")?;
        to.ctl(first, &format!("restore {BACKUP} {}", first.address()))?;
        to.start(first, &first.address().to_string())?;
        to.await_healthy(first)?;
        let after = to.ctl(first, "networks")?;
        ensure!(before == after, "the networks were {before}, and are {after}");
        let token = cluster.token()?;
        from.join(second, first, &token)?;
        await_network(second, "foo")?;
        let both = [container, one_on_each(&hosts[1..2], "foo", &[])?].into_iter().flatten();
        multicast(&both.collect::<Vec<_>>())?;
        network.remove_on(second)?;
    }
    leave(cluster)
}

/// Stops every daemon and forgets its cluster.
fn leave(cluster: &Cluster) -> Result<()> {
    for host in cluster.hosts() {
        if !host.pids_of("shoutd")?.is_empty() {
            host.kill_shoutd()?;
        }
        host.sh("rm -rf /var/lib/shoutd/* /run/shoutd/*")?;
    }
    Ok(())
}
