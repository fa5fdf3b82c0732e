//! The rest of the daemon as far as it concerns agreed state: assigns addresses, follows the plan
//! of leases, and executes users' actions.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};
use ipnet::IpNet;
use parking_lot::Mutex;
use shoutd_consensus::ProposeError;
use shoutd_consensus::testing::Node;
use shoutd_core::cluster::{Cluster, Command, Outcome, WantedAddress};
use shoutd_core::local::{Endpoint, Local, Reservation};
use shoutd_core::stock::plan_leases;
use shoutd_core::{EndpointId, HostId, MacAddress, NetworkId};
use shoutd_peer::{Caller, Rejection};
use tokio::sync::{RwLock, watch};
use tokio::time::interval;

use super::Bug;
use super::chance::Chance;
use super::disk::{Change, Disk};
use super::host::World;
use super::runtime::{self, Owner};
use super::user;

/// As in the daemon: how often leases are planned, and how long a change of them may take.
const PERIOD: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(2);

/// As in the daemon: how long a starting container waits until its network is attached.
const ATTACH_DEADLINE: Duration = Duration::from_secs(1);

/// How long a user waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// As in the daemon: the path by which peers ask for an address, and how long that may take.
const YIELD: &str = "/v1/addresses/yield";
const YIELD_DEADLINE: Duration = Duration::from_secs(5);
const YIELD_AGREEMENT: Duration = Duration::from_secs(4);

/// Tries to reserve an address that was just claimed.
const TRIES_MAX: usize = 3;

/// The rest of the daemon.
pub(crate) struct Agent {
    pub node: Node,
    pub world: World,
    pub chance: Mutex<Chance>,
    disk: Disk,
    local: watch::Sender<Arc<Local>>,
    writing: tokio::sync::Mutex<()>,
    /// Held for reading from before an address is claimed until its use is recorded; for writing
    /// while leases are returned.
    gate: RwLock<()>,
}

/// The action failed.
#[derive(Debug)]
pub(crate) struct Undone;

impl Agent {
    pub fn new(node: Node, disk: Disk, world: World, chance: Chance) -> Self {
        let local = watch::Sender::new(disk.read(|contents| Arc::clone(&contents.local)));
        world.checks.uses(node.me(), &local.borrow());
        let (chance, writing, gate) =
            (Mutex::new(chance), tokio::sync::Mutex::default(), RwLock::default());
        Self { node, world, chance, disk, local, writing, gate }
    }

    pub async fn run(self: Arc<Self>, owner: Owner) {
        runtime::spawn(owner, user::run(Arc::clone(&self)));
        self.follow().await;
    }

    pub fn me(&self) -> HostId {
        self.node.me()
    }

    pub fn local(&self) -> Arc<Local> {
        Arc::clone(&self.local.borrow())
    }

    pub fn is_member(&self) -> bool {
        self.node.cluster().hosts.contains_key(&self.me())
    }

    pub fn now(&self) -> Duration {
        self.world.checks.wall_clock(self.me())
    }

    /// The changes of leases that this host plans.
    pub fn plan(&self) -> Vec<Command> {
        plan_leases(&self.node.cluster(), &self.local(), self.me())
    }

    /// Proposes a command, and checks the answer.
    pub async fn propose(
        &self,
        command: Command,
        deadline: Duration,
        again: bool,
    ) -> Result<Outcome, ProposeError> {
        let result = self.node.propose(command.clone(), deadline).await;
        self.world.checks.answered(self.me(), &command, &result, again);
        result
    }

    /// The same for a user, who may retry after a failure.
    pub async fn ask(&self, command: Command) -> Result<Outcome, ProposeError> {
        let first = self.propose(command.clone(), PATIENCE, false).await;
        let again = self.chance.lock().happens(500);
        match first {
            Err(ProposeError::NoLeader(_) | ProposeError::TimedOut(_)) if again => {
                self.propose(command, PATIENCE, true).await
            }
            first => first,
        }
    }

    /// As the daemon's local state: written to disk first, then published.
    pub async fn change<T>(&self, change: impl FnOnce(&mut Local) -> T) -> Result<T, Undone> {
        let _one_at_a_time = self.writing.lock().await;
        let mut local = Local::clone(&self.local());
        let result = change(&mut local);
        if local != *self.local() {
            let local = Arc::new(local);
            self.disk.write(Change::Local(Arc::clone(&local))).await.map_err(|_| Undone)?;
            self.world.checks.uses(self.me(), &local);
            self.local.send_replace(local);
        }
        Ok(result)
    }

    /// Keeps the leases of this host up to date.
    async fn follow(&self) {
        let mut tick = interval(PERIOD);
        let (mut cluster, mut memory) = (self.node.clusters(), self.local.subscribe());
        loop {
            let changed = tokio::select! {
                biased;
                _ = tick.tick() => true,
                changed = cluster.changed() => changed.is_ok(),
                changed = memory.changed() => changed.is_ok(),
            };
            if !changed {
                return;
            }
            if self.is_member() {
                let (known, now) = (self.node.cluster(), self.now());
                let _ = self.change(|local| local.expire_reservations(&known, now)).await;
                self.settle().await;
            }
        }
    }

    pub async fn settle(&self) {
        let _gate = self.gate.write().await;
        for command in self.plan() {
            if let Command::ReleaseAddresses { network, addresses, .. } = &command
                && self.change(|local| local.start_returning(network, addresses)).await.is_err()
            {
                return;
            }
            if self.propose(command, DEADLINE, true).await.is_err() {
                return;
            }
            // Before the next claim, which may get an address that was just returned.
            let cluster = self.node.cluster();
            let _ = self.change(|local| local.finish_returning(&cluster, self.me())).await;
        }
    }

    /// Gets an address for a container and starts it.
    pub async fn start_container(
        &self,
        network: &NetworkId,
        wanted: Option<IpAddr>,
    ) -> Result<EndpointId, Undone> {
        let leased = self.lease(network, wanted).await?;
        let id: EndpointId = format!("{:064x}", self.chance.lock().next()).parse().unwrap();
        if self.chance.lock().happens(50) {
            // As if Docker was killed in between.
            return Err(Undone);
        }
        let _gate = self.gate.read().await;
        self.claim_exactly(network, leased.addr()).await?;
        let IpAddr::V4(address) = leased.addr() else { return Err(Undone) };
        let endpoint = Endpoint {
            network: network.clone(),
            addresses: BTreeSet::from([leased]),
            mac: MacAddress::for_ipv4(address),
            sandbox: None,
            multicast_routes: BTreeSet::new(),
            interface_name: None,
            default_route: None,
            created: self.now(),
            left: None,
            container: None,
        };
        self.change(|local| local.add_endpoint(id.clone(), endpoint)).await?.map_err(|_| Undone)?;
        let known = self.node.cluster();
        let attached = known.networks.get(network);
        if !attached.is_some_and(|known| known.attached.contains(&self.me()) && !known.removing) {
            let command = Command::Attach { network: network.clone(), host: self.me() };
            let _ = self.propose(command, ATTACH_DEADLINE, true).await;
        }
        Ok(id)
    }

    /// Stops a container and releases its addresses.
    pub async fn stop_container(&self, id: &EndpointId) -> Result<(), Undone> {
        let removed = self.change(|local| local.endpoints.remove(id)).await?;
        if let Some(removed) = removed {
            for address in removed.addresses {
                self.release(&removed.network, address.addr()).await?;
            }
            self.settle().await;
        }
        Ok(())
    }

    /// `shoutdctl remove`. Returns whether a retry is useless.
    pub async fn remove(&self, host: HostId) -> bool {
        let removed = self.node.remove(host, PATIENCE).await;
        self.world.checks.note(format!("host {}: remove {host} -> {removed:?}", self.me()));
        let is_removed = self.node.cluster().admissions.removed.contains_key(&host);
        if removed.is_ok() && !is_removed {
            self.world.checks.violated(format!(
                "host {} got the answer that {host} was removed, but it was not",
                self.me()
            ));
        }
        matches!(
            removed,
            Ok(_)
                | Err(ProposeError::Refused(_) | ProposeError::Removed(_) | ProposeError::Stopped)
        )
    }

    async fn release(&self, network: &NetworkId, address: IpAddr) -> Result<(), Undone> {
        self.change(|local| {
            if let Some(addresses) = local.reservations.get_mut(network) {
                addresses.remove(&address);
                if addresses.is_empty() {
                    local.reservations.remove(network);
                }
            }
        })
        .await
    }

    async fn claim(&self, network: &NetworkId, wanted: WantedAddress) -> Result<(), Undone> {
        let command =
            Command::ClaimAddress { network: network.clone(), host: self.me(), address: wanted };
        self.propose(command, PATIENCE, true).await.map(drop).map_err(|_| Undone)
    }

    /// Claims this address, also if another host has it in stock.
    async fn claim_exactly(&self, network: &NetworkId, address: IpAddr) -> Result<(), Undone> {
        let cluster = self.node.cluster();
        let holder = cluster.networks.get(network).and_then(|known| known.leases.get(&address));
        if holder == Some(&self.me()) && !self.local().is_returning(network, address) {
            return Ok(());
        }
        if self.claim(network, WantedAddress::Exactly(address)).await.is_err() {
            self.claim_from_stock(network, address).await?;
        }
        self.change(|local| local.keep(network, address)).await
    }

    /// Asks the host that holds the address to yield it.
    async fn claim_from_stock(&self, network: &NetworkId, address: IpAddr) -> Result<(), Undone> {
        let cluster = self.node.cluster();
        let holder = *cluster
            .networks
            .get(network)
            .and_then(|known| known.leases.get(&address))
            .ok_or(Undone)?;
        let located = cluster.hosts.get(&holder).ok_or(Undone)?.address;
        let request = (network.clone(), address);
        match self.node.call::<_, bool>(holder, located, YIELD, &request, YIELD_DEADLINE).await {
            Ok(true) => self.claim(network, WantedAddress::Exactly(address)).await,
            _ => Err(Undone),
        }
    }

    /// The handlers for peers.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().route(YIELD, post(yield_address)).with_state(Arc::clone(self))
    }

    async fn lease(&self, network: &NetworkId, wanted: Option<IpAddr>) -> Result<IpNet, Undone> {
        let _gate = self.gate.read().await;
        let subnet = subnet_of(&self.node.cluster(), network).ok_or(Undone)?;
        let now = self.now();
        if self.world.bug == Some(Bug::ClaimsFromStaleState) {
            return self.take_what_seems_free(network, subnet, now).await;
        }
        if let Some(address) = wanted {
            if self.local().uses(network, address) {
                return Err(Undone);
            }
            self.claim_exactly(network, address).await?;
            let reserved = self.change(|local| {
                let is_free = !local.uses(network, address);
                if is_free {
                    local
                        .reservations
                        .entry(network.clone())
                        .or_default()
                        .insert(address, Reservation { since: now });
                }
                is_free
            });
            let leased = IpNet::new(address, subnet.prefix_len()).map_err(|_| Undone)?;
            return if reserved.await? { Ok(leased) } else { Err(Undone) };
        }
        for _ in 0..TRIES_MAX {
            let cluster = self.node.cluster();
            let me = self.me();
            let reserved = self
                .change(|local| {
                    local.reserve_from_stock(&cluster, me, network, (subnet, subnet), now)
                })
                .await?;
            if let Some(address) = reserved {
                return Ok(address);
            }
            self.claim(network, WantedAddress::Highest { subnet, count: 1 }).await?;
        }
        Err(Undone)
    }

    /// A bug that is put back: takes an address that is free as far as this host knows.
    async fn take_what_seems_free(
        &self,
        id: &NetworkId,
        subnet: IpNet,
        now: Duration,
    ) -> Result<IpNet, Undone> {
        let cluster = self.node.cluster();
        let network = cluster.networks.get(id).ok_or(Undone)?;
        let pool = network.pool_of(subnet.addr()).ok_or(Undone)?;
        let free = pool.highest_free(&network.leases, 16);
        let local = self.local();
        let address = free.into_iter().find(|address| !local.uses(id, *address)).ok_or(Undone)?;
        let reservation = Reservation { since: now };
        self.change(|local| {
            local.reservations.entry(id.clone()).or_default().insert(address, reservation)
        })
        .await?;
        IpNet::new(address, subnet.prefix_len()).map_err(|_| Undone)
    }
}

async fn yield_address(
    State(agent): State<Arc<Agent>>,
    Extension(caller): Extension<Caller>,
    Json((network, address)): Json<(NetworkId, IpAddr)>,
) -> Result<Json<bool>, Rejection> {
    let _gate = agent.gate.write().await;
    if agent.local().uses(&network, address) {
        return Ok(Json(false));
    }
    let noted = agent.change(|local| local.start_returning(&network, &[address])).await;
    noted.map_err(|_| Rejection::Failed { reason: "the disk failed".to_owned() })?;
    let from = agent.me();
    let claims =
        agent.node.cluster().networks.get(&network).map_or(0, |known| known.claims_of(from));
    let command = Command::YieldAddress { network, address, from, claims, to: caller.host };
    let yielded = agent.propose(command, YIELD_AGREEMENT, true).await;
    yielded.map(|_| Json(true)).map_err(|error| Rejection::Failed { reason: error.to_string() })
}

fn subnet_of(cluster: &Cluster, network: &NetworkId) -> Option<IpNet> {
    let network = cluster.networks.get(network).filter(|network| !network.removing)?;
    Some(network.settings.pools.first()?.subnet)
}
