//! Multicast goes to the hosts that have members, to no other, and nothing is lost while that
//! changes.

#[path = "groups/first.rs"]
mod first;
#[path = "groups/limits.rs"]
mod limits;
#[path = "groups/strangers.rs"]
mod strangers;
#[path = "groups/streams.rs"]
mod streams;
#[path = "groups/theft.rs"]
mod theft;
#[path = "groups/tiers.rs"]
mod tiers;

use std::net::Ipv4Addr;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{
    Capture, Cluster, Container, Frame, Network, SOON, Stream, await_members, run_checks, view,
};
use shoutd_lab::{Host, wait_until};

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("groups", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[
            (
                "only the host with members gets the streams, while others join, leave and die",
                streams::joins_and_leaves,
            ),
            (
                "daemons are killed and started: nothing lost, nothing withdrawn",
                streams::daemons_killed,
            ),
            ("each host gets the sources that it selects", sources),
            ("all receive a container's first datagrams, and it receives theirs", first::datagrams),
            (
                "the first ten seconds of a new network lose nothing and leak nothing",
                first::seconds,
            ),
            ("an address that moves to another host is reachable at once", address_moves),
            (
                "a container that takes another's addresses gets nothing of what is sent to it",
                theft::mac_address,
            ),
            ("only hosts of the cluster can put frames into a network", strangers::frames),
            ("hosts on different tiers of replication together", tiers::together),
            ("options of networks", limits::options),
            ("each container may send so much, and no other suffers", limits::max_rate),
            ("a first container is received though the hosts cannot agree", without_majority),
        ],
    )
}

/// The underlay sources of a capture's tunnelled frames to a group.
fn senders(capture: &Capture, group: Ipv4Addr) -> Vec<Ipv4Addr> {
    let frames = capture.frames();
    let tunnelled = frames.iter().filter_map(Frame::tunnelled);
    tunnelled.filter(|(.., frame)| frame.is_to(group)).map(|(source, ..)| source).collect()
}

/// SSM: one host selects one source, another host the other.
fn sources(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _network = Network::create(cluster, first, "foo", &[])?;
    let one = Container::start(first, "foo", &[])?;
    let other = Container::start(second, "foo", &[])?;
    let receiver = Container::start(third, "foo", &[])?;
    let wanted = one.address("foo")?;
    let receiving =
        receiver.spawn(&format!("iperf -u -s -B 232.1.1.1%eth0 -H {wanted} -p 6071"))?;
    receiving.wait_for_line(SOON, |line| line.contains("Joining multicast (S,G)"))?;
    await_members(first, "232.1.1.1", &[third])?;
    await_members(second, "232.1.1.1", &[third])?;
    let send = "for n in 1 2 3; do echo sent | socat -u - \
                UDP4-DATAGRAM:232.1.1.1:6071,ip-multicast-ttl=4 || exit; done";
    let group = Ipv4Addr::new(232, 1, 1, 1);
    wait_until("only the source that is wanted", SOON, || {
        let capture = Capture::of_underlay(third)?;
        other.sh(send)?;
        one.sh(send)?;
        wait_until("what is wanted", SOON, || {
            let seen = senders(&capture, group);
            Ok((seen.iter().filter(|from| **from == first.address()).count() >= 3).then_some(()))
        })?;
        Ok(senders(&capture, group).iter().all(|from| *from == first.address()).then_some(()))
    })
}

fn address_moves(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, ..] = &hosts;
    let _network = Network::create(cluster, first, "foo", &["--subnet=10.123.0.0/24"])?;
    let asking = Container::start(first, "foo", &[])?;
    for host in [1, 2, 0, 2, 1].map(|index: usize| &hosts[index]) {
        let moving = Container::start(host, "foo", &["--ip=10.123.0.77"])?;
        // One packet; the neighbour's MAC address is already known.
        asking.ping("10.123.0.77").with_context(|| format!("on {}", host.name()))?;
        moving.remove()?;
    }
    Ok(())
}

/// Two of five hosts remain. One has a container on the network, the other starts its first.
fn without_majority(cluster: &mut Cluster) -> Result<()> {
    let others = cluster.three()?;
    let (fourth, fifth) = (cluster.add_host()?, cluster.add_host()?);
    cluster.join(&fourth, &others[0])?;
    cluster.join(&fifth, &others[0])?;
    wait_until("five voters", SOON, || {
        let hosts = view(&others[0], "hosts")?;
        let voting = hosts
            .as_array()
            .context("a list")?
            .iter()
            .filter(|host| host["role"] != "learner")
            .count();
        Ok((voting == 5).then_some(()))
    })?;
    let _network = Network::create(cluster, &fourth, "foo", &[])?;
    let sender = Container::start(&fourth, "foo", &[])?;
    // It can start containers only from its stock of addresses.
    drop(Container::start(&fifth, "foo", &[])?);
    wait_until("the network to be in use on host4 alone", SOON, || {
        let networks = view(&fourth, "networks")?;
        Ok((networks[0]["hosts"] == serde_json::json!([fourth.name()])).then_some(()))
    })?;
    others.iter().try_for_each(Host::kill_shoutd)?;
    let receiver = Container::start(&fifth, "foo", &[])?;
    Stream::default().send(&sender, &[&receiver], 2)?;
    Stream::default().send(&receiver, &[&sender], 2)?;
    // No host serves before there is a majority.
    let starting =
        others.iter().map(|host| host.spawn(["shoutdctl", "start"])).collect::<Result<Vec<_>>>()?;
    for mut process in starting {
        let output = process.wait(SOON * 2)?;
        ensure!(output.success(), "shoutdctl start failed, {output}");
    }
    Ok(())
}
