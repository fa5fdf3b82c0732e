//! Hosts on different tiers of replication on one network.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shoutd_e2e::{
    Capture, Cluster, Container, Frame, GroupSocket, Network, SOON, Sources, WITH_IPV6,
    await_members, one_on_each, status,
};
use shoutd_lab::{Host, wait_until};

/// Datagrams that each host sends to each group at a time. All groups together must fit the
/// kernel's queues.
const COUNT: usize = 20;

/// How long datagrams may be in flight, on a busy machine.
const WAY_DEADLINE: Duration = Duration::from_secs(10);

/// UDP ports of IPv4 and IPv6, which differ because an IPv6 wildcard socket also takes IPv4; and of
/// the broadcast that is sent last.
const PORT_V4: u16 = 6141;
const PORT_V6: u16 = 6142;
const PORT_LAST: u16 = 6143;

/// A group, and the hosts that have a receiver.
struct Group {
    address: IpAddr,
    joined: [bool; 3],
}

impl Group {
    /// Whether it goes to all hosts of the network, with or without members (RFC 5771, section 4;
    /// RFC 4291, section 2.7).
    fn is_link_local(&self) -> bool {
        match self.address {
            IpAddr::V4(address) => address.octets().starts_with(&[224, 0, 0]),
            IpAddr::V6(address) => address.segments()[0] == 0xff02,
        }
    }

    /// Whether it shares its MAC address with a link-local group (RFC 1112, section 6.4; RFC 2464,
    /// section 7).
    fn has_address_of_link_local(&self) -> bool {
        match self.address {
            IpAddr::V4(address) => address.to_bits() & 0x007f_ff00 == 0,
            IpAddr::V6(address) => address.to_bits() & 0xffff_ffff == 0xfb,
        }
    }

    fn at(&self) -> SocketAddr {
        SocketAddr::new(self.address, if self.address.is_ipv4() { PORT_V4 } else { PORT_V6 })
    }
}

/// In both families: a group that all on the link have joined (mDNS, RFC 6762), one with the same
/// MAC address, one without members, and one for each pair of hosts.
fn groups() -> Result<Vec<Group>> {
    let pairs = [
        (["224.0.0.251", "ff02::fb"], [true, true, true]),
        (["239.0.0.251", "ff05::fb"], [true, true, false]),
        (["239.4.4.1", "ff15::4:1"], [true, true, false]),
        (["239.4.4.2", "ff15::4:2"], [false, true, true]),
        (["239.4.4.3", "ff15::4:3"], [true, false, true]),
        (["239.4.4.4", "ff15::4:4"], [false, false, false]),
    ];
    let groups = pairs.into_iter().flat_map(|(pair, joined)| pair.map(|text| (text, joined)));
    groups.map(|(text, joined)| Ok(Group { address: text.parse()?, joined })).collect()
}

/// The hosts of the test, and what runs on them.
struct Parties {
    hosts: [Host; 3],
    groups: Vec<Group>,
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    /// Dropped last: it cannot be removed while it is in use.
    network: Network,
}

struct Sender {
    v4: GroupSocket,
    v6: GroupSocket,
    _container: Container,
}

struct Receiver {
    sockets: [GroupSocket; 2],
    _container: Container,
}

/// What a host sends is received once by each member, by IPv4 and IPv6, and goes to no other host,
/// unless the host floods.
pub fn together(cluster: &mut Cluster) -> Result<()> {
    let hosts = cluster.three()?;
    let network = Network::create(cluster, &hosts[0], "foo", &[])?;
    let groups = groups()?;
    let senders = one_on_each(&hosts, "foo", &[WITH_IPV6])?.into_iter().map(|container| {
        Ok(Sender {
            v4: GroupSocket::open(&container, true, 0)?,
            v6: GroupSocket::open(&container, false, 0)?,
            _container: container,
        })
    });
    let senders = senders.collect::<Result<_>>()?;
    let receivers = one_on_each(&hosts, "foo", &[WITH_IPV6])?.into_iter().enumerate().map(
        |(index, container)| {
            let sockets = [
                GroupSocket::open(&container, true, PORT_V4)?,
                GroupSocket::open(&container, false, PORT_V6)?,
            ];
            for group in groups.iter().filter(|group| group.joined[index]) {
                let [v4, v6] = &sockets;
                let socket = if group.address.is_ipv4() { v4 } else { v6 };
                socket.join(group.address, Sources::All)?;
            }
            Ok(Receiver { sockets, _container: container })
        },
    );
    let receivers = receivers.collect::<Result<_>>()?;
    let parties = Parties { hosts, groups, senders, receivers, network };
    for tiers in [["vxlan-mdb", "multicast-fdb", "flood"], ["vxlan-mdb"; 3]] {
        for (host, tier) in parties.hosts.iter().zip(tiers) {
            if status(host)?["replication"] != tier {
                host.sh("shoutdctl stop")?;
                host.start_shoutd(&[&format!("--replication={tier}")])?;
            }
            ensure!(status(host)?["replication"] == tier, "{tier} is not shown: {}", status(host)?);
        }
        parties.await_settled(&tiers).with_context(|| tiers.join(", "))?;
    }
    Ok(())
}

impl Parties {
    /// Waits until no host is sent packets in vain. In that time, and once more after it, all
    /// receivers must receive everything.
    fn await_settled(&self, tiers: &[&str; 3]) -> Result<()> {
        for group in self.groups.iter().filter(|group| !group.is_link_local()) {
            let receiving: Vec<&Host> = self
                .hosts
                .iter()
                .zip(group.joined)
                .filter(|(_, joined)| *joined)
                .map(|(host, _)| host)
                .collect();
            self.hosts.iter().try_for_each(|asked| {
                await_members(asked, &group.address.to_string(), &receiving)
            })?;
        }
        let mut surplus = Vec::new();
        let settled =
            wait_until("each host to be sent the groups that it is a member of", SOON, || {
                surplus = self.send_all(tiers)?;
                Ok(surplus.is_empty().then_some(()))
            });
        settled.with_context(|| surplus.join("; "))?;
        let surplus = self.send_all(tiers)?;
        ensure!(surplus.is_empty(), "{}", surplus.join("; "));
        Ok(())
    }

    /// Lets one host after the other send to all groups. Checks that each receiver gets each
    /// datagram once; returns which hosts were sent packets in vain.
    fn send_all(&self, tiers: &[&str; 3]) -> Result<Vec<String>> {
        let captures = self.hosts.iter().map(Capture::of_underlay).collect::<Result<Vec<_>>>()?;
        let broadcast = self.network.broadcast()?;
        let mut surplus = Vec::new();
        for (from, sender) in self.senders.iter().enumerate() {
            for _ in 0..COUNT {
                for group in &self.groups {
                    let socket = if group.address.is_ipv4() { &sender.v4 } else { &sender.v6 };
                    socket.send(group.at(), group.address.to_string().as_bytes())?;
                }
            }
            // It goes to all hosts, by the same path.
            sender.v4.send((broadcast, PORT_LAST), b"last")?;
            for (index, receiver) in self.receivers.iter().enumerate() {
                self.check_received(index, receiver).with_context(|| {
                    format!("from {} by {}", self.hosts[from].name(), tiers[from])
                })?;
            }
            for (to, capture) in captures.iter().enumerate().filter(|(to, _)| *to != from) {
                surplus.extend(self.look(capture, from, to, tiers[from])?);
            }
        }
        Ok(surplus)
    }

    /// Waits until a receiver has received as much as it should, and checks that it is the right
    /// content.
    fn check_received(&self, index: usize, receiver: &Receiver) -> Result<()> {
        let joined = self.groups.iter().filter(|group| group.joined[index]);
        let wanted: BTreeMap<String, usize> =
            joined.map(|group| (group.address.to_string(), COUNT)).collect();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let all = wait_until("all datagrams to be received", WAY_DEADLINE, || {
            for socket in &receiver.sockets {
                for (_, text) in socket.received()? {
                    *counts.entry(String::from_utf8_lossy(&text).into_owned()).or_default() += 1;
                }
            }
            Ok((counts.values().sum::<usize>() >= wanted.values().sum()).then_some(()))
        });
        let name = self.hosts[index].name();
        all.with_context(|| format!("{name} received {counts:?}"))?;
        ensure!(counts == wanted, "{name} received {counts:?}");
        Ok(())
    }

    /// The packets that one host was sent by another in vain; fails if any are missing.
    fn look(
        &self,
        capture: &Capture,
        from: usize,
        to: usize,
        tier: &str,
    ) -> Result<Option<String>> {
        let (sender, host) = (&self.hosts[from], &self.hosts[to]);
        let broadcast = self.network.broadcast()?;
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        wait_until("the last datagram to come", WAY_DEADLINE, || {
            let frames = capture.frames();
            let sent = frames.iter().filter_map(Frame::tunnelled);
            let sent = sent.filter(|(source, destination, _)| {
                *source == sender.address() && *destination == host.address()
            });
            counts.clear();
            sent.filter_map(|(.., frame)| frame.destination())
                .for_each(|group| *counts.entry(group).or_default() += 1);
            Ok(counts.contains_key(&broadcast.into()).then_some(()))
        })?;
        let mut surplus = Vec::new();
        for group in &self.groups {
            let is_to_all = tier == "flood" || group.is_link_local();
            // Replication by MAC address sends a group to the members of all groups that share the
            // address.
            let may_go_astray = tier == "multicast-fdb" && group.has_address_of_link_local();
            let sent = counts.get(&group.address).copied().unwrap_or_default();
            if is_to_all || group.joined[to] {
                ensure!(
                    sent == COUNT,
                    "{} was sent {sent} of {COUNT} to {}",
                    host.name(),
                    group.address
                );
            } else if sent > 0 && !may_go_astray {
                surplus.push(format!(
                    "{} was sent {sent} to {} from {} by {tier}",
                    host.name(),
                    group.address,
                    sender.name()
                ));
            }
        }
        Ok((!surplus.is_empty()).then(|| surplus.join(", ")))
    }
}
