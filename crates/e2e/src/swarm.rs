//! Swarms, their services and networks.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use shoutd_lab::{Host, IMAGE, wait_until};

use crate::{Container, Datagrams, Stream, all_receive_from_all, await_no_network, networks};

/// The managed plugin.
pub const DRIVER: &str = "shoutd-swarm:latest";

/// How long the Swarm may take: it notices a lost node after about 15 s, elects a leader after
/// about 10 s, and then starts tasks.
pub const SWARMS_PATIENCE: Duration = Duration::from_secs(120);

/// The stream that checks a network.
pub const STREAM: Stream<'_> = Stream { group: "224.1.1.1", port: 5000, rate: "4M", length: 1470 };

/// Makes a Swarm: the first host is the manager, the others have this role (`manager` or `worker`).
/// Each gets the plugin, the first one before there is a Swarm.
pub fn begin_swarm(hosts: &[Host; 3], role: &str) -> Result<()> {
    let [first, others @ ..] = hosts;
    let output = first.run(["shoutdctl", "swarm-plugin", "install"])?;
    ensure!(output.success() && output.stderr.contains("not a node of a Swarm yet"), "{output}");
    let advertise = format!("--advertise-addr={}", first.address());
    first.docker(["swarm", "init", &advertise])?;
    let token = first.docker(["swarm", "join-token", "--quiet", role])?;
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
    // A node reports its plugins to the Swarm after some seconds, and gets no task that needs one
    // until then.
    for host in hosts {
        wait_until(
            &format!("the Swarm to know of the plugin on {}", host.name()),
            SWARMS_PATIENCE,
            || {
                let command = [
                    "node",
                    "inspect",
                    "--format",
                    "{{json .Description.Engine.Plugins}}",
                    &host.name(),
                ];
                Ok(first.docker(command)?.contains(DRIVER).then_some(()))
            },
        )?;
    }
    Ok(())
}

/// Removes the plugins and dissolves the Swarm.
pub fn end_swarm(hosts: &[Host; 3]) -> Result<()> {
    for host in hosts {
        host.sh("shoutdctl swarm-plugin remove && docker swarm leave --force")?;
        let listed = host.docker(["plugin", "ls", "--quiet"])?;
        ensure!(listed.is_empty(), "{} still has a plugin", host.name());
        ensure!(host.sh("shoutdctl swarm-plugin remove")?.contains("is not installed"));
    }
    Ok(())
}

/// A network of the Swarm.
pub fn create_network(manager: &Host, name: &str, options: &[&str]) -> Result<()> {
    let fixed = ["network", "create", "--driver", DRIVER, "--attachable"];
    manager.docker(fixed.iter().chain(options).chain(&[name])).map(|_| ())
}

/// Removes it once the Swarm has noticed that all its tasks are gone; returns when no host has it.
pub fn remove_network(manager: &Host, hosts: &[Host], name: &str) -> Result<()> {
    wait_until(&format!("{name} to be unused"), SWARMS_PATIENCE, || {
        Ok(manager.run(["docker", "network", "rm", name])?.success().then_some(()))
    })?;
    await_forgotten(hosts, name)?;
    // Nodes remove their copies later; the name is taken until then.
    hosts.iter().try_for_each(|host| await_no_network(host, name))
}

/// Waits until the network is gone from agreed state on these hosts.
pub fn await_forgotten(hosts: &[Host], name: &str) -> Result<()> {
    for host in hosts {
        wait_until(&format!("{} to forget {name}", host.name()), SWARMS_PATIENCE, || {
            Ok(row(host, name)?.is_none().then_some(()))
        })?;
    }
    Ok(())
}

/// The network's row in `shoutdctl networks`.
pub fn row(host: &Host, name: &str) -> Result<Option<Value>> {
    Ok(networks(host)?.into_iter().find(|row| row["name"] == name))
}

/// Creates a service. Without a short grace period its tasks would end slowly.
pub fn create_service(manager: &Host, name: &str, network: &str, options: &[&str]) -> Result<()> {
    let fixed = [
        "--detach",
        "--no-resolve-image",
        "--endpoint-mode=dnsrr",
        "--init",
        "--stop-grace-period=1s",
    ];
    let network = format!("--network={network}");
    let command = ["docker", "service", "create", "--name", name, &network];
    let output = manager
        .run(command.iter().chain(&fixed).chain(options).chain(&[IMAGE, "sleep", "100000"]))?;
    ensure!(output.success(), "docker service create on {} {output}", manager.name());
    Ok(())
}

/// Removes a service.
pub fn remove_service(manager: &Host, name: &str) -> Result<()> {
    manager.docker(["service", "rm", name]).map(|_| ())
}

/// Waits until exactly `count` tasks of a service run on these hosts and the Swarm shows it.
/// Dropping the result ends them.
pub fn await_tasks(
    manager: &Host,
    hosts: &[Host],
    service: &str,
    count: usize,
) -> Result<Vec<Container>> {
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
    let found = found.with_context(|| {
        manager.docker(["service", "ps", "--no-trunc", service]).unwrap_or_default()
    })?;
    Ok(found.into_iter().map(|(host, name)| Container { host, name }).collect())
}

/// Each container receives from every other, and all receive a stream of the first without loss.
pub fn receive_from_each_other(containers: &[Container]) -> Result<()> {
    // Receivers end with their containers only, so earlier ones still hold their port.
    static PORT: AtomicU16 = AtomicU16::new(6001);
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    let datagrams = Datagrams {
        receive: format!("UDP4-RECV:{port},ip-add-membership=239.7.7.7:eth0"),
        send: format!("UDP4-DATAGRAM:239.7.7.7:{port},ip-multicast-ttl=4"),
    };
    all_receive_from_all(containers, &datagrams)?;
    let [sender, receivers @ ..] = containers else { bail!("no containers") };
    STREAM.send_undisturbed(sender, &receivers.iter().collect::<Vec<_>>(), 2)
}
