//! Serves HTTP/1.1 on the plugin's Unix socket.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, warn};

use super::socket::Socket;

/// Limit of open connections. Docker has one per call in flight, and keeps two idle ones.
const CONNECTIONS_MAX: usize = 128;

/// Interval of the check that the socket still exists at its path.
const CHECK_PERIOD: Duration = Duration::from_millis(500);

/// How long calls in flight may take to finish after shutdown has begun.
const CALL_GRACE: Duration = Duration::from_secs(10);

/// Pause after a failed `accept`, which means that file descriptors or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `socket` until `shutdown` completes. Then it accepts no more calls, waits at
/// most 10 s for those in flight, and returns. If the socket or its directory is removed, it is
/// created again within a second.
///
/// Idle connections stay open: Docker reuses them, and if one closes just when Docker sends a call,
/// Docker repeats the call with an empty body (moby#35459). When there are 128 connections, we
/// close the one that has been idle longest, so that idle or stuck clients cannot use them all up.
pub async fn serve(mut socket: Socket, router: Router, shutdown: impl Future<Output = ()> + Send) {
    let mut shutdown = pin!(shutdown);
    let mut connections = Connections::default();
    let mut check = interval(CHECK_PERIOD);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        connections.make_room();
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.tasks.join_next_with_id() => connections.forget(ended),
            _ = check.tick() => socket.keep().await,
            accepted = socket.accept(), if connections.tasks.len() < CONNECTIONS_MAX => {
                match accepted {
                    Ok(stream) => connections.start(stream, router.clone()),
                    Err(error) => {
                        warn!(%error, "cannot accept a connection on the plugin socket");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
    drop(socket);
    connections.finish().await;
}

/// Activity of one connection.
#[derive(Debug, Default)]
struct Activity {
    /// Calls in flight: 0 or 1, because HTTP/1.1 has no multiplexing.
    calls: AtomicUsize,
    /// Time of the last begin or end of a call, by [`Connections::clock`].
    last: AtomicU64,
    /// Notified when the connection must close.
    close: Notify,
}

/// All open connections.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    activities: HashMap<Id, Arc<Activity>>,
    /// Logical clock: counts begins and ends of calls.
    clock: Arc<AtomicU64>,
}

impl Connections {
    fn start(&mut self, stream: UnixStream, router: Router) {
        let activity = Arc::new(Activity::default());
        activity.last.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let task = self.tasks.spawn(serve_connection(
            stream,
            router,
            Arc::clone(&activity),
            Arc::clone(&self.clock),
        ));
        self.activities.insert(task.id(), activity);
    }

    fn forget(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => error.id(),
        };
        self.activities.remove(&id);
    }

    /// If the limit is reached, closes the connection that has been idle longest.
    fn make_room(&mut self) {
        if self.tasks.len() < CONNECTIONS_MAX {
            return;
        }
        let idle =
            self.activities.values().filter(|activity| activity.calls.load(Ordering::Relaxed) == 0);
        if let Some(oldest) = idle.min_by_key(|activity| activity.last.load(Ordering::Relaxed)) {
            debug!("too many connections on the plugin socket; closing the longest idle one");
            oldest.close.notify_one();
        }
    }

    async fn finish(mut self) {
        for activity in self.activities.values() {
            activity.close.notify_one();
        }
        // Each has its own deadline, `CALL_GRACE`.
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Marks a call as in flight until dropped.
struct CallMark {
    activity: Arc<Activity>,
    clock: Arc<AtomicU64>,
}

impl CallMark {
    fn new(activity: &Arc<Activity>, clock: &Arc<AtomicU64>) -> Self {
        activity.calls.fetch_add(1, Ordering::Relaxed);
        Self { activity: Arc::clone(activity), clock: Arc::clone(clock) }
    }
}

impl Drop for CallMark {
    fn drop(&mut self) {
        self.activity.calls.fetch_sub(1, Ordering::Relaxed);
        self.activity.last.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }
}

async fn serve_connection(
    stream: UnixStream,
    router: Router,
    activity: Arc<Activity>,
    clock: Arc<AtomicU64>,
) {
    let marks = Arc::clone(&activity);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mark = CallMark::new(&marks, &clock);
        let service = TowerToHyperService::new(router.clone());
        async move {
            let response = hyper::service::Service::call(&service, request.map(Body::new)).await;
            drop(mark);
            response.map_err(|never: Infallible| never)
        }
    });
    // No deadline for a request's head: it would close idle connections, which must stay open (see
    // `serve`).
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_buf_size(64 << 10);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = activity.close.notified() => {
            connection.as_mut().graceful_shutdown();
            // Poll once more: an idle connection ends, and a call that has just arrived begins.
            match timeout(Duration::ZERO, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) if activity.calls.load(Ordering::Relaxed) == 0 => Ok(()),
                Err(_) => timeout(CALL_GRACE, connection).await.unwrap_or(Ok(())),
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection on the plugin socket failed");
    }
}
