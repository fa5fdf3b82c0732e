//! Shared by the plugin's tests: a driver that records its calls, and a client that sends raw
//! bytes.

// Each test program uses only a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use shoutd_core::id::{DockerNetworkId, MacAddress};
use shoutd_docker::plugin::{
    AllocateNetwork, CreateEndpoint, CreateNetwork, CreatedInterface, DriverError, EndpointKey,
    GrantedPool, IpamDriver, Join, JoinReply, NetworkDriver, PluginLimits, PoolId, ReleaseAddress,
    RequestAddress, RequestPool, Scope, StaticRoute, bind, router_with_limits, serve,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

pub const NETWORK: &str = "7c5d1f0f9a5b4c3e8d2a1b0c9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c";
pub const ENDPOINT: &str = "0e1d2c3b4a5968778695a4b3c2d1e0f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
/// The MAC address that the driver chooses.
pub const CHOSEN_MAC: MacAddress = MacAddress([0x02, 0x73, 10, 9, 0, 5]);
/// Deadline of every wait in a test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A request that reached the driver.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    AllocateNetwork(AllocateNetwork),
    FreeNetwork(DockerNetworkId),
    CreateNetwork(CreateNetwork),
    DeleteNetwork(DockerNetworkId),
    CreateEndpoint(CreateEndpoint),
    DeleteEndpoint(EndpointKey),
    Join(Join),
    Leave(EndpointKey),
    Info(EndpointKey),
    RequestPool(RequestPool),
    ReleasePool(PoolId),
    RequestAddress(RequestAddress),
    ReleaseAddress(ReleaseAddress),
}

/// Records its calls. The option `behave` of a new network makes it fail, panic, hang, or wait at
/// the gate.
pub struct Recorder {
    pub seen: Mutex<Vec<Seen>>,
    pub gate: Semaphore,
    pub at_gate: AtomicUsize,
    pub most_at_gate: AtomicUsize,
    pub finished: Semaphore,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            seen: Mutex::default(),
            gate: Semaphore::new(0),
            at_gate: AtomicUsize::new(0),
            most_at_gate: AtomicUsize::new(0),
            finished: Semaphore::new(0),
        }
    }
}

impl Recorder {
    fn note(&self, request: Seen) {
        self.seen.lock().unwrap().push(request);
    }

    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl NetworkDriver for Recorder {
    async fn allocate_network(
        &self,
        request: AllocateNetwork,
    ) -> Result<BTreeMap<String, String>, DriverError> {
        let options = request.options.clone();
        self.note(Seen::AllocateNetwork(request));
        Ok(options)
    }

    async fn free_network(&self, network: DockerNetworkId) -> Result<(), DriverError> {
        self.note(Seen::FreeNetwork(network));
        Ok(())
    }

    async fn create_network(&self, request: CreateNetwork) -> Result<(), DriverError> {
        let behaviour = request.options.get("behave").cloned();
        self.note(Seen::CreateNetwork(request));
        match behaviour.as_deref() {
            Some("fail") => return Err(DriverError::new("subnet 10.9.0.0/16\noverlaps \"foo\"")),
            Some("panic") => panic!("the test asked for it"),
            Some("hang") => std::future::pending().await,
            Some("gate") => {
                let now = self.at_gate.fetch_add(1, Ordering::SeqCst) + 1;
                self.most_at_gate.fetch_max(now, Ordering::SeqCst);
                self.gate.acquire().await.unwrap().forget();
                self.at_gate.fetch_sub(1, Ordering::SeqCst);
            }
            _ => {}
        }
        self.finished.add_permits(1);
        Ok(())
    }

    async fn delete_network(&self, network: DockerNetworkId) -> Result<(), DriverError> {
        self.note(Seen::DeleteNetwork(network));
        Ok(())
    }

    async fn create_endpoint(
        &self,
        request: CreateEndpoint,
    ) -> Result<CreatedInterface, DriverError> {
        let mac = request.mac.unwrap_or(CHOSEN_MAC);
        self.note(Seen::CreateEndpoint(request));
        Ok(CreatedInterface { mac })
    }

    async fn delete_endpoint(&self, endpoint: EndpointKey) -> Result<(), DriverError> {
        self.note(Seen::DeleteEndpoint(endpoint));
        Ok(())
    }

    async fn join(&self, request: Join) -> Result<JoinReply, DriverError> {
        self.note(Seen::Join(request));
        Ok(JoinReply {
            interface: "sh0e1d2c3b4a59".into(),
            container_prefix: "shout".into(),
            routes: vec![
                StaticRoute { destination: "224.0.0.0/4".parse().unwrap(), next_hop: None },
                StaticRoute {
                    destination: "10.0.0.0/8".parse().unwrap(),
                    next_hop: Some("10.9.0.1".parse().unwrap()),
                },
            ],
            container_name: None,
            gateway: Some("10.9.0.1".parse().unwrap()),
            without_gateway: false,
        })
    }

    async fn leave(&self, endpoint: EndpointKey) -> Result<(), DriverError> {
        self.note(Seen::Leave(endpoint));
        Ok(())
    }

    async fn endpoint_info(
        &self,
        endpoint: EndpointKey,
    ) -> Result<BTreeMap<String, String>, DriverError> {
        self.note(Seen::Info(endpoint));
        Ok(BTreeMap::from([("vni".into(), "4711".into())]))
    }
}

impl IpamDriver for Recorder {
    async fn request_pool(&self, request: RequestPool) -> Result<GrantedPool, DriverError> {
        if request.options.contains_key("full") {
            return Err(DriverError::new("no free subnet"));
        }
        self.note(Seen::RequestPool(request));
        let subnet: IpNet = "10.9.0.0/16".parse().unwrap();
        Ok(GrantedPool { id: "shoutdlocal/10.9.0.0/16".parse().unwrap(), subnet, gateway: None })
    }

    async fn release_pool(&self, pool: PoolId) -> Result<(), DriverError> {
        self.note(Seen::ReleasePool(pool));
        Ok(())
    }

    async fn request_address(&self, request: RequestAddress) -> Result<IpNet, DriverError> {
        self.note(Seen::RequestAddress(request));
        Ok("10.9.0.5/16".parse().unwrap())
    }

    async fn release_address(&self, request: ReleaseAddress) -> Result<(), DriverError> {
        self.note(Seen::ReleaseAddress(request));
        Ok(())
    }
}

/// A plugin on its own socket.
pub struct Plugin {
    pub driver: Arc<Recorder>,
    pub socket: PathBuf,
    pub stop: oneshot::Sender<()>,
    pub task: JoinHandle<()>,
    _directory: TempDir,
}

impl Plugin {
    pub async fn start() -> Self {
        Self::start_with(PluginLimits::default()).await
    }

    pub async fn start_with(limits: PluginLimits) -> Self {
        Self::start_as(Scope::Local, limits).await
    }

    pub async fn start_as(scope: Scope, limits: PluginLimits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/docker/plugins/shoutd.sock");
        let driver = Arc::new(Recorder::default());
        let listener = bind(&socket).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let router = router_with_limits(Arc::clone(&driver), scope, limits);
        let task = tokio::spawn(serve(listener, router, async move {
            let _ = stopped.await;
        }));
        Self { driver, socket, stop, task, _directory: directory }
    }

    /// Sends one call as Docker does, on its own connection.
    pub async fn call(&self, method: &str, body: &str) -> Answer {
        let mut client = Client::connect(&self.socket).await;
        client.send(&docker_request(method, body)).await;
        client.answer().await
    }

    /// Stops the plugin and waits until it has ended.
    pub async fn finish(self) {
        self.stop.send(()).unwrap();
        within(self.task).await.unwrap();
    }
}

/// The bytes of a call as Docker sends them: with `Accept` and a length, without `Content-Type`.
pub fn docker_request(method: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /{method} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: \
         Go-http-client/1.1\r\nContent-Length: {}\r\nAccept: \
         application/vnd.docker.plugins.v1.2+json\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// An answer of the plugin.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The error that Docker would show to its user.
    pub fn error(&self, member: &str) -> &str {
        self.body[member].as_str().unwrap_or_else(|| panic!("no {member} in {self:?}"))
    }
}

/// A client that sends raw bytes.
pub struct Client {
    pub stream: UnixStream,
    buffer: Vec<u8>,
}

impl Client {
    pub async fn connect(socket: &Path) -> Self {
        Self { stream: within(UnixStream::connect(socket)).await.unwrap(), buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.unwrap();
    }

    /// The next answer on this connection.
    pub async fn answer(&mut self) -> Answer {
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break String::from_utf8(self.buffer.drain(..end + 4).collect()).unwrap();
            }
            assert!(self.more().await, "the connection was closed before an answer");
        };
        let (_, length) = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .unwrap();
        let length: usize = length.parse().unwrap();
        while self.buffer.len() < length {
            assert!(self.more().await, "the connection was closed within an answer");
        }
        let body: Vec<u8> = self.buffer.drain(..length).collect();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, body: serde_json::from_slice(&body).unwrap() }
    }

    /// Reads more bytes; false if the connection is closed.
    pub async fn more(&mut self) -> bool {
        let mut chunk = [0; 4096];
        let length = within(self.stream.read(&mut chunk)).await.unwrap_or(0);
        self.buffer.extend_from_slice(&chunk[..length]);
        length > 0
    }
}

/// Waits with a deadline.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}
