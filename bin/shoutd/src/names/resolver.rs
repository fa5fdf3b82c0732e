//! A DNS server inside containers with `--dns 127.0.0.12`, for programs that do not read the hosts
//! file.
//!
//! The sockets are in the container's network namespace. So only this container can send queries,
//! and the socket determines the names that it may know. Docker's resolver forwards queries to the
//! user's servers from there, too (`libnetwork/resolver.go`), and asks the next server if this one
//! fails.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddrV4, TcpListener as StdListener, UdpSocket as StdSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shoutd_core::advertise::PeerStates;
use shoutd_core::names::{Directory, RESOLVER, containers};
use shoutd_dataplane::run_inside;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::answer::{Transport, answer};
use crate::app::services::Services;

/// Interval at which sockets that could not be opened are tried again.
const PERIOD: Duration = Duration::from_secs(10);

/// The port of DNS.
const PORT: u16 = 53;

/// Size limit of a datagram, in octets. A query has about fifty.
const QUERY_BYTES_MAX: usize = 4096;

/// Rate limit of UDP queries of one container. Excess queries wait in the socket.
const QUERIES_PER_SECOND: u32 = 1000;

/// Pause after an error of the kernel.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Limit of concurrent TCP connections of one container.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection may take to send a complete query.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// The resolvers of this host's containers.
#[derive(Debug)]
pub struct Resolvers {
    services: Services,
    heard: watch::Receiver<Arc<PeerStates>>,
    running: BTreeMap<PathBuf, Running>,
    /// Errors that were already logged.
    problems: BTreeMap<PathBuf, String>,
}

/// A running resolver. It ends when this is dropped.
#[derive(Debug)]
struct Running {
    directory: watch::Sender<Directory>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Resolvers {
    /// Starts with no resolver.
    pub fn new(services: Services, heard: watch::Receiver<Arc<PeerStates>>) -> Self {
        Self { services, heard, running: BTreeMap::new(), problems: BTreeMap::new() }
    }

    /// Runs a resolver in each container that needs one, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut cluster, mut local) =
            (self.services.agreement.watch(), self.services.local.watch());
        let mut tick = tokio::time::interval(PERIOD);
        loop {
            tokio::select! {
                changed = cluster.changed() => if changed.is_err() { return },
                changed = local.changed() => if changed.is_err() { return },
                changed = self.heard.changed() => if changed.is_err() { return },
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            self.settle().await;
        }
    }

    async fn settle(&mut self) {
        let heard = self.heard.borrow().clone();
        let containers =
            containers(&self.services.agreement.cluster(), &self.services.local.get(), &heard);
        let asking =
            containers.into_values().filter_map(|known| Some((known.asks_in?, known.directory)));
        let wanted: BTreeMap<_, _> = asking.collect();
        self.running
            .retain(|sandbox, running| wanted.contains_key(sandbox) && !running.task.is_finished());
        self.problems.retain(|sandbox, _| wanted.contains_key(sandbox));
        for (sandbox, directory) in wanted {
            if let Some(running) = self.running.get(&sandbox) {
                running.directory.send_if_modified(|known| {
                    let differs = *known != directory;
                    *known = directory;
                    differs
                });
                continue;
            }
            match open(&sandbox).await {
                Ok((socket, listener)) => {
                    let directory = watch::Sender::new(directory);
                    let task =
                        tokio::spawn(serve(socket, listener, directory.subscribe())).abort_handle();
                    self.problems.remove(&sandbox);
                    self.running.insert(sandbox, Running { directory, task });
                }
                Err(error) => self.note(sandbox, &error),
            }
        }
    }

    fn note(&mut self, sandbox: PathBuf, error: &io::Error) {
        let problem = error.to_string();
        if self.problems.get(&sandbox) != Some(&problem) {
            warn!(
                "cannot answer at {RESOLVER}, port {PORT}, in the container at {}: {problem}",
                sandbox.display()
            );
        }
        self.problems.insert(sandbox, problem);
    }
}

/// Opens the sockets in a container.
async fn open(sandbox: &Path) -> io::Result<(UdpSocket, TcpListener)> {
    let sandbox = sandbox.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        run_inside(&sandbox, bind).map_err(io::Error::other)?
    });
    let (socket, listener) = opened.await.map_err(io::Error::other)??;
    Ok((UdpSocket::from_std(socket)?, TcpListener::from_std(listener)?))
}

/// Opens the sockets in the network namespace of this thread.
fn bind() -> io::Result<(StdSocket, StdListener)> {
    let address = SocketAddrV4::new(RESOLVER, PORT);
    let (socket, listener) = (StdSocket::bind(address)?, StdListener::bind(address)?);
    socket.set_nonblocking(true)?;
    listener.set_nonblocking(true)?;
    Ok((socket, listener))
}

async fn serve(socket: UdpSocket, listener: TcpListener, directory: watch::Receiver<Directory>) {
    tokio::join!(
        serve_datagrams(socket, directory.clone()),
        serve_connections(listener, directory)
    );
}

async fn serve_datagrams(socket: UdpSocket, directory: watch::Receiver<Directory>) {
    let mut query = vec![0; QUERY_BYTES_MAX];
    let mut second = Instant::now();
    let mut queries = 0;
    loop {
        let (length, from) = match socket.recv_from(&mut query).await {
            Ok(received) => received,
            // Pause, because the error may persist.
            Err(error) => {
                debug!("{error}");
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let octets = query.get(..length).unwrap_or_default();
        let reply = answer(octets, &directory.borrow(), Transport::Udp);
        if let Some(reply) = reply {
            _ = socket.send_to(&reply, from).await;
        }
        queries += 1;
        if second.elapsed() >= Duration::from_secs(1) {
            (second, queries) = (Instant::now(), 0);
        } else if queries >= QUERIES_PER_SECOND {
            tokio::time::sleep_until(second + Duration::from_secs(1)).await;
        }
    }
}

async fn serve_connections(listener: TcpListener, directory: watch::Receiver<Directory>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let directory = directory.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = serve_connection(stream, &directory).await {
                        debug!("{error}");
                    }
                });
            }
            // Perhaps file descriptors ran out, so pause.
            Err(error) => {
                debug!("{error}");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Answers queries with a length prefix (RFC 1035, section 4.2.2), one after the other.
async fn serve_connection(
    mut stream: TcpStream,
    directory: &watch::Receiver<Directory>,
) -> io::Result<()> {
    loop {
        let length = timeout(IDLE_MAX, stream.read_u16()).await??;
        let mut query = vec![0; length.into()];
        timeout(IDLE_MAX, stream.read_exact(&mut query)).await??;
        let reply = answer(&query, &directory.borrow(), Transport::Tcp);
        let Some(reply) = reply else { return Ok(()) };
        let Ok(length) = u16::try_from(reply.len()) else { return Ok(()) };
        let whole = [length.to_be_bytes().as_slice(), &reply].concat();
        timeout(IDLE_MAX, stream.write_all(&whole)).await??;
    }
}
