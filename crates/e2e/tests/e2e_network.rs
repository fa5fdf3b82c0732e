//! `shoutdctl network`: creation and removal that return when all hosts have followed; races; and
//! the events that report them. The hosts have engines of different versions.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use shoutd_e2e::{
    Cluster, Container, GroupSocket, Network, SOON, Sources, Stream, await_network, containers_of,
    networks, one_on_each, run_checks, status, view,
};
use shoutd_lab::{Host, IMAGE, Output, wait_until};

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up_mixed("network", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("created and removed as soon as the command returns", synchronous),
            ("a network in use stays, and the command and the events say so", in_use),
            ("a host that is away follows when it is back", away),
            ("a host that has a network of that name already is named", name_taken),
            ("lists are of one network or host, and say why they are empty", lists),
            ("a bridge that is put on a network's subnet is a problem and an event", overlapped),
            ("what is no network of the cluster, and what Docker refuses", refused),
            ("the same name on two hosts in the same instant", twins),
            (
                "created and used by one script on all hosts in the same instant",
                provisioned_at_once,
            ),
            ("a removal races starts on other hosts", removal_races_starts),
            ("events outlive the daemon", events_are_kept),
        ],
    )
}

/// `shoutdctl network ...`.
fn network(host: &Host, arguments: &[&str]) -> Result<Output> {
    host.run(["shoutdctl", "network"].iter().chain(arguments))
}

fn network_works(host: &Host, arguments: &[&str]) -> Result<Output> {
    let output = network(host, arguments)?;
    ensure!(output.success(), "shoutdctl network {arguments:?} on {} {output}", host.name());
    Ok(output)
}

fn has_network(host: &Host, name: &str) -> Result<bool> {
    Ok(host.docker(["network", "ls", "--format", "{{.Name}}"])?.lines().any(|other| other == name))
}

/// Whether a host's event log has an event of this kind about this network or container with this
/// text.
fn has_event(host: &Host, kind: &str, subject: &str, text: &str) -> Result<bool> {
    let events = view(host, "events")?;
    let events = events.as_array().context("a list of events")?;
    Ok(events.iter().any(|event| {
        let says = event["text"].as_str().is_some_and(|told| told.contains(text));
        event["kind"] == kind && event["subject"] == subject && says
    }))
}

fn ensure_event(host: &Host, kind: &str, subject: &str, text: &str) -> Result<()> {
    ensure!(
        has_event(host, kind, subject, text)?,
        "{} has no event {kind} of {subject} that says {text:?}: {}",
        host.name(),
        view(host, "events")?
    );
    Ok(())
}

fn synchronous(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    for (round, creator) in hosts.iter().enumerate() {
        let label = format!("round={round}");
        let options = ["create", "--ipam-driver", "shoutd", "--label", &label, "foo"];
        let printed = network_works(creator, &options)?.stdout;
        let id = creator.docker(["network", "inspect", "--format", "{{.Id}}", "foo"])?;
        ensure!(printed == id, "it printed {printed:?} of network {id:?}");
        // At once, on every host.
        let containers = one_on_each(&hosts, "foo", &[])?;
        let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
        Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
        drop(containers);
        let remover = &hosts[(round + 1) % hosts.len()];
        let printed = network_works(remover, &["rm", "foo"])?.stdout;
        ensure!(printed == "foo\n", "it printed {printed:?}");
        for host in &hosts {
            ensure!(!has_network(host, "foo")?, "{} still has it", host.name());
            ensure!(networks(host)?.is_empty(), "{} still knows it", host.name());
        }
    }
    // `wait` works for a network that Docker's command created.
    let created = Network::create_here(cluster, &hosts[0], "bar", &[])?;
    network_works(&hosts[1], &["wait", "bar"])?;
    for host in &hosts {
        ensure!(has_network(host, "bar")?, "{} does not have it", host.name());
    }
    hosts[2].docker(["network", "rm", "bar"])?;
    network_works(&hosts[0], &["wait", "--gone", "bar"])?;
    for host in &hosts {
        ensure!(!has_network(host, "bar")?, "{} still has it", host.name());
    }
    drop(created);
    Ok(())
}

fn in_use(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    network_works(&first, &["create", "used"])?;
    let container = Container::start(&third, "used", &[])?;
    let output = network(&second, &["rm", "used"])?;
    ensure!(!output.success() && output.stderr.contains("in use on host3"), "{output}");
    ensure_event(&second, "network-kept", "used", "in use on host3")?;
    let told = second.run(["shoutdctl", "status"])?.stdout;
    ensure!(
        told.contains("network-kept used") && told.contains("host3"),
        "the status does not say so: {told}"
    );
    network_works(&second, &["wait", "used"])?;
    ensure_event(&second, "network-made", "used", "created its copy on this host")?;
    Stream::default().send(&container, &[&Container::start(&second, "used", &[])?], 1)?;
    drop(container);
    network_works(&second, &["rm", "used"]).map(|_| ())
}

fn away(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    third.stop_shoutd()?;
    let output = network_works(&first, &["create", "--ipam-driver", "shoutd", "late"])?;
    ensure!(output.stderr.contains("host3 does not answer"), "{output}");
    ensure!(has_network(&second, "late")? && !has_network(&third, "late")?, "who has it?");
    third.start_shoutd(&[])?;
    network_works(&second, &["wait", "late"])?;
    ensure!(has_network(&third, "late")?, "host3 does not have it");

    // A host without an engine answers that it does not have the network.
    second.stop_engine()?;
    let output = network(&first, &["create", "--timeout", "2", "--ipam-driver", "shoutd", "later"]);
    let output = output?;
    ensure!(!output.success() && output.stderr.contains("host2 does not have it"), "{output}");
    second.start_engine()?;
    network_works(&first, &["wait", "later"])?;
    network_works(&second, &["rm", "late", "later"]).map(|_| ())
}

fn name_taken(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    third.docker(["network", "create", "common"])?;
    let output =
        network(&first, &["create", "--timeout", "3", "--ipam-driver", "shoutd", "common"])?;
    let told = "already has a Docker network of that name";
    ensure!(
        !output.success() && output.stderr.contains("host3") && output.stderr.contains(told),
        "{output}"
    );
    ensure_event(&third, "network-failed", "common", told)?;
    ensure!(has_network(&second, "common")?, "host2 does not have it");
    third.docker(["network", "rm", "common"])?;
    network_works(&first, &["wait", "common"])?;
    network_works(&third, &["rm", "common"]).map(|_| ())
}

fn lists(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let [shared, single] = ["foo", "bar"]
        .map(|name| Network::create(cluster, &first, name, &["--ipam-driver", "shoutd"]));
    let (shared, single) = (shared?, single?);
    let receiving = [Container::start(&first, "foo", &[])?, Container::start(&second, "foo", &[])?];
    let other = Container::start(&second, "bar", &[])?;
    wait_until("the containers to be known on all hosts", SOON, || {
        Ok((listed(&third, "network ls --host host2")?.stdout.lines().count() == 3).then_some(()))
    })?;
    for (host, line, why) in [
        (&first, "groups --network foo", "no container is a member of a group on network foo"),
        (&first, "groups --network bar", "add --host host2"),
        (&third, "groups", "add --host and one of host1, host2"),
    ] {
        let output = listed(host, line)?;
        ensure!(
            output.success() && output.stderr.contains(why),
            "{line} on {}: {output}",
            host.name()
        );
    }
    // The receiving containers are shown, also those of another host.
    let group = "239.1.2.3".parse()?;
    let sockets = receiving.each_ref().map(|container| GroupSocket::open(container, true, 5000));
    for socket in sockets.iter().flatten() {
        socket.join(group, Sources::All)?;
    }
    wait_until("the names of the receivers", SOON, || {
        let shown = listed(&first, "groups --network foo")?.stdout;
        let are_named = ["host1", "host2"]
            .iter()
            .zip(&receiving)
            .all(|(host, receiver)| shown.contains(&format!("{host} ({})", receiver.name)));
        Ok(are_named.then_some(()))
    })?;
    let shown = listed(&first, "endpoints --network foo --host host2")?.stdout;
    ensure!(shown.contains(&receiving[1].name) && shown.lines().count() == 2, "{shown}");
    let inspected: Value = serde_json::from_str(&listed(&first, "network inspect foo")?.stdout)?;
    let [endpoints, groups] =
        ["endpoints", "groups"].map(|field| inspected[0][field].as_array().map_or(0, Vec::len));
    ensure!(inspected[0]["name"] == "foo" && endpoints == 2 && groups == 1, "{inspected}");
    for line in [
        "endpoints --host host9",
        "groups --network baz",
        "network inspect baz",
        "networks --host host9",
    ] {
        let output = listed(&first, line)?;
        ensure!(!output.success() && output.stderr.contains("there is no"), "{line}: {output}");
    }
    let hosts = listed(&third, "hosts")?.stdout;
    let names: Vec<_> =
        hosts.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(names == ["host1", "host2", "host3"], "{hosts}");
    drop((sockets, receiving, other));
    shared.remove_on(&first)?;
    single.remove_on(&first)
}

/// Runs shoutdctl with the arguments in this line.
fn listed(host: &Host, line: &str) -> Result<Output> {
    host.run(["shoutdctl"].into_iter().chain(line.split(' ')))
}

fn refused(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    for (arguments, says) in [
        (["create", "--driver=bridge", "x"].as_slice(), "the driver is shoutd"),
        (&["create", "--no-such-option", "x"], "unknown flag"),
        (&["create", "--opt", "shoutd.no=1", "x"], "shoutd has no option shoutd.no"),
        (&["create"], "NAME"),
        (&["create", "x", "--timeout=3"], "give it before"),
        (&["rm", "x"], "there is no network x in the cluster"),
        (&["rm", "bridge"], "there is no network bridge in the cluster"),
        (&["wait", "--timeout", "1", "x"], "the cluster has no network x"),
        (&["wait", "--timeout", "0", "x"], "1..=3600"),
    ] {
        let output = network(&first, arguments)?;
        ensure!(!output.success() && output.stderr.contains(says), "{arguments:?}: {output}");
    }
    ensure!(networks(&first)?.is_empty(), "something was made");
    ensure!(has_network(&first, "bridge")?, "something was removed");

    // A container asks for another's address.
    network_works(&first, &["create", "--subnet", "10.61.0.0/24", "foo"])?;
    let container = Container::start(&first, "foo", &["--ip", "10.61.0.9"])?;
    let (_, output) = Container::try_start(&second, "foo", &["--ip", "10.61.0.9"])?;
    ensure!(!output.success() && output.stderr.contains("host1"), "{output}");
    let refusals = view(&second, "events")?;
    ensure!(
        refusals.as_array().is_some_and(|events| {
            events.iter().any(|event| {
                event["kind"] == "container-refused" && event["text"].to_string().contains("host1")
            })
        }),
        "no such event: {refusals}"
    );
    for name in containers_of(&second)? {
        second.docker(["rm", "--force", &name])?;
    }
    drop(container);
    network_works(&second, &["rm", "foo"]).map(|_| ())
}

/// How long a command that cannot succeed any more may take to say so: the time of some agreements,
/// and not its patience of 30 s for other hosts.
const LOST_WITHIN: Duration = Duration::from_secs(15);

/// One of them is the network, everywhere; the others make room, or were refused, and say so at
/// once.
fn twins(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    for round in 0..5 {
        let began = Instant::now();
        let outputs = thread::scope(|scope| {
            let creating = hosts.iter().map(|host| {
                let subnet = format!("10.62.{}.0/24", host.number());
                scope.spawn(move || network(host, &["create", "--subnet", &subnet, "twin"]))
            });
            let creating: Vec<_> = creating.collect();
            let joined = creating.into_iter().map(thread::ScopedJoinHandle::join);
            joined
                .map(|result| result.unwrap_or_else(|_| bail!("a thread panicked")))
                .collect::<Result<Vec<_>>>()
        })?;
        let created = outputs.iter().filter(|output| output.success()).count();
        ensure!(created == 1, "round {round}: {created} of them were created: {outputs:?}");
        ensure!(
            began.elapsed() < LOST_WITHIN,
            "round {round}: after {:?}: {outputs:?}",
            began.elapsed()
        );
        for output in outputs.iter().filter(|output| !output.success()) {
            let reasons = ["created on host", "already exists"];
            let is_told = reasons.iter().any(|reason| output.stderr.contains(reason));
            ensure!(is_told, "round {round}: it does not say which network is there: {output}");
            println!("        {}", output.stderr.trim());
        }
        network_works(&hosts[0], &["wait", "twin"])?;
        // Networks that made room may still wait for a host to follow.
        wait_until("the network to be the only one", SOON, || {
            Ok((networks(&hosts[0])?.len() == 1).then_some(()))
        })
        .with_context(|| format!("round {round}: {:?}", networks(&hosts[0])))?;
        for host in &hosts {
            let listed = host.docker(["network", "ls", "--quiet", "--filter", "name=twin"])?;
            ensure!(listed.lines().count() == 1, "round {round}: {} has {listed:?}", host.name());
        }
        let containers = one_on_each(&hosts, "twin", &[])?;
        let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
        Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
        drop(containers);
        network_works(&hosts[round % hosts.len()], &["rm", "twin"])?;
    }
    Ok(())
}

/// Docker does not know shoutd's subnets: a Docker network can be created on one of them.
fn overlapped(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let network = Network::create(
        cluster,
        &first,
        "foo",
        &["--subnet", "10.63.0.0/24", "--ipam-driver", "shoutd"],
    )?;
    second.docker(["network", "create", "--subnet", "10.63.0.0/25", "bar"])?;
    let problem = "overlaps 10.63.0.0/25 of Docker network bar on host host2";
    for host in [&first, &second] {
        wait_until("the overlap to be a problem", SOON, || {
            Ok(has_problem(host, problem)?.then_some(()))
        })?;
        wait_until("the overlap to be an event", SOON, || {
            Ok(has_event(host, "subnet-overlap", "foo", problem)?.then_some(()))
        })?;
    }
    ensure!(!has_problem(&third, problem)?, "it concerns neither host3 nor a network of its");
    second.docker(["network", "rm", "bar"])?;
    wait_until("the problem to be over", SOON, || {
        Ok((!has_problem(&first, problem)? && !has_problem(&second, problem)?).then_some(()))
    })?;
    network.remove_on(&third)
}

fn has_problem(host: &Host, words: &str) -> Result<bool> {
    Ok(status(host)?["problems"].to_string().contains(words))
}

/// How often all hosts create a network and start a container on it at once, unless [`ROUNDS`] says
/// otherwise.
const PROVISIONINGS: usize = 6;

/// For more rounds by hand.
const ROUNDS: &str = "SHOUTD_PROVISIONINGS";

fn provisionings() -> Result<usize> {
    std::env::var(ROUNDS).map_or(Ok(PROVISIONINGS), |rounds| {
        rounds.parse().with_context(|| format!("{ROUNDS}: {rounds}"))
    })
}

/// As configuration tools do, on all hosts at once: `create || true; run`. All containers that run
/// are on the one network that remains; a start that fails shows why.
fn provisioned_at_once(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    for round in 0..provisionings()? {
        let outputs = provision(&hosts, round)?;
        network_works(&hosts[0], &["wait", "twin"])?;
        wait_until("the network to be the only one", SOON, || {
            Ok((networks(&hosts[0])?.len() == 1).then_some(()))
        })
        .with_context(|| format!("round {round}: {:?}", networks(&hosts[0])))?;
        let mut running = Vec::new();
        for (host, output) in hosts.iter().zip(&outputs) {
            let container = Container { host: host.clone(), name: "provisioned".to_owned() };
            ensure_runs_or_is_told(&container, output)
                .with_context(|| format!("round {round}, {}", host.name()))?;
            if output.success() {
                running.push(container);
            } else {
                container.remove()?;
            }
        }
        println!("        round {round}: {} of {} containers run", running.len(), hosts.len());
        let Some((sender, receivers)) = running.split_first() else {
            bail!("round {round}: nothing runs: {outputs:?}")
        };
        Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
        drop(running);
        network_works(&hosts[round % hosts.len()], &["rm", "twin"])?;
    }
    Ok(())
}

/// Creates a network of the same name and runs a container on it, on all hosts at once.
fn provision(hosts: &[Host], round: usize) -> Result<Vec<Output>> {
    thread::scope(|scope| {
        let provisioning = hosts.iter().map(|host| {
            let option = match round % 3 {
                0 => format!("--subnet=10.62.{}.0/24", host.number()),
                1 => "--ipam-driver=shoutd".to_owned(),
                // Docker chooses the same subnet on each: a creation that is later is refused for
                // that.
                _ => String::new(),
            };
            let script = format!(
                "docker network create --driver shoutd {option} twin || true; docker run \
                 --detach --init --name provisioned --network twin {IMAGE} sleep 100000"
            );
            scope.spawn(move || host.run(["sh", "-c", &script]))
        });
        let provisioning: Vec<_> = provisioning.collect();
        let joined = provisioning.into_iter().map(thread::ScopedJoinHandle::join);
        joined.map(|result| result.unwrap_or_else(|_| bail!("a thread panicked"))).collect()
    })
}

/// Checks that a provisioned container is on its host's only network of the name, or that the
/// output of `docker run` tells why it does not run.
fn ensure_runs_or_is_told(container: &Container, output: &Output) -> Result<()> {
    if output.success() {
        let of_container =
            container.inspect("{{(index .NetworkSettings.Networks \"twin\").NetworkID}}")?;
        let list = ["network", "ls", "--no-trunc", "--quiet", "--filter", "name=twin"];
        let left = container.host.docker(list)?;
        ensure!(left.trim() == of_container, "it is on another network: {left}");
        return Ok(());
    }
    // Engines before 25 may have both networks for a moment, and then choose neither.
    let reasons = [
        "created on host",
        "not found",
        "not known to the cluster",
        "no longer has network",
        "is ambiguous",
    ];
    let is_told = reasons.iter().any(|reason| output.stderr.contains(reason));
    ensure!(is_told, "it is not told why: {output}");
    Ok(())
}

/// Whichever comes first: either the container runs and the network stays on all hosts, or the
/// network is gone from all and the container does not run.
fn removal_races_starts(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    for _ in 0..4 {
        network_works(first, &["create", "--ipam-driver", "shoutd", "race"])?;
        let (removed, started) = thread::scope(|scope| {
            let removed = scope.spawn(|| network(first, &["rm", "race"]));
            let started = [second, third]
                .map(|host| scope.spawn(move || Container::try_start(host, "race", &[])));
            let started =
                started.map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")));
            (removed.join().unwrap_or_else(|_| bail!("a thread panicked")), started)
        });
        let removed = removed?;
        let started = started.into_iter().collect::<Result<Vec<_>>>()?;
        let running: Vec<_> = started.iter().filter(|(_, output)| output.success()).collect();
        match removed.success() {
            true => ensure!(
                running.is_empty(),
                "removed, and yet there are containers on it: {running:?}"
            ),
            false => ensure!(
                !running.is_empty(),
                "not removed, though no container was started: {removed}"
            ),
        }
        if !running.is_empty() {
            network_works(first, &["wait", "race"])?;
            if let [(one, _), (other, _)] = running.as_slice() {
                Stream::default().send(one, &[other], 1)?;
            }
        }
        drop(started);
        if !removed.success() {
            network_works(third, &["rm", "race"])?;
        }
        for host in &hosts {
            ensure!(!has_network(host, "race")?, "{} still has it", host.name());
        }
    }
    Ok(())
}

fn events_are_kept(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    network_works(&first, &["create", "--ipam-driver", "shoutd", "kept"])?;
    ensure_event(&second, "network-made", "kept", "from host1")?;
    wait_until("the event to be on disk", SOON, || {
        Ok(second.sh("cat /var/lib/shoutd/events.json")?.contains("\"kept\"").then_some(()))
    })?;
    second.kill_shoutd()?;
    second.start_shoutd(&[])?;
    ensure_event(&second, "network-made", "kept", "from host1")?;
    ensure!(
        status(&second)?["events"].as_array().is_some_and(|events| events.len() <= 5),
        "too many in the status"
    );
    await_network(&second, "kept")?;
    network_works(&first, &["rm", "kept"]).map(|_| ())
}
