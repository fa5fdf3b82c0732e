//! Services, stacks and attachable networks of a Docker Swarm: tasks on all nodes hear one another, whoever leads, is lost or is restarted, and nothing is left in the end.
//!
//! Services have no virtual addresses (`--endpoint-mode dnsrr`): engines make the load balancer behind these for their own overlay networks only.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

mod common;

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use common::{
    Cluster, Container, Datagrams, Network, SOON, Stream, await_no_network, everyone_hears_everyone, networks,
    one_on_each, run_checks,
};
use serde_json::Value;
use shoutd_lab::{Host, IMAGE, wait_until};

const DRIVER: &str = "shoutd-swarm:latest";

/// How long the Swarm may take: it misses a node after some 15 s, elects a leader after some 10 s, and starts tasks after these.
const SWARMS_PATIENCE: Duration = Duration::from_secs(120);

const STREAM: Stream<'_> = Stream { group: "224.1.1.1", port: 5000, rate: "4M", length: 1470 };

#[test]
fn services_of_a_swarm_hear_one_another() {
    let mut cluster = Cluster::up("swarm", 3).unwrap();
    cluster.form([1, 2, 3]).unwrap();
    begin_swarm(&cluster.three().unwrap()).unwrap();
    run_checks(
        &mut cluster,
        &[
            ("a service with a task on each node, a container of docker run, and the socket plugin beside it", service),
            ("a stack", stack),
            ("the plugin stays while it is in use, and is installed anew afterwards", plugin_in_use),
            ("shoutd killed during a stream, and while a task starts", shoutd_killed),
            ("a Swarm's network that is removed, or made, while its leader has no shoutd", calls_are_lost),
            ("the Swarm's leader stops", leader_stops),
            ("a node loses its power and boots again, Docker first", node_is_lost),
        ],
    );
    end_swarm(&cluster.three().unwrap()).unwrap();
}

/// Three managers, with the plugin on each: on the first from before there is a Swarm.
fn begin_swarm(hosts: &[Host; 3]) -> Result<()> {
    let [first, others @ ..] = hosts;
    let output = first.run(["shoutdctl", "swarm-plugin", "install"])?;
    ensure!(output.success() && output.stderr.contains("no node of a Swarm yet"), "{output}");
    let advertise = format!("--advertise-addr={}", first.address());
    first.docker(["swarm", "init", &advertise])?;
    let token = first.docker(["swarm", "join-token", "--quiet", "manager"])?;
    for host in others {
        let advertise = format!("--advertise-addr={}", host.address());
        let manager = format!("{}:2377", first.address());
        host.docker(["swarm", "join", "--token", token.trim(), &advertise, &manager])?;
        host.sh("shoutdctl swarm-plugin install")?;
    }
    for host in hosts {
        let again = host.sh("shoutdctl swarm-plugin install")?;
        ensure!(again.trim() == "plugin shoutd-swarm is installed", "{again}");
    }
    // A node tells the Swarm of its plugins in its own time, and until then gets no task that needs one.
    for host in hosts {
        wait_until(&format!("the Swarm to know of the plugin on {}", host.name()), SWARMS_PATIENCE, || {
            let command = ["node", "inspect", "--format", "{{json .Description.Engine.Plugins}}", &host.name()];
            Ok(first.docker(command)?.contains(DRIVER).then_some(()))
        })?;
    }
    Ok(())
}

fn end_swarm(hosts: &[Host; 3]) -> Result<()> {
    for host in hosts {
        host.sh("shoutdctl swarm-plugin remove && docker swarm leave --force")?;
        let listed = host.docker(["plugin", "ls", "--quiet"])?;
        ensure!(listed.is_empty(), "{} still has a plugin", host.name());
        ensure!(host.sh("shoutdctl swarm-plugin remove")?.contains("is not installed"));
    }
    Ok(())
}

/// A network of the Swarm.
fn create_network(manager: &Host, name: &str) -> Result<()> {
    manager.docker(["network", "create", "--driver", DRIVER, "--attachable", name]).map(|_| ())
}

/// Removes it, once the Swarm has seen that all its tasks are gone; returns when no host knows of it.
fn remove_network(manager: &Host, hosts: &[Host], name: &str) -> Result<()> {
    wait_until(&format!("{name} to be unused"), SWARMS_PATIENCE, || {
        Ok(manager.run(["docker", "network", "rm", name])?.success().then_some(()))
    })?;
    await_forgotten(hosts, name)?;
    // Nodes take their copies away in their own time, and until then the name is taken.
    hosts.iter().try_for_each(|host| await_no_network(host, name))
}

/// Waits until these hosts' clusters do not know the network any more.
fn await_forgotten(hosts: &[Host], name: &str) -> Result<()> {
    for host in hosts {
        wait_until(&format!("{} to forget {name}", host.name()), SWARMS_PATIENCE, || {
            Ok(row(host, name)?.is_none().then_some(()))
        })?;
    }
    Ok(())
}

/// What `shoutdctl networks` says of a network.
fn row(host: &Host, name: &str) -> Result<Option<Value>> {
    Ok(networks(host)?.into_iter().find(|row| row["name"] == name))
}

/// Creates a service; tasks are slow to end without a grace period of their own.
fn create_service(manager: &Host, name: &str, network: &str, options: &[&str]) -> Result<()> {
    let fixed = ["--detach", "--no-resolve-image", "--endpoint-mode=dnsrr", "--init", "--stop-grace-period=1s"];
    let network = format!("--network={network}");
    let command = ["docker", "service", "create", "--name", name, &network];
    let output = manager.run(command.iter().chain(&fixed).chain(options).chain(&[IMAGE, "sleep", "100000"]))?;
    ensure!(output.success(), "docker service create on {} {output}", manager.name());
    Ok(())
}

fn remove_service(manager: &Host, name: &str) -> Result<()> {
    manager.docker(["service", "rm", name]).map(|_| ())
}

/// Waits until just so many tasks of a service run on these hosts, and the Swarm says so. To drop what is returned ends them.
fn await_tasks(manager: &Host, hosts: &[Host], service: &str, count: usize) -> Result<Vec<Container>> {
    let filter = format!("label=com.docker.swarm.service.name={service}");
    let found = wait_until(&format!("{count} tasks of {service}"), SWARMS_PATIENCE, || {
        let states = manager.docker([
            "service",
            "ps",
            "--filter",
            "desired-state=running",
            "--format",
            "{{.CurrentState}}",
            service,
        ])?;
        let running = states.lines().filter(|state| state.starts_with("Running")).count();
        let mut found = Vec::new();
        for host in hosts {
            let names = host.docker(["ps", "--filter", &filter, "--format", "{{.Names}}"])?;
            found.extend(names.lines().map(|name| (host.clone(), name.to_owned())));
        }
        Ok((running == count && found.len() == count).then_some(found))
    });
    let found = found.with_context(|| manager.docker(["service", "ps", "--no-trunc", service]).unwrap_or_default())?;
    Ok(found.into_iter().map(|(host, name)| Container { host, name }).collect())
}

/// Every one hears every other, and a stream of the first is heard by all without a loss.
fn hear_one_another(containers: &[Container]) -> Result<()> {
    // Listeners end with their containers only, and those of before still have their port.
    static PORT: AtomicU16 = AtomicU16::new(6001);
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    let datagrams = Datagrams {
        receive: format!("UDP4-RECV:{port},ip-add-membership=239.7.7.7:shout0"),
        send: format!("UDP4-DATAGRAM:239.7.7.7:{port},ip-multicast-ttl=4"),
    };
    everyone_hears_everyone(containers, &datagrams)?;
    let [sender, receivers @ ..] = containers else { bail!("no containers") };
    STREAM.send_undisturbed(sender, &receivers.iter().collect::<Vec<_>>(), 2)
}

/// The Swarm's leader, and the others.
fn leader_and_others(hosts: &[Host; 3]) -> Result<(Host, [Host; 2])> {
    wait_until("a leader of the Swarm", SWARMS_PATIENCE, || {
        for asked in hosts {
            let output = asked.run(["docker", "node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"])?;
            let leader = output.stdout.lines().find_map(|line| line.strip_suffix(" Leader"));
            if let Some(leader) = leader {
                let (leaders, others): (Vec<_>, Vec<_>) = hosts.iter().cloned().partition(|host| host.name() == leader);
                let others: Result<[Host; 2], _> = others.try_into();
                return Ok(leaders.into_iter().next().zip(others.ok()));
            }
        }
        Ok(None)
    })
}

fn service(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [manager, ..] = &hosts;
    create_network(manager, "bar")?;
    create_service(manager, "s", "bar", &["--mode=global"])?;
    let mut tasks = await_tasks(manager, &hosts, "s", 3)?;
    hear_one_another(&tasks)?;
    // The Swarm's DNS knows the tasks of all nodes.
    for task in &tasks {
        let answered = task.sh("busybox nslookup s")?;
        ensure!(answered.matches("Address: 10.").count() >= 3, "{answered}");
    }
    for host in &hosts {
        let row = row(host, "bar")?.context("bar in shoutdctl networks")?;
        ensure!(row["swarm"] == true && row["hosts"].as_array().is_some_and(|hosts| hosts.len() == 3), "{row}");
    }
    // A container of a user's own, on a network of its own besides.
    tasks.push(Container::start(&hosts[1], "bar", &[])?);
    hear_one_another(&tasks)?;
    let plain = Network::create(cluster, &hosts[2], "plain", &[])?;
    let containers = one_on_each(&hosts, "plain", &[])?;
    hear_one_another(&containers)?;
    drop(containers);
    plain.remove_on(&hosts[0])?;
    remove_service(manager, "s")?;
    drop(tasks);
    remove_network(manager, &hosts, "bar")
}

const STACK: &str = "
version: '3.8'
services:
  one:
    image: IMAGE
    init: true
    command: sleep 100000
    stop_grace_period: 1s
    networks: [multi]
    deploy: {mode: global, endpoint_mode: dnsrr}
networks:
  multi:
    driver: shoutd-swarm:latest
    attachable: true
    driver_opts: {shoutd.max-rate: '5000'}
    labels: {of: stack}
";

fn stack(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [manager, ..] = &hosts;
    let file = manager.file("/run/stack.yml")?;
    std::fs::write(file, STACK.replace("IMAGE", IMAGE))?;
    manager.docker(["stack", "deploy", "--resolve-image=never", "--compose-file=/run/stack.yml", "st"])?;
    let tasks = await_tasks(manager, &hosts, "st_one", 3)?;
    hear_one_another(&tasks)?;
    let row = row(&hosts[2], "st_multi")?.context("the stack's network")?;
    ensure!(row["options"]["shoutd.max-rate"] == "5000", "{row}");
    manager.docker(["stack", "rm", "st"])?;
    drop(tasks);
    // The Swarm removes it as soon as it is unused, or is asked again.
    wait_until("the end of the stack", SWARMS_PATIENCE, || {
        manager.run(["docker", "network", "rm", "st_multi"])?;
        let listed = manager.docker(["network", "ls", "--quiet", "--filter", "name=st_multi"])?;
        Ok(listed.is_empty().then_some(()))
    })?;
    await_forgotten(&hosts, "st_multi")
}

fn plugin_in_use(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [manager, _, host] = &hosts;
    create_network(manager, "bar")?;
    create_service(manager, "s", "bar", &["--mode=global"])?;
    let tasks = await_tasks(manager, &hosts, "s", 3)?;
    // A program that differs in a byte is another build.
    host.sh("cp $(which shoutdctl) /run/newer && printf x >> /run/newer")?;
    for command in ["shoutdctl swarm-plugin remove", "/run/newer swarm-plugin install"] {
        let output = host.run(["sh", "-c", command])?;
        ensure!(!output.success() && output.stderr.contains("in use on this host"), "{command}: {output}");
    }
    hear_one_another(&tasks)?;
    remove_service(manager, "s")?;
    drop(tasks);
    remove_network(manager, &hosts, "bar")?;
    host.sh("/run/newer swarm-plugin install")?;
    create_network(manager, "bar")?;
    create_service(manager, "s", "bar", &["--mode=global"])?;
    let tasks = await_tasks(manager, &hosts, "s", 3)?;
    hear_one_another(&tasks)?;
    remove_service(manager, "s")?;
    drop(tasks);
    remove_network(manager, &hosts, "bar")
}

fn shoutd_killed(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [manager, host, _] = &hosts;
    create_network(manager, "bar")?;
    create_service(manager, "s", "bar", &["--mode=global"])?;
    let tasks = await_tasks(manager, &hosts, "s", 3)?;
    let [sender, receivers @ ..] = tasks.as_slice() else { bail!("no tasks") };
    let running = STREAM.begin(sender, &receivers.iter().collect::<Vec<_>>())?;
    for host in &hosts {
        host.kill_shoutd()?;
        host.start_shoutd(&[])?;
        running.await_more(100)?;
    }
    running.finish()?;
    host.kill_shoutd()?;
    create_service(manager, "late", "bar", &["--mode=global"])?;
    host.start_shoutd(&[])?;
    let late = await_tasks(manager, &hosts, "late", 3)?;
    hear_one_another(&late)?;
    remove_service(manager, "s")?;
    remove_service(manager, "late")?;
    drop((tasks, late));
    remove_network(manager, &hosts, "bar")
}

/// The engine is answered without shoutd; the other managers see what the Swarm has.
fn calls_are_lost(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let (leader, others) = leader_and_others(&hosts)?;
    create_network(&leader, "gone")?;
    for host in &others {
        let what = format!("gone on {}", host.name());
        wait_until(&what, SOON, || row(host, "gone"))?;
    }
    leader.kill_shoutd()?;
    leader.docker(["network", "rm", "gone"])?;
    create_network(&leader, "new")?;
    await_forgotten(&others, "gone")?;
    for host in &others {
        wait_until(&format!("new on {}", host.name()), SWARMS_PATIENCE, || row(host, "new"))?;
    }
    leader.start_shoutd(&[])?;
    create_service(&leader, "s", "new", &["--mode=global"])?;
    let tasks = await_tasks(&leader, &hosts, "s", 3)?;
    hear_one_another(&tasks)?;
    remove_service(&leader, "s")?;
    drop(tasks);
    remove_network(&leader, &hosts, "new")
}

fn leader_stops(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let (leader, others) = leader_and_others(&hosts)?;
    let [manager, _] = &others;
    create_network(&leader, "bar")?;
    create_service(&leader, "s", "bar", &["--mode=global"])?;
    let tasks = await_tasks(&leader, &hosts, "s", 3)?;
    let (gone, left): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|task| task.host.name() == leader.name());
    leader.stop_engine()?;
    hear_one_another(&left)?;
    let (successor, _) = leader_and_others(&hosts).context("the Swarm's new leader")?;
    ensure!(successor.name() != leader.name(), "{} still leads", leader.name());
    create_network(manager, "second")?;
    create_service(manager, "t", "second", &["--replicas=2", "--replicas-max-per-node=1"])?;
    let later = await_tasks(manager, &others, "t", 2)?;
    hear_one_another(&later)?;
    remove_service(manager, "t")?;
    drop(later);
    remove_network(manager, &others, "second")?;

    leader.start_engine()?;
    drop(gone);
    let all = await_tasks(manager, &hosts, "s", 3)?;
    hear_one_another(&all)?;
    remove_service(manager, "s")?;
    drop((left, all));
    remove_network(manager, &hosts, "bar")
}

fn node_is_lost(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let (_, others) = leader_and_others(&hosts)?;
    let [victim, manager] = &others;
    let left: Vec<Host> = hosts.iter().filter(|host| host.name() != victim.name()).cloned().collect();
    create_network(manager, "bar")?;
    create_service(manager, "s", "bar", &["--replicas=6"])?;
    let tasks = await_tasks(manager, &hosts, "s", 6)?;
    ensure!(tasks.iter().any(|task| task.host.name() == victim.name()), "no task on {}", victim.name());
    victim.power_off()?;
    // Those that the Swarm starts in place of the lost ones have other addresses, or the same.
    let moved = await_tasks(manager, &left, "s", 6)?;
    hear_one_another(&moved)?;

    victim.boot()?;
    victim.start_engine()?;
    victim.boot_shoutd()?;
    manager.docker(["service", "update", "--detach", "--force", "s"])?;
    wait_until("a task on the node that is back", SWARMS_PATIENCE, || {
        Ok(victim.docker(["ps", "--quiet"])?.lines().next().map(|_| ()))
    })?;
    create_service(manager, "all", "bar", &["--mode=global"])?;
    let all = await_tasks(manager, &hosts, "all", 3)?;
    hear_one_another(&all)?;
    remove_service(manager, "s")?;
    remove_service(manager, "all")?;
    drop((tasks, moved, all));
    remove_network(manager, &hosts, "bar")
}
