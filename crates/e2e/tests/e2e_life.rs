//! Events in the life of a cluster: daemons, engines and hosts that die and come back, things that
//! are deleted, networks that come and go while a host is away.

#[path = "life/clock.rs"]
mod clock;
#[path = "life/set_back.rs"]
mod set_back;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use shoutd_e2e::{
    Cluster, Container, Datagrams, Network, SOON, Stream, all_receive_from_all, await_network,
    await_no_network, leased, one_on_each, run_checks, status,
};
use shoutd_lab::{Host, wait_until};

/// Ten times the rate of the demo: a gap of a few milliseconds would show.
const STREAM: Stream<'_> = Stream { group: "224.1.1.1", port: 5000, rate: "10M", length: 1470 };

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("life", 3)?;
            cluster.form([2, 1, 3])?;
            Ok(cluster)
        },
        &[
            (
                "shoutd killed during a stream: receiver's, sender's, leader's",
                killed_during_a_stream,
            ),
            ("shoutd stopped everywhere during a stream", stopped_during_a_stream),
            ("all killed at once and started in another order", all_killed_at_once),
            ("all killed the moment a network is created", killed_after_creation),
            ("an engine killed, and one stopped", engines_restarted),
            ("what is deleted comes back", deleted_things_come_back),
            ("sockets that are deleted come back", deleted_sockets_come_back),
            ("networks come and go while a shoutd is down", changes_while_shoutd_is_down),
            ("networks come and go while an engine is down", changes_while_engine_is_down),
            (
                "a copy removed while shoutd was down comes back, and goes when its network is \
                 removed",
                copy_removed_unnoticed,
            ),
            ("a network that is in use cannot be removed", used_networks_stay),
            ("a network can be removed on any host", removed_on_any_host),
            ("data set back while containers run are made good", set_back::set_back),
            ("a host whose clock is wrong serves its containers", clock::wrong),
            ("a certificate that expired while its host was down", clock::certificate_expired),
            ("a host loses its power and boots again", power_failure),
            ("a fourth host joins later", fourth_host),
        ],
    )
}

/// Kills shoutd on a host and starts it again as an administrator would.
fn kill_and_start(host: &Host) -> Result<()> {
    host.kill_shoutd()?;
    host.start_shoutd(&[]).map(|_| ())
}

fn killed_during_a_stream(cluster: &mut Cluster) -> Result<()> {
    let (leader, [first, second]) = cluster.leader_and_others()?;
    let _network = Network::create(cluster, &first, "foo", &[])?;
    let containers = one_on_each(&[first.clone(), second.clone(), leader], "foo", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    let running = STREAM.begin(sender, &receivers.iter().collect::<Vec<_>>())?;
    for victim in [&second, &first] {
        kill_and_start(victim)?;
        running.await_more(100)?;
    }
    let (leader, _) = cluster.leader_and_others()?;
    kill_and_start(&leader)?;
    running.await_more(100)?;
    running.finish()?;

    // The leader's own container sends.
    let (leader, _) = cluster.leader_and_others()?;
    let (sender, receivers): (Vec<_>, Vec<_>) =
        containers.iter().partition(|container| container.host.number() == leader.number());
    let sender = sender.first().context("a container on the leader's host")?;
    let running = STREAM.begin(sender, &receivers)?;
    kill_and_start(&leader)?;
    running.await_more(100)?;
    running.finish()
}

fn stopped_during_a_stream(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _network = Network::create(cluster, &hosts[1], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    let running = STREAM.begin(sender, &receivers.iter().collect::<Vec<_>>())?;
    for host in &hosts {
        host.sh("shoutdctl stop")?;
        ensure!(host.pids_of("shoutd")?.is_empty(), "shoutd still runs on {}", host.name());
    }
    running.await_more(1000)?;
    start_all(&hosts)?;
    running.await_more(100)?;
    running.finish()
}

/// Starts shoutd on these hosts in this order, without waiting in between: it serves only with a
/// majority.
fn start_all(hosts: &[Host]) -> Result<()> {
    let started =
        hosts.iter().map(|host| host.spawn(["shoutdctl", "start"])).collect::<Result<Vec<_>>>()?;
    for (mut process, host) in started.into_iter().zip(hosts) {
        let output = process.wait(SOON * 2)?;
        ensure!(output.success(), "shoutdctl start on {} failed, {output}", host.name());
    }
    Ok(())
}

/// Kills shoutd on all hosts at once, as nearly as possible.
fn kill_all(hosts: &[Host]) -> Result<()> {
    let pids = hosts.iter().map(|host| host.pids_of("shoutd")).collect::<Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let killed: Vec<_> = hosts
            .iter()
            .zip(&pids)
            .map(|(host, pids)| scope.spawn(|| host.signal("KILL", pids)))
            .collect();
        killed
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })?;
    for host in hosts {
        wait_until(&format!("the end of shoutd on {}", host.name()), SOON, || {
            Ok(host.pids_of("shoutd")?.is_empty().then_some(()))
        })?;
    }
    Ok(())
}

/// What must survive everything, as a host knows it: networks by id, and the holder of each
/// address.
type Memory = (BTreeMap<String, Value>, BTreeMap<(String, IpAddr), String>);

fn memory(host: &Host) -> Result<Memory> {
    let networks = shoutd_e2e::networks(host)?;
    let by_id = networks.into_iter().map(|network| (network["id"].to_string(), network)).collect();
    Ok((by_id, leased(host)?))
}

fn all_killed_at_once(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _networks = [
        Network::create(cluster, &hosts[0], "foo", &[])?,
        Network::create(cluster, &hosts[2], "own", &["--ipam-driver", "shoutd"])?,
    ];
    let mut containers = one_on_each(&hosts, "foo", &[])?;
    containers.extend(one_on_each(&hosts, "own", &[])?);
    let [sender, one, two, ..] = containers.as_slice() else { bail!("no containers") };
    let before = memory(&hosts[0])?;
    ensure!(before.1.len() == 6, "six addresses: {before:?}");
    let mut others = hosts.clone();
    others.reverse();
    for order in [others, hosts.clone()] {
        let running = STREAM.begin(sender, &[one, two])?;
        kill_all(&hosts)?;
        running.await_more(100)?;
        start_all(&order)?;
        for host in &hosts {
            let mut after = memory(host)?;
            wait_until("all to be as before", SOON, || {
                after = memory(host)?;
                Ok((after == before).then_some(()))
            })
            .with_context(|| format!("{} knows {after:?}, and it was {before:?}", host.name()))?;
        }
        running.finish()?;
    }
    // New containers can be started, at addresses that are not in use.
    let (new, more) = (one_on_each(&hosts, "foo", &[])?, one_on_each(&hosts, "own", &[])?);
    ensure!(leased(&hosts[1])?.len() == 12, "twelve different addresses: {:?}", leased(&hosts[1])?);
    for (network, containers) in [("foo", new), ("own", more)] {
        for (container, old) in containers.iter().zip(containers.iter().rev()) {
            container.ping(&old.address(network)?.to_string())?;
        }
    }
    Ok(())
}

/// Once Docker reports that a network is created, it exists on every host, whatever happens then.
fn killed_after_creation(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let mut networks = Vec::new();
    for host in &hosts {
        networks.push(Network::create_here(
            cluster,
            host,
            &format!("made-on-{}", host.name()),
            &["--ipam-driver", "shoutd"],
        )?);
        kill_all(&hosts)?;
        start_all(&hosts)?;
    }
    for network in &networks {
        for host in &hosts {
            await_network(host, &network.name)?;
        }
        let containers = one_on_each(&hosts, &network.name, &[])?;
        for (container, other) in containers.iter().zip(containers.iter().cycle().skip(1)) {
            container.ping(&other.address(&network.name)?.to_string())?;
        }
    }
    for (network, host) in networks.into_iter().zip(hosts.iter().rev()) {
        network.remove_on(host)?;
    }
    Ok(())
}

fn engines_restarted(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _network = Network::create(cluster, first, "foo", &["--subnet", "10.44.0.0/24"])?;
    let with_address = hosts.iter().zip(["10.44.0.11", "10.44.0.12", "10.44.0.13"]);
    let fixed: Vec<_> = with_address
        .map(|(host, ip)| Container::start(host, "foo", &["--ip", ip]))
        .collect::<Result<_>>()?;
    let always = [first, second].map(|host| Container::start(host, "foo", &["--restart=always"]));
    let [sender, receivers @ ..] = fixed.as_slice() else { bail!("no containers") };
    // Where the network was created, and where it is a mirror; killed, and stopped as at a
    // shutdown.
    for (host, killed) in [(first, true), (second, true), (first, false), (second, false)] {
        if killed { host.kill_engine() } else { host.stop_engine() }?;
        host.start_engine()?;
        let container =
            fixed.iter().find(|one| one.host.number() == host.number()).context("a container")?;
        let before = format!("10.44.0.1{}", host.number());
        container.start_again()?;
        ensure!(
            container.address("foo")?.to_string() == before,
            "{} has another address",
            container.name
        );
        Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
    }
    let third = Container::start(third, "foo", &[])?;
    for container in always {
        let container = container?;
        // By itself.
        wait_until(&format!("{} to run again", container.name), SOON, || {
            Ok((container.inspect("{{.State.Running}}")? == "true").then_some(()))
        })?;
        container.ping(&third.address("foo")?.to_string())?;
    }
    Ok(())
}

/// A host's devices of a network, without what differs each time.
fn picture(container: &Container, segment: &str) -> Result<String> {
    let script = format!(
        r"ip -netns {segment} -brief link | grep -v '^lo ' | sed 's/@[^ ]*//' |
            awk '{{print $1, $2}}' | sort
        ip -netns {segment} -details link show |
            grep -oE ' mtu [0-9]+|mcast_(snooping|querier) [01]|master [^ ]+' | sort
        bridge -netns {segment} fdb show dev shoutvx0 | grep ^00:00:00:00:00:00 |
            sed 's/link-netnsid [0-9]* //' | sort
        ip netns exec {segment} nft --terse --stateless list table bridge shoutd
        ip netns exec {segment} nft --stateless list table ip shoutd
        ip -netns {segment} route
        ip -brief link show master shoutd_gwbridge | awk '{{print $2}}'"
    );
    let kernel = container.host.run(["sh", "-c", &script])?.stdout;
    let inside = container
        .try_sh("ip address show dev eth0 | grep -oE 'mtu [0-9]+|inet .*|link/.*'; ip route")?;
    Ok(format!("{kernel}{}", inside.stdout))
}

fn deleted_things_come_back(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [container, ..] = containers.as_slice() else { bail!("no containers") };
    let (host, segment, address) =
        (&container.host, network.segment_name()?, container.address("foo")?);
    let inside = format!(
        "nsenter --net=/proc/$(docker inspect --format '{{{{.State.Pid}}}}' {})/ns/net",
        container.name
    );
    let before = picture(container, &segment)?;
    ensure!(
        before.contains("dst 10.77.0.3") && before.contains("224.0.0.0/4"),
        "the picture is not whole: {before}"
    );
    let datagrams = Datagrams {
        receive: "UDP4-RECV:6001,ip-add-membership=224.0.0.77:eth0".to_owned(),
        send: "UDP4-DATAGRAM:224.0.0.77:6001".to_owned(),
    };
    for deletion in [
        format!("bridge -netns {segment} fdb delete 00:00:00:00:00:00 dev shoutvx0 dst 10.77.0.3"),
        format!("ip -netns {segment} link delete shoutvx0"),
        format!("ip -netns {segment} link set shoutvx0 nomaster"),
        format!("ip -netns {segment} link set shoutvx0 down"),
        format!("ip netns exec {segment} nft delete table bridge shoutd"),
        format!("ip -netns {segment} link set shoutbr0 type bridge mcast_snooping 0"),
        format!("ip -netns {segment} link delete shoutbr0"),
        format!("ip -netns {segment} link delete shoutup0"),
        format!("ip -netns {segment} route delete default"),
        format!("ip netns exec {segment} nft delete table ip shoutd"),
        "ip link set $(ip -brief link | grep -o '^shg[0-9]*') nomaster".to_owned(),
        format!("{inside} ip route delete 224.0.0.0/4"),
        format!("{inside} ip address delete {address}/{} dev eth0", network.subnet()?.1),
        format!(
            "ip -netns {segment} link delete $(ip -netns {segment} -brief link | grep -o \
             '^shp[^@]*')"
        ),
        // `ip` unmounts the name and then removes its file. Where shoutd has mounted the next
        // namespace in between, the removal fails: that is a deletion as well.
        format!(
            "name=/run/netns/{segment}; victim=$(stat -Lc %i $name); ip netns delete {segment} || \
             [ $(stat -Lc %i $name) != $victim ]"
        ),
    ] {
        host.sh(&deletion)?;
        let mut after = String::new();
        wait_until("what was deleted to come back", SOON, || {
            after = picture(container, &segment)?;
            Ok((after == before).then_some(()))
        })
        .with_context(|| {
            format!("after `{deletion}` there is\n{after}\nwhere there was\n{before}")
        })?;
        for container in &containers {
            container.try_sh("killall socat")?;
        }
        all_receive_from_all(&containers, &datagrams)
            .with_context(|| format!("after `{deletion}`"))?;
    }
    Ok(())
}

/// Deleted as by a cleaner of `/run` or a reinstallation of Docker. Requests right afterwards are
/// answered as before.
fn deleted_sockets_come_back(cluster: &mut Cluster) -> Result<()> {
    let [first, second, _] = cluster.three()?;
    let network = Network::create(cluster, &first, "foo", &[])?;
    let sockets = "/run/docker/plugins/shoutd.sock /run/shoutd/control.sock";
    for victims in [sockets, "/run/docker/plugins /run/shoutd"] {
        second.sh(&format!("rm -r {victims}"))?;
        ensure!(status(&second)?["docker"]["state"] == "serving", "{}", status(&second)?);
        wait_until("the engine to find shoutd", SOON, || {
            Ok(second.sh(&format!("ls {sockets}")).is_ok().then_some(()))
        })?;
        let containers = one_on_each(&[first.clone(), second.clone()], "foo", &[])?;
        let [sender, receiver] = containers.as_slice() else { bail!("two containers") };
        Stream::default().send(sender, &[receiver], 1)?;
        let events = second.sh("shoutdctl events")?;
        ensure!(events.contains("socket-restored"), "it is not told: {events}");
    }
    let before = second.pids_of("shoutd")?;
    second.sh("rm -r /run/docker/plugins /run/shoutd; shoutdctl start")?;
    ensure!(second.pids_of("shoutd")? == before, "another daemon was started");
    second.sh("rm -r /run/docker/plugins /run/shoutd; shoutdctl stop")?;
    ensure!(second.pids_of("shoutd")?.is_empty(), "shoutd still runs");
    second.start_shoutd(&[])?;
    network.remove_on(&second)
}

fn changes_while_shoutd_is_down(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let old = Network::create(cluster, first, "old", &[])?;
    third.kill_shoutd()?;
    first.docker(["network", "rm", "old"])?;
    await_no_network(second, "old")?;
    let new = Network::create_here(cluster, second, "new", &["--ipam-driver", "shoutd"])?;
    await_network(first, "new")?;
    third.start_shoutd(&[])?;
    await_network(third, "new")?;
    await_no_network(third, "old")?;
    drop(old);
    let containers = one_on_each(&hosts, "new", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
    drop(containers);
    new.remove_on(third)
}

fn changes_while_engine_is_down(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _old = Network::create(cluster, first, "old", &[])?;
    third.stop_engine()?;
    wait_until("shoutd to say that its engine is away, and where it looks for it", SOON, || {
        let docker = status(third)?["docker"].clone();
        let why = docker["detail"].as_str().unwrap_or_default();
        Ok((docker["state"] == "absent" && why.contains("docker.sock")).then_some(()))
    })?;
    first.docker(["network", "rm", "old"])?;
    await_no_network(second, "old")?;
    let _new = Network::create_here(cluster, second, "new", &[])?;
    await_network(first, "new")?;
    third.start_engine()?;
    await_network(third, "new")?;
    await_no_network(third, "old")?;
    let containers = one_on_each(&hosts, "new", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)
}

/// shoutd does not learn of such a removal. The network belongs to all hosts, so it comes back. The
/// record of the lost copy must not prevent the next removal.
fn copy_removed_unnoticed(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let network = Network::create(cluster, &hosts[0], "foo", &[])?;
    hosts[1].kill_shoutd()?;
    hosts[1].docker(["network", "rm", "foo"])?;
    await_no_network(&hosts[1], "foo")?;
    let begin = hosts[1].shoutd_log()?.len();
    hosts[1].start_shoutd(&[])?;
    await_network(&hosts[1], "foo")?;
    let log = hosts[1].shoutd_log()?;
    let told = log.get(begin..).unwrap_or_default();
    ensure!(
        told.contains("removed while shoutd was not running"),
        "it did not come back because the engine remembers its removal: {told}"
    );
    network.remove_on(&hosts[1])
}

fn used_networks_stay(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let network = Network::create(cluster, first, "foo", &[])?;
    let id = network.row(first)?["id"].clone();
    let containers = one_on_each(&[first.clone(), third.clone()], "foo", &[])?;
    let [sender, receiver] = containers.as_slice() else { bail!("two containers") };
    let running = STREAM.begin(sender, &[receiver])?;
    // Docker removes its own copy without asking, so it comes back.
    let begin = second.shoutd_log()?.len();
    second.docker(["network", "rm", "foo"])?;
    await_network(second, "foo")?;
    for host in &hosts {
        ensure!(network.row(host)?["id"] == id, "it is another network now on {}", host.name());
        host.docker(["network", "inspect", "foo"])?;
    }
    let log = second.shoutd_log()?;
    let told = log.get(begin..).unwrap_or_default();
    ensure!(
        told.contains("foo") && told.contains("in use"),
        "the log does not say why it came back: {told}"
    );
    // Where a container uses it, Docker itself refuses.
    let refused = first.run(["docker", "network", "rm", "foo"])?;
    ensure!(!refused.success() && refused.stderr.contains("active endpoints"), "{refused}");
    running.await_more(100)?;
    running.finish()?;
    // The restored copy works like the first.
    let late = Container::start(second, "foo", &[])?;
    Stream::default().send(&late, &[sender, receiver], 1)?;
    drop(late);
    drop(containers);
    network.remove_on(second)
}

fn removed_on_any_host(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    for (origin, remover) in [(0, 0), (1, 2)] {
        let (origin, remover) = (&hosts[origin], &hosts[remover]);
        let network = Network::create(cluster, origin, "foo", &[])?;
        let containers = one_on_each(&hosts, "foo", &[])?;
        drop(containers);
        network.remove_on(remover).with_context(|| format!("removed on {}", remover.name()))?;
        cluster.await_clean()?;
    }
    Ok(())
}

fn power_failure(cluster: &mut Cluster) -> Result<()> {
    let (leader, [first, second]) = cluster.leader_and_others()?;
    let network = Network::create(cluster, &leader, "foo", &["--subnet", "10.44.0.0/24"])?;
    let containers = one_on_each(&[first.clone(), second.clone()], "foo", &[])?;
    let lost = Container::start(&leader, "foo", &["--ip", "10.44.0.77", "--restart=no"])?;
    leader.power_off()?;
    // The others elect a leader and go on; the address still belongs to the lost host.
    let late = Container::start(&first, "foo", &[])?;
    let (taken, output) = Container::try_start(&second, "foo", &["--ip", "10.44.0.77"])?;
    ensure!(!output.success() && output.stderr.contains(&leader.name()), "{output}");
    taken.remove()?;
    let made = Network::create_here(cluster, &second, "meanwhile", &["--ipam-driver", "shoutd"])?;
    await_network(&first, "meanwhile")?;
    leader.power_on()?;
    leader.start_shoutd(&[])?;
    await_network(&leader, "meanwhile")?;
    lost.start_again()?;
    ensure!(lost.address("foo")?.to_string() == "10.44.0.77", "it has another address");
    let receivers: Vec<_> = containers.iter().chain([&late]).collect();
    Stream::default().send(&lost, &receivers, 1)?;
    drop((containers, late, lost));
    made.remove_on(&leader)?;
    network.remove_on(&first)
}

fn fourth_host(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let network = Network::create(cluster, &first, "foo", &[])?;
    let mut containers = one_on_each(&[first, second.clone(), third.clone()], "foo", &[])?;
    let fourth = cluster.add_host()?;
    // Through any member, not only the founder.
    cluster.join(&fourth, &third)?;
    await_network(&fourth, "foo")?;
    containers.push(Container::start(&fourth, "foo", &[])?);
    ensure!(leased(&fourth)?.len() == 4, "four different addresses: {:?}", leased(&fourth)?);
    let [old, others @ .., new] = containers.as_slice() else { bail!("no containers") };
    for (sender, receiver) in [(old, new), (new, old)] {
        let receivers: Vec<_> = others.iter().chain([receiver]).collect();
        Stream::default().send(sender, &receivers, 1)?;
    }
    for host in cluster.hosts() {
        ensure!(status(&host)?["hosts"] == 4, "{} does not know all hosts", host.name());
    }
    drop(containers);
    network.remove_on(&fourth)?;
    await_no_network(&second, "foo")
}
