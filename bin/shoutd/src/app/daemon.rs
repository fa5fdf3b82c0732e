//! Starts and stops the daemon.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shoutd_cli::{Directories, StartArguments};
use shoutd_consensus::{
    Consensus, FILES, LocalStore, NoticeKind, Settings as ConsensusSettings, Store, remedy,
};
use shoutd_core::cluster::Cluster;
use shoutd_core::events::EventKind;
use shoutd_core::swarm;
use shoutd_core::view::{self, Membership};
use shoutd_dataplane::{Capabilities, LinuxKernel, Reconciler, UnderlayInterface, probe};
use shoutd_docker::engine::EngineClient;
use shoutd_docker::plugin::{self, Scope, Socket};
use shoutd_peer::{
    Client, CredentialStore, Identity, Server, TlsAcceptor, TlsConnector, Token, Trust,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::advertise::{self, Advertiser, LocalMemberships};
use crate::api::control;
use crate::api::control::Control;
use crate::api::events::{self, Events};
use crate::api::rollout::{self, Rollouts};
use crate::api::views::Views;
use crate::app::local_state::LocalState;
use crate::app::preconditions::{refuse_little_room, refuse_missing, refuse_occupied_tunnel_port};
use crate::app::services::Services;
use crate::app::settings::{Resolved, Settings};
use crate::app::{last_run, memory, readiness, sockets};
use crate::docker::driver::Driver;
use crate::docker::follower::EngineFollower;
use crate::docker::mirrors::Mirrors;
use crate::docker::pending_removals::PendingRemovals;
use crate::docker::recall::recall;
use crate::ipam::{leases, stock};
use crate::membership::agreement::Agreement;
use crate::membership::enrollment::{Applicant, HeldToken, Waiting};
use crate::membership::formation::Formation;
use crate::membership::leaving::Leaving;
use crate::membership::tokens::Tokens;
use crate::membership::{enrollment, renewal, tokens};
use crate::names::{HostsFiles, Learner, Resolvers};
use crate::plane::Plane;
use crate::plane::underlay;
use crate::swarm::follower::SwarmFollower;
use crate::swarm::orphans;

/// Directory of named network namespaces (ip-netns(8)).
pub const NAMESPACES: &str = "/run/netns";

/// Deadline of the shutdown of all tasks.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// This host was removed from its cluster; the daemon ends at every start. The removal notice, in
/// one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Removed(String);

/// Runs until it must stop, or cannot continue. Returns why it ended, if not by an error.
///
/// # Errors
/// [`Removed`], or a problem with the arguments, the host, or the data directory.
pub async fn run(arguments: StartArguments, directories: Directories) -> Result<&'static str> {
    raise_descriptor_limit()?;
    let resolved = Settings::resolve(&arguments)?;
    let daemon = Daemon::open(&arguments, &directories, resolved).await?;
    last_run::note_start(&directories.run_dir);
    daemon.run(LinuxKernel::new(NAMESPACES)?).await
}

/// All that is checked, opened and bound before the daemon serves anything. If this fails, nothing
/// has been changed.
struct Daemon {
    name: String,
    resolved: Resolved,
    underlay: watch::Sender<UnderlayInterface>,
    credentials: Arc<CredentialStore>,
    token: HeldToken,
    consensus: Arc<Consensus>,
    local: Arc<LocalState>,
    peers: Client,
    engine: EngineClient,
    server: Server,
    plugin_socket: Socket,
    swarm_socket: Option<Socket>,
    control_socket: Socket,
    data_directory: PathBuf,
    plugin_path: PathBuf,
    capabilities: Capabilities,
}

impl Daemon {
    async fn open(
        arguments: &StartArguments,
        directories: &Directories,
        resolved: Resolved,
    ) -> Result<Self> {
        let mut capabilities = probe()?;
        if let Some(wanted) = arguments.replication {
            if wanted > capabilities.tier {
                bail!(
                    "this kernel cannot replicate multicast by {wanted}, only by {}; leave out \
                     --replication",
                    capabilities.tier
                );
            }
            capabilities.tier = wanted;
        }
        let address = resolved.settings.advertise_address;
        let (underlay, _) =
            watch::channel(underlay::await_interface(address.ip(), resolved.is_remembered).await?);
        let token = HeldToken::new(read_token(arguments)?);
        create_directory(&arguments.data_dir)?;
        create_directory(&directories.run_dir)?;
        refuse_little_room(&arguments.data_dir)?;
        let credentials = CredentialStore::open(&arguments.data_dir)?;
        if credentials.credentials().is_some() {
            refuse_missing(&arguments.data_dir)?;
        }
        let store = Store::open(&arguments.data_dir, credentials.host())?;
        let local = LocalState::open(LocalStore::open(&arguments.data_dir)?)?;
        let stored = store.identity();
        if stored.host != credentials.host() {
            bail!(
                "the data directory {} is of host {}, but its key is of host {}: {}",
                arguments.data_dir.display(),
                stored.host,
                credentials.host(),
                remedy(&arguments.data_dir)
            );
        }
        let identity = Identity::new(stored.host, stored.cluster);
        let server =
            Server::bind(address, identity.clone(), TlsAcceptor::new(credentials.clone())?)?;
        refuse_occupied_tunnel_port()?;
        let plugin_socket = plugin::bind(&arguments.plugin_socket).await?;
        let swarm_socket = bind_swarm(&arguments.data_dir).await;
        let control_socket = plugin::bind(&directories.control_socket()).await?;
        let name = host_name()?;
        let peers = Client::new(
            identity,
            TlsConnector::new(credentials.clone(), Trust::Cluster, address.ip())?,
        );
        let consensus_settings = ConsensusSettings { advertise: address, name: name.clone() };
        // A certificate that expired while this host was down would be refused.
        let renew = |cluster: &Cluster| renewal::renew_now(cluster, &credentials);
        let consensus =
            Consensus::start_prepared(store, consensus_settings, peers.clone(), renew).await?;
        let consensus = Arc::new(consensus);
        Ok(Self {
            name,
            resolved,
            underlay,
            credentials,
            token,
            consensus,
            local: Arc::new(local),
            peers,
            engine: EngineClient::new(&arguments.docker_socket),
            server,
            plugin_socket,
            swarm_socket,
            control_socket,
            data_directory: arguments.data_dir.clone(),
            plugin_path: arguments.plugin_socket.clone(),
            capabilities,
        })
    }

    /// Creates the shared services, and starts the data plane's thread.
    fn services(
        &self,
        kernel: LinuxKernel,
        member: watch::Receiver<Membership>,
    ) -> Result<Services> {
        let agreement =
            Agreement::new(self.consensus.identity().host(), self.consensus.clone(), member);
        let reconciler = Reconciler::spawn(kernel, self.capabilities.tier)
            .context("cannot start the data plane's thread")?;
        let (heard, hearing) = watch::channel(Arc::default());
        let local_memberships = LocalMemberships {
            observed: reconciler.watch_observed(),
            memberships: reconciler.memberships(),
        };
        let plane = Plane::new(
            agreement.clone(),
            self.local.clone(),
            hearing,
            self.underlay.subscribe(),
            reconciler,
        );
        let plane = Arc::new(plane);
        let events = Arc::new(Events::open(&self.data_directory));
        let (local, peers) = (self.local.clone(), self.peers.clone());
        let advertiser = Advertiser::new(
            agreement.clone(),
            local,
            plane.clone(),
            peers,
            local_memberships,
            heard,
            events.clone(),
        );
        Ok(Services {
            plane,
            advertiser: Arc::new(advertiser),
            removals: Arc::new(PendingRemovals::new(
                agreement.clone(),
                self.local.clone(),
                events.clone(),
            )),
            events,
            agreement,
            local: self.local.clone(),
            peers: self.peers.clone(),
            engine: self.engine.clone(),
            in_flight: Arc::default(),
        })
    }

    /// Makes this host a member of its cluster.
    fn formation(&self, membership: watch::Sender<Membership>) -> Formation {
        Formation {
            consensus: self.consensus.clone(),
            applicant: Applicant {
                name: self.name.clone(),
                identity: self.consensus.identity().clone(),
                credentials: self.credentials.clone(),
                token: self.token.clone(),
                address: self.resolved.settings.advertise_address,
                waits_for: OnceLock::new(),
            },
            settings: self.resolved.settings.clone(),
            moved_from: self.resolved.moved_from,
            peers: self.peers.clone(),
            membership,
        }
    }

    async fn run(self, kernel: LinuxKernel) -> Result<&'static str> {
        let stop = CancellationToken::new();
        let (underlay_problem, underlay_seen) = watch::channel(None);
        let (membership, member) =
            watch::channel(Membership::Joining("it has only just started".to_owned()));
        let (engine_state, engine_seen) = watch::channel(view::Engine::Absent(
            "shoutd serves it only when this host is a member of a cluster".to_owned(),
        ));
        let services = self.services(kernel, member)?;
        let formation = self.formation(membership.clone());
        let mirrors = Arc::new(Mirrors::new(services.clone()));
        let swarm = Arc::new(SwarmFollower::new(services.clone()));
        let waiting = Arc::new(Waiting::default());
        let leaving = Arc::new(Leaving::new(services.clone(), mirrors.clone(), membership));
        let rollouts = Arc::new(Rollouts {
            services: services.clone(),
            mirrors: mirrors.clone(),
            engine_state: engine_seen.clone(),
        });
        let control = Arc::new(Control {
            views: Views {
                name: self.name.clone(),
                address: self.resolved.settings.advertise_address,
                peer_addresses: self.resolved.settings.peer_addresses.clone(),
                data_directory: self.data_directory.clone(),
                plugin_socket: self.plugin_path.clone(),
                underlay: self.underlay.subscribe(),
                underlay_problem: underlay_seen,
                replication: self.capabilities.tier,
                services: services.clone(),
                mirrors: mirrors.clone(),
                swarm: swarm.clone(),
                engine_state: engine_seen,
                plugin_socket_state: self.plugin_socket.watch(),
            },
            tokens: Tokens::new(
                services.agreement.clone(),
                self.credentials.clone(),
                &self.data_directory,
            ),
            held_token: self.token.clone(),
            waiting: waiting.clone(),
            rollouts: rollouts.clone(),
            leaving: leaving.clone(),
        });
        let underlay = self.underlay.subscribe();
        let (compared, comparisons) = watch::channel(0);
        let learner = Learner { services: services.clone(), compared: comparisons };
        let follower = EngineFollower {
            services: services.clone(),
            mirrors,
            underlay,
            state: engine_state,
            compared,
        };
        let desk =
            enrollment::router(services.agreement.clone(), self.credentials.clone(), waiting);
        let peer_router = self
            .consensus
            .router()
            .merge(control::peer_router(control.clone()))
            .merge(desk)
            .merge(stock::router(services.clone()))
            .merge(orphans::router(services.clone()))
            .merge(rollout::router(rollouts))
            .merge(advertise::router(services.advertiser.clone()));

        // Before memory is acted on.
        recall(&services, &self.name).await;
        let mut tasks = JoinSet::new();
        // First the plugin socket: a starting engine waits for its plugins.
        let driver = Arc::new(Driver::new(services.clone()));
        let serve =
            |socket, router| sockets::serve(socket, router, services.events.clone(), stop.clone());
        tasks.spawn(serve(self.plugin_socket, plugin::router(driver.clone(), Scope::Local)));
        if let Some(socket) = self.swarm_socket {
            tasks.spawn(serve(socket, plugin::router(driver, Scope::Swarm)));
        }
        tasks.spawn(serve(self.control_socket, control::router(control.clone())));
        let consensus = self.consensus.clone();
        let server = self.server.refusing(move |host| consensus.has_left(host));
        tasks.spawn(server.serve(peer_router, stop.clone().cancelled_owned()));
        tasks.spawn(underlay::follow(self.underlay, underlay_problem, stop.clone()));
        tasks.spawn(record_notices(self.consensus.clone(), services.events.clone(), stop.clone()));
        tasks.spawn(memory::run(stop.clone()));
        tasks.spawn(services.plane.clone().run(stop.clone()));
        let (plane, events, until) =
            (services.plane.clone(), services.events.clone(), stop.clone());
        tasks.spawn(async move { plane.watch_filter(&events, until).await });
        tasks.spawn(services.advertiser.clone().run(stop.clone()));
        tasks.spawn(leases::run(
            services.agreement.clone(),
            services.local.clone(),
            services.events.clone(),
            stop.clone(),
        ));
        let (events, until) = (services.events.clone(), stop.clone());
        tasks.spawn(async move { events.run(until).await });
        tasks.spawn(follower.run(stop.clone()));
        tasks.spawn(learner.run(stop.clone()));
        tasks.spawn(
            Resolvers::new(services.clone(), services.advertiser.watch_heard()).run(stop.clone()),
        );
        tasks.spawn(
            HostsFiles::new(services.clone(), services.advertiser.watch_heard()).run(stop.clone()),
        );
        tasks.spawn(swarm.run(stop.clone()));
        tasks.spawn(renewal::run(
            services.agreement.clone(),
            self.credentials.clone(),
            stop.clone(),
        ));
        info!(
            host = %services.agreement.me,
            address = %self.resolved.settings.advertise_address,
            "shoutd has started"
        );
        readiness::ready();

        let ended =
            form_and_wait(&formation, &control.tokens, &leaving, &self.data_directory).await;
        readiness::stopping();
        info!("stopping; containers stay connected");
        stop.cancel();
        if tokio::time::timeout(STOP_DEADLINE, async { while tasks.join_next().await.is_some() {} })
            .await
            .is_err()
        {
            warn!("some calls did not end in time");
        }
        self.consensus.shutdown().await;
        if leaving.has_left() {
            if let Err(error) = services.plane.withdraw(STOP_DEADLINE).await {
                warn!(
                    "cannot remove everything of the cluster that this host has left from the \
                     kernel: {error}"
                );
            }
            forget(&self.credentials, &self.data_directory, &self.plugin_path)?;
            return ended.map(|()| "it has left its cluster");
        }
        ended.map(|()| "it was stopped")
    }
}

/// Makes this host a member, and returns at a signal to stop, or when Raft stops.
async fn form_and_wait(
    formation: &Formation,
    tokens: &Tokens,
    leaving: &Leaving,
    data_directory: &Path,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let forever = async {
        if let Some(removed) = formation.consensus.removed() {
            return Err(Removed(removed).into());
        }
        formation.form(data_directory).await?;
        if let Err(error) = tokens.ensure_first().await {
            warn!(
                "cannot create a token for other hosts yet: {error:#}; create one with: shoutdctl \
                 token rotate"
            );
        }
        formation.finish();
        let reason = tokio::select! {
            reason = formation.consensus.stopped() => reason,
            duplicate = formation.consensus.twin() => return Err(anyhow!(duplicate)),
        };
        if leaving.is_under_way() {
            // Raft stops when the cluster has removed this host. `leaving` completes shortly after.
            leaving.left().await;
            return Ok(());
        }
        let removed = formation.consensus.removed();
        Err(removed
            .map_or_else(|| anyhow!("Raft has stopped: {reason}"), |notice| Removed(notice).into()))
    };
    tokio::select! {
        () = leaving.left() => Ok(()),
        ended = forever => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Records notices of the Raft node as events.
async fn record_notices(consensus: Arc<Consensus>, events: Arc<Events>, stop: CancellationToken) {
    loop {
        let notice = tokio::select! {
            notice = consensus.next_notice() => notice,
            () = stop.cancelled() => return,
        };
        let kind = match notice.kind {
            NoticeKind::Rollback => EventKind::DataSetBack,
            NoticeKind::Copied => EventKind::HostCopied,
            NoticeKind::Distrusted => EventKind::HostDistrusted,
        };
        events.note(kind, &notice.host, &notice.text);
    }
}

fn read_token(arguments: &StartArguments) -> Result<Option<Token>> {
    let text = arguments.token_text().context("cannot read the token from its file")?;
    Ok(text.map(|text| text.parse()).transpose()?)
}

/// Deletes the data of a host that has left its cluster, except its log. Its next start is then
/// like its first.
fn forget(
    credentials: &CredentialStore,
    data_directory: &Path,
    plugin_socket: &Path,
) -> Result<()> {
    let kept = FILES
        .into_iter()
        .chain([tokens::FILE, events::FILE, view::START_FILE])
        .map(|file| data_directory.join(file));
    // Without the socket, an engine reports a missing plugin at once, and does not wait for it.
    let swarm_socket = data_directory.join(swarm::SOCKET_DIRECTORY).join(swarm::SOCKET);
    for path in kept.chain([plugin_socket.to_owned(), swarm_socket]) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(credentials.leave()?)
}

/// Binds the socket for the managed plugin. If that fails, everything else still works.
async fn bind_swarm(data_directory: &Path) -> Option<Socket> {
    let directory = data_directory.join(swarm::SOCKET_DIRECTORY);
    let bound = match create_directory(&directory) {
        Ok(()) => plugin::bind(&directory.join(swarm::SOCKET)).await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    bound.inspect_err(|error| warn!("cannot serve Swarm networks: {error:#}")).ok()
}

/// Raises the soft limit of file descriptors to the hard limit. Each network and each container
/// needs some (`shoutd_core::descriptors`), so the usual limit of 1024 is soon reached.
fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}

/// Creates a directory that only root can read.
fn create_directory(path: &Path) -> Result<()> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.with_context(|| format!("cannot create the directory {}", path.display()))
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host's name")?;
    Ok(name.to_string_lossy().into_owned())
}
