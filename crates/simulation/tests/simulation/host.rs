//! One simulated host: a disk that stays, and a process that is started and killed.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use parking_lot::Mutex;
use shoutd_consensus::testing::{Node, Surroundings, config};
use shoutd_consensus::{Settings, Timeouts};
use shoutd_core::{ClusterId, HostId};
use shoutd_peer::Identity;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep};

use super::Bug;
use super::agent::Agent;
use super::chance::{Chance, mixed};
use super::checks::Checks;
use super::disk::Disk;
use super::net::{Listener, Net, Port};
use super::runtime::{self, Owner};
use super::store::{Log, Machine};

/// How a host enters its cluster.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Founds,
    Joins(Vec<SocketAddr>),
}

/// The state that all hosts of a simulation share.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub seed: u64,
    pub bug: Option<Bug>,
    pub net: Net,
    pub checks: Checks,
    /// Hosts that have a power failure during an operation.
    pub accidents: UnboundedSender<HostId>,
    /// Whether users are active.
    pub busy: Arc<Mutex<bool>>,
    pub config: Arc<Config>,
}

/// The cluster of all simulations.
pub(crate) fn cluster() -> ClusterId {
    ClusterId::new(7)
}

/// Pause before a failed entry is retried.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// How long one try may take.
const ENTRY_DEADLINE: Duration = Duration::from_secs(8);

pub(crate) struct Host {
    pub id: HostId,
    pub address: SocketAddr,
    pub disk: Disk,
    entry: Entry,
    world: World,
    /// The number of starts of its process.
    starts: u64,
    process: Option<Owner>,
    agent: Arc<Mutex<Option<Arc<Agent>>>>,
}

impl Host {
    pub fn new(number: u16, entry: Entry, world: &World) -> Self {
        let id = HostId::new(u64::from(number)).unwrap();
        Self {
            id,
            address: address_of(number),
            disk: Disk::new(id, world.seed, world.bug, world.accidents.clone()),
            entry,
            world: world.clone(),
            starts: 0,
            process: None,
            agent: Arc::default(),
        }
    }

    /// The owner of its tasks while it runs.
    pub fn owner(&self) -> Option<Owner> {
        self.process
    }

    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Its agent, once it runs.
    pub fn agent(&self) -> Option<Arc<Agent>> {
        self.agent.lock().clone()
    }

    /// Whether its consensus has stopped, as it does when the disk fails.
    pub fn has_stopped(&self) -> bool {
        // A removed host stays stopped.
        self.agent().is_some_and(|agent| !agent.node.has_left() && agent.node.has_stopped())
    }

    pub fn start(&mut self) {
        if self.process.is_some() {
            return;
        }
        self.starts += 1;
        let owner = self.id.get() << 32 | self.starts;
        self.process = Some(owner);
        self.world.checks.note(format!("host {} starts", self.id));
        let (world, agent) = (self.world.clone(), Arc::clone(&self.agent));
        let (disk, address, entry) = (self.disk.clone(), self.address, self.entry.clone());
        let id = self.id;
        runtime::spawn(owner, async move {
            // The daemon is restarted if a disk error keeps it from starting.
            let node = loop {
                match run(id, address, disk.clone(), &world).await {
                    Some(node) => break node,
                    None => sleep(TRY_AGAIN).await,
                }
            };
            let (net, checks) = (world.net.clone(), world.checks.clone());
            let chance = Chance::new(mixed(world.seed, owner), "agent");
            let running = Arc::new(Agent::new(node.clone(), disk, world, chance));
            let router = node.router().merge(running.router());
            net.listen(address, Listener { owner, identity: node.identity().clone(), router });
            *agent.lock() = Some(Arc::clone(&running));
            node.duties().into_iter().for_each(|duty| runtime::spawn(owner, duty));
            enter(&node, &entry, &checks).await;
            running.run(owner).await;
        });
    }

    /// Kills its process; unsynced writes may be lost.
    pub fn crash(&mut self) {
        let Some(owner) = self.process.take() else { return };
        self.world.checks.note(format!("host {} crashes", self.id));
        self.world.net.close(self.address);
        *self.agent.lock() = None;
        runtime::kill(owner);
        self.disk.crash();
    }
}

pub(crate) fn address_of(number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    SocketAddr::from(([10, 99, high, low], 7789))
}

/// As `Consensus::start`.
async fn run(id: HostId, address: SocketAddr, disk: Disk, world: &World) -> Option<Node> {
    let identity = Identity::new(id, disk.read(|contents| contents.identity).cluster);
    let (machine, published) = Machine::open(id, disk.clone(), world.checks.clone(), world.bug);
    Node::start(Surroundings {
        settings: Settings { advertise: address, name: format!("h{}", id.get()) },
        timeouts: Timeouts { voter_away: Duration::from_secs(mixed(world.seed, 1) % 20 + 2) },
        run: runtime::current().unwrap_or_default(),
        config: Arc::clone(&world.config),
        transport: Arc::new(Port { net: world.net.clone(), identity, address }),
        records: Arc::new(disk.clone()),
        log: Log(disk),
        machine,
        published,
    })
    .await
}

/// The real configuration except for snapshots: a simulation is too short for a thousand entries.
pub(super) fn small(seed: u64) -> Config {
    let mut chance = Chance::new(seed, "configuration");
    let every = u64::try_from(chance.below(40)).unwrap() + 5;
    Config {
        snapshot_policy: SnapshotPolicy::LogsSinceLast(every),
        max_in_snapshot_log_to_keep: u64::try_from(chance.below(20)).unwrap(),
        replication_lag_threshold: every * 2,
        purge_batch_size: 1,
        snapshot_max_chunk_size: 2000,
        ..config()
    }
}

/// As the daemon does it: retries until the host is a member.
async fn enter(node: &Node, entry: &Entry, checks: &Checks) {
    loop {
        let entered = match entry {
            Entry::Founds => {
                let founded = node.found(cluster(), ENTRY_DEADLINE).await;
                founded.map_err(|error| (error.may_pass(), error.to_string()))
            }
            Entry::Joins(peers) => {
                let joined = node.join(peers, Instant::now() + ENTRY_DEADLINE).await;
                joined.map_err(|error| (error.may_pass(), error.to_string()))
            }
        };
        checks.note(format!("host {} enters: {entered:?}", node.me()));
        // A host that was a member before continues; its background tasks update its entry.
        if matches!(entered, Ok(()) | Err((false, _)))
            || node.cluster().hosts.contains_key(&node.me())
        {
            return;
        }
        sleep(TRY_AGAIN).await;
    }
}

thread_local! {
    /// The hosts' clocks.
    static CLOCKS: RefCell<Option<Checks>> = const { RefCell::new(None) };
}

/// Sets the clocks of this thread.
pub(super) fn set_clocks(clocks: Option<Checks>) {
    CLOCKS.set(clocks);
}

/// The history of the simulation that panicked in this thread.
pub(super) fn last_history() -> String {
    CLOCKS.take().map_or_else(String::new, |checks| checks.history())
}

/// The time since 1970 by the clock of the host whose task runs, within a simulation.
pub(crate) fn wall_clock() -> Option<Duration> {
    let host = HostId::new(runtime::current()? >> 32)?;
    CLOCKS.with_borrow(|clocks| Some(clocks.as_ref()?.wall_clock(host)))
}
