//! The client's connections: one per peer. Calls that need it at the same time share one attempt.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use shoutd_core::HostId;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::limits::{
    CLIENT_KEEPALIVE, CLIENT_KEEPALIVE_TIMEOUT, CONNECT_DEADLINE, CONNECTIONS_MAX,
    HEADER_BYTES_MAX, STREAMS_PER_CONNECTION_MAX, STREAMS_PER_STRANGER_MAX,
};
use crate::{Connector, Established};

/// The handle that sends requests into a connection.
pub(crate) type Sender = http2::SendRequest<Full<Bytes>>;

/// The result of an attempt to connect; `None` while it is in progress.
type Attempt = watch::Receiver<Option<Result<Made, Arc<io::Error>>>>;

/// An established connection, and the host at its other end.
#[derive(Debug, Clone)]
struct Made {
    sender: Sender,
    host: HostId,
}

/// The connections of one client.
pub(crate) struct Connections {
    connector: Arc<dyn Connector>,
    kept: Mutex<HashMap<SocketAddr, Kept>>,
}

struct Kept {
    attempt: Attempt,
    last_used: Instant,
}

impl Kept {
    /// Whether the connection is usable or being made.
    fn is_alive(&self) -> bool {
        match &*self.attempt.borrow() {
            None => true,
            Some(Ok(made)) => !made.sender.is_closed(),
            Some(Err(_)) => false,
        }
    }
}

/// A connection to use. A reused one may turn out to be dead.
pub(crate) struct Connection {
    pub sender: Sender,
    /// The host at its other end.
    pub host: HostId,
    pub reused: bool,
    attempt: Attempt,
}

impl Connections {
    pub fn new(connector: Arc<dyn Connector>) -> Self {
        Self { connector, kept: Mutex::default() }
    }

    /// The connection to this peer, made if there is none.
    pub async fn get(&self, address: SocketAddr) -> Result<Connection, Arc<io::Error>> {
        let (mut attempt, reused) = self.attempt(address);
        let made = match attempt.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(made)) => made.clone(),
            Ok(None) | Err(_) => {
                Err(Arc::new(io::Error::other("the attempt to connect was given up")))
            }
        };
        made.map(|Made { sender, host }| Connection { sender, host, reused, attempt })
    }

    /// Uses a connection no more, though it is alive: the next call makes another.
    pub fn leave(&self, address: SocketAddr, connection: &Connection) {
        let mut kept = self.kept.lock();
        if kept.get(&address).is_some_and(|kept| kept.attempt.same_channel(&connection.attempt)) {
            kept.remove(&address);
        }
    }

    /// Drops a connection that turned out to be dead.
    pub fn forget(&self, address: SocketAddr, dead: &Connection) {
        let mut kept = self.kept.lock();
        // Another call may have made a new one since.
        if dead.sender.is_closed() && kept.get(&address).is_some_and(|kept| !kept.is_alive()) {
            kept.remove(&address);
        }
    }

    fn attempt(&self, address: SocketAddr) -> (Attempt, bool) {
        let mut kept = self.kept.lock();
        if let Some(found) = kept.get_mut(&address).filter(|found| found.is_alive()) {
            found.last_used = Instant::now();
            let made = found.attempt.borrow().is_some();
            return (found.attempt.clone(), made);
        }
        if kept.len() >= CONNECTIONS_MAX {
            let oldest =
                kept.iter().min_by_key(|(_, kept)| kept.last_used).map(|(address, _)| *address);
            oldest.and_then(|oldest| kept.remove(&oldest));
        }
        let (done, attempt) = watch::channel(None);
        let connector = Arc::clone(&self.connector);
        // In a task of its own, so that the attempt outlives the call that started it.
        tokio::spawn(async move {
            done.send_replace(Some(connect(&*connector, address).await.map_err(Arc::new)));
        });
        kept.insert(address, Kept { attempt: attempt.clone(), last_used: Instant::now() });
        (attempt, false)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

async fn connect(connector: &dyn Connector, address: SocketAddr) -> io::Result<Made> {
    let handshake = async {
        let Established { stream, peer } = connector.connect(address).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            // Until the server's SETTINGS arrive, it may take us for a stranger, and it refuses
            // streams beyond its limit (RFC 9113, 5.1.2).
            .initial_max_send_streams(Some(STREAMS_PER_STRANGER_MAX as usize))
            .keep_alive_interval(CLIENT_KEEPALIVE)
            .keep_alive_timeout(CLIENT_KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let (sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        io::Result::Ok((sender, connection, peer.host))
    };
    let Ok(done) = timeout(CONNECT_DEADLINE, handshake).await else {
        let reason = format!("no connection within {CONNECT_DEADLINE:?}");
        return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
    };
    let (sender, connection, host) = done?;
    // Ends when the peer closes it or stops answering, or when the last sender is dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%address, %error, "connection to a peer ended");
        }
    });
    Ok(Made { sender, host })
}
