//! shoutd ends at any moment of any call that Docker makes, and comes back: the command takes
//! effect, once, and leaves nothing afterwards.

#[path = "callbacks/interposer.rs"]
mod interposer;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use interposer::{End, Interposer, Moment};
use shoutd_e2e::{
    Cluster, Container, Network, SOON, Stream, await_network, await_no_network, endpoints,
    run_checks,
};
use shoutd_lab::{Host, IMAGE, wait_until};

/// Docker's calls to a plugin in the life of a network whose addresses the plugin gives out.
const CALLS: [&str; 10] = [
    "/IpamDriver.RequestPool",
    "/IpamDriver.RequestAddress",
    "/NetworkDriver.CreateNetwork",
    "/NetworkDriver.CreateEndpoint",
    "/NetworkDriver.Join",
    "/NetworkDriver.Leave",
    "/NetworkDriver.DeleteEndpoint",
    "/IpamDriver.ReleaseAddress",
    "/NetworkDriver.DeleteNetwork",
    "/IpamDriver.ReleasePool",
];

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("callbacks", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("killed when it is asked", |cluster| life(cluster, Moment::Asked, End::Killed)),
            ("killed one millisecond later", |cluster| {
                life(cluster, Moment::Underway(Duration::from_millis(1)), End::Killed)
            }),
            ("killed ten milliseconds later", |cluster| {
                life(cluster, Moment::Underway(Duration::from_millis(10)), End::Killed)
            }),
            ("killed when it has answered, and the answer is lost", |cluster| {
                life(cluster, Moment::Answered, End::Killed)
            }),
            ("killed when Docker has the answer", |cluster| {
                life(cluster, Moment::Told, End::Killed)
            }),
            ("upgraded one millisecond after it was asked", |cluster| {
                life(cluster, Moment::Underway(Duration::from_millis(1)), End::Stopped)
            }),
            ("killed while the engine makes a copy of a network: there is one copy", one_copy),
            (
                "containers that were removed while shoutd was stopped hold nothing",
                containers_removed_unnoticed,
            ),
        ],
    )
}

/// The life of a network and a container; shoutd ends on their host in each call. Other containers
/// lose nothing.
fn life(cluster: &mut Cluster, moment: Moment, end: End) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let steady = Network::create(cluster, &first, "steady", &[])?;
    let (sender, receiver) =
        (Container::start(&second, "steady", &[])?, Container::start(&first, "steady", &[])?);
    let stream = Stream::default().begin(&sender, &[&receiver])?;

    let interposer = Interposer::between(&first, moment, end)?;
    insist(&first, &["network", "create", "--driver", "shoutd", "--ipam-driver", "shoutd", "foo"])?;
    await_network(&second, "foo")?;
    first.docker([
        "create",
        "--init",
        "--name",
        "here",
        "--network",
        "foo",
        IMAGE,
        "sleep",
        "100000",
    ])?;
    let here = Container { host: first.clone(), name: "here".to_owned() };
    insist(&first, &["start", "here"])?;
    let there = Container::start(&second, "foo", &[])?;
    let other = Stream { group: "224.1.1.2", port: 5001, ..Stream::default() };
    other.send(&here, &[&there], 1).context("from it")?;
    other.send(&there, &[&here], 1).context("to it")?;
    // Its address is released and requested again.
    insist(&first, &["stop", "--time", "1", "here"])?;
    insist(&first, &["start", "here"])?;
    other.send(&there, &[&here], 1).context("to it when it was started again")?;
    await_endpoints(&second, 4)?;
    insist(&first, &["rm", "--force", "here"])?;
    there.remove()?;
    remove_for_good(&first, &second, "foo")?;
    let struck = interposer.end()?;
    let missed: Vec<_> = CALLS.iter().filter(|call| !struck.contains(**call)).collect();
    ensure!(missed.is_empty(), "Docker did not call {missed:?}, but {struck:?}");
    await_endpoints(&second, 2)?;

    stream.finish().context("the stream beside it")?;
    drop((sender, receiver));
    steady.remove_on(&second)
}

/// Runs a command until it succeeds. When a plugin ends before it has answered, the engine fails
/// the command and undoes it; it repeats only a call that it could not make at all.
fn insist(host: &Host, command: &[&str]) -> Result<()> {
    for _ in 0..CALLS.len() {
        let output = host.run(["docker"].iter().chain(command))?;
        if output.success() {
            return Ok(());
        }
        let is_cut_off =
            ["shoutd.sock", "moby#35459"].iter().any(|sign| output.stderr.contains(sign));
        ensure!(is_cut_off, "docker {}: not for want of an answer, {output}", command.join(" "));
    }
    bail!("docker {} failed too often", command.join(" "))
}

/// Removes a network on a host until it is gone from another host. If shoutd ends before it has
/// read the call, the engine forgets the network all the same: shoutd sees a missing copy and
/// restores it, once.
fn remove_for_good(host: &Host, other: &Host, name: &str) -> Result<()> {
    insist(host, &["network", "rm", name])?;
    let is_back = wait_until(&format!("network {name} to be gone or to come back"), SOON, || {
        if !has_network(other, name)? {
            return Ok(Some(false));
        }
        Ok(has_network(host, name)?.then_some(true))
    })?;
    if is_back {
        ensure!(
            host.sh("shoutdctl events")?.contains("network-restored"),
            "why network {name} is back is not told"
        );
        insist(host, &["network", "rm", name])?;
    }
    await_no_network(other, name)
}

fn has_network(host: &Host, name: &str) -> Result<bool> {
    Ok(host.run(["docker", "network", "inspect", name])?.success())
}

/// Waits until a host has the endpoints of `count` containers on all networks. Endpoints of failed
/// starts are kept for a while, because the engine does not report that it has given them up.
fn await_endpoints(asked: &Host, count: usize) -> Result<()> {
    wait_until(&format!("{count} endpoints"), SOON, || {
        let known = endpoints(asked)?;
        let of_containers = known.iter().filter(|endpoint| !endpoint["container"].is_null());
        Ok((of_containers.count() == count).then_some(()))
    })
    .with_context(|| format!("there are {:?}", endpoints(asked)))
}

/// An engine goes on with a request whose sender, shoutd, has died. It calls the next shoutd, which
/// has found the copy missing and has requested one too.
fn one_copy(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    // This makes the engine activate the plugin before shoutd is killed.
    let steady = Network::create(cluster, &first, "steady", &[])?;
    let moments =
        [Moment::Asked, Moment::Underway(Duration::from_millis(1)), Moment::Answered, Moment::Told];
    for moment in moments {
        let interposer = Interposer::between(&second, moment, End::Killed)?;
        let network = Network::create_here(cluster, &first, "foo", &[])?;
        await_network(&second, "foo")?;
        interposer.end()?;
        // Mirrors are made in order: when this one exists, the other is settled.
        let marker = Network::create_here(cluster, &first, "marker", &[])?;
        await_network(&second, "marker")?;
        let copies = second.docker(["network", "ls", "--quiet", "--filter", "name=^foo$"])?;
        ensure!(copies.lines().count() == 1, "{moment:?}: there are several copies: {copies}");
        let (sender, receiver) =
            (Container::start(&first, "foo", &[])?, Container::start(&second, "foo", &[])?);
        Stream::default().send(&sender, &[&receiver], 1)?;
        drop((sender, receiver));
        network.remove_on(&first)?;
        marker.remove_on(&first)?;
    }
    steady.remove_on(&first)
}

/// Answers the engine's calls to the plugin with an error, so that it does not repeat each of them
/// for 15 s.
const REFUSE_CALLS: &str = "printf 'HTTP/1.1 500 No\r\nContent-Length: 2\r\nConnection: \
                            close\r\n\r\n{}' > /run/refusal; exec socat \
                            UNIX-LISTEN:/run/docker/plugins/shoutd.sock,fork,unlink-early \
                            SYSTEM:'read line; cat /run/refusal'";

/// The engine's calls are lost while shoutd is stopped, and the interfaces stay where they are.
fn containers_removed_unnoticed(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, _] = &hosts;
    let (shared, own) = (
        Network::create(cluster, first, "foo", &[])?,
        Network::create(cluster, second, "own", &["--ipam-driver", "shoutd"])?,
    );
    let stays = Container::start(first, "foo", &[])?;
    let mut ends = Vec::new();
    for network in ["foo", "own"] {
        ends.push(Container::start(first, network, &[])?);
    }
    first.docker(["network", "connect", "own", &stays.name])?;
    first.sh("shoutdctl stop")?;
    let socket = "/run/docker/plugins/shoutd.sock";
    let mut refusing = first.spawn(["sh", "-c", REFUSE_CALLS])?;
    wait_until("the calls to be refused", SOON, || {
        Ok(first
            .run(["socat", "-u", "/dev/null", &format!("UNIX-CONNECT:{socket}")])?
            .success()
            .then_some(()))
    })?;
    first.docker(["network", "disconnect", "--force", "own", &stays.name])?;
    ends.into_iter().try_for_each(Container::remove)?;
    refusing.kill()?;
    first.start_shoutd(&[])?;
    wait_until("what is gone to be forgotten", SOON, || {
        Ok(endpoints(second)?
            .iter()
            .all(|row| row["container"] == stays.name.as_str())
            .then_some(()))
    })
    .with_context(|| format!("{:?}", endpoints(second)))?;
    own.remove_on(second)?;
    let other = Container::start(second, "foo", &[])?;
    Stream::default().send(&other, &[&stays], 1)?;
    drop((other, stays));
    shared.remove_on(second)
}
