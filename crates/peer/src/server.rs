//! Answering peers.

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

/// The server of one host. It has its port from the moment it is bound; connections wait until it
/// serves.
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
    /// Bounds the requests of hosts under way.
    requests: Arc<Semaphore>,
    /// Bounds those of strangers.
    strangers: Arc<Semaphore>,
    /// Bounds large bodies.
    body_budget: BodyBudget,
    /// Bounds how often strangers ask.
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
    /// Takes the port. Needs a tokio runtime.
    ///
    /// # Errors
    /// Why that is not possible, in one line for the user.
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

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses every request of hosts of which this is true, although they have a certificate; but
    /// for [`ENROLL`], whose handler decides for itself.
    #[must_use]
    pub fn refusing(mut self, removed: impl Fn(HostId) -> bool + Send + Sync + 'static) -> Self {
        self.shared.removed = Arc::new(removed);
        self
    }

    /// Answers requests with this router until `shutdown` is ready; then lets those under way
    /// finish, for [`SHUTDOWN_GRACE`] at most.
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
                        let (place, closed) = connection_slots.admit(address.ip());
                        let (shared, router, stopping) = (self.shared.clone(), router.clone(), stopping.clone());
                        connections.spawn(async move {
                            tokio::select! {
                                () = serve(connection, address, &place, shared, router, stopping) => {}
                                _ = closed => tracing::debug!(%address, "connection closed: others need the place"),
                            }
                        });
                    }
                    Err(error) => {
                        // Most often this process has no file descriptor left; closing connections
                        // gives some back.
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

/// What goes on in one connection.
#[derive(Default)]
struct Activity {
    started: AtomicU64,
    under_way: AtomicUsize,
}

impl Activity {
    fn start(self: &Arc<Self>) -> InFlightRequests {
        self.started.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        InFlightRequests(Arc::clone(self))
    }
}

/// A request that is being answered.
struct InFlightRequests(Arc<Activity>);

impl Drop for InFlightRequests {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection until it ends, is idle or the server stops.
async fn serve(
    connection: TcpStream,
    address: SocketAddr,
    place: &Slot,
    shared: Shared,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let acceptor = Arc::clone(&shared.acceptor);
    let Established { stream, peer } =
        match timeout(FIRST_REQUEST_DEADLINE, acceptor.accept(connection)).await {
            Ok(Ok(established)) => established,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "connection not accepted"),
            Err(_) => {
                return tracing::debug!(%address, "connection closed: its handshake takes too long");
            }
        };
    let is_member = peer.membership.is_ok();
    if is_member && !place.belongs_to(peer.host) {
        return tracing::warn!(%address, host = %peer.host, "too many connections: a new one is closed");
    }
    let activity = Arc::new(Activity::default());
    let service = service_fn({
        let (activity, peer) = (Arc::clone(&activity), Arc::new(peer));
        move |request| {
            let under_way = activity.start();
            let answering =
                answer(request, Arc::clone(&peer), address, shared.clone(), router.clone());
            async move {
                let response = answering.await;
                drop(under_way);
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
        // What is not done by then is cut off by dropping the connection.
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
        return Rejection::Busy { reason: format!("{limit} requests are under way") }
            .into_response();
    };
    request.extensions_mut().insert(caller);
    let room = if is_member {
        shared.body_budget.admit(&request)
    } else {
        Ok((STRANGER_BODY_BYTES_MAX, None))
    };
    let (largest, _room) = match room {
        Ok(room) => room,
        Err(rejection) => return rejection.into_response(),
    };
    let request = request.map(|body| Body::new(Limited::new(body, largest)));
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
    /// Tells who asks, if they may ask this.
    fn admit(
        &self,
        request: &Request<Incoming>,
        peer: &Peer,
        address: SocketAddr,
    ) -> Result<Caller, Rejection> {
        let path = request.uri().path();
        let caller = self.identity.check(request.headers(), path, peer, address)?;
        if peer.membership.is_err() && !self.rate.admits(address.ip(), Instant::now()) {
            return Err(Rejection::Busy { reason: format!("{} asks too often", address.ip()) });
        }
        if path != ENROLL && (self.removed)(peer.host) {
            return Err(Rejection::Removed { host: peer.host });
        }
        Ok(caller)
    }
}
