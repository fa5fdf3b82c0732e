//! How advertisements grow: the real decisions and messages of `core::advertise` between many
//! hosts, without a network and daemons.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shoutd_core::advertise::{
    AdvertisedEndpoint, AdvertisedNetwork, Content, InboundSessions, Message, OutboundSessions,
    PeerStates, audience, expectations,
};
use shoutd_core::cluster::{Cluster, Command, Pool, Settings};
use shoutd_core::limits::BEAT_INTERVAL;
use shoutd_core::multicast::SourceFilter;
use shoutd_core::{ClusterId, HostId, MacAddress, NetworkId};

/// The time between two changes: more than the interval at which peers accept messages without a
/// wait.
const PAUSE: Duration = Duration::from_millis(10);

/// Time steps while nothing changes.
const STEP: Duration = Duration::from_millis(100);

/// The messages sent, with the answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Snapshots and deltas, and their answers.
    pub(super) news: Count,
    /// Beats, which say that nothing has changed.
    pub(super) beats: Count,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Count {
    /// What was sent since this earlier count.
    fn since(self, before: Self) -> Self {
        Self { messages: self.messages - before.messages, bytes: self.bytes - before.bytes }
    }
}

#[derive(Debug)]
struct Host {
    id: HostId,
    content: Content,
    speakers: OutboundSessions,
    listeners: InboundSessions,
}

/// Hosts, some of which share a network.
#[derive(Debug)]
pub(super) struct Mesh {
    cluster: Cluster,
    hosts: Vec<Host>,
    network: NetworkId,
    now: Duration,
    sent: Sent,
    entropy: u64,
    /// Whether a host may have something new to advertise.
    is_changed: bool,
}

impl Mesh {
    /// Makes `hosts` hosts. The first `sharing` share a network and are in sync, and the first one
    /// is a member of `groups` groups.
    pub(super) fn new(hosts: u16, sharing: u16, groups: u32) -> Result<Self> {
        ensure!(sharing <= hosts, "{sharing} of {hosts} hosts cannot share a network");
        let network: NetworkId = format!("{:064x}", 1).parse().context("an id")?;
        let mut commands = vec![Command::Found { cluster: ClusterId::new(1) }];
        let mut ids = Vec::new();
        for number in 1..=hosts {
            let id = HostId::new(number.into()).context("an id")?;
            let [high, low] = number.to_be_bytes();
            let address = format!("192.0.{high}.{low}:7789").parse().context("an address")?;
            commands.push(Command::AdmitHost { host: id, name: format!("host{number}"), address });
            ids.push(id);
        }
        let (origin, settings) = (*ids.first().context("no hosts")?, settings()?);
        commands.push(Command::CreateNetwork { id: network.clone(), origin, settings });
        for id in ids.iter().take(sharing.into()) {
            commands.push(Command::Attach { network: network.clone(), host: *id });
        }
        let mut cluster = Cluster::default();
        for command in &commands {
            cluster.apply(command).context("agree")?;
        }
        let hosts = ids.into_iter().enumerate().map(|(index, id)| Host {
            id,
            content: if index < sharing.into() { content(&network, index) } else { Content::new() },
            speakers: OutboundSessions::default(),
            listeners: InboundSessions::default(),
        });
        let hosts = hosts.collect();
        let sent = Sent::default();
        let mut mesh = Self {
            cluster,
            hosts,
            network,
            now: BEAT_INTERVAL,
            sent,
            entropy: 0,
            is_changed: true,
        };
        for number in 0..groups {
            mesh.listen(number)?;
        }
        mesh.settle()?;
        Ok(mesh)
    }

    /// Joins one more group on the first host; nothing is sent yet.
    fn listen(&mut self, number: u32) -> Result<()> {
        let first = self.hosts.first_mut().context("no hosts")?;
        let network = first.content.get_mut(&self.network).context("no network")?;
        let group =
            IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(239, 84, 0, 0).to_bits() + number));
        Arc::make_mut(network).memberships.groups.insert(group, SourceFilter::all());
        self.is_changed = true;
        Ok(())
    }

    /// Lets the first host join this many more groups, one after the other or all at once, and
    /// returns the messages that it took.
    pub(super) fn change(&mut self, changes: u32, at_once: bool) -> Result<Sent> {
        let before = self.sent;
        for number in 0..changes {
            self.listen(1_000_000 + number)?;
            if !at_once {
                self.now += PAUSE;
                self.settle()?;
            }
        }
        self.settle()?;
        Ok(self.since(before))
    }

    /// Lets time pass, and returns the messages sent in that time.
    pub(super) fn rest(&mut self, time: Duration) -> Result<Sent> {
        let before = self.sent;
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            self.settle()?;
        }
        Ok(self.since(before))
    }

    fn since(&self, before: Sent) -> Sent {
        Sent { news: self.sent.news.since(before.news), beats: self.sent.beats.since(before.beats) }
    }

    /// Sets what each host advertises to the others.
    fn address(&mut self) {
        let Self { cluster, hosts, now, entropy, .. } = self;
        for host in hosts {
            let told = audience(cluster, host.id, &host.content, &PeerStates::default());
            host.listeners.track(cluster, expectations(cluster, host.id, &host.content), *now);
            host.speakers.address(cluster, host.id, told, || {
                *entropy = entropy
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                entropy.rotate_left(32)
            });
        }
    }

    /// Carries messages until no host has anything to send.
    fn settle(&mut self) -> Result<()> {
        if std::mem::take(&mut self.is_changed) {
            self.address();
        }
        loop {
            let said: Vec<(usize, HostId, Arc<Message>)> = self
                .hosts
                .iter_mut()
                .enumerate()
                .flat_map(|(from, host)| {
                    host.speakers.next(self.now).into_iter().map(move |(to, what)| (from, to, what))
                })
                .collect();
            if said.is_empty() {
                return Ok(());
            }
            for (from, to, message) in said {
                self.carry(from, to, &message)?;
            }
        }
    }

    fn carry(&mut self, from: usize, to: HostId, message: &Message) -> Result<()> {
        let sender = self.hosts.get(from).context("no such host")?.id;
        let listener = self.hosts.iter_mut().find(|host| host.id == to).context("no such host")?;
        let reply = listener.listeners.receive(sender, message, self.now).context("receive")?;
        let is_beat = message.base == Some(message.sequence);
        let count = if is_beat { &mut self.sent.beats } else { &mut self.sent.news };
        count.messages += 2;
        count.bytes += serde_json::to_vec(message).context("write a message")?.len();
        count.bytes += serde_json::to_vec(&reply).context("write an answer")?.len();
        let host = self.hosts.get_mut(from).context("no such host")?;
        host.speakers.answered(to, Some(reply), 0, self.now);
        Ok(())
    }
}

/// The content of the host with this index: one endpoint.
fn content(network: &NetworkId, index: usize) -> Content {
    let [.., high, low] = index.to_be_bytes();
    let endpoint = AdvertisedEndpoint {
        mac: MacAddress([2, 0x73, 10, 0, high, low]),
        addresses: [IpAddr::from([10, 0, high, low])].into(),
        names: format!("container{index}").parse().into_iter().collect(),
    };
    let id = format!("{:064x}", index + 1).parse();
    let endpoints = id.into_iter().map(|id| (id, endpoint.clone())).collect();
    [(network.clone(), Arc::new(AdvertisedNetwork { endpoints, ..AdvertisedNetwork::default() }))]
        .into()
}

fn settings() -> Result<Settings> {
    let subnet = "10.0.0.0/16".parse().context("a subnet")?;
    Ok(Settings {
        pools: vec![Pool { subnet, gateway: None, auxiliary: BTreeMap::new(), range: None }],
        options: BTreeMap::new(),
        internal: false,
        ipv6: false,
        docker_ipam: false,
        swarm: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_costs_a_message_to_each_that_shares_and_nothing_else() {
        let mut few = Mesh::new(10, 4, 0).unwrap();
        let mut many = Mesh::new(10, 4, 300).unwrap();
        let one = few.change(1, false).unwrap();
        assert_eq!(one.news.messages, 2 * 3);
        assert!(many.change(1, false).unwrap().news.bytes < one.news.bytes + 50);
        assert_eq!(few.change(20, true).unwrap().news.messages, 2 * 3);
        assert_eq!(few.rest(Duration::from_secs(60)).unwrap().news, Count::default());
    }
}
