//! Hosts in one process, each with its own directory, address and consensus, connected by real
//! HTTP/2 over loopback.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use shoutd_consensus::{Consensus, ConsensusStatus, Role, Settings, Store, StoreError, Timeouts};
use shoutd_core::cluster::{Cluster, Command, Pool, Settings as NetworkSettings};
use shoutd_core::{ClusterId, HostId, NetworkId};
use shoutd_peer::{
    BindError, Client, CredentialStore, Credentials, Identity, Prepared, Secret, Server,
    TlsAcceptor, TlsConnector, Trust,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Deadline for anything that should happen; long, as the machine may be busy.
pub const SOON: Duration = Duration::from_secs(20);

/// The cluster that these tests found.
pub fn founded() -> ClusterId {
    ClusterId::new(7)
}

/// The key and the certificate of the host in this directory. All have one authority, whichever
/// cluster they found.
pub fn credentials(directory: &Path) -> Arc<CredentialStore> {
    std::fs::create_dir_all(directory).unwrap();
    let store = CredentialStore::open(directory).unwrap();
    if store.credentials().is_none() {
        let Prepared { authority, seal_key, .. } =
            Prepared::from_secret(&Secret::from_digits(&"7e".repeat(16)).unwrap()).unwrap();
        let key = store.key().public();
        store
            .enroll(
                Credentials::issue(key, &authority, founded(), seal_key, SystemTime::now())
                    .unwrap(),
            )
            .unwrap();
    }
    store
}

/// A client with these credentials.
pub fn client(credentials: &Arc<CredentialStore>, identity: Identity, source: IpAddr) -> Client {
    Client::new(
        identity,
        TlsConnector::new(Arc::clone(credentials), Trust::Cluster, source).unwrap(),
    )
}

/// The place of a host that can be started repeatedly.
#[derive(Debug, Clone)]
pub struct Place {
    pub directory: std::path::PathBuf,
    pub host: HostId,
    pub name: String,
    pub address: SocketAddr,
}

impl Place {
    /// A host at an address that no other test uses.
    pub fn new(directory: &Path, number: u8) -> Self {
        let mut hasher = DefaultHasher::new();
        (std::process::id(), std::thread::current().name()).hash(&mut hasher);
        let [a, b, ..] = hasher.finish().to_le_bytes();
        Self::at(directory, [a.max(1), b], number)
    }

    /// A host in this subnet of 127.0.0.0/8. Each has an IP address of its own, as on a real
    /// network.
    pub fn at(directory: &Path, [a, b]: [u8; 2], number: u8) -> Self {
        let directory = directory.join(format!("h{number}"));
        Self {
            host: credentials(&directory).host(),
            name: format!("h{number}"),
            directory,
            address: SocketAddr::from(([127, a, b, number], 7789)),
        }
    }

    pub async fn start(&self) -> Node {
        self.try_start().await.unwrap()
    }

    /// Starts a host with other time-outs.
    pub async fn start_with(&self, patience: Timeouts) -> Node {
        self.try_start_with(patience).await.unwrap()
    }

    pub async fn try_start(&self) -> Result<Node, StoreError> {
        self.try_start_with(Timeouts::default()).await
    }

    async fn try_start_with(&self, patience: Timeouts) -> Result<Node, StoreError> {
        let (address, name) = (self.address, self.name.clone());
        let credentials = credentials(&self.directory);
        let store = Store::open(&self.directory, self.host)?;
        let identity = Identity::new(store.identity().host, store.identity().cluster);
        let client = client(&credentials, identity.clone(), address.ip());
        let server = bind(address, &identity, &credentials).await;
        let settings = Settings { advertise: address, name };
        let consensus = Consensus::start_with(store, settings, client, patience).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(consensus.router(), async {
            let _ = stopped.await;
        }));
        Ok(Node { consensus, address, stop, serving })
    }
}

/// Binds the port, also after a host of this process has just closed it. A process that another
/// test starts holds this process's file descriptors until its execve(2).
async fn bind(address: SocketAddr, identity: &Identity, own: &Arc<CredentialStore>) -> Server {
    let binding = async {
        loop {
            let acceptor = TlsAcceptor::new(Arc::clone(own)).unwrap();
            match Server::bind(address, identity.clone(), acceptor) {
                Err(BindError::PortInUse(_)) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                bound => return bound.unwrap(),
            }
        }
    };
    let bound = tokio::time::timeout(SOON, binding).await;
    bound.unwrap_or_else(|_| panic!("{address} is never free"))
}

/// A running host.
#[derive(Debug)]
pub struct Node {
    pub consensus: Consensus,
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Node {
    pub async fn stop(self) {
        let _ = self.stop.send(());
        self.serving.await.unwrap();
        self.consensus.shutdown().await;
    }

    /// Stops its server: the others cannot reach it, but it can reach them.
    pub async fn deafen(self) -> Consensus {
        let _ = self.stop.send(());
        self.serving.await.unwrap();
        self.consensus
    }

    pub fn host(&self) -> HostId {
        self.consensus.identity().host()
    }

    pub fn state(&self) -> Arc<Cluster> {
        Arc::clone(&self.consensus.state().borrow())
    }

    pub fn status(&self) -> ConsensusStatus {
        self.consensus.status()
    }

    pub fn leads(&self) -> bool {
        self.status().role == Role::Leader
    }

    pub fn has(&self, number: u16) -> bool {
        self.state().networks.contains_key(&network_id(number))
    }

    /// Waits until this host's state satisfies a condition.
    pub async fn until(&self, what: &str, condition: impl Fn(&Cluster) -> bool) {
        let mut state = self.consensus.state();
        let reached = tokio::time::timeout(SOON, state.wait_for(|state| condition(state))).await;
        assert!(
            reached.is_ok(),
            "host {} never saw {what}: {:#?} {:#?}",
            self.address,
            self.status(),
            self.state()
        );
    }

    /// Creates a network and checks that this host sees it at once.
    pub async fn create(&self, number: u16) {
        let proposed = self.consensus.propose(create(self.host(), number), SOON).await;
        assert!(proposed.is_ok(), "host {}: {proposed:?} {:#?}", self.address, self.status());
        assert!(self.has(number), "host {} does not read what it wrote", self.address);
    }
}

/// Polls until a condition holds for which there is no event.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, waiting).await.is_ok(), "never: {what}");
}

pub fn network_id(number: u16) -> NetworkId {
    format!("{number:064x}").parse().unwrap()
}

/// The command that creates the network of this number, with a subnet of its own.
pub fn create(origin: HostId, number: u16) -> Command {
    let [high, low] = number.to_be_bytes();
    let pool = Pool {
        subnet: format!("10.{high}.{low}.0/24").parse().unwrap(),
        gateway: None,
        auxiliary: [].into(),
        range: None,
    };
    let settings = NetworkSettings {
        pools: vec![pool],
        options: [].into(),
        internal: false,
        ipv6: false,
        docker_ipam: true,
        swarm: false,
    };
    Command::CreateNetwork { id: network_id(number), origin, settings }
}

/// A cluster of `count` hosts with all its voters. The first host founded it.
pub async fn cluster(directory: &Path, count: u8) -> (Vec<Place>, Vec<Node>) {
    cluster_with(directory, count, Timeouts::default()).await
}

pub async fn cluster_with(
    directory: &Path,
    count: u8,
    patience: Timeouts,
) -> (Vec<Place>, Vec<Node>) {
    let places: Vec<_> = (1..=count).map(|number| Place::new(directory, number)).collect();
    let mut nodes: Vec<Node> = Vec::new();
    for place in &places {
        let node = place.start_with(patience).await;
        match nodes.first() {
            None => node.consensus.found(founded(), SOON).await.unwrap(),
            Some(first) => node.consensus.join(&[first.address], SOON).await.unwrap(),
        }
        nodes.push(node);
    }
    let voters = match count {
        0..=2 => usize::from(count),
        3 | 4 => 3,
        _ => 5,
    };
    eventually("all voters are chosen", || {
        nodes.iter().all(|node| node.status().voters.len() == voters)
    })
    .await;
    (places, nodes)
}

pub async fn stop_all(nodes: Vec<Node>) {
    for node in nodes {
        node.stop().await;
    }
}
