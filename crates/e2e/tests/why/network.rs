//! Faults between hosts, and of the network's limit.

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{Cluster, GroupSocket, Network, SOON, Sources, one_on_each};
use shoutd_lab::wait_until;

use super::packets::{Drops, Way, trace};
use super::{GROUP, cause, ensure_named};

/// TCP between two hosts is blocked, VXLAN is not: what was joined before goes on.
pub(crate) fn only_tcp_is_blocked(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &[])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receiver, _] = &containers[..] else { anyhow::bail!("three containers") };
    let way = Way { hosts: &hosts, sender, receiver };
    let socket = GroupSocket::open(receiver, true, 5001)?;
    socket.join("224.1.1.1".parse()?, Sources::All)?;
    wait_until("the probe to pass", SOON, || Ok(way.ensure_passes().is_ok().then_some(())))?;

    let rule = format!("ip saddr {} meta l4proto tcp", hosts[1].address());
    let drops = Drops::on(&hosts[0], &rule)?;
    let text = format!("shoutd on {} does not answer", hosts[1].name());
    ensure_named(&hosts[..1], &["--from", &sender.name, GROUP], &text)?;
    // The third host reaches both.
    way.ensure_passes()?;
    let both = ["--from", &sender.name, "--to", &receiver.name, GROUP];
    let found = cause(&hosts[2], &both)?;
    ensure!(found.is_none(), "{found:?}");
    drop(drops);
    wait_until("the host to answer", SOON, || {
        Ok(cause(&hosts[0], &["--from", &sender.name, GROUP])?.is_none().then_some(()))
    })
}

/// A container sends more than the network allows.
pub(crate) fn more_than_the_limit(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let _foo = Network::create(cluster, &hosts[0], "foo", &["--opt", "shoutd.max-rate=20"])?;
    let containers = one_on_each(&hosts, "foo", &[])?;
    let [sender, receiver, _] = &containers[..] else { anyhow::bail!("three containers") };
    let socket = GroupSocket::open(receiver, true, 5001)?;
    socket.join("224.1.1.1".parse()?, Sources::All)?;
    let stream = sender.spawn("iperf -u -c 224.1.1.1 -T 4 -t 60 -b 2M -l 1000")?;
    let text = format!("a container on {} sends more multicast", sender.host.name());
    wait_until("the limit to be named", SOON, || {
        Ok(ensure_named(&hosts, &[GROUP], &text).is_ok().then_some(()))
    })?;
    let ends = ["--from", &sender.name, "--to", &receiver.name, "--for", "2s", GROUP];
    let found = trace(&hosts[2], &ends)?;
    let at = |place: &str| {
        let count = found.counts.iter().find(|(name, _)| name.starts_with(place));
        count.map(|(_, packets)| *packets).with_context(|| format!("{place}: {:?}", found.counts))
    };
    ensure!(found.cause.is_some_and(|cause| cause.contains(&text)), "{:?}", found.counts);
    let (port, tunnel) = (at("port of ")?, at("VXLAN device")?);
    ensure!(port > 5 * tunnel && tunnel > 0, "{:?}", found.counts);
    drop(stream);
    Ok(())
}
