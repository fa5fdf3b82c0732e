//! Puts the daemon together and takes it apart again.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use axum::Router;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shoutd_cli::{Places, StartArguments};
use shoutd_consensus::{Consensus, LocalStore, Settings as ConsensusSettings, Store};
use shoutd_core::HostId;
use shoutd_core::plane::Underlay;
use shoutd_core::view::{self, Membership};
use shoutd_dataplane::{LinuxKernel, Reconciler, UnderlayInterface, probe, underlay_interface};
use shoutd_docker::engine::EngineClient;
use shoutd_docker::plugin;
use shoutd_peer::{Client, Identity, Plain, Server};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::agreement::Agreement;
use crate::driver::Driver;
use crate::engine::EngineFollower;
use crate::local_state::LocalState;
use crate::mirrors::Mirrors;
use crate::parts::Parts;
use crate::plane::Plane;
use crate::removals::Removals;
use crate::settings::Settings;
use crate::views::Views;
use crate::{control, formation, leases};

/// Where named network namespaces are, for `ip netns` and everybody else.
const NAMESPACES: &str = "/run/netns";

/// How long everything may take to end, once asked to.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Runs until it is asked to stop, or cannot go on.
pub async fn run(arguments: StartArguments, places: Places) -> Result<()> {
    let settings = Settings::resolve(&arguments)?;
    let daemon = Daemon::open(&arguments, &places, settings).await?;
    daemon.run(LinuxKernel::new(NAMESPACES)?).await
}

/// What is checked, opened and bound before anything is served: whatever can be wrong shows here, and nothing has been done yet.
struct Daemon {
    name: String,
    settings: Settings,
    underlay: UnderlayInterface,
    consensus: Arc<Consensus>,
    local: Arc<LocalState>,
    peers: Client,
    engine: EngineClient,
    server: Server,
    plugin_socket: UnixListener,
    control_socket: UnixListener,
}

impl Daemon {
    async fn open(arguments: &StartArguments, places: &Places, settings: Settings) -> Result<Self> {
        raise_descriptor_limit()?;
        probe()?;
        let underlay = underlay_interface(settings.advertise_address.ip())?;
        create_directory(&arguments.data_dir)?;
        create_directory(&places.run_dir)?;
        let store = Store::open(&arguments.data_dir, new_host_id())?;
        let local = LocalState::open(LocalStore::open(&arguments.data_dir)?)?;
        let stored = store.identity();
        let identity = Identity::new(stored.host, stored.cluster);
        let server = Server::bind(
            settings.advertise_address,
            identity.clone(),
            Plain::from_address(settings.advertise_address.ip()),
        )?;
        let plugin_socket = plugin::bind(&arguments.plugin_socket).await?;
        let control_socket = plugin::bind(&places.control_socket()).await?;
        let name = host_name()?;
        let peers = Client::new(identity, Plain::from_address(settings.advertise_address.ip()));
        let consensus_settings = ConsensusSettings { advertise: settings.advertise_address, name: name.clone() };
        let consensus = Arc::new(Consensus::start(store, consensus_settings, peers.clone()).await?);
        settings.save(&arguments.data_dir)?;
        let engine = EngineClient::new(&arguments.docker_socket);
        let local = Arc::new(local);
        Ok(Self { name, settings, underlay, consensus, local, peers, engine, server, plugin_socket, control_socket })
    }

    /// Makes the parts that everything works with, and starts the data plane's thread.
    fn parts(&self, kernel: LinuxKernel, member: watch::Receiver<Membership>) -> Result<Parts> {
        let agreement = Agreement::new(self.consensus.identity().host(), self.consensus.clone(), member);
        let reconciler = Reconciler::spawn(kernel).context("cannot start the data plane's thread")?;
        let underlay = Underlay { address: self.settings.advertise_address.ip(), mtu: self.underlay.mtu };
        Ok(Parts {
            plane: Arc::new(Plane::new(agreement.clone(), self.local.clone(), underlay, reconciler)),
            removals: Arc::new(Removals::new(agreement.clone(), self.local.clone())),
            agreement,
            local: self.local.clone(),
            engine: self.engine.clone(),
            under_way: Arc::default(),
        })
    }

    async fn run(self, kernel: LinuxKernel) -> Result<()> {
        let stop = CancellationToken::new();
        let (membership, member) = watch::channel(Membership::Joining("it has only just started".to_owned()));
        let (engine_state, engine_seen) = watch::channel(view::Engine::Absent("it has not been asked yet".to_owned()));
        let parts = self.parts(kernel, member)?;
        let mirrors = Arc::new(Mirrors::new(parts.clone()));
        let views = Arc::new(Views {
            name: self.name,
            address: self.settings.advertise_address,
            underlay: self.underlay.clone(),
            parts: parts.clone(),
            peers: self.peers,
            mirrors: mirrors.clone(),
            engine_state: engine_seen,
        });
        let follower = EngineFollower { parts: parts.clone(), mirrors, underlay: self.underlay, state: engine_state };

        let mut tasks = JoinSet::new();
        // Docker first: an engine that starts waits for its plugins before anything else.
        tasks.spawn(serve(self.plugin_socket, plugin::router(Arc::new(Driver::new(parts.clone()))), stop.clone()));
        tasks.spawn(serve(self.control_socket, control::router(views.clone()), stop.clone()));
        tasks.spawn(
            self.server
                .serve(self.consensus.router().merge(control::peer_router(views)), stop.clone().cancelled_owned()),
        );
        tasks.spawn(parts.plane.clone().run(stop.clone()));
        tasks.spawn(leases::run(parts.agreement.clone(), parts.local.clone(), stop.clone()));
        tasks.spawn(follower.run(stop.clone()));
        info!(host = %parts.agreement.me, address = %self.settings.advertise_address, "shoutd has started");

        let formed = form_and_wait(&self.consensus, &self.settings, &membership).await;
        info!("stopping; containers stay connected");
        stop.cancel();
        if tokio::time::timeout(STOP_DEADLINE, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
            warn!("some calls did not end in time");
        }
        self.consensus.shutdown().await;
        formed
    }
}

/// Belongs to a cluster until a signal says stop or agreement itself cannot go on.
async fn form_and_wait(
    consensus: &Consensus,
    settings: &Settings,
    membership: &watch::Sender<Membership>,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let forever = async {
        formation::form(consensus, settings, membership).await?;
        Err(anyhow!("agreement has stopped: {}", consensus.stopped().await))
    };
    tokio::select! {
        ended = forever => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

async fn serve(listener: UnixListener, router: Router, stop: CancellationToken) {
    plugin::serve(listener, router, stop.cancelled_owned()).await;
}

/// Each network takes about five descriptors, and each container three: the usual soft limit of 1024 is soon reached.
fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}

/// A directory that only root reads.
fn create_directory(path: &Path) -> Result<()> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.with_context(|| format!("cannot make the directory {}", path.display()))
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host's name")?;
    Ok(name.to_string_lossy().into_owned())
}

/// An id for a host that has none yet. Zero is none.
fn new_host_id() -> HostId {
    loop {
        if let Some(id) = HostId::new(rand::random()) {
            return id;
        }
    }
}
