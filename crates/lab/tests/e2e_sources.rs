//! Source-specific multicast (RFC 4607) and source filters (RFC 3376, RFC 3810): each receiver hears the sources that it wants, and each host is sent those that its receivers want.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::{Capture, Cluster, Container, Frame, GroupSocket, Network, SOON, Sources, one_on_each, run_checks, view};
use serde_json::{Value, json};
use shoutd_lab::{Host, wait_until};

/// UDP port of the datagrams.
const PORT: u16 = 6101;

/// Datagrams that each source sends at a time.
const COUNT: usize = 50;

/// Groups for chosen sources.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(232, 5, 5, 5);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, 5);

#[test]
fn each_receiver_hears_the_sources_that_it_wants() {
    let mut cluster = Cluster::up("sources", 3).unwrap();
    cluster.form([1, 2, 3]).unwrap();
    run_checks(
        &mut cluster,
        &[
            ("two hosts want different ones of two sources, a third all but one, IPv4", |cluster| {
                two_sources(cluster, GROUP_V4.into())
            }),
            ("two hosts want different ones of two sources, a third all but one, IPv6", |cluster| {
                two_sources(cluster, GROUP_V6.into())
            }),
        ],
    );
}

/// A program that listens.
struct Receiver<'a> {
    host: &'a Host,
    socket: GroupSocket,
    /// The sources that it wants, of those there are.
    wants: Vec<IpAddr>,
}

impl<'a> Receiver<'a> {
    fn start(container: &'a Container, group: IpAddr, sources: Sources, wants: &[IpAddr]) -> Result<Self> {
        let socket = GroupSocket::open(container, group.is_ipv4(), PORT)?;
        socket.join(group, sources)?;
        Ok(Self { host: &container.host, socket, wants: wants.to_vec() })
    }
}

/// A program that sends.
struct Source {
    /// The host's address on the underlay.
    host: Ipv4Addr,
    address: IpAddr,
    socket: GroupSocket,
    /// Says by broadcast that it has sent all: that comes to all hosts, by the same way.
    last: GroupSocket,
}

impl Source {
    fn new(container: &Container, is_v4: bool) -> Result<Self> {
        let address: IpAddr =
            if is_v4 { container.address("foo")?.into() } else { container.address_v6("foo")?.into() };
        let socket = GroupSocket::open(container, is_v4, 0)?;
        Ok(Self { host: container.host.address(), address, socket, last: GroupSocket::open(container, true, 0)? })
    }
}

fn two_sources(cluster: &mut Cluster, group: IpAddr) -> Result<()> {
    let hosts = cluster.three()?;
    let options = ["--subnet=10.125.0.0/24", "--ipv6", "--subnet=fd00:125::/64"];
    let network = Network::create(cluster, &hosts[0], "foo", &options)?;
    let senders = one_on_each(&hosts[..2], "foo", &[])?;
    let receivers = one_on_each(&hosts, "foo", &[])?;
    let also_on_third = Container::start(&hosts[2], "foo", &[])?;
    let [on_first, on_second, on_third] = receivers.as_slice() else { anyhow::bail!("three containers") };
    let sources = senders.iter().map(|sender| Source::new(sender, group.is_ipv4())).collect::<Result<Vec<_>>>()?;
    let (one, other) = (sources[0].address, sources[1].address);
    let check = |receivers: &[Receiver<'_>], filters: &[(&Host, Value)]| -> Result<()> {
        hosts.iter().try_for_each(|asked| await_filters(asked, group, filters))?;
        await_just_what_is_wanted(&network, &hosts, &sources, receivers, group)
    };

    // Each of two hosts wants the source on the other.
    let (include_one, include_other) = (json!({"include": [one]}), json!({"include": [other]}));
    let mut all = vec![
        Receiver::start(on_first, group, Sources::Only(other), &[other])?,
        Receiver::start(on_second, group, Sources::Only(one), &[one])?,
    ];
    let mut filters = vec![(&hosts[0], include_other), (&hosts[1], include_one.clone())];
    check(&all, &filters).context("two that include")?;

    // The third host wants all but what the second wants.
    all.push(Receiver::start(on_third, group, Sources::AllBut(one), &[other])?);
    filters.push((&hosts[2], json!({"exclude": [one]})));
    check(&all, &filters).context("one that excludes what another includes")?;

    // Another container there wants just that.
    all.push(Receiver::start(&also_on_third, group, Sources::Only(one), &[one])?);
    filters[2].1 = json!({"exclude": []});
    check(&all, &filters).context("both on one host")?;

    // And alone it has what it wants.
    drop(all.remove(2));
    filters[2].1 = include_one;
    check(&all, &filters).context("after the one that excluded has left")
}

/// Waits until `asked` knows that these hosts listen to the group with these filters, and no others.
fn await_filters(asked: &Host, group: IpAddr, wanted: &[(&Host, Value)]) -> Result<()> {
    let wanted: BTreeSet<(String, String)> =
        wanted.iter().map(|(host, filter)| (host.name(), filter.to_string())).collect();
    let mut known = BTreeSet::new();
    let found = wait_until(&format!("{wanted:?}, as {} knows", asked.name()), SOON, || {
        let rows = view(asked, "groups")?;
        let rows = rows.as_array().context("a list")?.iter().filter(|row| row["group"] == json!(group));
        known = rows.flat_map(filters_of).collect();
        Ok((known == wanted).then_some(()))
    });
    found.with_context(|| format!("it knows {known:?}"))
}

/// The hosts in a row of `shoutdctl groups`, each with the row's filter.
fn filters_of(row: &Value) -> Vec<(String, String)> {
    let hosts = row["hosts"].as_array().into_iter().flatten().filter(|host| host["in_sync"] == true);
    hosts.filter_map(|host| Some((host["name"].as_str()?.to_owned(), row["sources"].to_string()))).collect()
}

/// Lets all sources send until every receiver heard just what it wants, and every host was sent just that, too; then it must be so once more.
fn await_just_what_is_wanted(
    network: &Network,
    hosts: &[Host],
    sources: &[Source],
    receivers: &[Receiver<'_>],
    group: IpAddr,
) -> Result<()> {
    let mut faults = Vec::new();
    let settled = wait_until("each to have what it wants and nothing else", SOON, || {
        faults = send_all(network, hosts, sources, receivers, group)?;
        Ok(faults.is_empty().then_some(()))
    });
    settled.with_context(|| faults.join("; "))?;
    let faults = send_all(network, hosts, sources, receivers, group)?;
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

/// Lets all sources send, and says what was heard or sent that should not have been, and what was not.
fn send_all(
    network: &Network,
    hosts: &[Host],
    sources: &[Source],
    receivers: &[Receiver<'_>],
    group: IpAddr,
) -> Result<Vec<String>> {
    let broadcast = network.broadcast()?;
    receivers.iter().try_for_each(|receiver| receiver.socket.heard().map(drop))?;
    let captures = hosts.iter().map(Capture::of_underlay).collect::<Result<Vec<_>>>()?;
    for source in sources {
        (0..COUNT).try_for_each(|_| source.socket.send(SocketAddr::new(group, PORT), b"datagram"))?;
        source.last.send((broadcast, PORT + 1), b"last")?;
    }
    let mut faults = Vec::new();
    for (host, capture) in hosts.iter().zip(&captures) {
        for source in sources.iter().filter(|source| source.host != host.address()) {
            let sent = |is_it: &dyn Fn(&Frame) -> bool| {
                let frames = capture.frames();
                let tunnelled = frames.iter().filter_map(Frame::tunnelled);
                tunnelled
                    .filter(|(from, to, frame)| *from == source.host && *to == host.address() && is_it(frame))
                    .count()
            };
            let what = format!("the last from {} to come to {}", source.address, host.name());
            wait_until(&what, SOON, || Ok((sent(&|frame| frame.is_to(broadcast)) > 0).then_some(())))?;
            let is_wanted = receivers
                .iter()
                .any(|receiver| receiver.host.number() == host.number() && receiver.wants.contains(&source.address));
            let (sent, wanted) = (sent(&|frame| frame.destination() == Some(group)), if is_wanted { COUNT } else { 0 });
            if sent != wanted {
                faults.push(format!("{} was sent {sent} of {wanted} from {}", host.name(), source.address));
            }
        }
    }
    for receiver in receivers {
        faults.extend(hear(receiver)?);
    }
    Ok(faults)
}

/// What a receiver heard otherwise than it should. What came to its host was delivered by then, or is about to be.
fn hear(receiver: &Receiver<'_>) -> Result<Option<String>> {
    let wanted: BTreeMap<IpAddr, usize> = receiver.wants.iter().map(|source| (*source, COUNT)).collect();
    let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let all = wait_until("a receiver to hear everything", Duration::from_secs(5), || {
        for (from, _) in receiver.socket.heard()? {
            *counts.entry(from).or_default() += 1;
        }
        Ok((counts.values().sum::<usize>() >= wanted.values().sum()).then_some(()))
    });
    Ok((all.is_err() || counts != wanted).then(|| format!("a receiver on {} heard {counts:?}", receiver.host.name())))
}
