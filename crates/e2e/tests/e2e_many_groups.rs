//! Thousands of groups at a time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use shoutd_e2e::{
    Capture, Cluster, Container, Frame, GroupSocket, Network, SOON, Sources, Stream, WITH_IPV6,
    run_checks, status, view,
};
use shoutd_lab::{Host, wait_until};

/// UDP ports of the IPv4 and IPv6 datagrams. They differ because an IPv6 wildcard socket also takes
/// IPv4.
const PORT_V4: u16 = 6121;
const PORT_V6: u16 = 6122;

/// All groups.
const GROUPS: Range<usize> = 0..5000;

/// Groups below are IPv4, the others IPv6.
const IPV6_FROM: usize = 4000;

/// Groups per socket: the kernel limits the memory of a socket's memberships
/// (`net.core.optmem_max`).
const PER_SOCKET: usize = 250;

/// Datagrams in flight at a time.
const AT_ONCE: usize = 250;

/// How long datagrams may be in flight, on a busy machine.
const WAY_DEADLINE: Duration = Duration::from_secs(10);

/// The most memory that a host's daemon may have with all of this, in KiB.
const MEMORY_MAX: u64 = 128 << 10;

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("many", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            ("5,000 groups on several hosts, each received where it was joined", five_thousand),
            ("a container that joins too many groups is named, and others are served", too_many),
            (
                "containers that fill a bridge together are named, and others are served",
                full_bridge,
            ),
        ],
    )
}

fn group(number: usize) -> IpAddr {
    let low = u16::try_from(number).unwrap();
    let [high, low_octet] = low.to_be_bytes();
    if number < IPV6_FROM {
        Ipv4Addr::new(239, 140, high, low_octet).into()
    } else {
        Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0x140, low).into()
    }
}

/// A container that joins many groups.
struct Receiver {
    container: Container,
    wants: BTreeSet<usize>,
    /// Sockets that receive from any group joined in the container, for IPv4 and for IPv6.
    sockets: [GroupSocket; 2],
    joined: Vec<GroupSocket>,
}

impl Receiver {
    fn start(host: &Host, wants: Range<usize>) -> Result<Self> {
        let options = [WITH_IPV6, "--sysctl=net.ipv4.igmp_max_memberships=8000"];
        let container = Container::start(host, "foo", &options)?;
        let sockets = [
            GroupSocket::open(&container, true, PORT_V4)?,
            GroupSocket::open(&container, false, PORT_V6)?,
        ];
        Ok(Self { container, wants: wants.collect(), sockets, joined: Vec::new() })
    }

    fn join(&mut self) -> Result<()> {
        for is_v4 in [true, false] {
            let numbers: Vec<usize> = self
                .wants
                .iter()
                .copied()
                .filter(|number| group(*number).is_ipv4() == is_v4)
                .collect();
            for numbers in numbers.chunks(PER_SOCKET) {
                let socket = GroupSocket::open(&self.container, is_v4, 0)?;
                numbers.iter().try_for_each(|number| socket.join(group(*number), Sources::All))?;
                self.joined.push(socket);
            }
        }
        Ok(())
    }

    /// Waits until it has received as many of these as it should, and checks that they are the
    /// right ones.
    fn check_received(&self, sent: &Range<usize>) -> Result<()> {
        let wanted: BTreeMap<Vec<u8>, usize> = self
            .wants
            .iter()
            .filter(|number| sent.contains(number))
            .map(|number| (text(*number), 1))
            .collect();
        let mut counts = BTreeMap::new();
        let all = wait_until("all datagrams to be received", WAY_DEADLINE, || {
            for socket in &self.sockets {
                for (_, datagram) in socket.received()? {
                    *counts.entry(datagram).or_insert(0) += 1;
                }
            }
            Ok((counts.values().sum::<usize>() >= wanted.len()).then_some(()))
        });
        let name = self.container.host.name();
        all.with_context(|| format!("{} of {} received on {name}", counts.len(), wanted.len()))?;
        ensure!(counts == wanted, "{name} received something else of {sent:?}: {counts:?}");
        Ok(())
    }
}

fn text(number: usize) -> Vec<u8> {
    format!("to group {number}").into_bytes()
}

fn five_thousand(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let network = Network::create(cluster, first, "foo", &[])?;
    let sender = Container::start(third, "foo", &[WITH_IPV6])?;
    let mut receivers = [
        Receiver::start(first, 0..3000)?,
        Receiver::start(second, 2000..5000)?,
        Receiver::start(second, 0..500)?,
    ];
    receivers.iter_mut().try_for_each(Receiver::join)?;
    for asked in &hosts {
        await_groups(asked, &members(&receivers))?;
        ensure!(status(asked)?["problems"] == json!([]), "{}", status(asked)?);
        ensure_small(asked)?;
    }
    let sending = [GroupSocket::open(&sender, true, 0)?, GroupSocket::open(&sender, false, 0)?];
    let mut surplus = Vec::new();
    let settled =
        wait_until("each host to be sent the groups that it is a member of", SOON, || {
            surplus = send_all(&hosts, &sender, &sending, &receivers)?;
            Ok(surplus.is_empty().then_some(()))
        });
    settled.with_context(|| surplus.join("; "))?;
    ensure!(network.tunnel_groups(third)?.len() > GROUPS.len(), "the groups are not in the kernel");

    for receiver in &mut receivers {
        receiver.joined.clear();
    }
    for asked in &hosts {
        await_groups(asked, &BTreeMap::new())?;
    }
    for host in &hosts {
        // One catch-all entry for groups without members, for IPv4 and for IPv6.
        wait_until(&format!("no group to be left on {}", host.name()), SOON, || {
            let listed = host
                .sh(&format!("bridge -netns {} mdb show dev shoutbr0", network.segment_name()?))?;
            let is_left = listed.contains("grp 239.140.") || listed.contains("grp ff15::140:");
            Ok((!is_left && network.tunnel_groups(host)?.len() == 2).then_some(()))
        })?;
        ensure_small(host)?;
    }
    Ok(())
}

/// Runs on kernels that limit a port's groups (6.3).
fn too_many(cluster: &mut Cluster) -> Result<()> {
    const TOO_MANY: u32 = 8300;
    let [first, second, _] = cluster.three()?;
    let network = Network::create(cluster, &first, "foo", &[])?;
    let sender = Container::start(&first, "foo", &[])?;
    let greedy =
        Container::start(&second, "foo", &["--sysctl=net.ipv4.igmp_max_memberships=8000"])?;
    let modest = Container::start(&second, "foo", &[])?;
    let joined = join_many(&greedy, 0, TOO_MANY)?;
    let told = "is a member of 8192 groups, the limit for one container";
    await_problem(&second, &["network foo: endpoint ", told])?;
    // The bridge still snoops, and other containers can join.
    let bridge =
        second.sh(&format!("ip -netns {} -details link show shoutbr0", network.segment_name()?))?;
    ensure!(bridge.contains("mcast_snooping 1 "), "{bridge}");
    Stream::default().send_undisturbed(&sender, &[&modest], 1)?;
    drop(joined);
    await_no_problems(&second)
}

/// No container alone has too many groups. Together they first exceed what a host advertises, and
/// then what their bridge can hold. A stream to another group is received throughout, there and
/// elsewhere. It ends before they leave: the kernel then sends a query for each group (RFC 3376,
/// section 6.4.2), tens of thousands at once, and the packet queue that overflows
/// (`net.core.netdev_max_backlog`) belongs to the machine, which all hosts of the lab share.
fn full_bridge(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let network = Network::create(cluster, &first, "foo", &[])?;
    let (sender, modest) =
        (Container::start(&first, "foo", &[])?, Container::start(&second, "foo", &[])?);
    let elsewhere = Container::start(&third, "foo", &[])?;
    let running = Stream::default().begin(&sender, &[&modest, &elsewhere])?;
    let mut greedy = Vec::new();

    add_greedy(&second, &mut greedy, 3)?;
    await_problem(
        &second,
        &[
            "network foo: the containers of this host are members of ",
            "all of its multicast is sent here",
        ],
    )?;
    // Groups that are joined now, on the host that is sent everything.
    ensure_received("224.1.1.2", &sender, &modest)?;

    add_greedy(&second, &mut greedy, 8)?;
    await_problem(
        &second,
        &["network foo: the bridge on this host has ", "most are those of endpoint "],
    )?;
    ensure_received("224.1.1.3", &sender, &modest)?;

    // More than the bridge can hold: the kernel turns snooping off, and shoutd turns it on again
    // and again.
    add_greedy(&second, &mut greedy, 9)?;
    await_problem(
        &second,
        &["network foo: the bridge on this host has ", "and to each of its containers"],
    )?;
    ensure_received("224.1.1.4", &sender, &modest)?;
    running.finish()?;

    let still = GroupSocket::open(&modest, true, 0)?;
    still.join(Ipv4Addr::new(224, 1, 1, 1).into(), Sources::All)?;
    greedy.clear();
    await_no_problems(&second)?;
    wait_until("the second host not to be sent everything", SOON, || {
        let groups = network.tunnel_groups(&first)?;
        let sent: BTreeSet<IpAddr> =
            groups.iter().filter(|to| to.remote == second.address()).map(|to| to.group).collect();
        let is_done = !sent.contains(&Ipv4Addr::UNSPECIFIED.into())
            && sent.contains(&Ipv4Addr::new(224, 1, 1, 1).into());
        Ok(is_done.then_some(()))
    })?;
    Stream::default().send_undisturbed(&sender, &[&modest, &elsewhere], 1)
}

/// A container that is a member of many groups.
struct Greedy {
    _sockets: Vec<GroupSocket>,
    _container: Container,
}

/// Starts greedy containers, each with groups of its own, until there are `number` of them.
fn add_greedy(host: &Host, greedy: &mut Vec<Greedy>, number: usize) -> Result<()> {
    const EACH: u32 = 8000;
    while greedy.len() < number {
        let first_group = u32::try_from(greedy.len())? * EACH;
        let container =
            Container::start(host, "foo", &["--sysctl=net.ipv4.igmp_max_memberships=8000"])?;
        let sockets = join_many(&container, first_group, EACH)?;
        greedy.push(Greedy { _sockets: sockets, _container: container });
    }
    Ok(())
}

/// Checks that a container receives a stream to a group that it joins now.
fn ensure_received(group: &str, sender: &Container, receiver: &Container) -> Result<()> {
    let stream = Stream { group, port: 5001, ..Stream::default() };
    stream.send_undisturbed(sender, &[receiver], 1)
}

/// Joins `count` groups in a container.
fn join_many(container: &Container, first: u32, count: u32) -> Result<Vec<GroupSocket>> {
    let mut joined = Vec::new();
    for number in 0..count {
        if number % 250 == 0 {
            joined.push(GroupSocket::open(container, true, 0)?);
        }
        let group = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(239, 150, 0, 0)) + first + number);
        joined.last().context("a socket")?.join(group.into(), Sources::All)?;
    }
    Ok(joined)
}

/// Waits until a host's status shows a problem with all these words.
fn await_problem(host: &Host, words: &[&str]) -> Result<()> {
    wait_until(&format!("the status to say {words:?}"), SOON, || {
        let status = status(host)?;
        let mut problems = status["problems"]
            .as_array()
            .context("a list")?
            .iter()
            .filter_map(|line| line.as_str());
        Ok(problems.any(|line| words.iter().all(|word| line.contains(word))).then_some(()))
    })
}

fn await_no_problems(host: &Host) -> Result<()> {
    wait_until("the status to be good again", SOON, || {
        Ok((status(host)?["problems"] == json!([])).then_some(()))
    })
}

/// The hosts that are members of each group.
fn members(receivers: &[Receiver]) -> BTreeMap<String, BTreeSet<String>> {
    let mut members: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for receiver in receivers {
        for number in &receiver.wants {
            members
                .entry(group(*number).to_string())
                .or_default()
                .insert(receiver.container.host.name());
        }
    }
    members
}

/// Waits until `asked` has exactly these hosts as members of exactly these groups.
fn await_groups(asked: &Host, wanted: &BTreeMap<String, BTreeSet<String>>) -> Result<()> {
    wait_until(&format!("{} groups, as {} knows", wanted.len(), asked.name()), SOON, || {
        let rows = view(asked, "groups")?;
        let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in rows.as_array().context("a list")? {
            let hosts = row["hosts"].as_array().into_iter().flatten();
            let names = hosts.filter_map(|host| host["name"].as_str().map(str::to_owned));
            known
                .entry(row["group"].as_str().unwrap_or("any").to_owned())
                .or_default()
                .extend(names);
        }
        Ok((known == *wanted).then_some(()))
    })
}

/// Sends a datagram to each group. Checks that each receiver gets each one once; returns which
/// datagrams hosts were sent in vain.
fn send_all(
    hosts: &[Host],
    sender: &Container,
    sending: &[GroupSocket; 2],
    receivers: &[Receiver],
) -> Result<Vec<String>> {
    let captures = hosts.iter().map(Capture::of_underlay).collect::<Result<Vec<_>>>()?;
    for start in GROUPS.step_by(AT_ONCE) {
        let numbers = start..(start + AT_ONCE).min(GROUPS.end);
        for number in numbers.clone() {
            let (socket, port) = if group(number).is_ipv4() {
                (&sending[0], PORT_V4)
            } else {
                (&sending[1], PORT_V6)
            };
            socket.send(SocketAddr::new(group(number), port), &text(number))?;
        }
        receivers.iter().try_for_each(|receiver| receiver.check_received(&numbers))?;
    }
    let own = sender.host.address();
    let mut surplus = Vec::new();
    for (host, capture) in hosts.iter().zip(captures) {
        let on_host =
            receivers.iter().filter(|receiver| receiver.container.host.number() == host.number());
        let wanted: BTreeSet<IpAddr> =
            on_host.flat_map(|receiver| &receiver.wants).map(|number| group(*number)).collect();
        let all: BTreeSet<IpAddr> = GROUPS.map(group).collect();
        let frames = capture.stop()?;
        let to_host = frames
            .iter()
            .filter_map(Frame::tunnelled)
            .filter(|(from, to, _)| *from == own && *to == host.address());
        let groups: Vec<IpAddr> = to_host
            .filter_map(|(.., frame)| frame.destination())
            .filter(|group| all.contains(group))
            .collect();
        let unwanted = groups.iter().filter(|group| !wanted.contains(*group)).count();
        if unwanted > 0 || groups.len() != wanted.len() {
            surplus.push(format!(
                "{} was sent {} datagrams, {unwanted} of them unwanted",
                host.name(),
                groups.len()
            ));
        }
    }
    Ok(surplus)
}

/// Checks that a host's daemon stays below its memory limit.
fn ensure_small(host: &Host) -> Result<()> {
    for pid in host.pids_of("shoutd")? {
        let used = host.sh(&format!("grep VmRSS /proc/{pid}/status"))?;
        let used: u64 = used.split_whitespace().nth(1).context("VmRSS")?.parse()?;
        ensure!(used < MEMORY_MAX, "shoutd on {} has {used} KiB of memory", host.name());
    }
    Ok(())
}
