//! The process: it opens the devices, gives up its privileges, and serves until it is ended.

use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::prctl;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::info;

use crate::arguments::{Arguments, NAME};
use crate::engine::Engine;
use crate::privileges;
use crate::renewal;
use crate::server::ControlSocket;
use crate::tun::{self, OpenTun};
use crate::udp::Sockets;

/// Threads that encrypt and move packets.
const THREADS: usize = 2;

/// How long tasks have to end with the process.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// Why the process cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The TUN device cannot be opened. Another process has it if the cause is "busy" (`EBUSY`).
    #[error("cannot open the TUN device {device} in {}: {cause}", namespace.display())]
    Tun {
        /// The device.
        device: String,
        /// The file of its namespace.
        namespace: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// The UDP port cannot be bound.
    #[error("cannot bind UDP port {port}: {cause}")]
    Udp {
        /// The port.
        port: u16,
        /// The cause.
        cause: gotatun::device::Error,
    },
    /// The control socket cannot be bound.
    #[error("cannot bind {}: {cause}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// The system refuses something else.
    #[error("cannot {action}: {cause}")]
    System {
        /// What failed.
        action: &'static str,
        /// The cause.
        cause: io::Error,
    },
    /// The TUN device is gone while it was served.
    #[error("the TUN device {0} was deleted, or moved to another namespace")]
    Gone(String),
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |cause| ServeError::System { action, cause }
}

/// Settings that only tests change.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// The age at which a session's initiator begins a new handshake (`REKEY_AFTER_TIME`, WireGuard
    /// paper, section 6.1): 120 s.
    pub rekey_after: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { rekey_after: Duration::from_secs(120) }
    }
}

/// Serves a WireGuard device, until SIGTERM or SIGINT.
///
/// The process must have one thread only, and root's capabilities in its user namespace. Its UDP
/// socket is in its own network namespace, its TUN device in that of the arguments. Once the
/// control socket accepts connections, both are open, and the process has no capabilities left.
///
/// The TUN device stays when the process ends, and the next process takes it over. Sessions do not
/// stay.
///
/// # Errors
/// A device or socket cannot be opened, or the TUN device was deleted.
pub fn serve(arguments: &Arguments, tuning: Tuning) -> Result<(), ServeError> {
    privileges::harden().map_err(system("give up privileges"))?;
    set_name().map_err(system("set the name of the process"))?;
    let tun =
        tun::open(&arguments.namespace, &arguments.device).map_err(|cause| ServeError::Tun {
            device: arguments.device.clone(),
            namespace: arguments.namespace.clone(),
            cause,
        })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(1)
        .thread_name("wireguard")
        .enable_all()
        // Capabilities are a thread's. This thread keeps its own for some more sockets.
        .on_thread_start(|| {
            if let Err(error) = privileges::drop_capabilities() {
                tracing::error!("cannot drop capabilities: {error}");
                std::process::abort();
            }
        })
        .build()
        .map_err(system("start threads"))?;
    let local = LocalSet::new();
    let result = local.block_on(&runtime, run(arguments, tun, tuning));
    drop(local);
    runtime.shutdown_timeout(END_DEADLINE);
    result
}

/// Names this thread, which is the process' first, so the process, too.
fn set_name() -> io::Result<()> {
    let name = CString::new(NAME).map_err(io::Error::other)?;
    Ok(prctl::set_name(&name)?)
}

async fn run(arguments: &Arguments, tun: OpenTun, tuning: Tuning) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(system("await signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("await signals"))?;
    let (tun, gone) = tun.serve().map_err(system("serve the TUN device"))?;
    let engine = Engine::new(tun, Sockets::default(), arguments.port, tuning.rekey_after);
    let engine = engine.await.map_err(|cause| ServeError::Udp { port: arguments.port, cause })?;
    let engine = Rc::new(Mutex::new(engine));
    let mut socket = ControlSocket::bind(&arguments.socket)
        .await
        .map_err(|cause| ServeError::Socket { path: arguments.socket.clone(), cause })?;
    privileges::drop_capabilities().map_err(system("drop capabilities"))?;
    info!(device = arguments.device, port = arguments.port, "WireGuard is served");
    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = socket.serve(engine.clone()) => Ok(()),
        () = renew(&engine) => Ok(()),
        () = gone => Err(ServeError::Gone(arguments.device.clone())),
    };
    drop(socket);
    // A connection that is served now has the engine, too; then the device ends with the process.
    if let Some(engine) = Rc::into_inner(engine) {
        engine.into_inner().stop().await;
    }
    info!("WireGuard ends");
    result
}

/// Renews sessions without traffic, and never ends.
async fn renew(engine: &Mutex<Engine>) {
    let mut ticks = interval(renewal::PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        engine.lock().await.renew().await;
    }
}
