//! Engines that leave their containers running when they end (`live-restore`), on engines of
//! different versions.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{
    Cluster, Container, Network, SOON, Stream, await_network, endpoints, live_restore, one_on_each,
    run_checks,
};
use shoutd_lab::{Host, wait_until};

/// How long an engine may take to remove a container while nobody answers its calls.
const UNHEARD: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up_mixed("live", 3)?;
            cluster.form([1, 2, 3])?;
            for host in cluster.hosts() {
                live_restore(&host)?;
            }
            Ok(cluster)
        },
        &[
            ("engines stopped and killed during a stream", engines_end),
            (
                "engine and shoutd killed during a stream, the one or the other started first",
                both_end,
            ),
            ("a container that ended while its engine was away is forgotten", ended_meanwhile),
            ("containers removed while shoutd is away leave no endpoint", removed_unheard),
            (
                "networks come and go while an engine is away and its containers run",
                changes_meanwhile,
            ),
        ],
    )
}

/// Its datagrams are not fragmented. An engine that comes back to a running container removes its
/// DNS rules there and installs them again; in between, the kernel does not track the container's
/// connections. If the fragments of a datagram arrive on both sides of that moment, each half waits
/// for the other in a different place.
const STREAM: Stream<'_> = Stream { group: "224.1.1.1", port: 5000, rate: "10M", length: 1400 };

/// Checks that a container went on undisturbed: the engine, shoutd and the kernel still know it,
/// and it can be stopped and started.
fn is_as_before(container: &Container, address: &str) -> Result<()> {
    let host = &container.host;
    ensure!(container.inspect("{{.State.Running}}")? == "true", "{} does not run", container.name);
    ensure!(
        container.address("foo")?.to_string() == address,
        "{} has another address",
        container.name
    );
    wait_until("the endpoint to be known", SOON, || {
        let known = endpoints(host)?;
        Ok(known
            .iter()
            .any(|row| row["addresses"].to_string().contains(&format!("\"{address}\"")))
            .then_some(()))
    })
}

fn engines_end(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    // Docker gives out the origin's addresses, shoutd the mirrors'.
    let _network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    let addresses = containers
        .iter()
        .map(|one| Ok(one.address("foo")?.to_string()))
        .collect::<Result<Vec<_>>>()?;
    let running = STREAM.begin_apart(sender, &receivers.iter().collect::<Vec<_>>())?;
    for host in &hosts {
        for killed in [false, true] {
            if killed { host.kill_engine() } else { host.stop_engine() }?;
            running.await_more(100)?;
            host.start_engine()?;
            running.await_more(100)?;
        }
    }
    running.finish()?;
    for (container, address) in containers.iter().zip(&addresses) {
        is_as_before(container, address)?;
        // No container gets an address that is in use.
        let other = Container::start(&container.host, "foo", &[])?;
        let new = other.address("foo")?.to_string();
        ensure!(!addresses.contains(&new), "{} was given {new}, which is in use", other.name);
        other.ping(address)?;
        container.host.docker(["restart", "--time", "0", &container.name])?;
    }
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)
}

fn both_end(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[1], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    let addresses = containers
        .iter()
        .map(|one| Ok(one.address("foo")?.to_string()))
        .collect::<Result<Vec<_>>>()?;
    let running = STREAM.begin_apart(sender, &receivers.iter().collect::<Vec<_>>())?;
    for (host, engine_first) in [(&hosts[0], true), (&hosts[1], false), (&hosts[2], true)] {
        host.kill_engine()?;
        host.kill_shoutd()?;
        running.await_more(100)?;
        if engine_first {
            host.start_engine()?;
            host.boot_shoutd()?;
        } else {
            host.boot_shoutd()?;
            host.start_engine()?;
        }
        host.start_shoutd(&[])?;
        running.await_more(100)?;
    }
    running.finish()?;
    containers
        .iter()
        .zip(&addresses)
        .try_for_each(|(container, address)| is_as_before(container, address))
}

fn ended_meanwhile(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let _network = Network::create(cluster, &first, "foo", &[])?;
    for host in [&first, &second] {
        let [stays, ends] =
            [Container::start(host, "foo", &[])?, Container::start(host, "foo", &[])?];
        let pid = ends.inspect("{{.State.Pid}}")?;
        let gone = ends.address("foo")?.to_string();
        host.kill_engine()?;
        host.sh(&format!("kill -KILL {pid}"))?;
        host.start_engine()?;
        wait_until("the endpoint to be forgotten", SOON, || {
            let address = format!("\"{gone}\"");
            let is_known =
                endpoints(host)?.iter().any(|row| row["addresses"].to_string().contains(&address));
            Ok((!is_known).then_some(()))
        })
        .with_context(|| format!("{:?}", endpoints(host)))?;
        is_as_before(&stays, &stays.address("foo")?.to_string())?;
        ends.start_again()?;
        stays.ping(&ends.address("foo")?.to_string())?;
    }
    Ok(())
}

/// Docker asks for each container twice, for 15 s each time, and gives up. On one host the engine
/// is killed afterwards, too.
fn removed_unheard(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let network = Network::create(cluster, &first, "foo", &[])?;
    let both = [first, second.clone()];
    let staying = one_on_each(&both, "foo", &[])?;
    let ending = one_on_each(&both, "foo", &[])?;
    both.iter().try_for_each(Host::kill_shoutd)?;
    let removing = ending.iter().map(|one| one.host.spawn(["docker", "rm", "--force", &one.name]));
    for removed in removing.collect::<Result<Vec<_>>>()? {
        let output = { removed }.wait(UNHEARD)?;
        ensure!(output.success(), "docker rm {output}");
    }
    second.kill_engine()?;
    second.start_engine()?;
    both.iter().try_for_each(|host| host.start_shoutd(&[]).map(|_| ()))?;
    wait_until("the endpoints to be forgotten", SOON, || {
        let known = endpoints(&third)?;
        let all_stay =
            known.iter().all(|row| staying.iter().any(|one| row["container"] == one.name.as_str()));
        Ok((known.len() == 2 && all_stay).then_some(()))
    })
    .with_context(|| format!("{:?}", endpoints(&third)))?;
    staying
        .into_iter()
        .try_for_each(|stays| is_as_before(&stays, &stays.address("foo")?.to_string()))?;
    drop(ending);
    network.remove_on(&third)
}

fn changes_meanwhile(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _network = Network::create(cluster, first, "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    third.stop_engine()?;
    let output = second.run(["shoutdctl", "network", "rm", "--timeout", "5", "foo"])?;
    ensure!(!output.success(), "a network in use was removed, {output}");
    let _new = Network::create_here(cluster, second, "new", &["--ipam-driver", "shoutd"])?;
    await_network(first, "new")?;
    third.start_engine()?;
    await_network(third, "new")?;
    await_network(second, "foo")?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)
}
