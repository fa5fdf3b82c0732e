//! shoutd in a container of the engine that it serves, from the image of `cargo xtask package`.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{Cluster, Container, Network, SOON, Stream, one_on_each, run_checks};
use shoutd_lab::{Host, libraries, wait_until};
use shoutd_package::image::Image;

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("image", 3)?;
            let archive = image()?;
            for host in cluster.hosts() {
                host.docker(["load", "--input", &archive.to_string_lossy()])?;
            }
            fs::remove_file(&archive).context("remove the image's archive")?;
            Ok(cluster)
        },
        &[("hosts whose shoutd runs in a container, from the start to the leave", life)],
    )
}

/// The image of this build's programs with their libraries. The static programs of the real image
/// take too long to build for every day.
fn image() -> Result<PathBuf> {
    let test = env::current_exe().context("find the running program")?;
    let build = test.parent().and_then(Path::parent).context("find the build's directory")?;
    let mut files = BTreeSet::new();
    let mut programs = Vec::new();
    for name in ["shoutd", "shoutdctl"] {
        let built = build.join(name);
        files.extend(libraries(&built.to_string_lossy())?);
        let stripped = build.join(format!("{name}-for-image-{}", std::process::id()));
        let status = Command::new("strip").arg("-o").arg(&stripped).arg(&built).status();
        ensure!(status.context("run strip")?.success(), "strip failed");
        programs.push((name.to_owned(), stripped));
    }
    let image = Image::new(&programs, &files.into_iter().collect::<Vec<_>>(), 0)?;
    for (_, stripped) in programs {
        fs::remove_file(&stripped).with_context(|| format!("remove {}", stripped.display()))?;
    }
    let archive = build.join(format!("image-{}.tar", std::process::id()));
    fs::write(&archive, image.archive("test")?).context("write the image's archive")?;
    Ok(archive)
}

fn life(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    start(cluster, &hosts)?;
    let network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };

    let running = Stream::default().begin(sender, &receivers.iter().collect::<Vec<_>>())?;
    for host in &hosts {
        host.docker(["stop", "shoutd"])?;
        running.await_more(100)?;
        host.docker(["start", "shoutd"])?;
        await_serving(host)?;
        running.await_more(100)?;
        let told = host.sh("shoutdctl stop")?;
        ensure!(told.contains("containers stay connected"), "{told}");
        ensure!(host.pids_of("shoutd")?.is_empty(), "the engine started it again");
        host.docker(["start", "shoutd"])?;
        await_serving(host)?;
    }
    running.finish()?;

    // The daemon writes names to the hosts files of containers that start now.
    let late = one_on_each(&hosts, "foo", &[])?;
    for one in &late {
        for other in &late {
            one.ping(&other.name)?;
        }
    }
    Stream::default().send(&late[2], &late.iter().take(2).collect::<Vec<_>>(), 1)?;
    power_failure(&hosts, &late)?;
    drop((late, containers));
    network.remove_on(&hosts[1])?;

    let [last, others @ ..] = &hosts;
    for host in others {
        host.sh("shoutdctl stop --leave")?;
        let left =
            host.sh("find /var/lib/shoutd /run/shoutd /run/netns -type f 2>/dev/null || true")?;
        ensure!(left.is_empty(), "{} still has {left}", host.name());
        let networks = host.docker(["network", "ls", "--format", "{{.Name}}"])?;
        ensure!(!networks.contains("shoutd"), "{} still has {networks}", host.name());
    }
    // The only host of a cluster cannot leave it.
    let refused = last.run(["shoutdctl", "stop", "--leave"])?;
    ensure!(refused.stderr.contains("only host"), "{refused}");
    let policy =
        last.docker(["inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", "shoutd"])?;
    ensure!(policy.trim() == "unless-stopped", "after the refusal, the policy is {policy}");
    last.sh("shoutdctl stop && docker rm shoutd")?;
    for host in &hosts {
        let left = host.docker(["ps", "--all", "--format", "{{.Names}}"])?;
        ensure!(left.trim().is_empty(), "{} still has {left}", host.name());
    }
    Ok(())
}

/// The engine starts before its plugin, so it cannot attach containers that it starts at boot.
fn power_failure(hosts: &[Host; 3], peers: &[Container]) -> Result<()> {
    let [_, _, host] = hosts;
    let back: Vec<_> = ["always", "unless-stopped"]
        .map(|policy| Container::start(host, "foo", &[&format!("--restart={policy}")]))
        .into_iter()
        .collect::<Result<_>>()?;
    host.power_off()?;
    host.power_on()?;
    await_serving(host)?;
    for one in &back {
        wait_until(&format!("{} to run again", one.name), SOON, || {
            Ok((one.inspect("{{.State.Running}}")?.trim() == "true").then_some(()))
        })?;
    }
    let [sender, _, _] = peers else { bail!("no containers") };
    Stream::default().send(sender, &back.iter().collect::<Vec<_>>(), 1)
}

/// Starts shoutd in a container on each host, as a user does.
fn start(cluster: &Cluster, hosts: &[Host; 3]) -> Result<()> {
    let [first, others @ ..] = hosts;
    let refused = first.run(["shoutdctl", "start", "--container", "--image=none", "10.77.0.1"])?;
    ensure!(
        !refused.success() && refused.stderr.contains("docker load"),
        "without an image: {refused}"
    );
    let told = first.start_shoutd(&["--container", &first.address().to_string()])?;
    ensure!(told.contains("running: docker run") && told.contains("1 host"), "{told}");
    let token = cluster.token()?;
    for host in others {
        let peers = format!("--peer-addresses={}", first.address());
        let told =
            host.start_shoutd(&["--container", &host.address().to_string(), &peers, &token])?;
        ensure!(!told.contains("SHOUT1-"), "it shows the token: {told}");
    }
    for host in hosts {
        host.docker(["exec", "shoutd", "shoutdctl", "status"])?;
        host.sh("shoutdctl status")?;
        // Once more, with and without the option: nothing is started again.
        let before = host.pids_of("shoutd")?;
        for again in [["--container"].as_slice(), &[]] {
            let told = host.start_shoutd(again)?;
            ensure!(told.contains("in a cluster of 3 hosts"), "{told}");
        }
        ensure!(host.pids_of("shoutd")? == before, "it was started again");
    }
    Ok(())
}

fn await_serving(host: &Host) -> Result<()> {
    wait_until(&format!("shoutd on {} to serve", host.name()), SOON, || {
        Ok(host.run(["shoutdctl", "status"])?.success().then_some(()))
    })
}
