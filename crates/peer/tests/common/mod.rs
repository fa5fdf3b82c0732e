//! Hosts with keys and certificates, and servers on loopback.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use shoutd_core::{ClusterId, HostId};
use shoutd_peer::{
    Acceptor, Client, CredentialStore, Credentials, Identity, Prepared, Secret, Server,
    TlsAcceptor, TlsConnector, Trust,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Deadline for anything that should happen; long, as the machine may be busy.
pub const SOON: Duration = Duration::from_secs(10);

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The cluster of all members.
pub fn ours() -> ClusterId {
    ClusterId::new(7)
}

/// A prepared cluster, its authority included; each number gives another one.
pub fn prepared(number: u8) -> Prepared {
    Prepared::from_secret(&Secret::from_digits(&format!("{number:032x}")).unwrap()).unwrap()
}

/// A host that belongs to no cluster. Its files are deleted already: it needs them only to renew a
/// certificate.
pub fn stranger() -> Arc<CredentialStore> {
    CredentialStore::open(tempfile::tempdir().unwrap().path()).unwrap()
}

/// A host with a certificate of this authority for this cluster, issued at this time.
pub fn certified(authority: u8, cluster: ClusterId, at: SystemTime) -> Arc<CredentialStore> {
    let directory = tempfile::tempdir().unwrap();
    let store = CredentialStore::open(directory.path()).unwrap();
    let Prepared { authority, seal_key, .. } = prepared(authority);
    store
        .enroll(
            Credentials::issue(store.key().public(), &authority, cluster, seal_key, at).unwrap(),
        )
        .unwrap();
    store
}

/// A member of our cluster; always the same one for a number.
pub fn member(number: u64) -> Arc<CredentialStore> {
    static MEMBERS: LazyLock<Mutex<HashMap<u64, Arc<CredentialStore>>>> =
        LazyLock::new(Mutex::default);
    let mut members = MEMBERS.lock().unwrap();
    Arc::clone(members.entry(number).or_insert_with(|| certified(1, ours(), SystemTime::now())))
}

pub fn host(number: u64) -> HostId {
    member(number).host()
}

pub fn identity(number: u64, cluster: Option<u128>) -> Identity {
    Identity::new(host(number), cluster.map(ClusterId::new))
}

pub fn acceptor(number: u64) -> TlsAcceptor {
    TlsAcceptor::new(member(number)).unwrap()
}

pub fn connector(number: u64, source: IpAddr) -> TlsConnector {
    TlsConnector::new(member(number), Trust::Cluster, source).unwrap()
}

pub fn client(number: u64, cluster: Option<u128>) -> Client {
    Client::new(identity(number, cluster), connector(number, LOOPBACK))
}

/// A client of any host, also of one that is not a numbered member.
pub fn client_of(store: &Arc<CredentialStore>, trust: Trust) -> Client {
    let identity =
        Identity::new(store.host(), store.credentials().map(|credentials| credentials.cluster()));
    Client::new(identity, TlsConnector::new(Arc::clone(store), trust, LOOPBACK).unwrap())
}

/// A running server.
pub struct Running {
    pub address: SocketAddr,
    pub stop: oneshot::Sender<()>,
    pub serving: JoinHandle<()>,
}

impl Running {
    pub fn start(server: Server, router: Router) -> Self {
        let address = server.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(router, async {
            let _ = stopped.await;
        }));
        Self { address, stop, serving }
    }

    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(SOON, self.serving).await.unwrap().unwrap();
    }
}

/// A server of any host, also of one that is not a numbered member.
pub fn serve_as(store: &Arc<CredentialStore>, router: Router) -> Running {
    let identity =
        Identity::new(store.host(), store.credentials().map(|credentials| credentials.cluster()));
    let acceptor = TlsAcceptor::new(Arc::clone(store)).unwrap();
    serve_router((LOOPBACK, 0).into(), identity, acceptor, router)
}

pub fn serve_router(
    address: SocketAddr,
    identity: Identity,
    acceptor: impl Acceptor,
    router: Router,
) -> Running {
    Running::start(Server::bind(address, identity, acceptor).unwrap(), router)
}
