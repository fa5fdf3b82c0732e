//! A Swarm with workers, which know only the networks of their own tasks: the options of its
//! networks and services.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use shoutd_e2e::swarm::{
    SWARMS_PATIENCE, await_forgotten, await_tasks, begin_swarm, create_network, create_service,
    end_swarm, receive_from_each_other, remove_network, remove_service, row,
};
use shoutd_e2e::{Capture, Cluster, Frame, Network, SOON, run_checks};
use shoutd_lab::{Host, wait_until};

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("workers", 3)?;
            cluster.form([1, 2, 3])?;
            begin_swarm(&cluster.three()?, "worker")?;
            Ok(cluster)
        },
        &[
            ("--subnet, --gateway, --internal, --label", network_options),
            ("an encrypted network", encrypted),
            ("what cannot be is refused, and said", refused),
            ("published ports, more and fewer tasks, updates, other nodes", services_change),
            ("networks of a Swarm that is dissolved", dissolved),
        ],
    )
}

fn network_options(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [manager, worker, _] = &hosts;
    let options = ["--subnet=10.61.0.0/24", "--gateway=10.61.0.9", "--internal", "--label=a=b"];
    create_network(manager, "bar", &options)?;
    create_service(manager, "s", "bar", &["--mode=global"])?;
    let tasks = await_tasks(manager, &hosts, "s", 3)?;
    receive_from_each_other(&tasks)?;
    for task in &tasks {
        let interfaces = task.sh("ip -oneline -4 address show scope global")?;
        let is_alone =
            interfaces.lines().count() == 1 && interfaces.contains("eth0    inet 10.61.0.");
        ensure!(is_alone, "a container of an internal network has {interfaces}");
    }
    let label =
        worker.docker(["network", "inspect", "--format", "{{index .Labels \"a\"}}", "bar"])?;
    ensure!(label.trim() == "b", "the worker has label {label}");
    let row = row(worker, "bar")?.context("bar in shoutdctl networks")?;
    ensure!(row["swarm"] == true && row["subnets"][0] == "10.61.0.0/24", "{row}");
    remove_service(manager, "s")?;
    drop(tasks);
    remove_network(manager, &hosts, "bar")
}

fn encrypted(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [manager, worker, _] = &hosts;
    create_network(manager, "vault", &["--opt=encrypted"])?;
    create_service(manager, "s", "vault", &["--mode=global"])?;
    let tasks = await_tasks(manager, &hosts, "s", 3)?;
    let row = row(worker, "vault")?.context("vault in shoutdctl networks")?;
    ensure!(row["swarm"] == true && row["encrypted"] == true, "{row}");
    let capture = Capture::of_underlay(worker)?;
    receive_from_each_other(&tasks)?;
    let frames = capture.stop()?;
    ensure!(!frames.is_empty(), "nothing passed the underlay");
    let plain = frames.iter().filter_map(Frame::tunnelled).count();
    ensure!(plain == 0, "{plain} packets passed in the clear");
    remove_service(manager, "s")?;
    drop(tasks);
    remove_network(manager, &hosts, "vault")
}

/// The Swarm accepts the command and then gives the network no tasks; the manager's events show
/// why. Newer Swarms refuse IPv6 before they ask shoutd, and only their engine's log shows it.
fn refused(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [manager, ..] = &hosts;
    let cases = [
        (
            "unknown",
            ["-o", "shoutd.nonesuch=1", "--subnet=10.62.0.0/24"],
            "it has shoutd.encrypted",
        ),
        ("parent", ["-o", "parent=eth0", "--subnet=10.64.0.0/24"], "their advertise addresses"),
        ("six", ["--ipv6", "--subnet=10.63.0.0/24", "--subnet=fd63::/64"], "without --ipv6"),
    ];
    for (name, options, reason) in cases {
        create_network(manager, name, &options)?;
        wait_until(&format!("why {name} is refused"), SOON, || {
            let events = manager.sh("shoutdctl events")?;
            let is_told = events
                .lines()
                .any(|line| line.contains("network-refused") && line.contains(reason));
            let refused_by_docker = name == "six"
                && manager.engine_log()?.contains("cannot find address pool for poolID:fd63::");
            Ok((is_told || refused_by_docker).then_some(()))
        })?;
        ensure!(row(manager, name)?.is_none(), "shoutd has {name}");
        manager.docker(["network", "rm", name])?;
    }
    Ok(())
}

fn services_change(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [manager, worker, _] = &hosts;
    create_network(manager, "bar", &["-o", "shoutd.max-rate=5000"])?;
    create_service(manager, "s", "bar", &["--publish=mode=host,target=80,published=8080"])?;
    let tasks = await_tasks(manager, &hosts, "s", 1)?;
    let task = tasks.first().context("a task")?;
    let _server = task.spawn("socat -U TCP4-LISTEN:80,reuseaddr,fork OPEN:/etc/hostname")?;
    answers(&hosts, &task.host)?;
    change(manager, &["scale", "--detach", "s=3"])?;
    let three = await_tasks(manager, &hosts, "s", 3)?;
    receive_from_each_other(&three)?;
    answers(&hosts, &task.host)?;
    // Each task gets another container, one after the other.
    change(manager, &["update", "--detach", "--env-add=new=yes", "s"])?;
    wait_until("the end of the update", SWARMS_PATIENCE, || {
        let state =
            manager.docker(["service", "inspect", "--format", "{{.UpdateStatus.State}}", "s"])?;
        Ok((state.trim() == "completed").then_some(()))
    })?;
    let updated = await_tasks(manager, &hosts, "s", 3)?;
    for task in &updated {
        ensure!(
            task.inspect("{{.Config.Env}}")?.contains("new=yes"),
            "{} was not updated",
            task.name
        );
    }
    receive_from_each_other(&updated)?;
    change(manager, &["scale", "--detach", "s=0"])?;
    drop(await_tasks(manager, &hosts, "s", 0)?);
    change(
        manager,
        &["update", "--detach", "--constraint-add=node.hostname==host2", "--replicas=1", "s"],
    )?;
    let moved = await_tasks(manager, std::slice::from_ref(worker), "s", 1)?;
    remove_service(manager, "s")?;
    drop((tasks, three, updated, moved));
    remove_network(manager, &hosts, "bar")
}

/// Ends the Swarm while it has a network.
fn dissolved(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [manager, worker, _] = &hosts;
    create_network(manager, "bar", &["--subnet=10.64.0.0/24"])?;
    await_known(worker, "bar")?;
    let output = worker.run(["shoutdctl", "network", "rm", "bar"])?;
    let is_told = output.stderr.contains("may still exist on host1, host2, host3");
    ensure!(!output.success() && is_told && output.stderr.lines().count() == 1, "{output}");
    end_swarm(&hosts)?;
    ensure!(row(worker, "bar")?.is_some(), "shoutd knew what Docker does not report");
    ensure!(worker.sh("shoutdctl network rm bar")?.trim() == "bar");
    await_forgotten(&hosts, "bar")?;
    ensure!(worker.sh("shoutdctl events")?.contains("its Swarm no longer exists"), "no event");
    // Its subnet is free again.
    let network = Network::create(cluster, manager, "bar", &["--subnet=10.64.0.0/24"])?;
    let output = worker.run(["shoutdctl", "network", "rm", "nonesuch"])?;
    ensure!(output.stderr.contains("there is no network nonesuch"), "{output}");
    network.remove_on(worker)
}

/// Waits until the network has its name in the cluster.
fn await_known(host: &Host, name: &str) -> Result<()> {
    wait_until(&format!("{name} in shoutdctl networks"), SOON, || Ok(row(host, name)?.map(drop)))
}

fn change(manager: &Host, command: &[&str]) -> Result<()> {
    manager.docker(["service"].iter().chain(command)).map(|_| ())
}

/// Whether a host's published port answers another host.
fn answers(hosts: &[Host], host: &Host) -> Result<()> {
    let other = hosts.iter().find(|other| other.name() != host.name()).context("another host")?;
    let command = format!("socat -u TCP4:{}:8080,connect-timeout=10 -", host.address());
    wait_until(&format!("an answer of {}", host.name()), SOON, || {
        let answered = other.run(["sh", "-c", &command])?;
        Ok((answered.success() && !answered.stdout.is_empty()).then_some(()))
    })
}
