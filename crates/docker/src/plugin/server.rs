//! Serves HTTP/1.1 on the Unix socket that Docker finds the plugin by.

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

/// Most connections at a time. Docker has one for each call in flight and keeps two idle ones; more
/// can only be a mistake.
const CONNECTIONS_MAX: usize = 128;

/// How often it is looked whether the socket is still where Docker looks for it.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// How long calls in flight may go on after the end was asked for.
const CALL_GRACE: Duration = Duration::from_secs(10);

/// The pause after a failed `accept`, which is for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `socket` until `shutdown` is done; then takes no more calls, lets those in
/// flight finish (10 s at most) and returns. A socket that somebody removes meanwhile, alone or
/// with its directory, is there again within a second.
///
/// Idle connections are kept open: Docker keeps them for its next call, and a call that meets a
/// connection just closed is repeated with an empty body (moby#35459). So that idle, slow or stuck
/// peers cannot exhaust it, the one without a call that was quiet for longest is closed when there
/// are 128.
pub async fn serve(mut socket: Socket, router: Router, shutdown: impl Future<Output = ()> + Send) {
    let mut shutdown = pin!(shutdown);
    let mut connections = Connections::default();
    let mut look = interval(LOOK_PERIOD);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        connections.make_room();
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.tasks.join_next_with_id() => connections.forget(ended),
            _ = look.tick() => socket.keep().await,
            accepted = socket.accept(), if connections.tasks.len() < CONNECTIONS_MAX => match accepted {
                Ok(stream) => connections.start(stream, router.clone()),
                Err(error) => {
                    warn!(%error, "plugin socket cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(socket);
    connections.finish().await;
}

/// What one connection is doing.
#[derive(Debug, Default)]
struct Activity {
    /// Calls in flight: 0 or 1, as HTTP/1.1 has it.
    calls: AtomicUsize,
    /// When the last call began or ended, on a clock that counts such events.
    last: AtomicU64,
    /// Told once to end.
    close: Notify,
}

/// The connections being served.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    activities: HashMap<Id, Arc<Activity>>,
    /// Counts beginnings and ends of calls.
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

    /// Asks the connection that has been without a call for longest to end, if there is no room for
    /// one more.
    fn make_room(&mut self) {
        if self.tasks.len() < CONNECTIONS_MAX {
            return;
        }
        let idle =
            self.activities.values().filter(|activity| activity.calls.load(Ordering::Relaxed) == 0);
        if let Some(quietest) = idle.min_by_key(|activity| activity.last.load(Ordering::Relaxed)) {
            debug!(
                "too many connections on the plugin socket; closing the one that was quiet for \
                 longest"
            );
            quietest.close.notify_one();
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

/// Marks a call in flight, and its end however it comes.
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
    // No deadline for a request's head: it would run on idle connections too, which are to stay
    // (see `serve`).
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_buf_size(64 << 10);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = activity.close.notified() => {
            connection.as_mut().graceful_shutdown();
            // Looked at once more: an idle one ends, and a call that has just come in begins.
            match timeout(Duration::ZERO, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) if activity.calls.load(Ordering::Relaxed) == 0 => Ok(()),
                Err(_) => timeout(CALL_GRACE, connection).await.unwrap_or(Ok(())),
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection on the plugin socket ended badly");
    }
}
