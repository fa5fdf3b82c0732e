//! Five hosts: who may join, leaders that die one after the other, a partition, hosts that are
//! lost, removed, wiped or leave, and a cluster that is brought back from one host or from a
//! backup.

#[path = "cluster/identity.rs"]
mod identity;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shoutd_e2e::{
    Cluster, Container, Network, SOON, Stream, await_network, is_leader, leased, networks,
    one_on_each, run_checks, status, view,
};
use shoutd_lab::{Host, wait_until};

/// Time until an endpoint that no container has joined is certainly forgotten: more than two
/// minutes.
const FORGOTTEN: Duration = Duration::from_secs(180);

/// Ten times the rate of the demo: a gap of a few milliseconds would show.
const STREAM: Stream<'_> = Stream { group: "224.1.1.1", port: 5000, rate: "10M", length: 1470 };

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("cluster", 5)?;
            cluster.form([1, 2, 3])?;
            for number in [4, 5] {
                cluster.join(&cluster.host(number)?, &cluster.host(2)?)?;
            }
            Ok(cluster)
        },
        &[
            ("ten leaders killed while networks and containers are made", ten_leaders),
            ("a partition of two and three", partition),
            (
                "all hosts get other addresses at once, and lose them for a while",
                identity::renumbered,
            ),
            (
                "data set back are noticed, and of a host and its copy one goes on",
                identity::set_back_and_copied,
            ),
            ("a host whose data are damaged joins anew as it is told to", wiped),
            ("a host removed while it is dead", removed),
            ("all hosts lose their power at once", all_off),
            ("recovered on one host, restored from a backup", recovered),
            ("a sixth host joins by approval, not by a bad token, and leaves", sixth_host),
        ],
    )
}

/// Checks that `shoutdctl` on a host fails with these words.
fn refuses(host: &Host, command: &str, words: &[&str]) -> Result<()> {
    let output = host.run(["sh", "-c", command])?;
    let lines = output.stderr.lines().count();
    ensure!(!output.success() && lines == 1, "`{command}` is not refused in one line: {output}");
    ensure!(
        words.iter().all(|word| output.stderr.contains(word)),
        "`{command}` does not say {words:?}: {output}"
    );
    Ok(())
}

fn hosts_known(asked: &Host) -> Result<usize> {
    Ok(status(asked)?["hosts"].as_u64().context("a number of hosts")?.try_into()?)
}

/// The leader, once there is exactly one.
fn leader(cluster: &Cluster) -> Result<Host> {
    wait_until("one leader", SOON, || {
        let mut leaders = Vec::new();
        for host in cluster
            .hosts()
            .into_iter()
            .filter(|host| host.pids_of("shoutd").is_ok_and(|pids| !pids.is_empty()))
        {
            if is_leader(&host)? {
                leaders.push(host);
            }
        }
        Ok(if leaders.len() == 1 { leaders.pop() } else { None })
    })
}

fn sixth_host(cluster: &mut Cluster) -> Result<()> {
    let first = cluster.host(1)?;
    let old = cluster.token()?;
    first.sh("shoutdctl token rotate --expires 1s")?;
    let expired = cluster.token().unwrap_or_else(|_| old.clone());
    wait_until("the token to expire", SOON, || Ok(cluster.token().is_err().then_some(())))?;
    let sixth = cluster.add_host()?;
    let (address, peers) = (sixth.address(), "--peer-addresses=10.77.0.3 --timeout=5");
    let wrong = format!("{}{}", &old[..old.len() - 4], "0000");
    for token in [&wrong, &expired, &old] {
        refuses(&sixth, &format!("shoutdctl start {address} {peers} {token}"), &["token"])?;
        ensure!(hosts_known(&first)? == 5, "a bad token let it in");
    }
    let mut start =
        sixth.spawn(["shoutdctl", "start", &address.to_string(), "--peer-addresses=10.77.0.3"])?;
    let line = start.wait_for_line(SOON, |line| line.contains("shoutdctl approve "))?;
    let (_, approve) = line.rsplit_once("shoutdctl ").context("a command")?;
    first.sh(&format!("shoutdctl {approve}"))?;
    let output = start.wait(SOON)?;
    ensure!(output.success() && hosts_known(&first)? == 6, "approved, and not let in: {output}");
    first.sh("shoutdctl token rotate --expires 24h")?;

    let network = Network::create(cluster, &sixth, "foo", &[])?;
    let container = Container::start(&sixth, "foo", &[])?;
    refuses(&sixth, "shoutdctl stop --leave", &["foo", "containers"])?;
    ensure!(hosts_known(&sixth)? == 6, "it left though it was refused");
    drop(container);
    sixth.sh("shoutdctl stop --leave")?;
    let listed = sixth.docker(["network", "ls", "--filter", "driver=shoutd", "--quiet"])?;
    let files =
        sixth.sh("find /var/lib/shoutd /run/docker/plugins /run/netns -type f -o -type s")?;
    let filter = sixth.sh("nft list tables | grep shoutd || true")?;
    let is_clean = listed.is_empty() && files.is_empty() && filter.is_empty();
    ensure!(is_clean, "left behind: networks {listed}, files {files}, filter {filter}");
    wait_until("the others to know", SOON, || Ok((hosts_known(&first)? == 5).then_some(())))?;
    // A host that left can join again, as a new host.
    let again =
        format!("shoutdctl start {address} --peer-addresses=10.77.0.3 {}", cluster.token()?);
    sixth.sh(&again)?;
    await_network(&sixth, "foo")?;
    ensure!(hosts_known(&sixth)? == 6, "it is not in");
    sixth.sh("shoutdctl stop --leave")?;
    // The network survives the host that it was created on.
    network.remove_on(&first)
}

/// The result of a creation.
struct Attempt {
    name: String,
    acknowledged: bool,
}

/// Creates networks, one after the other, each with a container, until `enough` is set.
fn keep_creating(host: &Host, enough: &AtomicBool) -> Result<Vec<Attempt>> {
    let mut attempts = Vec::new();
    while !enough.load(Ordering::SeqCst) {
        let name = format!("n{}-{}", host.number(), attempts.len());
        let create =
            ["docker", "network", "create", "--driver", "shoutd", "--ipam-driver", "shoutd", &name];
        let acknowledged = host.run(create)?.success();
        if acknowledged {
            // Whether it can start depends on the leader; if it gets an address, no other container
            // has it.
            Container::try_start(host, &name, &[])?.0.remove()?;
        }
        attempts.push(Attempt { name, acknowledged });
    }
    Ok(attempts)
}

fn ten_leaders(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.hosts().into_iter().take(5).collect::<Vec<_>>();
    let network = Network::create(cluster, &hosts[0], "stream", &["--ipam-driver", "shoutd"])?;
    let streaming = hosts
        .iter()
        .map(|host| Container::start(host, "stream", &[]))
        .collect::<Result<Vec<_>>>()?;
    let [sender, receivers @ ..] = streaming.as_slice() else { bail!("no containers") };
    let running = STREAM.begin(sender, &receivers.iter().collect::<Vec<_>>())?;
    let attempts = create_while_leaders_die(cluster, &hosts)?;
    running.await_more(100)?;
    running.finish()?;
    let created: BTreeSet<_> =
        attempts.iter().filter(|one| one.acknowledged).map(|one| one.name.clone()).collect();
    println!(
        "        {} networks acknowledged, {} refused",
        created.len(),
        attempts.len() - created.len()
    );
    ensure!(!created.is_empty(), "nothing could be created");
    hosts.iter().try_for_each(|host| await_just_these(host, &created))?;
    // `leased` is keyed by network and address, so two hosts with one address would be one entry.
    let used = shoutd_e2e::endpoints(&hosts[0])?.len();
    ensure!(
        used >= streaming.len() && leased(&hosts[0])?.len() == used,
        "an address is in two hands"
    );
    // If shoutd was killed before Docker had its answer, an endpoint may be left that Docker has
    // given up; its network counts as in use until shoutd forgets it.
    wait_until("endpoints of starts that were cut off to be forgotten", FORGOTTEN, || {
        let known = hosts
            .iter()
            .map(|host| Ok(shoutd_e2e::endpoints(host)?.len()))
            .collect::<Result<Vec<_>>>()?;
        Ok(known.iter().all(|known| *known == streaming.len()).then_some(()))
    })?;
    drop(streaming);
    for (number, name) in created.iter().enumerate() {
        let host = hosts.iter().cycle().nth(number).context("a host")?;
        host.docker(["network", "rm", name])?;
    }
    network.remove_on(&hosts[1])
}

/// Lets all hosts create networks while ten leaders are killed, one after the other.
fn create_while_leaders_die(cluster: &Cluster, hosts: &[Host]) -> Result<Vec<Attempt>> {
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let creating: Vec<_> =
            hosts.iter().map(|host| scope.spawn(|| keep_creating(host, &enough))).collect();
        let killed = (0..10).try_for_each(|_| {
            let leader = leader(cluster)?;
            leader.kill_shoutd()?;
            leader.start_shoutd(&[]).map(|_| ())
        });
        enough.store(true, Ordering::SeqCst);
        let mut attempts = Vec::new();
        for thread in creating {
            attempts.extend(thread.join().unwrap_or_else(|_| bail!("a thread panicked"))?);
        }
        killed.map(|()| attempts)
    })
}

/// Waits until a host has these shoutd networks, `stream`, and no others.
fn await_just_these(host: &Host, created: &BTreeSet<String>) -> Result<()> {
    let list = ["network", "ls", "--filter", "driver=shoutd", "--format", "{{.Name}}"];
    let what = format!("all that was acknowledged, and no more, on {}", host.name());
    let mut there = BTreeSet::new();
    wait_until(&what, SOON * 2, || {
        let listed = host.docker(list)?;
        there = listed.lines().filter(|name| *name != "stream").map(str::to_owned).collect();
        Ok((there == *created).then_some(()))
    })
    .with_context(|| format!("there is {there:?}, and created was {created:?}"))
}

/// Drops, or no longer drops, all packets from these hosts on those.
fn part(hosts: &[Host], from: &[Host], parted: bool) -> Result<()> {
    let what = if parted { "--insert" } else { "--delete" };
    for (host, other) in hosts.iter().flat_map(|host| from.iter().map(move |other| (host, other))) {
        host.sh(&format!("iptables --wait {what} INPUT --source {} --jump DROP", other.address()))?;
    }
    Ok(())
}

/// The majority goes on. The minority names the missing hosts, and starts containers from its stock
/// until that is used up. Returns the containers.
fn start_while_parted(few: &[Host], many: &[Host]) -> Result<Vec<Container>> {
    wait_until("the majority to agree", SOON, || {
        Ok(many[0].run(["shoutdctl", "token", "rotate"])?.success().then_some(()))
    })?;
    let mut started = Vec::new();
    for round in 0..3 {
        for host in few.iter().chain(many) {
            let container = Container::start(host, "foo", &[])?;
            if round == 1 { container.remove()? } else { started.push(container) }
        }
    }
    let refused = few[0].run(["docker", "network", "create", "--driver", "shoutd", "never"])?;
    ensure!(
        !refused.success() && refused.stderr.contains("host3"),
        "it does not say who is missing: {refused}"
    );
    wait_until("the stock to be used up", SOON, || {
        let (container, output) = Container::try_start(&few[1], "foo", &[])?;
        if output.success() {
            started.push(container);
            return Ok(None);
        }
        container.remove()?;
        ensure!(
            output.stderr.contains("host3"),
            "it does not say why no address is left: {output}"
        );
        Ok(Some(()))
    })?;
    for host in few.iter().chain(many) {
        ensure!(status(host)?["host"].is_string(), "{} does not answer", host.name());
    }
    Ok(started)
}

fn partition(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.hosts().into_iter().take(5).collect::<Vec<_>>();
    let network = Network::create(cluster, &hosts[0], "foo", &["--ipam-driver", "shoutd"])?;
    let all =
        hosts.iter().map(|host| Container::start(host, "foo", &[])).collect::<Result<Vec<_>>>()?;
    let (few, many) = hosts.split_at(2);
    let [a, b, c, d, e] = all.as_slice() else { bail!("five containers") };
    let of_few = Stream { group: "239.1.1.2", ..STREAM }.begin(a, &[b])?;
    let of_many = Stream { group: "239.1.1.3", port: 5001, ..STREAM }.begin(c, &[d, e])?;
    part(few, many, true)?;
    part(many, few, true)?;
    let parted = start_while_parted(few, many).and_then(|started| {
        of_few.await_more(100)?;
        of_many.await_more(100)?;
        Ok(started)
    });
    part(few, many, false)?;
    part(many, few, false)?;
    let started = parted?;
    let containers: Vec<_> = all.iter().chain(&started).collect();
    let mut known = 0;
    wait_until("all hosts to know of all containers", SOON, || {
        for host in &hosts {
            known = leased(host).map_or(0, |leased| leased.len());
            if known != containers.len() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .with_context(|| format!("{known} addresses in use, and {} containers", containers.len()))?;
    of_few.finish()?;
    of_many.finish()?;
    // Each reaches the others again.
    let addresses =
        containers.iter().map(|one| one.address("foo")).collect::<Result<BTreeSet<_>>>()?;
    ensure!(addresses.len() == containers.len(), "an address is in two hands: {addresses:?}");
    for address in &addresses {
        wait_until("an answer", SOON, || Ok(c.ping(&address.to_string()).is_ok().then_some(())))?;
    }
    drop((started, all));
    network.remove_on(&hosts[4])
}

fn wiped(cluster: &mut Cluster) -> Result<()> {
    let (first, fifth) = (cluster.host(1)?, cluster.host(5)?);
    let network = Network::create(cluster, &fifth, "foo", &[])?;
    fifth.kill_shoutd()?;
    fifth.sh("dd if=/dev/urandom of=/var/lib/shoutd/agreed.redb bs=4096 count=2 conv=notrunc \
               status=none")?;
    let remedy =
        ["or let this host join again: type shoutdctl remove", "remove /var/lib/shoutd here"];
    refuses(&fifth, "shoutdctl start", &[&["agreed.redb is damaged"], &remedy[..]].concat())?;
    fifth.sh("rm /var/lib/shoutd/agreed.redb")?;
    refuses(&fifth, "shoutdctl start", &[&["agreed.redb is missing"], &remedy[..]].concat())?;
    // As the message says; the directory itself is a mount of the lab.
    first.sh("shoutdctl remove host5")?;
    fifth.sh("rm -rf /var/lib/shoutd/*")?;
    cluster.join(&fifth, &first)?;
    let containers = one_on_each(&[first.clone(), fifth.clone()], "foo", &[])?;
    let [a, b] = containers.as_slice() else { bail!("two containers") };
    Stream::default().send(a, &[b], 1)?;
    Stream::default().send(b, &[a], 1)?;
    drop(containers);
    ensure!(hosts_known(&first)? == 5, "not five hosts");
    network.remove_on(&fifth)
}

fn removed(cluster: &mut Cluster) -> Result<()> {
    let victim = cluster.host(4)?;
    let first = cluster.host(1)?;
    let network = Network::create(cluster, &first, "foo", &["--subnet", "10.44.0.0/24"])?;
    let staying = Container::start(&first, "foo", &[])?;
    let gone = Container::start(&victim, "foo", &["--ip", "10.44.0.99", "--restart=no"])?;
    // A running host is removed only with --force; so is the host that is asked.
    refuses(&first, "shoutdctl remove host4", &[&gone.name, "foo", "--force"])?;
    refuses(&first, "shoutdctl remove host1", &["this host itself", &staying.name, "--force"])?;
    victim.power_off()?;
    let (taken, output) = Container::try_start(&first, "foo", &["--ip", "10.44.0.99"])?;
    ensure!(!output.success() && output.stderr.contains("host4"), "{output}");
    taken.remove()?;
    for _ in 0..2 {
        first.sh("shoutdctl remove host4")?;
    }
    refuses(&first, "shoutdctl remove nobody", &["nobody"])?;
    // Its address is free, and no host has it as a remote.
    let successor = Container::start(&first, "foo", &["--ip", "10.44.0.99"])?;
    let segment = network.segment_name()?;
    let mut entries = String::new();
    wait_until("the removed host to be no remote", SOON, || {
        entries = first.sh(&format!("bridge -netns {segment} fdb show dev shoutvx0"))?;
        // What the kernel learned from a probe before the host was pinned ages within 300 s.
        let to_victim = format!("dst {} ", victim.address());
        let mut made = entries.lines().filter(|entry| entry.contains(" permanent"));
        Ok((!made.any(|entry| entry.contains(&to_victim))).then_some(()))
    })
    .with_context(|| entries.clone())?;
    victim.power_on()?;
    refuses(&victim, "shoutdctl start", &["removed", "/var/lib/shoutd"])?;
    gone.remove()?;
    victim.sh("rm -rf /var/lib/shoutd/*")?;
    cluster.join(&victim, &first)?;
    await_network(&victim, "foo")?;
    let new = Container::start(&victim, "foo", &[])?;
    Stream::default().send(&new, &[&staying, &successor], 1)?;
    drop((new, staying, successor));
    network.remove_on(&victim)
}

/// Does something to all these hosts at once, beginning with the last.
fn at_once(hosts: &[Host], act: impl Fn(&Host) -> Result<()> + Sync) -> Result<()> {
    let act = &act;
    thread::scope(|scope| {
        let acting: Vec<_> =
            hosts.iter().rev().map(|host| scope.spawn(move || act(host))).collect();
        acting
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })
}

fn all_off(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.hosts().into_iter().take(5).collect::<Vec<_>>();
    let network = Network::create(cluster, &hosts[2], "foo", &["--ipam-driver", "shoutd"])?;
    let containers = hosts
        .iter()
        .map(|host| Container::start(host, "foo", &["--restart=no"]))
        .collect::<Result<Vec<_>>>()?;
    let before = networks(&hosts[0])?;
    at_once(&hosts, Host::power_off)?;
    at_once(&hosts, |host| {
        host.power_on()?;
        host.start_shoutd(&[]).map(|_| ())
    })?;
    for host in &hosts {
        let after = networks(host)?;
        let are_same = after.iter().map(|one| &one["id"]).eq(before.iter().map(|one| &one["id"]));
        ensure!(are_same, "{} knows other networks", host.name());
    }
    for container in &containers {
        container.start_again()?;
    }
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
    drop(containers);
    network.remove_on(&hosts[3])
}

/// The cluster's id.
fn id(host: &Host) -> Result<String> {
    Ok(status(host)?["cluster"].as_str().context("an id")?.to_owned())
}

fn recovered(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.hosts().into_iter().take(5).collect::<Vec<_>>();
    let (first, others) = hosts.split_first().context("hosts")?;
    let network = Network::create(cluster, first, "foo", &["--subnet", "10.44.0.0/24"])?;
    let container = Container::start(first, "foo", &["--ip", "10.44.0.9"])?;
    let cluster_id = id(first)?;
    // The majority is lost for good.
    for host in others {
        host.kill_shoutd()?;
    }
    let refused = first.run(["docker", "network", "create", "--driver", "shoutd", "never"])?;
    ensure!(!refused.success(), "agreed without a majority");
    refuses(first, &format!("shoutdctl recover {cluster_id}"), &["shoutdctl stop"])?;
    first.sh("shoutdctl stop")?;
    refuses(first, &format!("shoutdctl recover {}", "0".repeat(32)), &[&cluster_id])?;
    let lost = first.sh(&format!("shoutdctl recover {cluster_id}"))?;
    first.start_shoutd(&[])?;
    ensure!(
        hosts_known(first)? == 1 && id(first)? == cluster_id,
        "not recovered: {}",
        status(first)?
    );
    ensure!(leased(first)?.len() == 1, "its container is forgotten: {}", view(first, "endpoints")?);
    refuses(&others[0], "shoutdctl start", &["cluster"])?;
    rejoin(cluster, others, &lost)?;
    let other = Container::start(&others[0], "foo", &[])?;
    Stream::default().send(&container, &[&other], 1)?;
    drop((container, other));

    // Then all data is lost.
    first.sh("shoutdctl backup /run/shoutd.backup")?;
    for host in &hosts {
        host.kill_shoutd()?;
    }
    refuses(first, "shoutdctl restore /run/shoutd.backup 10.77.0.1", &["empty"])?;
    first.sh("rm -rf /var/lib/shoutd/*")?;
    refuses(first, "shoutdctl restore /etc/hostname 10.77.0.1", &["backup"])?;
    let lost = first.sh("shoutdctl restore /run/shoutd.backup 10.77.0.1")?;
    first.start_shoutd(&["10.77.0.1"])?;
    ensure!(
        id(first)? == cluster_id && networks(first)?.len() == 1,
        "not restored: {}",
        status(first)?
    );
    rejoin(cluster, others, &lost)?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receivers @ ..] = containers.as_slice() else { bail!("no containers") };
    Stream::default().send(sender, &receivers.iter().collect::<Vec<_>>(), 1)?;
    drop(containers);
    network.remove_on(first)
}

/// Lets hosts that lost their cluster join again, and frees what they held before, by the list that
/// was printed.
fn rejoin(cluster: &Cluster, hosts: &[Host], lost: &str) -> Result<()> {
    let first = cluster.host(1)?;
    let lost: Vec<_> = lost.lines().filter(|line| line.starts_with("lost: ")).collect();
    ensure!(lost.len() >= hosts.len(), "not all lost hosts are listed: {lost:?}");
    for line in lost {
        let id = line.split(['(', ')']).nth(1).with_context(|| format!("an id in {line}"))?;
        first.sh(&format!("shoutdctl remove {id}"))?;
    }
    first.sh("shoutdctl token rotate --expires 24h")?;
    for host in hosts {
        host.sh("rm -rf /var/lib/shoutd/*")?;
        cluster.join(host, &first)?;
        await_network(host, "foo")?;
    }
    for host in hosts {
        ensure!(hosts_known(host)? == hosts.len() + 1, "{} is not in", host.name());
    }
    Ok(())
}
