//! A data directory on a full disk: "free some space, or choose another directory with --data-dir".

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{Cluster, Container, Network, SOON, networks, status};
use shoutd_lab::{Host, wait_until};

use super::{await_no_problem, await_problem, forget, formed, refused};

/// Where the small disk is mounted, and the data directory on it.
const DISK: &str = "/run/disk";
const START: &str = "shoutdctl start 10.77.0.1 --data-dir=/run/disk/data";

/// How much room is left, in KiB, for hosts that are refused when they are new.
const TOO_LITTLE: [u64; 7] = [0, 4, 64, 300, 1024, 4096, 16 * 1024 - 64];

/// Leaves so many KiB of the disk.
fn leave(host: &Host, room: u64) -> Result<()> {
    let script = format!(
        "cd {DISK} && rm -f filled && left=$(df --output=avail -k . | tail -n 1) && fallocate -l \
         $((left - {room}))K filled"
    );
    host.sh(&script).map(|_| ())
}

/// The disk has this much room, whatever it had.
fn make_room(host: &Host) -> Result<()> {
    host.sh(&format!("rm -f {DISK}/filled")).map(|_| ())
}

pub fn full(cluster: &mut Cluster) -> Result<()> {
    let [host, ..] = formed(cluster, 1)?;
    host.sh(&format!(
        "shoutdctl stop && mkdir -p {DISK} && mount -t tmpfs -o size=64m tmpfs {DISK}"
    ))?;
    let tried = new_host(&host)
        .and_then(|()| known_host(cluster, &host))
        .and_then(|()| while_running(cluster, &host));
    host.sh(&format!("shoutdctl stop; umount --lazy {DISK}"))?;
    forget(&host)?;
    host.start_shoutd(&["10.77.0.1"])?;
    tried
}

/// A host that begins with too little room says so and is not there; with enough it serves and
/// stays.
fn new_host(host: &Host) -> Result<()> {
    for room in TOO_LITTLE {
        leave(host, room)?;
        let said = refused(host, START, &[]).with_context(|| format!("with {room} KiB"))?;
        ensure!(said.trim().lines().count() == 1, "with {room} KiB it says: {said}");
        ensure!(
            said.contains(&format!("{DISK}/data")),
            "with {room} KiB it does not say where: {said}"
        );
        ensure!(
            said.contains("16 MiB") && said.contains("free some space"),
            "with {room} KiB: {said}"
        );
        ensure!(host.pids_of("shoutd")?.is_empty(), "with {room} KiB shoutd runs");
    }
    // The other way out.
    host.sh(
        "shoutdctl start 10.77.0.1 --data-dir=/run/roomy && shoutdctl stop && rm -r /run/roomy",
    )?;
    leave(host, 17 * 1024)?;
    host.sh(START)?;
    stays(host)
}

/// Whether the daemon that started goes on, as it does when what it does first has been done.
fn stays(host: &Host) -> Result<()> {
    let pids = host.pids_of("shoutd")?;
    ensure!(pids.len() == 1, "not one daemon: {pids:?}");
    wait_until("the engine to be served", SOON, || {
        let status = status(host)?;
        Ok((status["docker"]["state"] == "serving" && status["membership"]["state"] == "member")
            .then_some(()))
    })?;
    ensure!(
        host.pids_of("shoutd")? == pids,
        "it ended: {}",
        host.shoutd_log()?.lines().last().unwrap_or_default()
    );
    Ok(())
}

/// A host that has its data serves its containers however full the disk is, and says what it cannot
/// do.
fn known_host(cluster: &Cluster, host: &Host) -> Result<()> {
    make_room(host)?;
    let network = Network::create_here(cluster, host, "foo", &[])?;
    let container = Container::start(host, "foo", &[])?;
    let address = container.address("foo")?.to_string();
    for room in [0, 4, 64, 300, 1024, 4096] {
        host.sh("shoutdctl stop")?;
        leave(host, room)?;
        host.sh(START).with_context(|| format!("with {room} KiB"))?;
        stays(host).with_context(|| format!("with {room} KiB"))?;
        ensure!(networks(host)?.len() == 1, "with {room} KiB it has forgotten its network");
        container.ping(&address)?;
        let pids = host.pids_of("shoutd")?;
        let output = host.run(["docker", "network", "create", "--driver", "shoutd", "late"])?;
        ensure!(output.success() || output.stderr.contains("disk"), "with {room} KiB: {output}");
        make_room(host)?;
        await_no_problem(host, "disk")?;
        // It may have been agreed on when there was room.
        wait_until("a network to be made", SOON, || {
            let script =
                "docker network inspect late || docker network create --driver shoutd late";
            Ok(host.run(["sh", "-c", script])?.success().then_some(()))
        })?;
        ensure!(host.pids_of("shoutd")? == pids, "with {room} KiB it ended when it had to write");
        host.docker(["network", "rm", "late"])?;
    }
    container.remove()?;
    network.remove_on(host)
}

/// The disk fills up while it runs: it says so, what needs no agreement goes on, and it recovers by
/// itself.
fn while_running(cluster: &Cluster, host: &Host) -> Result<()> {
    make_room(host)?;
    let network = Network::create_here(cluster, host, "foo", &[])?;
    let container = Container::start(host, "foo", &[])?;
    let pids = host.pids_of("shoutd")?;
    leave(host, 0)?;
    // redb may have room within its file.
    for number in 0..200 {
        let name = format!("more{number}");
        let output = host.run(["docker", "network", "create", "--driver", "shoutd", &name])?;
        if !output.success() {
            ensure!(
                output.stderr.contains("disk") || output.stderr.contains("No space left"),
                "{output}"
            );
            break;
        }
        host.docker(["network", "rm", &name])?;
    }
    let told = await_problem(host, "No space left");
    container.ping(&container.address("foo")?.to_string())?;
    make_room(host)?;
    told?;
    await_no_problem(host, "No space left")?;
    let later = Network::create_here(cluster, host, "later", &["--ipam-driver", "shoutd"])?;
    let other = Container::start(host, "later", &[])?;
    ensure!(host.pids_of("shoutd")? == pids, "it ended");
    drop((container, other));
    network.remove_on(host)?;
    later.remove_on(host)?;
    host.sh("docker network ls --quiet --filter driver=shoutd | xargs --no-run-if-empty docker \
             network rm")
        .map(|_| ())
}
