//! A container's first packets, sent and received, and the first seconds of a network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use shoutd_e2e::{
    Capture, Cluster, Container, Datagrams, Frame, Network, Numbered, NumberedReceiver, SOON,
    WITH_IPV6, await_members, await_network, one_on_each, run_once, start_receiver,
};
use shoutd_lab::{Host, Process, wait_until};

/// The groups of the numbered datagrams.
const NUMBERED: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(224, 1, 1, 1)), 6085),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 1, 1)), 6086),
];

/// Options of a network and its containers that give them IPv6.
struct DualStack {
    network: &'static str,
    made_with: &'static [&'static str],
    started_with: &'static [&'static str],
}

/// One network has IPv6 from the start; on the other, Docker turns it on just before a container's
/// program begins.
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

/// A container's first datagrams: multicast, broadcast, and IPv6 multicast.
fn firsts(network: &Network) -> Result<[Datagrams; 3]> {
    let broadcast = network.broadcast()?;
    let ways = [
        (
            "UDP4-RECV:6081,ip-add-membership=239.5.5.5:eth0",
            "UDP4-DATAGRAM:239.5.5.5:6081,ip-multicast-ttl=4",
        ),
        ("UDP4-RECV:6083", &format!("UDP4-DATAGRAM:{broadcast}:6083,broadcast")),
        (
            "UDP6-RECV:6084,ipv6-join-group=[ff15::5:5]:eth0",
            "UDP6-DATAGRAM:[ff15::5:5]:6084,so-bindtodevice=eth0",
        ),
    ];
    Ok(ways.map(|(receive, send)| Datagrams { receive: receive.to_owned(), send: send.to_owned() }))
}

/// A container starts on a host that had none, and then on one that has another. The first thing it
/// does is to send datagrams; a container that receives one answers at once by broadcast.
pub fn datagrams(cluster: &mut Cluster) -> Result<()> {
    DUAL_STACK.iter().try_for_each(|on| datagrams_on(cluster, on))
}

fn datagrams_on(cluster: &mut Cluster, on: &DualStack) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let network = Network::create(cluster, &first, on.network, on.made_with)?;
    let (answering, remote) = (on.start(&first)?, on.start(&second)?);
    let firsts = firsts(&network)?;
    let mut received = vec![receive_all(&remote, &firsts)?];
    let answer = format!(
        "socat -d -d -u {} UDP4-DATAGRAM:{}:6082,broadcast",
        firsts[0].receive,
        network.broadcast()?
    );
    let answers = answering.spawn(&answer)?;
    answers.wait_for_line(SOON, |line| line.contains("starting data transfer loop"))?;
    await_members(&second, "239.5.5.5", &[&first, &second])?;
    await_members(&first, "ff15::5:5", &[&second])?;

    for round in 0..3 {
        send_first(&third, on, round, &firsts, &received)?;
    }
    join_first(&answering, on, &third)?;
    let near = on.start(&third)?;
    received.push(receive_all(&near, &firsts)?);
    // Receivers on its own host count too.
    await_members(&first, "ff15::5:5", &[&second, &third])?;
    for round in 3..6 {
        send_first(&third, on, round, &firsts, &received)?;
    }
    Ok(())
}

fn receive_all(container: &Container, firsts: &[Datagrams]) -> Result<Vec<Process>> {
    firsts.iter().map(|datagrams| start_receiver(container, datagrams)).collect()
}

/// Starts a container that sends at once in these ways, each round with another one first, and
/// waits until all were received, and the answer.
fn send_first(
    host: &Host,
    on: &DualStack,
    round: usize,
    firsts: &[Datagrams],
    received: &[Vec<Process>],
) -> Result<()> {
    let in_order = firsts.iter().cycle().skip(round).take(firsts.len());
    let send: Vec<String> = in_order
        .map(|datagrams| format!("echo round{round} | socat -u - {}", datagrams.send))
        .collect();
    // 17C2 is the port of the answer in hexadecimal.
    // Flags 80 and 82 are those of an address that is not tentative. Where Docker turns IPv6 on
    // just before the program begins, the kernel ends duplicate address detection in a work queue,
    // which takes longer on a busy machine.
    let is_ready = "grep -q ':17C2 ' /proc/net/udp && grep -q ' 8[02] *eth0' /proc/net/if_inet6";
    let script = format!(
        "socat -u UDP4-RECV:6082 CREATE:/tmp/got & until {is_ready}; do :; done; {}; for n in \
         $(seq 100); do grep -qs round{round} /tmp/got && exit; sleep 0.1; done; exit 1",
        send.join("; ")
    );
    let output = run_once(host, on.network, on.started_with, &script)?;
    ensure!(output.success(), "round {round}: the container received no answer, {output}");
    let wanted = format!("round{round}");
    for process in received.iter().flatten() {
        wait_until(&format!("{wanted} to be received by {}", process.what()), SOON, || {
            Ok(process.printed().0.lines().any(|line| line == wanted).then_some(()))
        })?;
    }
    Ok(())
}

/// The first thing a container does is to join groups to which another host is sending: from the
/// first datagram on, it receives all.
fn join_first(sender: &Container, on: &DualStack, host: &Host) -> Result<()> {
    let numbered = Numbered::begin(sender, &NUMBERED)?;
    let receiver = on.start(host)?;
    let mut incoming = NUMBERED
        .iter()
        .map(|at| NumberedReceiver::start(&receiver, *at))
        .collect::<Result<Vec<_>>>()?;
    let begun =
        incoming.iter_mut().map(|incoming| incoming.await_number(0)).collect::<Result<Vec<_>>>()?;
    numbered.await_more(500)?;
    let last = numbered.end()?;
    incoming
        .iter_mut()
        .zip(begun)
        .try_for_each(|(incoming, first)| incoming.ensure_all(first, last))
}

/// A bridge floods all ports until its querier has run for ten seconds. One container sends a
/// datagram every two milliseconds from its start until after these ten seconds. Containers on both
/// hosts of the network join at once, and receive everything from the moment the sender's kernel
/// has the entries. A third host has no container.
pub fn seconds(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let nothing = Capture::of_underlay(&third)?;
    let network = Network::create_here(cluster, &first, "foo", &[])?;
    await_network(&second, "foo")?;
    let sender = Container::start(&first, "foo", &[WITH_IPV6])?;
    let numbered = Numbered::begin(&sender, &NUMBERED)?;
    let receivers = one_on_each(&[first.clone(), second.clone()], "foo", &[WITH_IPV6])?;
    let mut incoming = Vec::new();
    for receiver in &receivers {
        for at in NUMBERED {
            incoming.push(NumberedReceiver::start(receiver, at)?);
        }
    }
    let remote = second.address();
    wait_until("the first host's kernel to send to host2", SOON, || {
        let entries = network.tunnel_groups(&first)?;
        let are_sent = NUMBERED
            .iter()
            .all(|at| entries.iter().any(|entry| entry.group == at.ip() && entry.remote == remote));
        Ok(are_sent.then_some(()))
    })?;
    let joined = numbered.next();
    // Twelve seconds of it.
    numbered.await_more(6000)?;
    let last = numbered.end()?;
    for incoming in &mut incoming {
        let begin = incoming.await_number(last)?;
        // The datagram that was being sent at that time does not count.
        ensure!(begin <= joined + 1, "the datagrams from {joined} to {begin} were lost");
        incoming.ensure_all(begin, last)?;
    }
    let surplus = nothing.stop()?.iter().filter_map(Frame::tunnelled).count();
    ensure!(surplus == 0, "host3 has no container on the network and got {surplus} packets");
    drop((incoming, receivers, sender));
    network.remove_on(&first)
}
