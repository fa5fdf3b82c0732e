//! Multicast goes to the hosts that listen, to no other, and nothing is lost while that changes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use common::{
    Capture, Cluster, Container, Datagrams, Frame, GroupSocket, Network, Running, SOON, Sources, Stream, WITH_IPV6,
    await_listeners, await_network, listen, one_on_each, run_checks, status, view,
};
use shoutd_lab::{Host, IMAGE, wait_until};

/// The group of the streams.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 1, 1, 1);

/// A program in a container that listens to the streams' group, from all sources, until it is killed.
const LISTEN: &str = "socat -u UDP4-RECV:5000,ip-add-membership=224.1.1.1:shout0 OPEN:/dev/null";

#[test]
fn multicast_goes_to_the_hosts_that_listen() {
    let mut cluster = Cluster::up("groups", 3).unwrap();
    cluster.form([1, 2, 3]).unwrap();
    run_checks(
        &mut cluster,
        &[
            ("only the host that listens gets the stream, while others join, leave and die", joins_and_leaves),
            ("daemons are killed and started: nothing lost, nothing withdrawn", daemons_killed),
            ("IPv6 groups", ipv6_groups),
            ("each host gets the sources that it listens to", sources),
            ("the first datagram of a container is heard by all, and theirs by it", first_datagram),
            ("the first ten seconds of a new network lose nothing and leak nothing", first_seconds),
            ("an address that moves to another host is reachable at once", address_moves),
            ("each way of replication, beside others", ways),
            ("options of networks", options),
            ("a first container is heard though the hosts cannot agree", without_majority),
        ],
    );
}

/// Where a capture's tunnelled frames to a group come from: underlay addresses.
fn senders(capture: &Capture, is_wanted: impl Fn(&Frame) -> bool) -> Vec<Ipv4Addr> {
    let frames = capture.frames();
    let tunnelled = frames.iter().filter_map(Frame::tunnelled);
    tunnelled.filter(|(.., frame)| is_wanted(frame)).map(|(source, ..)| source).collect()
}

/// Waits until a host is not sent the stream, in the time in which others hear this many datagrams of it.
fn await_silence(host: &Host, stream: &Running<'_>) -> Result<()> {
    wait_until(&format!("{} to be sent nothing", host.name()), SOON, || {
        let capture = Capture::of_underlay(host)?;
        stream.await_more(30)?;
        Ok(senders(&capture, |frame| frame.is_to(GROUP)).is_empty().then_some(()))
    })
}

/// Waits until a host is sent the stream.
fn await_stream(host: &Host) -> Result<()> {
    let capture = Capture::of_underlay(host)?;
    wait_until(&format!("{} to be sent the stream", host.name()), SOON, || {
        Ok((!senders(&capture, |frame| frame.is_to(GROUP)).is_empty()).then_some(()))
    })
}

fn joins_and_leaves(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _network = Network::create(cluster, first, "foo", &[])?;
    let (sender, receiver) = (Container::start(first, "foo", &[])?, Container::start(second, "foo", &[])?);
    let bystander = Container::start(third, "foo", &[])?;
    let stream = Stream::default().begin(&sender, &[&receiver])?;
    await_listeners(first, "224.1.1.1", &[second])?;
    await_silence(third, &stream)?;
    // Not one packet in a longer time.
    let capture = Capture::of_underlay(third)?;
    stream.await_more(200)?;
    let surplus = senders(&capture, |frame| frame.is_to(GROUP)).len();
    ensure!(surplus == 0, "host3 does not listen and got {surplus} packets");
    drop(capture);

    let listening = bystander.spawn(LISTEN)?;
    await_stream(third)?;
    await_listeners(first, "224.1.1.1", &[second, third])?;
    // It has no time to leave: its kernel does that for it.
    bystander.sh("killall -KILL socat")?;
    drop(listening);
    await_silence(third, &stream)?;

    let _listening = bystander.spawn(LISTEN)?;
    await_stream(third)?;
    bystander.remove()?;
    await_silence(third, &stream)?;
    await_listeners(first, "224.1.1.1", &[second])?;
    stream.finish()
}

/// A host that sends in another way than the others: it changes nothing for them, and only one that floods sends to hosts that do not listen.
fn ways(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let _network = Network::create(cluster, &first, "foo", &[])?;
    let (sender, receiver) = (Container::start(&first, "foo", &[])?, Container::start(&second, "foo", &[])?);
    let _bystander = Container::start(&third, "foo", &[])?;
    let stream = Stream::default().begin(&sender, &[&receiver])?;
    for way in ["multicast-fdb", "flood", "vxlan-mdb"] {
        first.sh("shoutdctl stop")?;
        first.start_shoutd(&[&format!("--replication={way}")])?;
        ensure!(status(&first)?["replication"] == way, "{way} is not shown: {}", status(&first)?);
        if way == "flood" { await_stream(&third) } else { await_silence(&third, &stream) }?;
        await_listeners(&first, "224.1.1.1", &[&second])?;
    }
    stream.await_more(30)?;
    // While the kernel's own tables are made anew a packet may go nowhere, so that this one is for what comes after.
    drop(stream);
    receiver.sh("killall iperf")?;
    sender.sh("killall iperf")?;
    Stream::default().send(&sender, &[&receiver], 1)
}

fn options(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    for (option, words) in [
        ("shoutd.max-rat=5", ["shoutd.max-rat;", "shoutd.max-rate"]),
        ("shoutd.max-rate=much", ["much", "packets per second"]),
        ("shoutd.mac-moves=perhaps", ["perhaps", "on or off"]),
    ] {
        let output = hosts[0].run(["docker", "network", "create", "--driver", "shoutd", "--opt", option, "foo"])?;
        let is_told = words.iter().all(|word| output.stderr.contains(word));
        ensure!(!output.success() && is_told, "{option} is not refused with {words:?}: {output}");
    }
    // 50 packets a second, and as many at once: of many more in an instant most are dropped, on the sender's host.
    let options = ["--opt", "shoutd.max-rate=50", "--opt", "shoutd.mac-moves=off"];
    let network = Network::create(cluster, &hosts[0], "foo", &options)?;
    let containers = [Container::start(&hosts[0], "foo", &[])?, Container::start(&hosts[1], "foo", &[])?];
    let [sender, receiver] = &containers;
    let (heard, _listening) = (Capture::of_underlay(&hosts[1])?, receiver.spawn(LISTEN)?);
    await_listeners(&hosts[0], "224.1.1.1", &[&hosts[1]])?;
    sender.sh("iperf -u -c 224.1.1.1 -p 5000 -T 2 -n 1470K -b 200M")?;
    let passed = heard.stop()?.iter().filter_map(Frame::tunnelled).filter(|(.., frame)| frame.is_to(GROUP)).count();
    ensure!((1..=500).contains(&passed), "of 1024 datagrams in a moment {passed} passed");
    for (one, other) in [(sender, receiver), (receiver, sender)] {
        one.ping(&other.address("foo")?.to_string())?;
    }
    drop(containers);
    network.remove_on(&hosts[2])
}

fn daemons_killed(cluster: &mut Cluster) -> Result<()> {
    let (leader, [other, _]) = cluster.leader_and_others()?;
    let third = cluster.hosts().into_iter().find(|host| ![leader.number(), other.number()].contains(&host.number()));
    let third = third.context("a third host")?;
    let _network = Network::create(cluster, &other, "foo", &[])?;
    let (sender, receiver) = (Container::start(&leader, "foo", &[])?, Container::start(&other, "foo", &[])?);
    let _bystander = Container::start(&third, "foo", &[])?;
    let stream = Stream::default().begin(&sender, &[&receiver])?;
    await_silence(&third, &stream)?;
    // The receiver's, then the sender's, which leads.
    for victim in [&other, &leader] {
        victim.kill_shoutd()?;
        // Longer than a host may be silent: about 9 s.
        stream.await_more(800)?;
        victim.start_shoutd(&[])?;
        await_silence(&third, &stream)?;
        await_listeners(&leader, "224.1.1.1", &[&other])?;
    }
    stream.finish()
}

fn ipv6_groups(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let group: Ipv6Addr = "ff05::1:5".parse()?;
    let _network = Network::create(cluster, &first, "foo", &[])?;
    let (sender, receiver) =
        (Container::start(&first, "foo", &[WITH_IPV6])?, Container::start(&second, "foo", &[WITH_IPV6])?);
    let _bystander = Container::start(&third, "foo", &[WITH_IPV6])?;
    // Tentative addresses are not sent from.
    wait_until("an IPv6 address", SOON, || {
        let listed = sender.sh("ip -6 -o addr show dev shout0 scope link")?;
        Ok((!listed.is_empty() && !listed.contains("tentative")).then_some(()))
    })?;
    let datagrams = Datagrams {
        receive: format!("UDP6-RECV:6061,ipv6-join-group=[{group}]:shout0"),
        send: format!("UDP6-DATAGRAM:[{group}]:6061,so-bindtodevice=shout0"),
    };
    let listening = listen(&receiver, &datagrams)?;
    await_listeners(&first, "ff05::1:5", &[&second])?;
    wait_until("the others to be sent nothing", SOON, || {
        let (heard, nothing) = (Capture::of_underlay(&second)?, Capture::of_underlay(&third)?);
        sender.sh(&format!("for n in 1 2 3; do echo sent | socat -u - {} || exit; done", datagrams.send))?;
        wait_until("the group to be heard", SOON, || {
            Ok((senders(&heard, |frame| frame.is_to_v6(group)).len() >= 3).then_some(()))
        })?;
        Ok(senders(&nothing, |frame| frame.is_to_v6(group)).is_empty().then_some(()))
    })?;
    ensure!(listening.printed().0.lines().count() >= 3, "the receiver heard only {:?}", listening.printed().0);
    Ok(())
}

/// Source-specific: one host wants one source, another host the other.
fn sources(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _network = Network::create(cluster, first, "foo", &[])?;
    let one = Container::start(first, "foo", &[])?;
    let other = Container::start(second, "foo", &[])?;
    let receiver = Container::start(third, "foo", &[])?;
    let wanted = one.address("foo")?;
    let listening = receiver.spawn(&format!("iperf -u -s -B 232.1.1.1%shout0 -H {wanted} -p 6071"))?;
    listening.wait_for_line(SOON, |line| line.contains("Joining multicast (S,G)"))?;
    await_listeners(first, "232.1.1.1", &[third])?;
    await_listeners(second, "232.1.1.1", &[third])?;
    let send = |container: &Container| {
        container.sh(
            "for n in 1 2 3; do echo sent | socat -u - UDP4-DATAGRAM:232.1.1.1:6071,ip-multicast-ttl=4 || exit; done",
        )
    };
    let group = Ipv4Addr::new(232, 1, 1, 1);
    wait_until("only the source that is wanted", SOON, || {
        let capture = Capture::of_underlay(third)?;
        send(&other)?;
        send(&one)?;
        wait_until("what is wanted", SOON, || {
            let seen = senders(&capture, |frame| frame.is_to(group));
            Ok((seen.iter().filter(|from| **from == first.address()).count() >= 3).then_some(()))
        })?;
        Ok(senders(&capture, |frame| frame.is_to(group)).iter().all(|from| *from == first.address()).then_some(()))
    })
}

/// A container on a host that had none sends a datagram as the first thing it does, to a group; a container that hears it answers at once by broadcast.
fn first_datagram(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let network = Network::create(cluster, first, "foo", &[])?;
    let (answering, listening) = (Container::start(first, "foo", &[])?, Container::start(second, "foo", &[])?);
    let datagrams = Datagrams {
        receive: "UDP4-RECV:6081,ip-add-membership=239.5.5.5:shout0".to_owned(),
        send: "UDP4-DATAGRAM:239.5.5.5:6081,ip-multicast-ttl=4".to_owned(),
    };
    let heard = listen(&listening, &datagrams)?;
    let answer = format!("socat -d -d -u {} UDP4-DATAGRAM:{}:6082,broadcast", datagrams.receive, network.broadcast()?);
    let answers = answering.spawn(&answer)?;
    answers.wait_for_line(SOON, |line| line.contains("starting data transfer loop"))?;
    await_listeners(second, "239.5.5.5", &[first, second])?;
    for round in 1..=5 {
        // 17C2 is the port of the answer, as the kernel lists it.
        let script = format!(
            "socat -u UDP4-RECV:6082 CREATE:/tmp/heard & until grep -q ':17C2 ' /proc/net/udp; do :; done; \
             echo round{round} | socat -u - {}; for n in $(seq 100); do grep -qs round{round} /tmp/heard && exit; sleep 0.1; done; exit 1",
            datagrams.send
        );
        let output = third.run(["docker", "run", "--rm", "--network=foo", IMAGE, "sh", "-c", &script])?;
        ensure!(output.success(), "round {round}: the container heard no answer, {output}");
        let wanted = format!("round{round}");
        wait_until(&format!("{wanted} to be heard on host2"), SOON, || {
            Ok(heard.printed().0.lines().any(|line| line == wanted).then_some(()))
        })?;
    }
    Ok(())
}

/// A bridge sends everything to all ports until its querier has run for ten seconds. One container sends a datagram every two milliseconds from its start on, beyond these ten seconds; containers on both
/// hosts that have the network join at once, and hear all from when the sender's kernel has what it goes by. A third host has none.
fn first_seconds(cluster: &mut Cluster) -> Result<()> {
    let [first, second, third] = cluster.three()?;
    let nothing = Capture::of_underlay(&third)?;
    let network = Network::create_here(cluster, &first, "foo", &[])?;
    await_network(&second, "foo")?;
    let sender = Container::start(&first, "foo", &[])?;
    let sending = GroupSocket::open(&sender, true, 0)?;
    let (sent, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let send = || -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            sending.send((GROUP, 6085), &sent.load(Ordering::Relaxed).to_be_bytes())?;
            sent.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    };
    let listen = || -> Result<(u32, Vec<Vec<u32>>)> {
        let receivers = one_on_each(&[first.clone(), second.clone()], "foo", &[])?;
        let sockets =
            receivers.iter().map(|receiver| GroupSocket::open(receiver, true, 6085)).collect::<Result<Vec<_>>>()?;
        sockets.iter().try_for_each(|socket| socket.join(GROUP.into(), Sources::All))?;
        let remote = second.address();
        wait_until("the first host's kernel to send to host2", SOON, || {
            let mut entries = network.tunnel_groups(&first)?.into_iter();
            Ok(entries.any(|entry| entry.group == GROUP && entry.remote == remote).then_some(()))
        })?;
        let mut heard: Vec<Vec<u32>> = vec![Vec::new(); sockets.len()];
        // Twelve seconds of it, and what was sent by then.
        let joined = sent.load(Ordering::Relaxed);
        let mut last = None;
        wait_until("the datagrams of twelve seconds", SOON * 2, || {
            for (socket, heard) in sockets.iter().zip(&mut heard) {
                heard.extend(
                    socket.heard()?.into_iter().filter_map(|(_, text)| Some(u32::from_be_bytes(text.try_into().ok()?))),
                );
            }
            if sent.load(Ordering::Relaxed) > joined + 6000 {
                last = last.or(Some(sent.load(Ordering::Relaxed)));
            }
            Ok(last.filter(|last| heard.iter().all(|heard| heard.iter().any(|number| number >= last))))
        })?;
        Ok((joined, heard))
    };
    let (joined, heard) = thread::scope(|scope| {
        let sending = scope.spawn(send);
        let heard = listen();
        stop.store(true, Ordering::Relaxed);
        sending.join().map_err(|_| anyhow!("a thread panicked"))??;
        heard
    })?;
    for (host, heard) in [&first, &second].into_iter().zip(heard) {
        let (begin, end) = (heard.first().context("nothing heard")?, heard.last().context("nothing heard")?);
        // The one that was just being sent does not count.
        ensure!(*begin <= joined + 1, "{} lost the datagrams from {joined} to {begin}", host.name());
        let wanted: Vec<u32> = (*begin..=*end).collect();
        ensure!(heard == wanted, "{} heard {} of {} datagrams from {begin} on", host.name(), heard.len(), wanted.len());
    }
    let surplus = nothing.stop()?.iter().filter_map(Frame::tunnelled).count();
    ensure!(surplus == 0, "host3 has no container on the network and got {surplus} packets");
    drop(sender);
    network.remove_on(&first)
}

fn address_moves(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, ..] = &hosts;
    let _network = Network::create(cluster, first, "foo", &["--subnet=10.123.0.0/24"])?;
    let asking = Container::start(first, "foo", &[])?;
    for host in [1, 2, 0, 2, 1].map(|index: usize| &hosts[index]) {
        let moving = Container::start(host, "foo", &["--ip=10.123.0.77"])?;
        // One packet; the neighbour's MAC address is known from the time before.
        asking.ping("10.123.0.77").with_context(|| format!("on {}", host.name()))?;
        moving.remove()?;
    }
    Ok(())
}

/// Two of five hosts are left. One has a container on the network, the other starts its first.
fn without_majority(cluster: &mut Cluster) -> Result<()> {
    let others = cluster.three()?;
    let (fourth, fifth) = (cluster.add_host()?, cluster.add_host()?);
    cluster.join(&fourth, &others[0])?;
    cluster.join(&fifth, &others[0])?;
    wait_until("five voters", SOON, || {
        let hosts = view(&others[0], "hosts")?;
        let voting = hosts.as_array().context("a list")?.iter().filter(|host| host["role"] != "learner").count();
        Ok((voting == 5).then_some(()))
    })?;
    let _network = Network::create(cluster, &fourth, "foo", &[])?;
    let sender = Container::start(&fourth, "foo", &[])?;
    // Its stock of addresses is what it can start containers with.
    drop(Container::start(&fifth, "foo", &[])?);
    wait_until("the network to be in use on host4 alone", SOON, || {
        let networks = view(&fourth, "networks")?;
        Ok((networks[0]["hosts"] == serde_json::json!([fourth.name()])).then_some(()))
    })?;
    others.iter().try_for_each(Host::kill_shoutd)?;
    let receiver = Container::start(&fifth, "foo", &[])?;
    Stream::default().send(&sender, &[&receiver], 2)?;
    Stream::default().send(&receiver, &[&sender], 2)?;
    // None serves before a majority is there.
    let starting = others.iter().map(|host| host.spawn(["shoutdctl", "start"])).collect::<Result<Vec<_>>>()?;
    for mut process in starting {
        let output = process.wait(SOON * 2)?;
        ensure!(output.success(), "shoutdctl start failed, {output}");
    }
    Ok(())
}
