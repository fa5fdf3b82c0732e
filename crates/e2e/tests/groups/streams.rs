//! IPv4 and IPv6 streams at the same time, while memberships change and daemons come and go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{
    Capture, Cluster, Container, Frame, JOIN_BOTH, Network, Numbered, NumberedReceiver, Running,
    SOON, WITH_IPV6, await_members, await_more, begin_both,
};
use shoutd_lab::{Host, Process, wait_until};

/// The groups of [`BOTH`] streams.
const GROUPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(224, 1, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 5)),
];

/// Groups that are joined only on a host whose daemon is away.
const OTHERS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 5, 5, 9)), 6151),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 5, 9)), 6152),
];

fn start(host: &Host) -> Result<Container> {
    Container::start(host, "foo", &[WITH_IPV6])
}

fn join_groups(container: &Container) -> Result<Vec<Process>> {
    JOIN_BOTH.into_iter().map(|program| container.spawn(program)).collect()
}

/// Waits until `asked` has exactly these hosts as members of both groups.
fn await_both(asked: &Host, wanted: &[&Host]) -> Result<()> {
    GROUPS.iter().try_for_each(|group| await_members(asked, &group.to_string(), wanted))
}

/// The number of tunnelled packets to a group in a capture.
fn count(capture: &Capture, group: IpAddr) -> usize {
    let frames = capture.frames();
    frames
        .iter()
        .filter_map(Frame::tunnelled)
        .filter(|(.., frame)| frame.destination() == Some(group))
        .count()
}

/// Waits until a host is not sent the streams for the time in which others receive this many
/// datagrams of each.
fn await_silence(host: &Host, streams: &[Running<'_>]) -> Result<()> {
    wait_until(&format!("{} to be sent nothing", host.name()), SOON, || {
        let capture = Capture::of_underlay(host)?;
        await_more(streams, 30)?;
        Ok(GROUPS.iter().all(|group| count(&capture, *group) == 0).then_some(()))
    })
}

/// Waits until a host is sent both streams.
fn await_streams(host: &Host) -> Result<()> {
    let capture = Capture::of_underlay(host)?;
    wait_until(&format!("{} to be sent the streams", host.name()), SOON, || {
        Ok(GROUPS.iter().all(|group| count(&capture, *group) > 0).then_some(()))
    })
}

pub fn joins_and_leaves(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let [first, second, third] = &hosts;
    let _network = Network::create(cluster, first, "foo", &[])?;
    let (sender, receiver, bystander) = (start(first)?, start(second)?, start(third)?);
    let streams = begin_both(&sender, &[&receiver])?;
    await_both(first, &[second])?;
    await_silence(third, &streams)?;
    // And not one packet in a longer time.
    let capture = Capture::of_underlay(third)?;
    await_more(&streams, 200)?;
    for group in GROUPS {
        let surplus = count(&capture, group);
        ensure!(surplus == 0, "host3 is not a member and got {surplus} packets to {group}");
    }
    drop(capture);

    let receiving = join_groups(&bystander)?;
    await_streams(third)?;
    await_both(first, &[second, third])?;
    // Killed programs leave no group themselves: their kernel does it.
    bystander.sh("killall -KILL socat")?;
    drop(receiving);
    await_silence(third, &streams)?;

    let _receiving = join_groups(&bystander)?;
    await_streams(third)?;
    bystander.remove()?;
    await_silence(third, &streams)?;
    await_both(first, &[second])?;
    streams.into_iter().try_for_each(Running::finish)
}

pub fn daemons_killed(cluster: &mut Cluster) -> Result<()> {
    let (leader, [other, _]) = cluster.leader_and_others()?;
    let third = cluster
        .hosts()
        .into_iter()
        .find(|host| ![leader.number(), other.number()].contains(&host.number()));
    let third = third.context("a third host")?;
    let _network = Network::create(cluster, &other, "foo", &[])?;
    let (sender, receiver, bystander) = (start(&leader)?, start(&other)?, start(&third)?);
    let streams = begin_both(&sender, &[&receiver])?;
    await_silence(&third, &streams)?;
    // The receiver's, then the sender's, which is the leader.
    for victim in [&other, &leader] {
        victim.kill_shoutd()?;
        // Longer than the time after which a silent host is out of sync: about 9 s.
        await_more(&streams, 800)?;
        victim.start_shoutd(&[])?;
        await_silence(&third, &streams)?;
        await_both(&leader, &[&other])?;
    }
    host_without_daemon_is_sent_everything(&sender, &bystander)?;
    await_silence(&third, &streams)?;
    streams.into_iter().try_for_each(Running::finish)
}

/// A group that is joined while the host's daemon is away is received all the same, also when the
/// daemon is back, and is no longer sent there after the leave.
fn host_without_daemon_is_sent_everything(sender: &Container, receiver: &Container) -> Result<()> {
    let (asked, host) = (&sender.host, &receiver.host);
    host.kill_shoutd()?;
    let numbered = Numbered::begin(sender, &OTHERS)?;
    let mut incoming = OTHERS
        .iter()
        .map(|at| NumberedReceiver::start(receiver, *at))
        .collect::<Result<Vec<_>>>()?;
    let begun =
        incoming.iter_mut().map(|incoming| incoming.await_number(0)).collect::<Result<Vec<_>>>()?;
    host.start_shoutd(&[])?;
    for at in OTHERS {
        await_members(asked, &at.ip().to_string(), &[host])?;
    }
    numbered.await_more(100)?;
    let last = numbered.next() - 1;
    for (incoming, first) in incoming.iter_mut().zip(begun) {
        incoming.ensure_all(first, last)?;
    }
    drop(incoming);
    for at in OTHERS {
        await_members(asked, &at.ip().to_string(), &[])?;
    }
    wait_until(&format!("{} not to be sent what was left there", host.name()), SOON, || {
        let capture = Capture::of_underlay(host)?;
        numbered.await_more(100)?;
        Ok(OTHERS.iter().all(|at| count(&capture, at.ip()) == 0).then_some(()))
    })?;
    numbered.end().map(drop)
}
