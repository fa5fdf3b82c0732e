//! The first that a container sends and hears, and the first seconds of a network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use shoutd_lab::{Host, Process, wait_until};

use shoutd_e2e::{
    Capture, Cluster, Container, Datagrams, Frame, Hearing, Network, Numbered, SOON, WITH_IPV6,
    await_listeners, await_network, listen, one_on_each, run_once,
};

/// Where numbered datagrams go.
const NUMBERED: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(224, 1, 1, 1)), 6085),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 1, 1)), 6086),
];

/// A network, by what it is made with, and what its containers are started with, so that they have
/// IPv6.
struct DualStack {
    network: &'static str,
    made_with: &'static [&'static str],
    started_with: &'static [&'static str],
}

/// One whose containers have IPv6 from the start, and one where it is switched on in the instant
/// before a container's program begins.
const DUAL_STACK: [DualStack; 2] = [
    DualStack {
        network: "foo",
        made_with: &["--subnet", "10.125.0.0/24", "--ipv6", "--subnet", "fd12:5::/64"],
        started_with: &[],
    },
    DualStack { network: "bar", made_with: &[], started_with: &[WITH_IPV6] },
];

impl DualStack {
    fn start(&self, host: &Host) -> Result<Container> {
        Container::start(host, self.network, self.started_with)
    }
}

/// What a container sends first: multicast, broadcast, and multicast of IPv6.
fn firsts(network: &Network) -> Result<[Datagrams; 3]> {
    let broadcast = network.broadcast()?;
    let ways = [
        (
            "UDP4-RECV:6081,ip-add-membership=239.5.5.5:shout0",
            "UDP4-DATAGRAM:239.5.5.5:6081,ip-multicast-ttl=4",
        ),
        ("UDP4-RECV:6083", &format!("UDP4-DATAGRAM:{broadcast}:6083,broadcast")),
        (
            "UDP6-RECV:6084,ipv6-join-group=[ff15::5:5]:shout0",
            "UDP6-DATAGRAM:[ff15::5:5]:6084,so-bindtodevice=shout0",
        ),
    ];
    Ok(ways.map(|(receive, send)| Datagrams { receive: receive.to_owned(), send: send.to_owned() }))
}

/// A container on a host that had none, and then on one that has another, sends datagrams as the
/// first thing it does; a container that hears one answers at once by broadcast.
pub fn datagrams(cluster: &mut Cluster) -> Result<()> {
    DUAL_STACK.iter().try_for_each(|on| datagrams_on(cluster, on))
}

fn datagrams_on(cluster: &mut Cluster, on: &DualStack) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let network = Network::create(cluster, &first, on.network, on.made_with)?;
    let (answering, remote) = (on.start(&first)?, on.start(&second)?);
    let firsts = firsts(&network)?;
    let hears_all = |container| {
        firsts.iter().map(|datagrams| listen(container, datagrams)).collect::<Result<Vec<_>>>()
    };
    let mut heard = vec![hears_all(&remote)?];
    let answer = format!(
        "socat -d -d -u {} UDP4-DATAGRAM:{}:6082,broadcast",
        firsts[0].receive,
        network.broadcast()?
    );
    let answers = answering.spawn(&answer)?;
    answers.wait_for_line(SOON, |line| line.contains("starting data transfer loop"))?;
    await_listeners(&second, "239.5.5.5", &[&first, &second])?;
    await_listeners(&first, "ff15::5:5", &[&second])?;
    let sends = |begin: usize| {
        firsts.iter().cycle().skip(begin).take(firsts.len()).map(|datagrams| &*datagrams.send)
    };

    for round in 0..3 {
        send_first(&third, on, round, sends(round), &heard)?;
    }
    join_first(&answering, on, &third)?;
    let near = on.start(&third)?;
    heard.push(hears_all(&near)?);
    // Those that share a host with it are among those who listen.
    await_listeners(&first, "ff15::5:5", &[&second, &third])?;
    for round in 3..6 {
        send_first(&third, on, round, sends(round), &heard)?;
    }
    Ok(())
}

/// Starts a container that sends at once in these ways, and waits until all was heard, and the
/// answer.
fn send_first<'a>(
    host: &Host,
    on: &DualStack,
    round: usize,
    sends: impl Iterator<Item = &'a str>,
    heard: &[Vec<Process>],
) -> Result<()> {
    let send: Vec<String> =
        sends.map(|send| format!("echo round{round} | socat -u - {send}")).collect();
    // 17C2 is the port of the answer, as the kernel lists it.
    let script = format!(
        "socat -u UDP4-RECV:6082 CREATE:/tmp/heard & until grep -q ':17C2 ' /proc/net/udp; do :; \
         done; {}; for n in $(seq 100); do grep -qs round{round} /tmp/heard && exit; sleep 0.1; \
         done; exit 1",
        send.join("; ")
    );
    let output = run_once(host, on.network, on.started_with, &script)?;
    ensure!(output.success(), "round {round}: the container heard no answer, {output}");
    let wanted = format!("round{round}");
    for process in heard.iter().flatten() {
        wait_until(&format!("{wanted} to be heard by {}", process.what()), SOON, || {
            Ok(process.printed().0.lines().any(|line| line == wanted).then_some(()))
        })?;
    }
    Ok(())
}

/// A container joins groups as the first thing it does, while another host sends to them: from the
/// first that it hears on, it hears all.
fn join_first(sender: &Container, on: &DualStack, host: &Host) -> Result<()> {
    let numbered = Numbered::begin(sender, &NUMBERED)?;
    let receiver = on.start(host)?;
    let mut hearing =
        NUMBERED.iter().map(|at| Hearing::start(&receiver, *at)).collect::<Result<Vec<_>>>()?;
    let begun =
        hearing.iter_mut().map(|hearing| hearing.await_number(0)).collect::<Result<Vec<_>>>()?;
    numbered.await_more(500)?;
    let last = numbered.end()?;
    hearing.iter_mut().zip(begun).try_for_each(|(hearing, first)| hearing.ensure_all(first, last))
}

/// A bridge sends everything to all ports until its querier has run for ten seconds. One container
/// sends a datagram every two milliseconds from its start on, beyond these ten seconds; containers
/// on both hosts that have the network join at once, and hear all from when the sender's kernel has
/// what it goes by. A third host has none.
pub fn seconds(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let nothing = Capture::of_underlay(&third)?;
    let network = Network::create_here(cluster, &first, "foo", &[])?;
    await_network(&second, "foo")?;
    let sender = Container::start(&first, "foo", &[WITH_IPV6])?;
    let numbered = Numbered::begin(&sender, &NUMBERED)?;
    let receivers = one_on_each(&[first.clone(), second.clone()], "foo", &[WITH_IPV6])?;
    let mut hearing = Vec::new();
    for receiver in &receivers {
        for at in NUMBERED {
            hearing.push(Hearing::start(receiver, at)?);
        }
    }
    let remote = second.address();
    wait_until("the first host's kernel to send to host2", SOON, || {
        let entries = network.tunnel_groups(&first)?;
        let is_sent = |group: IpAddr| {
            entries.iter().any(|entry| entry.group == group && entry.remote == remote)
        };
        Ok(NUMBERED.iter().all(|at| is_sent(at.ip())).then_some(()))
    })?;
    let joined = numbered.next();
    // Twelve seconds of it.
    numbered.await_more(6000)?;
    let last = numbered.end()?;
    for hearing in &mut hearing {
        let begin = hearing.await_number(last)?;
        // The one that was just being sent does not count.
        ensure!(begin <= joined + 1, "the datagrams from {joined} to {begin} were lost");
        hearing.ensure_all(begin, last)?;
    }
    let surplus = nothing.stop()?.iter().filter_map(Frame::tunnelled).count();
    ensure!(surplus == 0, "host3 has no container on the network and got {surplus} packets");
    drop((hearing, receivers, sender));
    network.remove_on(&first)
}
