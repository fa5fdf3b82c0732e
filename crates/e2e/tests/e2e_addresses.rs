//! Addresses, subnets and names are unique over all hosts, however they are chosen, and errors are
//! clear.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{
    Cluster, Container, EXIT_PROBLEMS, Network, SOON, Stream, await_network, await_no_network,
    leased, left_in_kernel, networks, one_on_each, run_checks, status,
};
use shoutd_lab::{Host, Output, wait_until};

/// The subnet of host2's `docker_gwbridge`.
const BRIDGE_OF_SECOND: &str = "10.200.0.0/16";

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("addresses", 3)?;
            form(&cluster)?;
            Ok(cluster)
        },
        &[
            ("many containers at once, with the plain command", |cluster| {
                many_at_once(cluster, &[])
            }),
            ("many containers at once, with --subnet", |cluster| {
                many_at_once(cluster, &["--subnet", "10.9.0.0/16"])
            }),
            ("many containers at once, with --ipam-driver shoutd", |cluster| {
                many_at_once(cluster, &["--ipam-driver", "shoutd"])
            }),
            ("an address that another host has is refused", taken_address),
            ("fixed addresses are not given to others", fixed_address),
            ("reserved addresses are refused", reserved_addresses),
            ("a subnet's last address, and its return", small_subnet),
            ("what is freed in a full subnet goes to whichever host asks", full_subnet),
            ("one name created on two hosts at once", name_created_twice),
            ("a container on two networks", two_networks),
            (
                "a container that is restarted, and moved between networks",
                restarted_and_reconnected,
            ),
            ("overlapping subnets are refused, and the suggestion works", overlaps),
            ("a name that another driver's network has on another host", foreign_name),
            ("a name that is taken on this host", taken_name),
        ],
    )
}

/// Starts all hosts at once, each with the others as peers, with a prepared token. host2 has a
/// `docker_gwbridge` already.
fn form(cluster: &Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    hosts[1].docker(["network", "create", "--subnet", BRIDGE_OF_SECOND, "docker_gwbridge"])?;
    let token = format!("--token={}", hosts[2].sh("shoutdctl token prepare")?.trim());
    let addresses = hosts.each_ref().map(|host| host.address().to_string());
    on_all(&hosts, |host| {
        let own = host.address().to_string();
        let peers: Vec<_> = addresses.iter().filter(|other| **other != own).cloned().collect();
        host.start_shoutd(&[&own, &format!("--peer-addresses={}", peers.join(",")), &token])
    })?;
    for host in &hosts {
        wait_until("all hosts to be known", SOON, || {
            Ok((status(host)?["hosts"] == 3).then_some(()))
        })?;
    }
    Ok(())
}

/// Runs `work` for all hosts at once.
fn on_all<T: Send>(hosts: &[Host], work: impl Fn(&Host) -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let started: Vec<_> = hosts.iter().map(|host| scope.spawn(|| work(host))).collect();
        let joined = started.into_iter().map(|thread| thread.join());
        joined.map(|result| result.unwrap_or_else(|_| bail!("a thread panicked"))).collect()
    })
}

fn many_at_once(cluster: &mut Cluster, options: &[&str]) -> Result<()> {
    let hosts = cluster.three()?;
    let network = Network::create(cluster, &hosts[0], "foo", options)?;
    let started = on_all(&hosts, |host| {
        let more =
            on_all(&[host.clone(), host.clone()], |host| Container::start(host, "foo", &[]))?;
        Ok((more, Container::start(host, "foo", &[])?))
    })?;
    let containers: Vec<_> =
        started.into_iter().flat_map(|(more, last)| more.into_iter().chain([last])).collect();
    let mut addresses = BTreeMap::new();
    for container in &containers {
        let address = container.address("foo")?;
        ensure!(network.contains(address)?, "{address} is not in the network's subnet");
        if let Some(other) = addresses.insert(address, container) {
            bail!("{address} is that of {container:?} and of {other:?}");
        }
    }
    for host in &hosts {
        let known: BTreeMap<_, _> =
            leased(host)?.into_iter().map(|((_, address), host)| (address, host)).collect();
        let right: BTreeMap<_, _> = addresses
            .iter()
            .map(|(address, container)| (IpAddr::V4(*address), container.host.name()))
            .collect();
        ensure!(
            known == right,
            "{} takes the addresses for {known:?}; they are {right:?}",
            host.name()
        );
    }
    let [first, .., last] = containers.as_slice() else { bail!("no containers") };
    first.ping(&last.address("foo")?.to_string())
}

/// Checks that Docker refused, with a reason of one line that has these words.
fn ensure_refused(output: &Output, words: &[&str]) -> Result<()> {
    ensure!(!output.success(), "Docker did not refuse: {output}");
    let missing: Vec<_> = words.iter().filter(|word| !output.stderr.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} is missing in: {}", output.stderr);
    let said = output
        .stderr
        .lines()
        .filter(|line| line.contains("remote: ") || line.contains(words[0]))
        .count();
    ensure!(said == 1, "the reason is not one line: {}", output.stderr);
    Ok(())
}

fn taken_address(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let network = Network::create(cluster, first, "foo", &["--subnet", "10.9.0.0/24"])?;
    // The holder is a mirror's host, asked for by the origin and another mirror; and the origin,
    // asked for by mirrors.
    for (holder, others) in [(second, [first, third]), (first, [second, third])] {
        let held = Container::start(holder, "foo", &["--ip", "10.9.0.50"])?;
        let before = leased(first)?;
        for other in others {
            let (made, output) = Container::try_start(other, "foo", &["--ip", "10.9.0.50"])?;
            ensure_refused(&output, &["10.9.0.50", &holder.name()])?;
            ensure!(leased(first)? == before, "leases are left: {:?}", leased(first)?);
            ensure!(
                left_in_kernel(other)?.is_empty(),
                "left on {}: {:?}",
                other.name(),
                left_in_kernel(other)?
            );
            let state = status(other)?;
            ensure!(state["endpoints"] == 0, "an endpoint is left: {state}");
            made.remove()?;
        }
        let addresses = held.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")?;
        ensure!(addresses == "10.9.0.50", "the one that was there first has {addresses} now");
    }
    // The address is free again.
    for host in &hosts {
        Container::start(host, "foo", &["--ip", "10.9.0.50"])?.remove()?;
    }
    network.remove_on(third)
}

fn fixed_address(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    for options in
        [&["--subnet", "10.9.0.0/28"][..], &["--subnet", "10.9.0.0/28", "--ipam-driver", "shoutd"]]
    {
        let network = Network::create(cluster, first, "foo", options)?;
        // Where the origin's engine and shoutd would begin.
        let fixed = [
            Container::start(second, "foo", &["--ip", "10.9.0.2"])?,
            Container::start(first, "foo", &["--ip", "10.9.0.14"])?,
            Container::start(third, "foo", &["--ip", "10.9.0.13"])?,
        ];
        let free: Vec<_> = [first, third, second, first]
            .into_iter()
            .map(|host| Container::start(host, "foo", &[]))
            .collect::<Result<_>>()
            .with_context(|| format!("with {options:?}"))?;
        let all = fixed
            .iter()
            .chain(&free)
            .map(|container| container.address("foo"))
            .collect::<Result<Vec<_>>>()?;
        ensure!(
            all.iter().collect::<BTreeSet<_>>().len() == 7,
            "not seven addresses with {options:?}: {all:?}"
        );
        drop((fixed, free));
        network.remove_on(second)?;
    }
    Ok(())
}

fn reserved_addresses(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let options = [
        "--subnet",
        "10.9.0.0/24",
        "--gateway",
        "10.9.0.9",
        "--aux-address",
        "printer=10.9.0.8",
        "--ipam-driver",
        "shoutd",
    ];
    let network = Network::create(cluster, &hosts[0], "foo", &options)?;
    for host in &hosts[..2] {
        for address in ["10.9.0.0", "10.9.0.8", "10.9.0.9", "10.9.0.255", "10.9.1.1"] {
            let (made, output) = Container::try_start(host, "foo", &["--ip", address])?;
            ensure!(!output.success(), "{address} can be had on {}", host.name());
            made.remove()?;
        }
    }
    ensure!(leased(&hosts[0])?.is_empty(), "leases are left: {:?}", leased(&hosts[0])?);
    network.remove_on(&hosts[2])
}

fn small_subnet(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    for options in
        [&["--subnet", "10.9.0.0/29", "--ipam-driver", "shoutd"][..], &["--subnet", "10.9.0.0/29"]]
    {
        let network = Network::create(cluster, first, "foo", options)?;
        // 8 less the network address, broadcast and gateway.
        let mut containers: Vec<_> = [first, second, third, second, first]
            .into_iter()
            .map(|host| Container::start(host, "foo", &[]))
            .collect::<Result<_>>()
            .with_context(|| format!("with {options:?}"))?;
        let (made, output) = Container::try_start(second, "foo", &[])?;
        ensure_refused(&output, &["no free address", "10.9.0.0/29"])?;
        made.remove()?;
        let removed = containers.remove(2);
        let address = removed.address("foo")?;
        removed.remove()?;
        let heir = Container::start(second, "foo", &[])?;
        ensure!(
            heir.address("foo")? == address,
            "{address} was free, and {} was given",
            heir.address("foo")?
        );
        drop((containers, heir));
        network.remove_on(third)?;
    }
    Ok(())
}

/// Hosts keep some addresses in stock. When a subnet is full, others get them.
fn full_subnet(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let network = Network::create(cluster, first, "foo", &["--subnet", "10.9.0.0/28"])?;
    // While the network is in use, Docker goes on choosing addresses on its origin.
    let used = Container::start(first, "foo", &[])?;
    // 16 less the network address, broadcast, gateway and that one, including other hosts' stock.
    let mut containers =
        on_all(&vec![second.clone(); 12], |host| Container::start(host, "foo", &[]))?;
    let (made, output) = Container::try_start(third, "foo", &[])?;
    ensure_refused(&output, &["no free address", "10.9.0.0/28"])?;
    made.remove()?;
    // Here Docker chooses, without knowledge of other hosts, and without `--ip`.
    let (made, output) = Container::try_start(first, "foo", &[])?;
    ensure_refused(&output, &["no free address", &second.name()])?;
    ensure!(!output.stderr.contains("--ip "), "{output}");
    made.remove()?;
    containers.drain(..2).try_for_each(Container::remove)?;
    containers.push(Container::start(third, "foo", &[])?);
    let (made, output) = Container::try_start(first, "foo", &[])?;
    let (_, free) = output
        .stderr
        .split_once("--ip ")
        .with_context(|| format!("no address is named: {output}"))?;
    made.remove()?;
    let free: String = free
        .chars()
        .take_while(|character| *character == '.' || character.is_ascii_digit())
        .collect();
    containers.push(Container::start(first, "foo", &["--ip", &free])?);
    drop((used, containers));
    network.remove_on(third)
}

fn name_created_twice(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let (makers, third) = (&hosts[..2], &hosts[2]);
    let outputs = on_all(makers, |host| {
        host.run([
            "docker",
            "network",
            "create",
            "--driver",
            "shoutd",
            "--ipam-driver",
            "shoutd",
            "twin",
        ])
    })?;
    ensure!(outputs.iter().any(Output::success), "neither was created: {outputs:?}");
    let mut seen = String::new();
    wait_until("one network to be left of two", SOON, || {
        let rows = networks(third)?;
        let copies = hosts
            .iter()
            .map(|host| {
                host.docker(["network", "ls", "--filter", "driver=shoutd", "--format", "{{.Name}}"])
            })
            .collect::<Result<Vec<_>>>()?;
        seen = format!("{rows:?}, {copies:?}");
        let named = rows.first().is_some_and(|row| row["name"] == "twin");
        Ok((rows.len() == 1 && named && copies.iter().all(|copy| copy == "twin\n")).then_some(()))
    })
    .with_context(|| seen)?;
    for host in &hosts {
        wait_until(&format!("{} to agree", host.name()), SOON, || {
            Ok((networks(host)? == networks(third)?).then_some(()))
        })?;
    }
    let containers = one_on_each(&hosts, "twin", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
    drop(containers);
    third.docker(["network", "rm", "twin"])?;
    hosts.iter().try_for_each(|host| await_no_network(host, "twin"))
}

/// The number of a container's routes for all multicast.
fn multicast_routes(container: &Container) -> Result<usize> {
    Ok(container.sh("ip route")?.lines().filter(|line| line.starts_with("224.0.0.0/4 ")).count())
}

fn two_networks(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _networks = [
        Network::create(cluster, &hosts[0], "one", &[])?,
        Network::create(cluster, &hosts[1], "two", &["--ipam-driver", "shoutd"])?,
    ];
    let both = one_on_each(&hosts, "one", &[])?;
    for container in &both {
        container.host.docker(["network", "connect", "two", &container.name])?;
        let routes = multicast_routes(container)?;
        ensure!(routes == 1, "{routes} multicast routes on {}", container.host.name());
    }
    let [sender, receivers @ ..] = both.as_slice() else { bail!("no containers") };
    let receivers: Vec<_> = receivers.iter().collect();
    for receiver in &receivers {
        sender.ping(&receiver.address("one")?.to_string())?;
        sender.ping(&receiver.address("two")?.to_string())?;
    }
    Stream::default().send(sender, &receivers, 1)?;
    // When the network with the route goes, the remaining one gets the route.
    for container in &both {
        container.host.docker(["network", "disconnect", "one", &container.name])?;
        wait_until(&format!("a multicast route on {}", container.host.name()), SOON, || {
            Ok((multicast_routes(container)? == 1).then_some(()))
        })?;
    }
    Stream::default().send(sender, &receivers, 1)?;
    for container in &both {
        container.host.docker(["network", "connect", "one", &container.name])?;
        ensure!(
            multicast_routes(container)? == 1,
            "not one multicast route on {}",
            container.host.name()
        );
    }
    Stream::default().send(sender, &receivers, 1)
}

/// Checks that a container has one multicast route, and that all others reach it.
fn ensure_connected(container: &Container, all: &[Container]) -> Result<()> {
    let routes = multicast_routes(container)?;
    ensure!(routes == 1, "{routes} multicast routes on {}", container.host.name());
    for other in all.iter().filter(|other| other.name != container.name) {
        other.ping(&container.address("foo")?.to_string())?;
    }
    Ok(())
}

fn restarted_and_reconnected(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _network = Network::create(cluster, first, "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    let receivers: Vec<_> = receivers.iter().collect();
    for host in [first, second] {
        let container = containers
            .iter()
            .find(|one| one.host.number() == host.number())
            .context("a container")?;
        host.docker(["restart", "--time", "1", &container.name])?;
        ensure_connected(container, &containers).context("after docker restart")?;
        host.docker(["stop", "--time", "1", &container.name])?;
        container.start_again()?;
        ensure_connected(container, &containers).context("after docker stop and start")?;
        host.docker(["network", "disconnect", "foo", &container.name])?;
        host.docker(["network", "connect", "foo", &container.name])?;
        ensure_connected(container, &containers)
            .context("after docker network disconnect and connect")?;
        Stream::default().send(sender, &receivers, 1)?;
    }
    let addresses = containers
        .iter()
        .map(|container| container.address("foo"))
        .collect::<Result<BTreeSet<_>>>()?;
    let known: BTreeSet<_> = leased(third)?.into_keys().map(|(_, address)| address).collect();
    ensure!(known == addresses.into_iter().map(IpAddr::V4).collect(), "{third:?} knows {known:?}");
    Ok(())
}

fn overlaps(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _other = Network::create(cluster, &hosts[1], "other", &["--subnet", "10.30.0.0/16"])?;
    for host in [&hosts[0], &hosts[2]] {
        let mut suggested = String::new();
        for (subnet, words) in [
            ("10.30.128.0/24", ["10.30.0.0/16", "other"]),
            ("10.0.0.0/10", ["10.30.0.0/16", "other"]),
            ("10.200.3.0/24", [BRIDGE_OF_SECOND, "host2"]),
            ("10.77.0.128/25", ["10.77.0.0/24", "underlay"]),
        ] {
            let create =
                ["docker", "network", "create", "--driver", "shoutd", "--subnet", subnet, "clash"];
            let output = host.run(create)?;
            ensure_refused(&output, &[&[subnet], &words[..]].concat())?;
            let listed = host.docker(["network", "ls", "--format", "{{.Name}}"])?;
            ensure!(!listed.contains("clash"), "half made: {listed}");
            ensure!(networks(host)?.len() == 1, "half made: {:?}", networks(host)?);
            suggested = suggestion(&output.stderr)
                .with_context(|| format!("no free subnet in {output}"))?;
        }
        let network = Network::create(cluster, host, "fits", &["--subnet", &suggested])?;
        let containers = one_on_each(&hosts, "fits", &[])?;
        let [a, .., b] = containers.as_slice() else { bail!("no containers") };
        a.ping(&b.address("fits")?.to_string())?;
        drop(containers);
        network.remove_on(host)?;
    }
    Ok(())
}

/// The subnet in the command that an error suggests.
fn suggestion(error: &str) -> Option<String> {
    let (_, rest) = error.split_once("--subnet ")?;
    let subnet = rest.split_whitespace().next()?;
    let (address, length) = subnet.split_once('/')?;
    (address.parse::<Ipv4Addr>().is_ok() && length.parse::<u8>().is_ok()).then(|| subnet.to_owned())
}

/// The problems that `shoutdctl status` shows.
fn problems(host: &Host) -> Result<String> {
    // Problems have an exit code of their own.
    let table = host.run(["shoutdctl", "status"])?.stdout;
    Ok(table.lines().filter(|line| line.contains("problem")).collect())
}

fn foreign_name(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    third.docker(["network", "create", "common"])?;
    let network = Network::create_here(cluster, &first, "common", &[])?;
    await_network(&second, "common")?;
    wait_until("host3 to say what is wrong", SOON, || {
        let told = problems(&third)?;
        Ok((told.contains("common") && told.contains("bridge")).then_some(()))
    })
    .with_context(|| problems(&third).unwrap_or_default())?;
    ensure!(
        third.run(["shoutdctl", "status"])?.code == EXIT_PROBLEMS,
        "the exit code does not say that there are problems"
    );
    let everywhere = first.run(["shoutdctl", "status", "--cluster"])?;
    ensure!(
        everywhere.code == EXIT_PROBLEMS && everywhere.stdout.contains("common"),
        "{everywhere}"
    );
    for host in [&first, &second] {
        ensure!(problems(host)?.is_empty(), "{} has problems: {}", host.name(), problems(host)?);
        ensure!(
            host.run(["shoutdctl", "status"])?.success(),
            "the exit code says that {} has problems",
            host.name()
        );
    }
    let driver = ["network", "inspect", "--format", "{{.Driver}}", "common"];
    ensure!(third.docker(driver)?.trim() == "bridge", "the other network was touched");
    third.docker(["network", "rm", "common"])?;
    await_network(&third, "common")?;
    ensure!(third.docker(driver)?.trim() == "shoutd", "it is not ours");
    wait_until("the problem to be gone", SOON, || Ok(problems(&third)?.is_empty().then_some(())))?;
    network.remove_on(&third)
}

fn taken_name(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let network = Network::create(cluster, &first, "foo", &[])?;
    let output = second.run(["docker", "network", "create", "--driver", "shoutd", "foo"])?;
    ensure!(!output.success() && output.stderr.contains("foo"), "{output}");
    ensure!(networks(&second)?.len() == 1, "half made: {:?}", networks(&second)?);
    network.remove_on(&second)
}
