//! Measures the cost of a cluster by its number of hosts: `cargo xtask bench cluster`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use shoutd_consensus::testing::config;
use shoutd_core::advertise::{Content, InboundSession, OutboundSession};
use shoutd_core::cluster::Command;
use shoutd_core::limits::BEAT_INTERVAL;
use shoutd_core::{HostId, NetworkId};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, sleep};

use super::checks::Checks;
use super::host::{Entry, Host, World, address_of, set_clocks};
use super::net::{Net, Sent};
use super::{runtime, user};

/// The default number of hosts.
const HOSTS: u16 = 7;

/// How long the cluster may take to form, and to commit one change.
const FORMATION: Duration = Duration::from_secs(1800);
const CHANGE: Duration = Duration::from_secs(10);

/// Idle time before, and during, the measurement of the cost at rest.
const CALM: Duration = Duration::from_secs(30);
const REST: Duration = Duration::from_secs(60);

/// Networks that are created, one after the other.
const CHANGES: u16 = 20;

/// Time between two checks.
const LOOK: Duration = Duration::from_millis(10);

/// The figures of one cluster size, by role of the hosts.
#[derive(Debug, Serialize)]
struct Figures {
    hosts: u16,
    voters: usize,
    /// Seconds from the start of all hosts until each knows all.
    formation: f64,
    /// Sent during formation, per host.
    formation_sent: Rate,
    rest: BTreeMap<&'static str, Rate>,
    /// Sent per change, minus what is sent at rest in the same time.
    change: BTreeMap<&'static str, Rate>,
    /// Milliseconds from the proposal until the proposing host has applied it, and until all have;
    /// medians.
    agreed: f64,
    applied_by_all: f64,
    /// Bytes of agreed state, as written to disk.
    state: usize,
    /// Memory of this process per host, in KiB.
    memory: f64,
    /// Sent at rest by a host to another with which it shares networks.
    beat: Rate,
}

/// Messages and bytes: per second, per change, or in total.
#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Rate {
    messages: f64,
    bytes: f64,
}

impl Rate {
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of messages and bytes are far below 2^52"
    )]
    fn of(sent: Sent, by: f64) -> Self {
        Self { messages: sent.messages as f64 / by, bytes: sent.bytes as f64 / by }
    }

    fn less(self, other: Self) -> Self {
        Self { messages: self.messages - other.messages, bytes: self.bytes - other.bytes }
    }

    fn times(self, factor: f64) -> Self {
        Self { messages: self.messages * factor, bytes: self.bytes * factor }
    }

    /// The mean.
    #[expect(clippy::cast_precision_loss, reason = "there are few hosts")]
    fn mean(rates: &[Self]) -> Self {
        let sum = rates.iter().fold(Self::default(), |sum, rate| sum.less(rate.times(-1.0)));
        sum.times(1.0 / rates.len().max(1) as f64)
    }
}

/// The resident memory of this process in KiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A cluster without faults.
struct Growth {
    world: World,
    hosts: Vec<Host>,
}

impl Growth {
    fn new(count: u16) -> Self {
        let seed = u64::from(count);
        let checks = Checks::new();
        set_clocks(Some(checks.clone()));
        let net = Net::new(seed, checks.clone());
        let (accidents, _) = unbounded_channel();
        let (busy, config) = (Arc::new(Mutex::new(false)), Arc::new(config()));
        let world = World { seed, bug: None, net, checks, accidents, busy, config };
        let hosts = (1..=count).map(|number| {
            let entry = if number == 1 { Entry::Founds } else { Entry::Joins(vec![address_of(1)]) };
            Host::new(number, entry, &world)
        });
        Self { hosts: hosts.collect(), world }
    }

    /// Waits until a condition holds for all hosts; returns how long that took.
    async fn until_all(&self, deadline: Duration, condition: impl Fn(&Host) -> bool) -> Duration {
        let began = Instant::now();
        while !self.hosts.iter().all(&condition) {
            assert!(
                began.elapsed() < deadline,
                "not within {deadline:?}: {:?}",
                self.world.checks.violation()
            );
            sleep(LOOK).await;
        }
        began.elapsed()
    }

    async fn form(&mut self) -> Duration {
        self.hosts.iter_mut().for_each(Host::start);
        let all = self.hosts.len();
        self.until_all(FORMATION, |host| {
            host.agent().is_some_and(|agent| agent.node.cluster().hosts.len() == all)
        })
        .await
    }

    fn roles(&self) -> BTreeMap<HostId, &'static str> {
        let status = self.hosts[0].agent().unwrap().node.status();
        let roles = self.hosts.iter().map(|host| {
            let role = match host.id {
                id if status.leader == Some(id) => "leader",
                id if status.voters.contains(&id) => "voter",
                _ => "learner",
            };
            (host.id, role)
        });
        roles.collect()
    }

    /// The mean of what the hosts of each role have sent since `before`.
    fn by_role(&self, before: &BTreeMap<HostId, Sent>, by: f64) -> BTreeMap<&'static str, Rate> {
        let after = self.world.net.sent();
        let mut rates: BTreeMap<&'static str, Vec<Rate>> = BTreeMap::new();
        for (id, role) in self.roles() {
            let [before, after] =
                [before, &after].map(|sent| sent.get(&id).copied().unwrap_or_default());
            let rate = Rate::of(after, by).less(Rate::of(before, by));
            rates.entry(role).or_default().push(rate);
        }
        rates.into_iter().map(|(role, rates)| (role, Rate::mean(&rates))).collect()
    }

    /// Creates a network on host `on`. Returns how long that took, and how long until all hosts
    /// know it.
    async fn change(&self, number: u16, on: usize) -> (Duration, Duration) {
        let agent = self.hosts[on].agent().unwrap();
        let id: NetworkId = format!("{number:064x}").parse().unwrap();
        let subnet = format!("10.{}.0.0/16", 100 + number).parse().unwrap();
        let command = Command::CreateNetwork {
            id: id.clone(),
            origin: agent.me(),
            settings: user::settings(subnet, false),
        };
        let began = Instant::now();
        agent.propose(command, CHANGE, false).await.unwrap();
        let agreed = began.elapsed();
        self.until_all(CHANGE, |host| {
            host.agent().is_some_and(|agent| agent.node.cluster().networks.contains_key(&id))
        })
        .await;
        (agreed, began.elapsed())
    }
}

/// Sent by a host without changes to a peer with which it shares a network.
fn beat() -> Rate {
    let (mut outbound, mut inbound) =
        (OutboundSession::new(u64::MAX / 3), InboundSession::new(Duration::ZERO));
    outbound.want(Content::new());
    let (mut sequence, mut now) = (1_000_000, Duration::ZERO);
    let mut bytes = 0;
    // The first message is a snapshot, the others are beats.
    for _ in 0..2 {
        now += BEAT_INTERVAL;
        let message = outbound.next(&mut sequence, now).unwrap();
        let reply = inbound.receive(&message, now).unwrap();
        bytes = serde_json::to_vec(&*message).unwrap().len()
            + serde_json::to_vec(&reply).unwrap().len();
        outbound.answered(&reply, 0, now);
    }
    // Each host sends beats, and answers those of the other.
    Rate::of(Sent { messages: 2, bytes: bytes as u64 }, BEAT_INTERVAL.as_secs_f64())
}

fn milliseconds(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

async fn measure(count: u16) -> Figures {
    let before = resident();
    let mut growth = Growth::new(count);
    let formation = growth.form().await;
    let formation_sent =
        growth.world.net.sent().values().map(|sent| Rate::of(*sent, 1.0)).collect::<Vec<_>>();
    // Voters are chosen, and hosts that are behind catch up.
    sleep(CALM).await;

    let sent = growth.world.net.sent();
    sleep(REST).await;
    let rest = growth.by_role(&sent, REST.as_secs_f64());
    let memory = (resident() - before) / f64::from(count);

    let (sent, began) = (growth.world.net.sent(), Instant::now());
    let (mut agreed, mut known) = (Vec::new(), Vec::new());
    for number in 0..CHANGES {
        let on = usize::from(number) * (growth.hosts.len() - 1) / usize::from(CHANGES - 1);
        let (here, everywhere) = growth.change(number, on).await;
        agreed.push(here);
        known.push(everywhere);
    }
    let took = began.elapsed().as_secs_f64();
    let all = growth.by_role(&sent, 1.0);
    let change = all.into_iter().map(|(role, sent)| {
        let idle = rest.get(role).copied().unwrap_or_default().times(took);
        (role, sent.less(idle).times(1.0 / f64::from(CHANGES)))
    });
    let change = change.collect();
    assert_eq!(growth.world.checks.violation(), None);
    let cluster = growth.hosts[0].agent().unwrap().node.cluster();
    let figures = Figures {
        hosts: count,
        voters: growth.roles().values().filter(|role| **role != "learner").count(),
        formation: formation.as_secs_f64(),
        formation_sent: Rate::mean(&formation_sent),
        rest,
        change,
        agreed: milliseconds(agreed),
        applied_by_all: milliseconds(known),
        state: serde_json::to_vec(&*cluster).unwrap().len(),
        memory,
        beat: beat(),
    };
    growth.hosts.iter_mut().for_each(Host::crash);
    set_clocks(None);
    figures
}

/// Prints the figures for `SHOUTD_GROWTH_HOSTS` hosts. Checks that a cluster without faults forms
/// and is quiet at rest.
#[test]
fn growth() {
    let count = std::env::var("SHOUTD_GROWTH_HOSTS").map_or(HOSTS, |text| text.parse().unwrap());
    let figures = runtime::run(u64::from(count), measure(count));
    println!("growth: {}", serde_json::to_string(&figures).unwrap());
    assert_eq!(figures.voters, usize::from(count.min(5)));
    // A learner answers its leader, and sends nothing to the others.
    let learner = figures.rest.get("learner");
    assert!(learner.is_none_or(|learner| learner.messages < 10.0), "{learner:?}");
}
