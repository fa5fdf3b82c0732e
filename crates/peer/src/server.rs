//! Answering peers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

use crate::bind::{BindError, listen};
use crate::limits::{
    BODY_BYTES_MAX, CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX, FIRST_REQUEST_DEADLINE, HEADER_BYTES_MAX, IDLE_MAX,
    REQUEST_DEADLINE, REQUESTS_MAX, SERVER_KEEPALIVE, SHUTDOWN_GRACE, STREAMS_PER_CONNECTION_MAX,
};
use crate::{Acceptor, Identity, Rejection};

/// The server of one host. It has its port from the moment it is bound; connections wait until it serves.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Shared,
}

/// What all connections of a server share.
#[derive(Clone)]
struct Shared {
    identity: Identity,
    acceptor: Arc<dyn Acceptor>,
    /// Bounds the requests under way.
    requests: Arc<Semaphore>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Takes the port. Needs a tokio runtime.
    ///
    /// # Errors
    /// Why that is not possible, in one line for the user.
    pub fn bind(address: SocketAddr, identity: Identity, acceptor: impl Acceptor) -> Result<Self, BindError> {
        let listener = listen(address)?;
        let address = listener.local_addr().map_err(|source| BindError::Other { address, source })?;
        let shared =
            Shared { identity, acceptor: Arc::new(acceptor), requests: Arc::new(Semaphore::new(REQUESTS_MAX)) };
        Ok(Self { listener, address, shared })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests with this router until `shutdown` is ready; then lets those under way finish, for
    /// [`SHUTDOWN_GRACE`] at most.
    pub async fn serve(self, router: Router, shutdown: impl Future<Output = ()> + Send) {
        let router = router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
        let (stop, stopping) = watch::channel(false);
        let addresses = Arc::new(Addresses::default());
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((connection, peer)) => match addresses.admit(peer.ip()) {
                        Some(place) => {
                            let serving = serve(connection, peer, self.shared.clone(), router.clone(), stopping.clone());
                            connections.spawn(async move {
                                serving.await;
                                drop(place);
                            });
                        }
                        None => tracing::warn!(%peer, "too many connections: a new one is closed"),
                    },
                    Err(error) => {
                        // Most often this process has no file descriptor left; closing connections gives some back.
                        tracing::warn!(%error, "cannot accept a connection from a peer");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(self.listener);
        stop.send_replace(true);
        // Each connection sees the signal and ends by itself within the grace.
        while connections.join_next().await.is_some() {}
    }
}

/// How many connections there are from where.
#[derive(Default)]
struct Addresses {
    counts: Mutex<HashMap<IpAddr, usize>>,
}

impl Addresses {
    /// A place for one more connection, if there is one.
    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.values().sum::<usize>() >= CONNECTIONS_MAX {
            return None;
        }
        let count = counts.entry(address).or_default();
        if *count >= CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Place { addresses: Arc::clone(self), address })
    }
}

/// The place of one connection, free again when dropped.
struct Place {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.addresses.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// What goes on in one connection.
#[derive(Default)]
struct Activity {
    started: AtomicU64,
    under_way: AtomicUsize,
}

impl Activity {
    fn start(self: &Arc<Self>) -> UnderWay {
        self.started.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }
}

/// A request that is being answered.
struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection until it ends, is idle or the server stops.
async fn serve(
    connection: TcpStream,
    peer: SocketAddr,
    shared: Shared,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let acceptor = Arc::clone(&shared.acceptor);
    let stream = match timeout(FIRST_REQUEST_DEADLINE, acceptor.accept(connection)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "connection not accepted"),
        Err(_) => return tracing::debug!(%peer, "connection closed: its handshake takes too long"),
    };
    let activity = Arc::new(Activity::default());
    let service = service_fn({
        let activity = Arc::clone(&activity);
        move |request| {
            let under_way = activity.start();
            let answering = answer(request, peer, shared.clone(), router.clone());
            async move {
                let response = answering.await;
                drop(under_way);
                Ok::<_, Infallible>(response)
            }
        }
    });
    let mut serving = pin!(builder().serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = &mut serving => {
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "connection from a peer ended");
            }
            return;
        }
        () = until_idle(&activity) => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
    if activity.started.load(Ordering::Relaxed) > 0 {
        serving.as_mut().graceful_shutdown();
        // What is not done by then is cut off by dropping the connection.
        let _ = timeout(SHUTDOWN_GRACE, serving).await;
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(SERVER_KEEPALIVE)
        .keep_alive_timeout(SERVER_KEEPALIVE);
    builder
}

/// Ready when the first request does not come, or no further one for [`IDLE_MAX`].
async fn until_idle(activity: &Activity) {
    sleep(FIRST_REQUEST_DEADLINE).await;
    let mut started = activity.started.load(Ordering::Relaxed);
    if started == 0 {
        return;
    }
    let mut since = Instant::now();
    loop {
        sleep(IDLE_MAX / 8).await;
        let now = activity.started.load(Ordering::Relaxed);
        if now != started || activity.under_way.load(Ordering::Relaxed) > 0 {
            started = now;
            since = Instant::now();
        } else if since.elapsed() >= IDLE_MAX {
            return;
        }
    }
}

/// Checks a request, hands it to the router, and sees to it that there is an answer.
async fn answer(mut request: Request<Incoming>, peer: SocketAddr, shared: Shared, router: Router) -> Response {
    let caller = match shared.identity.check(request.headers(), peer) {
        Ok(caller) => caller,
        Err(rejection) => return rejection.into_response(),
    };
    let Ok(_permit) = shared.requests.try_acquire() else {
        return Rejection::Busy { reason: format!("{REQUESTS_MAX} requests are under way") }.into_response();
    };
    request.extensions_mut().insert(caller);
    match timeout(REQUEST_DEADLINE, router.oneshot(request.map(Body::new))).await {
        Ok(Ok(response)) => response,
        Err(_) => Rejection::Busy { reason: format!("the request was not answered within {REQUEST_DEADLINE:?}") }
            .into_response(),
    }
}
