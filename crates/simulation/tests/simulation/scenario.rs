//! One simulation: a cluster forms, suffers faults, and must converge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use shoutd_core::HostId;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep, timeout};

use super::Bug;
use super::chance::Chance;
use super::checks::Checks;
use super::host::{Entry, Host, World, address_of, set_clocks, small};
use super::net::{Net, Weather};
use super::runtime;

/// How long faults are injected.
const TROUBLE: Duration = Duration::from_secs(10);

/// How long a cluster may take to converge after the last fault.
const CONVERGENCE: Duration = Duration::from_secs(60);

/// How long a cluster without faults may take to form.
const FORMATION: Duration = Duration::from_secs(30);

/// Time between two checks.
const LOOK: Duration = Duration::from_millis(100);

/// The result of one simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// The same for the same seed.
    pub trace: u64,
    /// The first violation.
    pub violation: Option<String>,
    /// The latest events.
    pub history: String,
    /// The number of applied commands.
    pub commands: usize,
    /// How long the cluster took to converge.
    pub convergence: Duration,
}

/// Runs the simulation of a seed.
pub(crate) fn simulate(seed: u64, bug: Option<Bug>) -> Report {
    runtime::run(seed, async move {
        let checks = Checks::new();
        set_clocks(Some(checks.clone()));
        let net = Net::new(seed, checks.clone());
        let (accidents, happening) = unbounded_channel();
        let (busy, config) = (Arc::new(Mutex::new(true)), Arc::new(small(seed)));
        let world = World { seed, bug, net, checks, accidents, busy, config };
        let mut simulation = Simulation::new(seed, world, happening);
        let convergence = simulation.run().await;
        let checks = &simulation.world.checks;
        if let Err(stuck) = &convergence {
            checks.violated(stuck.clone());
        }
        let report = Report {
            trace: checks.trace(),
            violation: checks.violation(),
            history: checks.history(),
            commands: checks.commands(),
            convergence: convergence.unwrap_or(CONVERGENCE),
        };
        for host in &mut simulation.hosts {
            host.crash();
        }
        set_clocks(None);
        report
    })
}

struct Simulation {
    world: World,
    hosts: Vec<Host>,
    chance: Chance,
    accidents: UnboundedReceiver<HostId>,
    removed: Option<HostId>,
    /// Whether the user that removed a host got the answer that it is removed: the others then do
    /// not need it.
    removal_done: Arc<AtomicBool>,
    recovering: bool,
}

impl Simulation {
    fn new(seed: u64, world: World, accidents: UnboundedReceiver<HostId>) -> Self {
        let mut chance = Chance::new(seed, "faults");
        let count = u16::try_from(chance.below(4)).unwrap() + 2;
        let peers: Vec<_> = (1..=count).map(address_of).collect();
        // One more than are started at the beginning.
        let hosts = (1..=count + 1).map(|number| {
            let entry = if number == 1 { Entry::Founds } else { Entry::Joins(peers.clone()) };
            Host::new(number, entry, &world)
        });
        let hosts = hosts.collect();
        Self {
            world,
            hosts,
            chance,
            accidents,
            removed: None,
            removal_done: Arc::default(),
            recovering: false,
        }
    }

    async fn run(&mut self) -> Result<Duration, String> {
        let last = self.hosts.len() - 1;
        self.hosts[..last].iter_mut().for_each(Host::start);
        if self.chance.happens(700) {
            self.wait_for("the cluster has formed", FORMATION, |hosts| {
                hosts[..last].iter().all(|host| host.agent().is_some_and(|agent| agent.is_member()))
            })
            .await?;
        }
        let until = Instant::now() + TROUBLE;
        while Instant::now() < until && self.world.checks.violation().is_none() {
            let pause = self.chance.millis(10..=900);
            let accident = timeout(pause, self.accidents.recv()).await;
            self.restart_the_stopped();
            match accident.ok().flatten() {
                Some(id) => {
                    self.hosts.iter_mut().filter(|host| host.id == id).for_each(Host::crash);
                }
                None => self.trouble(),
            }
        }
        if self.world.checks.violation().is_some() {
            return Ok(Duration::ZERO);
        }
        self.recover().await
    }

    /// Waits for a condition, or for a violation.
    async fn wait_for(
        &mut self,
        what: &str,
        deadline: Duration,
        condition: impl Fn(&[Host]) -> bool,
    ) -> Result<Duration, String> {
        let began = Instant::now();
        while began.elapsed() < deadline {
            if self.world.checks.violation().is_some() || condition(&self.hosts) {
                return Ok(began.elapsed());
            }
            sleep(LOOK).await;
            self.restart_the_stopped();
        }
        let hosts: Vec<_> = self.hosts.iter().map(summary).collect();
        Err(format!("not within {deadline:?}: {what}: {}", hosts.join("; ")))
    }

    /// A daemon whose disk failed ends. It is restarted while the simulation recovers.
    fn restart_the_stopped(&mut self) {
        for host in self.hosts.iter_mut().filter(|host| host.has_stopped()) {
            host.crash();
            host.disk.set_failing(false);
            if self.recovering {
                host.start();
            }
        }
    }

    /// Injects or ends one random fault.
    fn trouble(&mut self) {
        let index = self.chance.below(self.hosts.len());
        let dice = self.chance.below(100);
        match dice {
            0..14 => self.hosts[index].crash(),
            14..36 => self.start_one_that_is_down(),
            36..40 => self.crash_the_leader(),
            40..50 => self.partition(),
            50..56 => self.cut_one_way(index),
            56..68 => self.world.net.heal(),
            68..73 => self.hosts[index].disk.set_slow(true),
            73..78 => self.hosts.iter().for_each(|host| host.disk.set_slow(false)),
            78..80 => self.hosts[index].disk.set_failing(true),
            80..84 => self.jump_clock(index),
            84..90 => self.change_weather(),
            90..94 => self.world.net.set_weather(Weather::default()),
            94..96 => self.remove(index),
            96..97 => self.crash_all(),
            _ => {}
        }
    }

    fn start_one_that_is_down(&mut self) {
        // Also a removed one: it must receive its removal notice, and do no harm until then.
        let mut down: Vec<_> = self.hosts.iter_mut().filter(|host| !host.is_up()).collect();
        let index = self.chance.below(down.len());
        if let Some(host) = down.get_mut(index) {
            host.disk.set_failing(false);
            host.start();
        }
    }

    fn crash_the_leader(&mut self) {
        let leader = self.hosts.iter().find_map(|host| host.agent()?.node.leader());
        if let Some(host) = self.hosts.iter_mut().find(|host| Some(host.id) == leader) {
            host.crash();
        }
    }

    fn crash_all(&mut self) {
        self.hosts.iter_mut().for_each(Host::crash);
    }

    /// Separates two random groups of hosts.
    fn partition(&mut self) {
        let sides: Vec<_> =
            self.hosts.iter().map(|host| (host.id, self.chance.happens(500))).collect();
        self.world.checks.note(format!("partition: {sides:?}"));
        for (from, side) in &sides {
            for (to, _) in sides.iter().filter(|(_, other)| other != side) {
                self.world.net.block(*from, *to);
            }
        }
    }

    /// Blocks either all incoming or all outgoing messages of a host.
    fn cut_one_way(&mut self, index: usize) {
        let (id, is_deaf) = (self.hosts[index].id, self.chance.happens(500));
        self.world.checks.note(format!("host {id} is {}", if is_deaf { "deaf" } else { "mute" }));
        for other in self.hosts.iter().map(|host| host.id).filter(|other| *other != id) {
            let (from, to) = if is_deaf { (other, id) } else { (id, other) };
            self.world.net.block(from, to);
        }
    }

    fn jump_clock(&mut self, index: usize) {
        let minutes = i64::try_from(self.chance.below(2 * 24 * 60)).unwrap() - 24 * 60;
        self.world.checks.set_clock(self.hosts[index].id, minutes * 60_000);
    }

    fn change_weather(&mut self) {
        let [lost, duplicated, late] =
            [150, 200, 200].map(|bound| u64::try_from(self.chance.below(bound)).unwrap());
        self.world.net.set_weather(Weather { lost, duplicated, late });
    }

    /// A user removes a host for good, dead or alive.
    fn remove(&mut self, index: usize) {
        let Some(latest) = self.world.checks.latest() else { return };
        let id = self.hosts[index].id;
        if self.removed.is_some() || !latest.hosts.contains_key(&id) || latest.hosts.len() < 3 {
            return;
        }
        self.removed = Some(id);
        let agents: Vec<_> =
            self.hosts.iter().filter(|host| host.id != id).filter_map(Host::agent).collect();
        let Some(agent) = self.chance.pick(&agents).cloned() else { return };
        // Owned by the asking host, so that the task ends when that one crashes.
        let owner =
            self.hosts.iter().find(|host| host.id == agent.me()).and_then(Host::owner).unwrap_or(0);
        let done = Arc::clone(&self.removal_done);
        runtime::spawn(owner, async move {
            while !agent.remove(id).await {
                sleep(LOOK).await;
            }
            done.store(
                agent.node.cluster().admissions.removed.contains_key(&id),
                Ordering::Relaxed,
            );
        });
        if self.chance.happens(500) {
            self.hosts[index].crash();
        }
    }

    /// Ends all faults: the cluster must converge.
    async fn recover(&mut self) -> Result<Duration, String> {
        self.recovering = true;
        self.world.checks.note("all faults end");
        self.world.net.heal();
        self.world.net.set_weather(Weather::default());
        *self.world.busy.lock() = false;
        let latest = self.world.checks.latest();
        for host in &mut self.hosts {
            host.disk.set_slow(false);
            host.disk.set_failing(false);
            self.world.checks.set_clock(host.id, 0);
            if host.has_stopped() {
                host.crash();
            }
            // A removal without an answer may have left the host its vote. Its user starts it once
            // more.
            let is_removed = latest
                .as_ref()
                .is_some_and(|latest| latest.admissions.removed.contains_key(&host.id));
            if !is_removed || !self.removal_done.load(Ordering::Relaxed) {
                host.start();
            }
        }
        self.settled().await
    }

    async fn settled(&mut self) -> Result<Duration, String> {
        let checks = self.world.checks.clone();
        let took = self
            .wait_for("the cluster has converged", CONVERGENCE, |hosts| {
                let Some(latest) = checks.latest() else { return false };
                let members =
                    hosts.iter().filter(|host| !latest.admissions.removed.contains_key(&host.id));
                let mut leaders = Vec::new();
                let mut all = true;
                for host in members {
                    let Some(agent) = host.agent() else { return false };
                    leaders.push(agent.node.leader());
                    let applied = agent.node.applied();
                    all &= agent.is_member()
                        && applied == checks.last_index()
                        && agent.plan().is_empty();
                }
                leaders.dedup();
                all && leaders.len() == 1 && leaders[0].is_some()
            })
            .await?;
        Ok(took)
    }
}

fn numbers(hosts: &[HostId]) -> Vec<u64> {
    hosts.iter().map(|host| host.get()).collect()
}

/// The state of a host in one line.
fn summary(host: &Host) -> String {
    let Some(agent) = host.agent() else {
        return format!("{} is {}", host.id, if host.is_up() { "starting" } else { "down" });
    };
    let status = agent.node.status();
    format!(
        "{} is {:?} of term {} at {:?}, follows {:?}, voters {:?}, learners {:?}, is member: {}, \
         plans {:?}",
        host.id,
        status.role,
        status.term,
        status.applied,
        status.leader,
        numbers(&status.voters),
        numbers(&status.learners),
        agent.is_member(),
        agent.plan()
    )
}
