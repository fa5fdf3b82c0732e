//! Source-specific multicast (RFC 4607) and source filters (RFC 3376, RFC 3810): each receiver gets
//! the sources that it selects, and each host is sent those that its receivers select.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use shoutd_e2e::{
    Capture, Cluster, Container, Frame, GroupSocket, Network, SOON, Sources, one_on_each,
    run_checks, view,
};
use shoutd_lab::{Host, wait_until};

/// Datagrams that each source sends to each group at a time.
const COUNT: usize = 20;

/// SSM groups and ASM groups, with the UDP ports of their datagrams.
const GROUPS: [SocketAddr; 4] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(232, 5, 5, 5)), 6101),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, 5)), 6102),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 5, 5, 5)), 6103),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 5)), 6104),
];

/// UDP port of the broadcast that is sent last.
const PORT_LAST: u16 = 6105;

fn main() -> ExitCode {
    run_checks(
        || {
            let cluster = Cluster::up("sources", 3)?;
            cluster.form([1, 2, 3])?;
            Ok(cluster)
        },
        &[(
            "hosts want different ones of three sources, and all but some, also in groups that \
             are for any",
            three_sources,
        )],
    )
}

/// A source filter, with sources by number from 0.
#[derive(Clone, Copy)]
enum Filter {
    Only(&'static [usize]),
    AllBut(&'static [usize]),
}

impl Filter {
    fn wants(self, source: usize) -> bool {
        match self {
            Self::Only(sources) => sources.contains(&source),
            Self::AllBut(sources) => !sources.contains(&source),
        }
    }

    fn sources(self) -> &'static [usize] {
        let (Self::Only(sources) | Self::AllBut(sources)) = self;
        sources
    }

    /// The form in which `shoutdctl groups` shows it.
    fn shown(self, sources: &[Source], is_v4: bool) -> Value {
        let listed: BTreeSet<IpAddr> =
            self.sources().iter().map(|number| sources[*number].address(is_v4)).collect();
        match self {
            Self::Only(_) => json!({"include": listed}),
            Self::AllBut(_) => json!({"exclude": listed}),
        }
    }
}

/// A receiver of all groups with the same filter, with a socket for each.
struct Receiver<'a> {
    host: &'a Host,
    sockets: Vec<GroupSocket>,
    filter: Filter,
}

impl<'a> Receiver<'a> {
    fn start(container: &'a Container, sources: &[Source], filter: Filter) -> Result<Self> {
        let sockets = GROUPS.iter().map(|group| {
            let socket = GroupSocket::open(container, group.is_ipv4(), group.port())?;
            let addresses =
                filter.sources().iter().map(|number| sources[*number].address(group.is_ipv4()));
            let addresses: Vec<IpAddr> = addresses.collect();
            let wanted = match filter {
                Filter::Only(_) => Sources::Only(&addresses),
                Filter::AllBut(_) => Sources::AllBut(&addresses),
            };
            socket.join(group.ip(), wanted)?;
            Ok(socket)
        });
        Ok(Self { host: &container.host, sockets: sockets.collect::<Result<_>>()?, filter })
    }
}

/// A sender.
struct Source {
    /// The host's address on the underlay.
    host: Ipv4Addr,
    v4: (Ipv4Addr, GroupSocket),
    v6: (Ipv6Addr, GroupSocket),
    /// Broadcasts the end: that reaches all hosts by the same path.
    last: GroupSocket,
}

impl Source {
    fn new(container: &Container) -> Result<Self> {
        Ok(Self {
            host: container.host.address(),
            v4: (container.address("foo")?, GroupSocket::open(container, true, 0)?),
            v6: (container.address_v6("foo")?, GroupSocket::open(container, false, 0)?),
            last: GroupSocket::open(container, true, 0)?,
        })
    }

    fn address(&self, is_v4: bool) -> IpAddr {
        if is_v4 { self.v4.0.into() } else { self.v6.0.into() }
    }

    fn send_all(&self, broadcast: Ipv4Addr) -> Result<()> {
        for _ in 0..COUNT {
            for group in GROUPS {
                let socket = if group.is_ipv4() { &self.v4.1 } else { &self.v6.1 };
                socket.send(group, b"datagram")?;
            }
        }
        self.last.send((broadcast, PORT_LAST), b"last")
    }
}

/// A source on each host, and receivers of each.
fn three_sources(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let options = ["--subnet=10.125.0.0/24", "--ipv6", "--subnet=fd00:125::/64"];
    let network = Network::create(cluster, &hosts[0], "foo", &options)?;
    let senders = one_on_each(&hosts, "foo", &[])?;
    let receivers = one_on_each(&hosts, "foo", &[])?;
    let also_on_third = Container::start(&hosts[2], "foo", &[])?;
    let [on_first, on_second, on_third] = receivers.as_slice() else { bail!("three containers") };
    let sources = senders.iter().map(Source::new).collect::<Result<Vec<_>>>()?;
    let check = |receivers: &[Receiver<'_>], filters: &[Filter]| -> Result<()> {
        for group in GROUPS {
            let shown: Vec<Value> =
                filters.iter().map(|filter| filter.shown(&sources, group.is_ipv4())).collect();
            let filters: Vec<(&Host, Value)> = hosts.iter().zip(shown).collect();
            hosts.iter().try_for_each(|asked| await_filters(asked, group.ip(), &filters))?;
        }
        await_just_what_is_wanted(&network, &hosts, &sources, receivers)
    };

    // Two hosts select sources on others.
    let mut filters = vec![Filter::Only(&[1]), Filter::Only(&[0, 2])];
    let mut all = vec![
        Receiver::start(on_first, &sources, filters[0])?,
        Receiver::start(on_second, &sources, filters[1])?,
    ];
    check(&all, &filters).context("two that include")?;

    // The third host excludes what the second includes.
    filters.push(Filter::AllBut(&[0, 2]));
    all.push(Receiver::start(on_third, &sources, filters[2])?);
    check(&all, &filters).context("one that excludes what another includes")?;

    // Another container there includes a part of that.
    all.push(Receiver::start(&also_on_third, &sources, Filter::Only(&[0]))?);
    filters[2] = Filter::AllBut(&[2]);
    check(&all, &filters).context("both on one host")?;

    // Alone, it still gets what it selects.
    drop(all.remove(2));
    filters[2] = Filter::Only(&[0]);
    check(&all, &filters).context("after the one that excluded has left")
}

/// Waits until `asked` has exactly these hosts as members of the group, with these filters.
fn await_filters(asked: &Host, group: IpAddr, wanted: &[(&Host, Value)]) -> Result<()> {
    let wanted: BTreeSet<(String, String)> =
        wanted.iter().map(|(host, filter)| (host.name(), filter.to_string())).collect();
    let mut known = BTreeSet::new();
    let found = wait_until(&format!("{wanted:?}, as {} knows", asked.name()), SOON, || {
        let rows = view(asked, "groups")?;
        let rows =
            rows.as_array().context("a list")?.iter().filter(|row| row["group"] == json!(group));
        known = rows.flat_map(filters_of).collect();
        Ok((known == wanted).then_some(()))
    });
    found.with_context(|| format!("of {group} it knows {known:?}"))
}

/// The hosts in a row of `shoutdctl groups`, each with the row's filter.
fn filters_of(row: &Value) -> Vec<(String, String)> {
    let hosts =
        row["hosts"].as_array().into_iter().flatten().filter(|host| host["in_sync"] == true);
    hosts
        .filter_map(|host| Some((host["name"].as_str()?.to_owned(), row["sources"].to_string())))
        .collect()
}

/// Lets all sources send until every receiver gets exactly what it selects, and every host is sent
/// exactly that; then it must be so once more.
fn await_just_what_is_wanted(
    network: &Network,
    hosts: &[Host],
    sources: &[Source],
    receivers: &[Receiver<'_>],
) -> Result<()> {
    let mut faults = Vec::new();
    let settled = wait_until("each to have what it wants and nothing else", SOON, || {
        faults = send_all(network, hosts, sources, receivers)?;
        Ok(faults.is_empty().then_some(()))
    });
    settled.with_context(|| faults.join("; "))?;
    let faults = send_all(network, hosts, sources, receivers)?;
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

/// Lets all sources send, and returns what was received or sent in vain, and what was missing.
fn send_all(
    network: &Network,
    hosts: &[Host],
    sources: &[Source],
    receivers: &[Receiver<'_>],
) -> Result<Vec<String>> {
    let broadcast = network.broadcast()?;
    for socket in receivers.iter().flat_map(|receiver| &receiver.sockets) {
        socket.received()?;
    }
    let captures = hosts.iter().map(Capture::of_underlay).collect::<Result<Vec<_>>>()?;
    sources.iter().try_for_each(|source| source.send_all(broadcast))?;
    let mut faults = Vec::new();
    for (host, capture) in hosts.iter().zip(&captures) {
        let here = receivers.iter().filter(|receiver| receiver.host.number() == host.number());
        let here: Vec<Filter> = here.map(|receiver| receiver.filter).collect();
        for (number, source) in
            sources.iter().enumerate().filter(|(_, source)| source.host != host.address())
        {
            let wanted = if here.iter().any(|filter| filter.wants(number)) { COUNT } else { 0 };
            let sent = await_last(capture, source, host, broadcast)?;
            for group in GROUPS {
                let sent = sent.get(&group.ip()).copied().unwrap_or_default();
                if sent != wanted {
                    let (name, group, from) =
                        (host.name(), group.ip(), source.address(group.is_ipv4()));
                    faults
                        .push(format!("{name} was sent {sent} of {wanted} to {group} from {from}"));
                }
            }
        }
    }
    for receiver in receivers {
        for (socket, group) in receiver.sockets.iter().zip(GROUPS) {
            faults.extend(check_received(receiver, socket, group, sources)?);
        }
    }
    Ok(faults)
}

/// What a host was sent by a source's host, by destination, once all of it has arrived.
fn await_last(
    capture: &Capture,
    source: &Source,
    host: &Host,
    last: Ipv4Addr,
) -> Result<BTreeMap<IpAddr, usize>> {
    let what = format!("the last from {} to come to {}", source.v4.0, host.name());
    wait_until(&what, SOON, || {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let frames = capture.frames();
        let sent = frames.iter().filter_map(Frame::tunnelled);
        let sent = sent.filter(|(from, to, _)| *from == source.host && *to == host.address());
        sent.filter_map(|(.., frame)| frame.destination())
            .for_each(|to| *counts.entry(to).or_default() += 1);
        Ok(counts.contains_key(&last.into()).then_some(counts))
    })
}

/// What a receiver got wrong. Everything that came to its host has been delivered by then, or is
/// about to be.
fn check_received(
    receiver: &Receiver<'_>,
    socket: &GroupSocket,
    group: SocketAddr,
    sources: &[Source],
) -> Result<Option<String>> {
    let wanted = sources.iter().enumerate().filter(|(number, _)| receiver.filter.wants(*number));
    let wanted: BTreeMap<IpAddr, usize> =
        wanted.map(|(_, source)| (source.address(group.is_ipv4()), COUNT)).collect();
    let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let all = wait_until("a receiver to get everything", Duration::from_secs(5), || {
        for (from, _) in socket.received()? {
            *counts.entry(from).or_default() += 1;
        }
        Ok((counts.values().sum::<usize>() >= wanted.values().sum()).then_some(()))
    });
    let is_wrong = all.is_err() || counts != wanted;
    Ok(is_wrong.then(|| {
        format!("a receiver on {} received {counts:?} of {}", receiver.host.name(), group.ip())
    }))
}
