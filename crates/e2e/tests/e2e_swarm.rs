//! Services, stacks and attachable networks of a Docker Swarm: tasks on all nodes receive from each
//! other, whichever node leads, is lost or is restarted, and nothing is left in the end.
//!
//! Services have no virtual addresses (`--endpoint-mode dnsrr`): engines make the load balancer
//! behind them for their own overlay networks only.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::swarm::{
    STREAM, SWARMS_PATIENCE, await_forgotten, await_tasks, begin_swarm, create_network,
    create_service, end_swarm, receive_from_each_other, remove_network, remove_service, row,
};
use shoutd_e2e::{
    Cluster, Container, Network, SOON, containers_of, endpoints, one_on_each, run_checks,
};
use shoutd_lab::{Host, IMAGE, wait_until};

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("swarm", 3)?;
            cluster.form([1, 2, 3])?;
            begin_swarm(&cluster.three()?, "manager")?;
            Ok(cluster)
        },
        &[
            (
                "a service with a task on each node, a container of docker run, and the socket \
                 plugin beside it",
                service,
            ),
            ("a stack", stack),
            (
                "the plugin stays while it is in use, and is installed anew afterwards",
                plugin_in_use,
            ),
            ("shoutd killed during a stream, and while a task starts", shoutd_killed),
            ("tasks removed while shoutd is away leave no endpoint", tasks_removed_unheard),
            (
                "a Swarm's network that is removed, or made, while its leader has no shoutd",
                calls_are_lost,
            ),
            ("the Swarm's leader stops", leader_stops),
            ("a node loses its power and boots again, Docker first", node_is_lost),
            ("the plugin is removed, and the Swarm is left", |cluster| {
                end_swarm(&cluster.three()?)
            }),
        ],
    )
}

/// The Swarm's leader and the other hosts.
fn leader_and_others(hosts: &[Host; 3]) -> Result<(Host, [Host; 2])> {
    wait_until("a leader of the Swarm", SWARMS_PATIENCE, || {
        for asked in hosts {
            let output = asked.run([
                "docker",
                "node",
                "ls",
                "--format",
                "{{.Hostname}} {{.ManagerStatus}}",
            ])?;
            let leader = output.stdout.lines().find_map(|line| line.strip_suffix(" Leader"));
            if let Some(leader) = leader {
                let (leaders, others): (Vec<_>, Vec<_>) =
                    hosts.iter().cloned().partition(|host| host.name() == leader);
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
    create_network(manager, "bar", &[])?;
    create_service(manager, "s", "bar", &["--mode=global"])?;
    let mut tasks = await_tasks(manager, &hosts, "s", 3)?;
    receive_from_each_other(&tasks)?;
    // The Swarm's DNS knows the tasks of all nodes.
    for task in &tasks {
        let answered = task.sh("busybox nslookup s")?;
        ensure!(answered.matches("Address: 10.").count() >= 3, "{answered}");
    }
    for host in &hosts {
        let row = row(host, "bar")?.context("bar in shoutdctl networks")?;
        ensure!(
            row["swarm"] == true && row["hosts"].as_array().is_some_and(|hosts| hosts.len() == 3),
            "{row}"
        );
    }
    // A user's container, which is on another network too.
    tasks.push(Container::start(&hosts[1], "bar", &[])?);
    receive_from_each_other(&tasks)?;
    let plain = Network::create(cluster, &hosts[2], "plain", &[])?;
    let containers = one_on_each(&hosts, "plain", &[])?;
    receive_from_each_other(&containers)?;
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
    manager.docker([
        "stack",
        "deploy",
        "--resolve-image=never",
        "--compose-file=/run/stack.yml",
        "st",
    ])?;
    let tasks = await_tasks(manager, &hosts, "st_one", 3)?;
    receive_from_each_other(&tasks)?;
    let row = row(&hosts[2], "st_multi")?.context("the stack's network")?;
    ensure!(row["options"]["shoutd.max-rate"] == "5000", "{row}");
    manager.docker(["stack", "rm", "st"])?;
    drop(tasks);
    // The Swarm removes the network as soon as it is unused, or on the next request.
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
    create_network(manager, "bar", &[])?;
    create_service(manager, "s", "bar", &["--mode=global"])?;
    let tasks = await_tasks(manager, &hosts, "s", 3)?;
    // One more byte makes it another build.
    host.sh("cp $(which shoutdctl) /run/newer && printf x >> /run/newer")?;
    for command in ["shoutdctl swarm-plugin remove", "/run/newer swarm-plugin install"] {
        let output = host.run(["sh", "-c", command])?;
        ensure!(
            !output.success() && output.stderr.contains("in use on this host"),
            "{command}: {output}"
        );
    }
    receive_from_each_other(&tasks)?;
    remove_service(manager, "s")?;
    drop(tasks);
    remove_network(manager, &hosts, "bar")?;
    host.sh("/run/newer swarm-plugin install")?;
    create_network(manager, "bar", &[])?;
    create_service(manager, "s", "bar", &["--mode=global"])?;
    let tasks = await_tasks(manager, &hosts, "s", 3)?;
    receive_from_each_other(&tasks)?;
    remove_service(manager, "s")?;
    drop(tasks);
    remove_network(manager, &hosts, "bar")
}

fn shoutd_killed(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [manager, host, _] = &hosts;
    create_network(manager, "bar", &[])?;
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
    receive_from_each_other(&late)?;
    remove_service(manager, "s")?;
    remove_service(manager, "late")?;
    drop((tasks, late));
    remove_network(manager, &hosts, "bar")
}

fn tasks_removed_unheard(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [manager, host, other] = &hosts;
    create_network(manager, "bar", &[])?;
    create_service(manager, "s", "bar", &["--mode=global"])?;
    let tasks = await_tasks(manager, &hosts, "s", 3)?;
    let own = Container::start(host, "bar", &[])?;
    host.kill_shoutd()?;
    remove_service(manager, "s")?;
    own.remove()?;
    wait_until("the tasks to be gone", SWARMS_PATIENCE, || {
        Ok(containers_of(host)?.is_empty().then_some(()))
    })?;
    host.start_shoutd(&[])?;
    wait_until("their endpoints to be forgotten", SWARMS_PATIENCE, || {
        Ok(endpoints(other)?.is_empty().then_some(()))
    })
    .with_context(|| format!("{:?}", endpoints(other)))?;
    drop(tasks);
    remove_network(manager, &hosts, "bar")
}

/// The plugin answers the engine without shoutd; the other managers see the Swarm's networks.
fn calls_are_lost(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let (leader, others) = leader_and_others(&hosts)?;
    create_network(&leader, "gone", &[])?;
    for host in &others {
        let what = format!("gone on {}", host.name());
        wait_until(&what, SOON, || row(host, "gone"))?;
    }
    leader.kill_shoutd()?;
    leader.docker(["network", "rm", "gone"])?;
    create_network(&leader, "new", &[])?;
    await_forgotten(&others, "gone")?;
    for host in &others {
        wait_until(&format!("new on {}", host.name()), SWARMS_PATIENCE, || row(host, "new"))?;
    }
    leader.start_shoutd(&[])?;
    create_service(&leader, "s", "new", &["--mode=global"])?;
    let tasks = await_tasks(&leader, &hosts, "s", 3)?;
    receive_from_each_other(&tasks)?;
    remove_service(&leader, "s")?;
    drop(tasks);
    remove_network(&leader, &hosts, "new")
}

fn leader_stops(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let (leader, others) = leader_and_others(&hosts)?;
    let [manager, _] = &others;
    create_network(&leader, "bar", &[])?;
    create_service(&leader, "s", "bar", &["--mode=global"])?;
    let tasks = await_tasks(&leader, &hosts, "s", 3)?;
    let (gone, left): (Vec<_>, Vec<_>) =
        tasks.into_iter().partition(|task| task.host.name() == leader.name());
    leader.stop_engine()?;
    receive_from_each_other(&left)?;
    let (successor, _) = leader_and_others(&hosts).context("the Swarm's new leader")?;
    ensure!(successor.name() != leader.name(), "{} still leads", leader.name());
    create_network(manager, "second", &[])?;
    create_service(manager, "t", "second", &["--replicas=2", "--replicas-max-per-node=1"])?;
    let later = await_tasks(manager, &others, "t", 2)?;
    receive_from_each_other(&later)?;
    remove_service(manager, "t")?;
    drop(later);
    remove_network(manager, &others, "second")?;

    leader.start_engine()?;
    drop(gone);
    let all = await_tasks(manager, &hosts, "s", 3)?;
    receive_from_each_other(&all)?;
    remove_service(manager, "s")?;
    drop((left, all));
    remove_network(manager, &hosts, "bar")
}

fn node_is_lost(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let (_, others) = leader_and_others(&hosts)?;
    let [victim, manager] = &others;
    let left: Vec<Host> =
        hosts.iter().filter(|host| host.name() != victim.name()).cloned().collect();
    create_network(manager, "bar", &[])?;
    create_service(manager, "s", "bar", &["--replicas=6"])?;
    let tasks = await_tasks(manager, &hosts, "s", 6)?;
    ensure!(
        tasks.iter().any(|task| task.host.name() == victim.name()),
        "no task on {}",
        victim.name()
    );
    victim.power_off()?;
    // Tasks that replace the lost ones have the same addresses or others.
    let moved = await_tasks(manager, &left, "s", 6)?;
    receive_from_each_other(&moved)?;

    victim.boot()?;
    victim.start_engine()?;
    victim.boot_shoutd()?;
    manager.docker(["service", "update", "--detach", "--force", "s"])?;
    wait_until("a task on the node that is back", SWARMS_PATIENCE, || {
        Ok(victim.docker(["ps", "--quiet"])?.lines().next().map(|_| ()))
    })?;
    create_service(manager, "all", "bar", &["--mode=global"])?;
    let all = await_tasks(manager, &hosts, "all", 3)?;
    receive_from_each_other(&all)?;
    remove_service(manager, "s")?;
    remove_service(manager, "all")?;
    drop((tasks, moved, all));
    remove_network(manager, &hosts, "bar")
}
