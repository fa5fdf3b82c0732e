//! Docker's commands for networks and containers, on engines of both versions: host1 has the older
//! one. The options of a network hold for its copies on all hosts.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use shoutd_e2e::{
    Cluster, Container, Network, SOON, Stream, left_in_kernel, one_on_each, run_checks, status,
    takes_sysctls_with_network,
};
use shoutd_lab::{EngineSource, Host, IMAGE, wait_until};

/// The option by which a mirror names its network.
const NETWORK_OPTION: &str = "shoutd.network";

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up_mixed("docker", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("a network has the same options, labels and subnets on every host", same_everywhere),
            ("--ip-range is kept on every host", ip_range),
            ("of several subnets the next is used when one is full", several_subnets),
            ("--gateway and --aux-address belong to no container on any host", reserved_on_all),
            ("dual stack: --ip6 and IPv6 addresses that are unique over all hosts", dual_stack),
            ("an option that shoutd does not know is refused with those it knows", unknown_option),
            ("--mac-address and network aliases", mac_address_and_aliases),
            ("containers are connected and disconnected while they run", connected_while_running),
            ("published ports and multicast at the same time", published_port),
            ("--sysctl, pause, update, cp, rename and restart", life_of_a_container),
            ("restart policies", restart_policies),
            ("starts that fail leave nothing behind", failed_starts),
            ("docker network prune", prune),
            ("docker compose with an external network", |cluster| compose(cluster, true)),
            ("docker compose with a network of its own", |cluster| compose(cluster, false)),
        ],
    )
}

/// The network as a host's engine shows it, without what differs by host.
fn shown(host: &Host, name: &str) -> Result<Value> {
    let printed = host.docker(["network", "inspect", name])?;
    let mut networks: Vec<Value> = serde_json::from_str(&printed)?;
    let mut network = networks.pop().context("a network")?;
    let object = network.as_object_mut().context("an object")?;
    // Drawn by each engine, or different by design: every mirror has shoutd's IPAM and names its
    // network.
    for own in ["Id", "Created", "Containers", "ConfigFrom", "EnableIPv4"] {
        object.remove(own);
    }
    object
        .get_mut("Options")
        .and_then(Value::as_object_mut)
        .map(|options| options.remove(NETWORK_OPTION));
    let ipam = object.get_mut("IPAM").and_then(Value::as_object_mut).context("IPAM")?;
    ipam.remove("Driver");
    // Newer engines distinguish an empty map from none.
    if ipam.get("Options").is_some_and(Value::is_null) {
        ipam.insert("Options".to_owned(), Value::Object(serde_json::Map::new()));
    }
    Ok(network)
}

fn same_everywhere(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let all = [
        "--subnet=10.31.0.0/16",
        "--ip-range=10.31.7.0/24",
        "--gateway=10.31.9.9",
        "--aux-address=router=10.31.7.3",
        "--aux-address=printer=10.31.200.1",
        "--subnet=10.32.0.0/24",
        "--ipv6",
        "--subnet=fd31::/64",
        "--ip-range=fd31::100/120",
        "--internal",
        "--attachable",
        "--label=one=1",
        "--label=empty",
        "--label=odd= ä\"{}'",
        "--ipam-opt=some=thing",
        "--opt=com.docker.network.driver.mtu=1300",
        "--opt=shoutd.max-rate=100000",
        "--opt=other.driver.option=x",
    ];
    for options in [&all[..], &["--subnet=10.31.0.0/16"], &[]] {
        // The network may be created on either engine.
        for origin in &hosts[..2] {
            let network = Network::create(cluster, origin, "foo", options)?;
            let wanted = shown(origin, "foo")?;
            for host in &hosts {
                let found = shown(host, "foo")?;
                ensure!(
                    found == wanted,
                    "{} shows {found}, {} shows {wanted}",
                    host.name(),
                    origin.name()
                );
            }
            network.remove_on(&hosts[2])?;
        }
    }
    Ok(())
}

fn ip_range(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    for (origin, options) in
        [(&hosts[0], &[][..]), (&hosts[1], &[]), (&hosts[0], &["--ipam-driver", "shoutd"])]
    {
        let options =
            [&["--subnet", "10.31.0.0/16", "--ip-range", "10.31.7.0/28"], options].concat();
        let network = Network::create(cluster, origin, "foo", &options)?;
        let mut containers = one_on_each(&hosts, "foo", &[])?;
        containers.extend(one_on_each(&hosts, "foo", &[])?);
        let addresses = containers
            .iter()
            .map(|container| container.address("foo"))
            .collect::<Result<BTreeSet<_>>>()?;
        let in_range = addresses
            .iter()
            .all(|address| address.octets()[..3] == [10, 31, 7] && address.octets()[3] < 16);
        ensure!(in_range && addresses.len() == containers.len(), "with {options:?}: {addresses:?}");
        // A requested address may be anywhere in the subnet.
        for host in &hosts {
            Container::start(host, "foo", &["--ip", "10.31.200.1"])?.remove()?;
        }
        drop(containers);
        network.remove_on(&hosts[2])?;
    }
    Ok(())
}

fn several_subnets(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    for options in [&[][..], &["--ipam-driver", "shoutd"]] {
        let options = [&["--subnet", "10.31.0.0/29", "--subnet", "10.32.0.0/29"], options].concat();
        let network = Network::create(cluster, &hosts[1], "foo", &options)?;
        // A /29 has five addresses beside its gateway's.
        let containers =
            (0..7).map(|_| Container::start(&hosts[0], "foo", &[])).collect::<Result<Vec<_>>>()?;
        let addresses = containers
            .iter()
            .map(|container| container.address("foo"))
            .collect::<Result<BTreeSet<_>>>()?;
        let subnets: BTreeSet<_> = addresses.iter().map(|address| address.octets()[1]).collect();
        ensure!(addresses.len() == 7 && subnets == BTreeSet::from([31, 32]), "{addresses:?}");
        drop(containers);
        network.remove_on(&hosts[2])?;
    }
    Ok(())
}

fn reserved_on_all(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    for origin in &hosts[..2] {
        let options =
            ["--subnet", "10.31.0.0/29", "--gateway", "10.31.0.3", "--aux-address", "a=10.31.0.6"];
        let network = Network::create(cluster, origin, "foo", &options)?;
        let containers = one_on_each(&hosts, "foo", &[])?;
        for container in &containers {
            let address = container.address("foo")?.octets()[3];
            ensure!(![3, 6].contains(&address), "{} has 10.31.0.{address}", container.name);
        }
        drop(containers);
        for host in &hosts {
            for address in ["10.31.0.3", "10.31.0.6"] {
                let (made, output) = Container::try_start(host, "foo", &["--ip", address])?;
                ensure!(!output.success(), "{} gives {address} away", host.name());
                made.remove()?;
            }
        }
        network.remove_on(&hosts[2])?;
    }
    Ok(())
}

fn dual_stack(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    for origin in &hosts[..2] {
        let options = ["--ipv6", "--subnet", "10.31.0.0/24", "--subnet", "fd31::/64"];
        let network = Network::create(cluster, origin, "foo", &options)?;
        let mut containers = one_on_each(&hosts, "foo", &[])?;
        for (host, last) in hosts.iter().zip(1..) {
            let fixed = [format!("--ip=10.31.0.10{last}"), format!("--ip6=fd31::10{last}")];
            containers.push(Container::start(host, "foo", &[&fixed[0], &fixed[1]])?);
        }
        let six = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}";
        let addresses = containers
            .iter()
            .map(|container| container.inspect(six))
            .collect::<Result<BTreeSet<_>>>()?;
        ensure!(addresses.len() == containers.len(), "{addresses:?}");
        ensure!(
            (1..=3).all(|last| addresses.contains(&format!("fd31::10{last}"))),
            "{addresses:?}"
        );
        for address in &addresses {
            let address: IpAddr = address.parse()?;
            for container in &containers[..3] {
                container.sh(&format!("ping6 -c 1 -W 5 {address}"))?;
            }
        }
        let (made, output) = Container::try_start(&hosts[2], "foo", &["--ip6", "fd31::101"])?;
        ensure!(!output.success() && output.stderr.contains("host1"), "{output}");
        made.remove()?;
        drop(containers);
        network.remove_on(&hosts[2])?;
    }
    Ok(())
}

fn unknown_option(cluster: &mut Cluster) -> Result<()> {
    for host in &cluster.three()?[..2] {
        let create = [
            "docker",
            "network",
            "create",
            "--driver",
            "shoutd",
            "--opt",
            "shoutd.max_rate=1",
            "foo",
        ];
        let output = host.run(create)?;
        let known = ["shoutd.max_rate", "shoutd.max-rate", "shoutd.mac-moves"];
        ensure!(
            !output.success() && known.iter().all(|name| output.stderr.contains(name)),
            "{output}"
        );
        for (option, told) in [
            ("com.docker.network.driver.overlay.vxlanid_list=4097", "agree on the network's VNI"),
            ("a\nb=1", "control character"),
        ] {
            let output = host.run([
                "docker", "network", "create", "--driver", "shoutd", "--opt", option, "foo",
            ])?;
            ensure!(!output.success() && output.stderr.contains(told), "{option}: {output}");
        }
        let own = format!("{NETWORK_OPTION}={}", "0".repeat(64));
        let output =
            host.run(["docker", "network", "create", "--driver", "shoutd", "--opt", &own, "foo"])?;
        ensure!(!output.success() && output.stderr.contains("leave it out"), "{output}");
    }
    Ok(())
}

fn mac_address_and_aliases(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[2], "foo", &["--subnet", "10.31.0.0/24"])?;
    for (host, last) in hosts[..2].iter().zip(1..) {
        let mac = format!("02:11:22:33:44:0{last}");
        let options =
            [&format!("--mac-address={mac}"), "--network-alias=db", "--network-alias=store"];
        let named = Container::start(host, "foo", &options)?;
        ensure!(named.sh("cat /sys/class/net/eth0/address")?.trim() == mac, "on {}", host.name());
        let asking = Container::start(host, "foo", &[])?;
        for alias in ["db", "store", &named.name] {
            asking.ping(alias)?;
        }
        let elsewhere = Container::start(&hosts[2], "foo", &[])?;
        elsewhere.ping(&named.address("foo")?.to_string())?;
        let neighbours = elsewhere.sh("cat /proc/net/arp")?;
        ensure!(neighbours.contains(&mac), "{neighbours}");
        for (second, holder) in [(host, "endpoint"), (&hosts[2], &host.name())] {
            let run = ["docker", "run", "--rm", "--network=foo", options[0], "debian", "true"];
            let output = second.run(run)?;
            let says_why = output.stderr.contains(&mac) && output.stderr.contains(holder);
            ensure!(
                !output.success() && says_why,
                "two have one MAC address, or the error names no host: {output}"
            );
        }
        drop(named);
        let elsewhere = Container::start(&hosts[2], "foo", &options)?;
        ensure!(elsewhere.sh("cat /sys/class/net/eth0/address")?.trim() == mac, "it is free again");
    }
    Ok(())
}

fn connect(container: &Container, network: &str, options: &[&str]) -> Result<()> {
    let last = [network, &container.name];
    container.host.docker(["network", "connect"].iter().chain(options).chain(&last)).map(drop)
}

fn disconnect(container: &Container, network: &str) -> Result<()> {
    container.host.docker(["network", "disconnect", network, &container.name]).map(drop)
}

/// A container that is connected to two shoutd networks and Docker's `bridge` in turn receives
/// without a gap on those that it is on.
fn connected_while_running(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _one = Network::create(cluster, &hosts[0], "one", &["--subnet", "10.31.0.0/24"])?;
    let _two = Network::create(cluster, &hosts[1], "two", &["--subnet", "10.32.0.0/24"])?;
    for host in &hosts[..2] {
        let moving = Container::start(host, "one", &[])?;
        let (first, second) =
            (Container::start(&hosts[2], "one", &[])?, Container::start(&hosts[2], "two", &[])?);
        connect(&moving, "two", &["--ip", "10.32.0.50", "--alias", "moving"])?;
        connect(&moving, "bridge", &[])?;
        // Each network has its interface; programs join groups on the first one, unless they name
        // another.
        Stream::default().send(&first, &[&moving], 1).context("on both")?;
        second.ping("10.32.0.50")?;
        disconnect(&moving, "one")?;
        Stream::default().send(&second, &[&moving], 1).context("on the second alone")?;
        connect(&moving, "one", &[])?;
        disconnect(&moving, "two")?;
        Stream::default().send(&first, &[&moving], 1).context("on the first again")?;
        disconnect(&moving, "bridge")?;
        first.ping(&moving.address("one")?.to_string())?;
        moving.ping(&hosts[2].address().to_string()).context("the way out, without the bridge")?;
    }
    Ok(())
}

fn published_port(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[2], "foo", &[])?;
    let peer = Container::start(&hosts[2], "foo", &[])?;
    for (host, other) in [(&hosts[0], &hosts[1]), (&hosts[1], &hosts[0])] {
        let container = Container::start(host, "foo", &["--publish=8080:80"])?;
        let stream = Stream::default().begin(&peer, &[&container])?;
        let serving =
            container.spawn("socat -d -d -U TCP4-LISTEN:80,reuseaddr,fork OPEN:/etc/hostname")?;
        serving.wait_for_line(SOON, |line| line.contains("listening on"))?;
        let asked =
            other.sh(&format!("socat -u TCP4:{}:8080,connect-timeout=10 -", host.address()))?;
        ensure!(asked == container.sh("cat /etc/hostname")?, "{asked}");
        stream.await_more(20)?;
        stream.finish()?;
    }
    Ok(())
}

/// Starts a container on the network foo with a sysctl of its own and one of its interface.
fn start_with_sysctls(host: &Host) -> Result<Container> {
    let own = "--sysctl=net.core.somaxconn=512";
    if !takes_sysctls_with_network(host)? {
        return Container::start(host, "foo", &[own, "--sysctl=net.ipv4.conf.eth0.rp_filter=2"]);
    }
    let setting = "driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.rp_filter=2";
    Container::start(host, &format!("name=foo,{setting}"), &[own])
}

fn life_of_a_container(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[2], "foo", &[])?;
    let peer = Container::start(&hosts[2], "foo", &[])?;
    for host in &hosts[..2] {
        let mut container = start_with_sysctls(host)?;
        let read = container
            .sh("cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/conf/eth0/rp_filter")?;
        ensure!(read.split_whitespace().eq(["512", "2"]), "{read}");
        let address = container.address("foo")?;
        host.docker(["pause", &container.name])?;
        host.docker(["unpause", &container.name])?;
        host.docker([
            "update",
            "--memory=100m",
            "--memory-swap=200m",
            "--restart=always",
            &container.name,
        ])?;
        host.docker(["cp", "/etc/hostname", &format!("{}:/tmp/copied", container.name)])?;
        ensure!(
            container.sh("cat /tmp/copied")?.trim() == host.name(),
            "what was copied is something else"
        );
        let renamed = format!("{}-renamed", container.name);
        host.docker(["rename", &container.name, &renamed])?;
        container.name = renamed;
        Stream::default().send(&peer, &[&container], 1)?;
        host.docker(["restart", "--time=1", &container.name])?;
        ensure!(
            container.address("foo")? == address,
            "{} has another address after a restart",
            container.name
        );
        Stream::default().send(&peer, &[&container], 1).context("after a restart")?;
    }
    Ok(())
}

/// The engine restarts a container that ends, as often as its policy says.
fn restart_policies(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[2], "foo", &[])?;
    let peer = Container::start(&hosts[2], "foo", &[])?;
    for host in &hosts[..2] {
        let container = Container::start(host, "foo", &["--restart=always"])?;
        let main = container.inspect("{{.State.Pid}}")?;
        host.signal("KILL", &[main.parse()?])?;
        wait_until("the container to be started again", SOON, || {
            let state = container.inspect("{{.State.Status}} {{.RestartCount}}")?;
            Ok((state == "running 1").then_some(()))
        })?;
        Stream::default().send(&peer, &[&container], 1)?;
        let name = format!("failing-{}", host.number());
        host.docker([
            "run",
            "--detach",
            "--name",
            &name,
            "--network=foo",
            "--restart=on-failure:2",
            IMAGE,
            "false",
        ])?;
        wait_until("the engine to give up", SOON, || {
            let state =
                host.docker(["inspect", "--format", "{{.State.Status}} {{.RestartCount}}", &name])?;
            Ok((state.trim() == "exited 2").then_some(()))
        })?;
        host.docker(["rm", &name])?;
    }
    Ok(())
}

/// When any step of a start fails, no endpoint, interface or address is left.
fn failed_starts(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[2], "foo", &["--subnet", "10.31.0.0/24"])?;
    let _bar = Network::create(cluster, &hosts[2], "bar", &["--subnet", "10.32.0.0/24"])?;
    let taken = Container::start(&hosts[2], "bar", &["--ip=10.32.0.50"])?;
    for host in &hosts[..2] {
        let publishing = Container::start(host, "bridge", &["--publish=9999:99"])?;
        let failing: [(&str, &[&str]); 6] = [
            ("the address is another host's", &["--network=bar", "--ip=10.32.0.50", IMAGE, "true"]),
            (
                "the MAC address is a group's",
                &["--network=foo", "--mac-address=01:00:5e:00:00:01", IMAGE, "true"],
            ),
            ("the port is taken", &["--network=foo", "--publish=9999:99", IMAGE, "true"]),
            ("there is no such program", &["--network=foo", IMAGE, "no-such-program"]),
            (
                "there is no such setting",
                &["--network=foo", "--sysctl=net.ipv4.nothing=1", IMAGE, "true"],
            ),
            (
                "a file system cannot be mounted",
                &["--network=foo", "--volume=/tmp:/proc/sys", IMAGE, "true"],
            ),
        ];
        for (what, options) in failing {
            let output = host.run(["docker", "run", "--name=failing"].iter().chain(options))?;
            ensure!(!output.success(), "{what}, and yet it starts on {}", host.name());
            ensure_nothing_is_left(host).context(what)?;
            host.docker(["rm", "--force", "failing"])?;
        }
        // The first of two networks works, and the second fails.
        host.docker(["create", "--name=failing", "--network=foo", IMAGE, "true"])?;
        host.docker(["network", "connect", "--ip=10.32.0.50", "bar", "failing"])?;
        ensure!(
            !host.run(["docker", "start", "failing"])?.success(),
            "it starts on {}",
            host.name()
        );
        ensure_nothing_is_left(host).context("the second network's address is another host's")?;
        host.docker(["rm", "failing"])?;
        publishing.remove()?;
    }
    taken.remove()
}

fn ensure_nothing_is_left(host: &Host) -> Result<()> {
    let mut left = String::new();
    wait_until("nothing to be left", SOON, || {
        left = format!("{:?}, endpoints: {}", left_in_kernel(host)?, status(host)?["endpoints"]);
        Ok((left == "[], endpoints: 0").then_some(()))
    })
    .with_context(|| format!("on {}: {left}", host.name()))
}

/// Networks that are in use on no host go from all; those in use on another host stay, and so does
/// the containers' way out.
fn prune(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    for host in &hosts[..2] {
        let before = subnet_of_gateway_bridge(host)?;
        let unused = Network::create(cluster, &hosts[2], "unused", &["--subnet", "10.31.0.0/24"])?;
        let used = Network::create(cluster, host, "used", &["--subnet", "10.32.0.0/24"])?;
        let there = Container::start(&hosts[2], "used", &[])?;
        let pruned = host.docker(["network", "prune", "--force"])?;
        ensure!(pruned.contains("unused") && pruned.contains("docker_gwbridge"), "{pruned}");
        for other in &hosts {
            shoutd_e2e::await_no_network(other, "unused")?;
        }
        wait_until("what was pruned to come back", SOON, || {
            let both = host.run(["docker", "network", "inspect", "used", "docker_gwbridge"])?;
            Ok(both.success().then_some(()))
        })?;
        let after = subnet_of_gateway_bridge(host)?;
        ensure!(after == before, "docker_gwbridge had {before} and has {after}");
        let here = Container::start(host, "used", &[])?;
        Stream::default().send(&there, &[&here], 1)?;
        here.ping(&hosts[2].address().to_string())?;
        drop((here, there, unused));
        used.remove_on(host)?;
    }
    Ok(())
}

fn subnet_of_gateway_bridge(host: &Host) -> Result<String> {
    let template = "{{range .IPAM.Config}}{{.Subnet}}{{end}}";
    host.docker(["network", "inspect", "--format", template, "docker_gwbridge"])
}

/// Runs `docker compose` on the project, with this command.
fn run_compose(host: &Host, command: &str) -> Result<String> {
    host.sh(&format!("docker compose -p app -f /run/compose.yaml {command} 2>&1"))
}

/// The same project on all hosts: the containers are on one network, and each host's part can be
/// taken down alone.
fn compose(cluster: &mut Cluster, external: bool) -> Result<()> {
    let hosts = cluster.three()?;
    let definition = if external {
        "    external: true\n    name: foo\n"
    } else {
        "    driver: shoutd\n    labels: {a: b}\n    ipam: {config: [{subnet: 10.31.0.0/24}]}\n"
    };
    let service = format!(
        "services:\n  one:\n    image: {IMAGE}\n    init: true\n    command: sleep 100000\n"
    );
    let project = format!(
        "{service}    networks:\n      net: {{aliases: [alpha]}}\nnetworks:\n  net:\n{definition}"
    );
    let _network = external.then(|| Network::create(cluster, &hosts[1], "foo", &[])).transpose()?;
    for host in &hosts {
        provide_compose(host)?;
        std::fs::write(host.file("/run/compose.yaml")?, &project)?;
    }
    for host in &hosts {
        run_compose(host, "up --detach")?;
        // Until the other hosts have the network, they would create another one of the same name.
        for other in &hosts {
            shoutd_e2e::await_network(other, if external { "foo" } else { "app_net" })?;
        }
    }
    let again = run_compose(&hosts[0], "up --detach")?;
    ensure!(!again.contains("Recreate"), "Compose takes the network for another one: {again}");
    let containers =
        hosts.each_ref().map(|host| Container { host: host.clone(), name: "app-one-1".to_owned() });
    let [first, second, third] = &containers;
    Stream::default().send(first, &[second, third], 1)?;
    Stream::default().send(third, &[first, second], 1)?;
    run_compose(&hosts[1], "down --timeout 1")?;
    Stream::default()
        .send(first, &[third], 1)
        .context("when another host's part was taken down")?;
    run_compose(&hosts[1], "up --detach")?;
    Stream::default().send(second, &[first, third], 1).context("when it is up again")?;
    thread::scope(|scope| {
        let down: Vec<_> = hosts
            .iter()
            .map(|host| scope.spawn(move || run_compose(host, "down --timeout 1")))
            .collect();
        down.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result.map(|_| ()),
            Err(_) => bail!("a thread panicked"),
        })
    })
}

/// Compose is a separate program: each host gets Debian 13's.
fn provide_compose(host: &Host) -> Result<()> {
    let EngineSource::Root(root) = EngineSource::named("debian-13")? else {
        bail!("the root of a system")
    };
    let plugin = root.join("usr/libexec/docker/cli-plugins/docker-compose");
    let plugins = "/run/docker-client/cli-plugins";
    host.sh(&format!("mkdir -p {plugins} && ln -sf {} {plugins}/docker-compose", plugin.display()))
        .map(|_| ())
}
