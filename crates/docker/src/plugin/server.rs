//! The Unix socket that Docker finds the plugin by.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
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
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// Most connections at a time. Docker has one for each call in flight and keeps two idle ones; more can only be a mistake.
const CONNECTIONS_MAX: usize = 128;

/// How long another process may take to show that it answers on the socket.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// How long calls in flight may go on after the end was asked for.
const CALL_GRACE: Duration = Duration::from_secs(10);

/// The pause after a failed `accept`, which is for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another process already serves {}; is shoutd running? (\"shoutdctl status\")", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket has its name.
    #[error("{} is in the way: it is not a socket; move it elsewhere", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl BindError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Binds the socket `path`, for root alone (mode 0600), making its directory if need be. A dead socket is replaced.
///
/// The socket is bound and given its mode under another name first, and renamed then: nobody ever finds it half made. It is not
/// removed at the end. Docker fails and retries either way, but with the socket there it says "connection refused"
/// instead of "plugin not found", and a daemon that is going cannot remove the socket of the one that comes.
///
/// Two daemons that bind at the same instant are told apart elsewhere (by the lock on their data directory).
///
/// # Errors
/// [`BindError::InUse`] if a living process listens there; see the others. Must be called within a tokio runtime.
pub async fn bind(path: &Path) -> Result<UnixListener, BindError> {
    if let Some(directory) = path.parent() {
        tokio::fs::create_dir_all(directory).await.map_err(BindError::io("create the directory", directory))?;
    }
    refuse_occupied(path).await?;
    let mut provisional = path.as_os_str().to_owned();
    provisional.push(".new");
    let provisional = PathBuf::from(provisional);
    match tokio::fs::remove_file(&provisional).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(BindError::io("remove", &provisional)(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&provisional).map_err(BindError::io("bind the socket", &provisional))?;
    let mode = std::fs::Permissions::from_mode(0o600);
    tokio::fs::set_permissions(&provisional, mode).await.map_err(BindError::io("set the mode of", &provisional))?;
    tokio::fs::rename(&provisional, path).await.map_err(BindError::io("put the socket at", path))?;
    Ok(listener)
}

/// Makes sure that nothing living, and no file of somebody else's, is at `path`.
async fn refuse_occupied(path: &Path) -> Result<(), BindError> {
    match tokio::fs::symlink_metadata(path).await {
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindError::io("look at", path)(error)),
    }
    match timeout(PROBE_DEADLINE, UnixStream::connect(path)).await {
        Ok(Err(error)) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        // One whose queue is full (EAGAIN) or that hangs is alive too.
        _ => Err(BindError::InUse { path: path.to_owned() }),
    }
}

/// Serves `router` on `listener` until `shutdown` is done; then takes no more calls, lets those in flight finish (10 s at
/// most) and returns.
///
/// Idle connections are kept open: Docker keeps them for its next call, and a call that meets a connection just closed is repeated
/// with an empty body (moby#35459). So that idle, slow or stuck peers cannot exhaust it, the one without a call that
/// was quiet for longest is closed when there are 128.
pub async fn serve(listener: UnixListener, router: Router, shutdown: impl Future<Output = ()> + Send) {
    let mut shutdown = pin!(shutdown);
    let mut connections = Connections::default();
    loop {
        connections.make_room();
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.tasks.join_next_with_id() => connections.forget(ended),
            accepted = listener.accept(), if connections.tasks.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => connections.start(stream, router.clone()),
                Err(error) => {
                    warn!(%error, "plugin socket cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
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
        let task = self.tasks.spawn(serve_connection(stream, router, Arc::clone(&activity), Arc::clone(&self.clock)));
        self.activities.insert(task.id(), activity);
    }

    fn forget(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => error.id(),
        };
        self.activities.remove(&id);
    }

    /// Asks the connection that has been without a call for longest to end, if there is no room for one more.
    fn make_room(&mut self) {
        if self.tasks.len() < CONNECTIONS_MAX {
            return;
        }
        let idle = self.activities.values().filter(|activity| activity.calls.load(Ordering::Relaxed) == 0);
        if let Some(quietest) = idle.min_by_key(|activity| activity.last.load(Ordering::Relaxed)) {
            debug!("too many connections on the plugin socket; closing the one that was quiet for longest");
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

async fn serve_connection(stream: UnixStream, router: Router, activity: Arc<Activity>, clock: Arc<AtomicU64>) {
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
    // No deadline for a request's head: it would run on idle connections too, which are to stay (see `serve`).
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
