//! The server: answers requests of peers.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use shoutd_core::HostId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

use crate::bind::{BindError, listen};
use crate::body_budget::BodyBudget;
use crate::connection_slots::{ConnectionSlots, Slot};
use crate::identity::ENROLL;
use crate::limits::{
    BODY_BYTES_MAX, FIRST_REQUEST_DEADLINE, HEADER_BYTES_MAX, IDLE_MAX, REQUEST_DEADLINE,
    REQUESTS_MAX, SERVER_KEEPALIVE, SHUTDOWN_GRACE, STRANGER_BODY_BYTES_MAX, STRANGER_LIFETIME,
    STRANGER_REQUESTS_MAX, STREAMS_PER_CONNECTION_MAX, STREAMS_PER_STRANGER_MAX,
};
use crate::rate::Rate;
use crate::{Acceptor, Caller, Established, Identity, Peer, Rejection};

/// The server of one host. It holds its port from [`Server::bind`] on; connections wait in the
/// backlog until it serves.
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
    /// Bounds the requests of members in flight.
    requests: Arc<Semaphore>,
    /// Bounds the requests of strangers in flight.
    strangers: Arc<Semaphore>,
    /// Bounds the memory of large bodies.
    body_budget: BodyBudget,
    /// Bounds the rate of requests from strangers.
    rate: Arc<Rate>,
    /// Whether a host was removed from the cluster.
    removed: Arc<dyn Fn(HostId) -> bool + Send + Sync>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds the port. Needs a tokio runtime.
    ///
    /// # Errors
    /// The port cannot be bound; the error is one line for the user.
    pub fn bind(
        address: SocketAddr,
        identity: Identity,
        acceptor: impl Acceptor,
    ) -> Result<Self, BindError> {
        let listener = listen(address)?;
        let address =
            listener.local_addr().map_err(|source| BindError::Other { address, source })?;
        let shared = Shared {
            identity,
            acceptor: Arc::new(acceptor),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            strangers: Arc::new(Semaphore::new(STRANGER_REQUESTS_MAX)),
            body_budget: BodyBudget::new(),
            rate: Arc::new(Rate::new()),
            removed: Arc::new(|_| false),
        };
        Ok(Self { listener, address, shared })
    }

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses every request of a host for which `removed` is true, although it has a certificate.
    /// [`ENROLL`] is exempt: its handler decides.
    #[must_use]
    pub fn refusing(mut self, removed: impl Fn(HostId) -> bool + Send + Sync + 'static) -> Self {
        self.shared.removed = Arc::new(removed);
        self
    }

    /// Answers requests with this router until `shutdown` resolves. Requests in flight then get
    /// [`SHUTDOWN_GRACE`] to finish.
    pub async fn serve(self, router: Router, shutdown: impl Future<Output = ()> + Send) {
        let router = router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
        let (stop, stopping) = watch::channel(false);
        let connection_slots = Arc::new(ConnectionSlots::default());
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((connection, address)) => {
                        let (slot, closed) = connection_slots.admit(address.ip());
                        let (shared, router) = (self.shared.clone(), router.clone());
                        let stopping = stopping.clone();
                        connections.spawn(async move {
                            let serving =
                                serve(connection, address, &slot, shared, router, stopping);
                            tokio::select! {
                                () = serving => {}
                                _ = closed => {
                                    tracing::debug!(%address, "closed: its slot is needed");
                                }
                            }
                        });
                    }
                    Err(error) => {
                        // Mostly EMFILE: this process has no file descriptor left. Connections that
                        // close free some.
                        tracing::warn!(%error, "cannot accept a connection from a peer");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(self.listener);
        stop.send_replace(true);
        // Each connection sees the signal and ends within the grace time.
        while connections.join_next().await.is_some() {}
    }
}

/// The requests of one connection.
#[derive(Default)]
struct Activity {
    started: AtomicU64,
    in_flight: AtomicUsize,
}

impl Activity {
    fn start(self: &Arc<Self>) -> InFlightRequest {
        self.started.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlightRequest(Arc::clone(self))
    }
}

/// A request that is being answered.
struct InFlightRequest(Arc<Activity>);

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection until it ends or is idle, or the server stops.
async fn serve(
    connection: TcpStream,
    address: SocketAddr,
    slot: &Slot,
    shared: Shared,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let acceptor = Arc::clone(&shared.acceptor);
    let Established { stream, peer } =
        match timeout(FIRST_REQUEST_DEADLINE, acceptor.accept(connection)).await {
            Ok(Ok(established)) => established,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "a peer's handshake failed"),
            Err(_) => {
                return tracing::debug!(%address, "connection closed: its handshake took too long");
            }
        };
    let is_member = peer.membership.is_ok();
    if is_member && !slot.belongs_to(peer.host) {
        let host = peer.host;
        return tracing::warn!(%address, %host, "too many connections: closed a new one");
    }
    let activity = Arc::new(Activity::default());
    let service = service_fn({
        let (activity, peer) = (Arc::clone(&activity), Arc::new(peer));
        move |request| {
            let in_flight = activity.start();
            let answering =
                answer(request, Arc::clone(&peer), address, shared.clone(), router.clone());
            async move {
                let response = answering.await;
                drop(in_flight);
                Ok::<_, Infallible>(response)
            }
        }
    });
    let mut serving = pin!(builder(is_member).serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = &mut serving => {
            if let Err(error) = ended {
                tracing::debug!(%address, %error, "connection from a peer ended");
            }
            return;
        }
        () = until_idle(&activity) => {}
        () = sleep(STRANGER_LIFETIME), if !is_member => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
    if activity.started.load(Ordering::Relaxed) > 0 {
        serving.as_mut().graceful_shutdown();
        // Dropping the connection cuts off requests that are not answered by then.
        let _ = timeout(SHUTDOWN_GRACE, serving).await;
    }
}

fn builder(is_member: bool) -> http2::Builder<TokioExecutor> {
    let streams = if is_member { STREAMS_PER_CONNECTION_MAX } else { STREAMS_PER_STRANGER_MAX };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(SERVER_KEEPALIVE)
        .keep_alive_timeout(SERVER_KEEPALIVE);
    builder
}

/// Resolves if the first request does not arrive in time, or after [`IDLE_MAX`] without a new one.
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
        if now != started || activity.in_flight.load(Ordering::Relaxed) > 0 {
            started = now;
            since = Instant::now();
        } else if since.elapsed() >= IDLE_MAX {
            return;
        }
    }
}

/// Checks a request and passes it to the router; every request gets an answer.
async fn answer(
    mut request: Request<Incoming>,
    peer: Arc<Peer>,
    address: SocketAddr,
    shared: Shared,
    router: Router,
) -> Response {
    let caller = match shared.admit(&request, &peer, address) {
        Ok(caller) => caller,
        Err(rejection) => return rejection.into_response(),
    };
    let is_member = peer.membership.is_ok();
    let (permits, limit) = if is_member {
        (&shared.requests, REQUESTS_MAX)
    } else {
        (&shared.strangers, STRANGER_REQUESTS_MAX)
    };
    let Ok(_permit) = permits.try_acquire() else {
        return Rejection::Busy { reason: format!("{limit} requests are in flight") }
            .into_response();
    };
    request.extensions_mut().insert(caller);
    let budget = if is_member {
        shared.body_budget.admit(&request)
    } else {
        Ok((STRANGER_BODY_BYTES_MAX, None))
    };
    let (limit, _permit) = match budget {
        Ok(budget) => budget,
        Err(rejection) => return rejection.into_response(),
    };
    let request = request.map(|body| Body::new(Limited::new(body, limit)));
    match timeout(REQUEST_DEADLINE, router.oneshot(request)).await {
        Ok(Ok(response)) => {
            shared.body_budget.hold(response).unwrap_or_else(IntoResponse::into_response)
        }
        Err(_) => Rejection::Busy {
            reason: format!("the request was not answered within {REQUEST_DEADLINE:?}"),
        }
        .into_response(),
    }
}

impl Shared {
    /// The caller, if it may send this request.
    fn admit(
        &self,
        request: &Request<Incoming>,
        peer: &Peer,
        address: SocketAddr,
    ) -> Result<Caller, Rejection> {
        let path = request.uri().path();
        let caller = self.identity.check(request.headers(), path, peer, address)?;
        if peer.membership.is_err() && !self.rate.admits(address.ip(), Instant::now()) {
            return Err(Rejection::Busy {
                reason: format!("too many requests from {}", address.ip()),
            });
        }
        if path != ENROLL && (self.removed)(peer.host) {
            return Err(Rejection::Removed { host: peer.host });
        }
        if peer.membership.is_ok()
            && let Err(distrust) = self.acceptor.check(peer)
        {
            return Err(Rejection::Unauthenticated { reason: distrust.to_string() });
        }
        Ok(caller)
    }
}
