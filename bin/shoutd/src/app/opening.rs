//! What the daemon checks, opens and binds before it serves anything.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use parking_lot::Mutex;
use shoutd_cli::{Configuration, StartArguments, Switch};
use shoutd_consensus::{Consensus, LocalStore, Settings as ConsensusSettings, Store, remedy};
use shoutd_core::HostId;
use shoutd_core::cluster::TunnelEnd;
use shoutd_core::encryption::{Encrypt, WireguardChoice};
use shoutd_core::founding::SwarmRounds;
use shoutd_core::limits::ENCRYPTION_PORT;
use shoutd_core::own_address::AddressChoice;
use shoutd_core::swarm;
use shoutd_core::view::Membership;
use shoutd_dataplane::{
    Capabilities, EncryptionSetup, LinuxKernel, Reconciler, UnderlayInterface, WireguardTier,
    check_wireguard, probe,
};
use shoutd_docker::engine::EngineClient;
use shoutd_docker::plugin::{self, Socket};
use shoutd_peer::{
    Client, CredentialStore, Identity, Server, TlsAcceptor, TlsConnector, Token, Trust,
};
use tokio::sync::watch;
use tracing::warn;

use crate::advertise::{Advertiser, LocalMemberships};
use crate::api::events::Events;
use crate::app::live_settings::LiveSettings;
use crate::app::local_state::LocalState;
use crate::app::preconditions::{refuse_little_room, refuse_missing, refuse_occupied_tunnel_port};
use crate::app::services::{Owners, Services};
use crate::app::settings::{Resolved, Wanted};
use crate::docker::pending_removals::PendingRemovals;
use crate::ipam::claims::Claims;
use crate::membership::agreement::Agreement;
use crate::membership::authority::{self, AuthorityKeeper};
use crate::membership::encrypt::{DefaultEncryption, EncryptWish};
use crate::membership::encryption;
use crate::membership::enrollment::{Applicant, HeldToken, SwarmDoor};
use crate::membership::formation::Formation;
use crate::membership::renewal;
use crate::membership::swarm_node::SwarmStart;
use crate::membership::tunnel_keys::{self, TunnelKeys};
use crate::metrics::Meters;
use crate::plane::{Plane, underlay};
use crate::probes::{Prober, SessionReader};

/// All that is checked, opened and bound before the daemon serves anything. If this fails, nothing
/// has been changed.
pub(super) struct Daemon {
    pub(super) name: String,
    pub(super) choice: AddressChoice,
    pub(super) resolved: Resolved,
    pub(super) underlay: watch::Sender<UnderlayInterface>,
    pub(super) credentials: Arc<CredentialStore>,
    pub(super) token: HeldToken,
    pub(super) consensus: Arc<Consensus>,
    pub(super) local: Arc<LocalState>,
    pub(super) peers: Client,
    pub(super) engine: EngineClient,
    pub(super) server: Server,
    pub(super) plugin_socket: Socket,
    pub(super) swarm_socket: Option<Socket>,
    pub(super) control_socket: Socket,
    pub(super) data_directory: PathBuf,
    pub(super) plugin_path: PathBuf,
    pub(super) capabilities: Capabilities,
    pub(super) live: Arc<LiveSettings>,
    pub(super) swarm: Option<SwarmStart>,
    pub(super) swarm_door: SwarmDoor,
    pub(super) tunnel_end: TunnelEnd,
    pub(super) encrypt: EncryptWish,
    pub(super) wireguard: WireguardChoice,
    /// Taken by the data plane.
    pub(super) encryption: Option<EncryptionSetup>,
}

impl Daemon {
    /// Checks, opens and binds everything.
    ///
    /// # Errors
    /// What is wrong with the arguments, the host or the data directory, in one line.
    pub(super) async fn open(
        configuration: &Configuration,
        live: Arc<LiveSettings>,
        wanted: Wanted,
        swarm: Option<SwarmStart>,
    ) -> Result<Self> {
        let (arguments, directories) = (&configuration.start, &configuration.directories);
        let capabilities = capabilities(arguments)?;
        let wireguard = wireguard(arguments)?;
        let interface = underlay::await_interface(&wanted.choice, wanted.is_remembered).await?;
        let choice = wanted.choice.clone();
        let resolved = wanted.at(interface.network.addr())?;
        live.remember(&resolved.settings);
        let address = resolved.settings.advertise_address;
        let (underlay, _) = watch::channel(interface);
        create_directory(&arguments.data_dir)?;
        create_directory(&directories.run_dir)?;
        refuse_little_room(&arguments.data_dir)?;
        let credentials = CredentialStore::open(&arguments.data_dir)?;
        let is_member = credentials.credentials().is_some();
        if is_member {
            refuse_missing(&arguments.data_dir)?;
        }
        let port = arguments.wireguard_port.unwrap_or(ENCRYPTION_PORT);
        let (setup, tunnel_end) = encryption::prepare(
            &credentials,
            &directories.run_dir,
            (port, WireguardTier::chosen(wireguard)),
        )?;
        let token = HeldToken::new(read_token(arguments, is_member)?);
        let store = Store::open(&arguments.data_dir, credentials.host())?;
        let local = LocalState::open(LocalStore::open(&arguments.data_dir)?)?;
        let stored = store.identity();
        refuse_other_key(&arguments.data_dir, stored.host, credentials.host())?;
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
        let settings = ConsensusSettings { advertise: address, name: name.clone() };
        let consensus = start_consensus(store, settings, peers.clone(), &credentials).await?;
        let engine = EngineClient::new(&arguments.docker_socket);
        Ok(Self {
            name,
            choice,
            resolved,
            underlay,
            credentials,
            token,
            consensus,
            local: Arc::new(local),
            peers,
            swarm_door: SwarmDoor {
                engine: engine.clone(),
                is_open: arguments.swarm_join == Switch::On,
            },
            engine,
            swarm,
            server,
            plugin_socket,
            swarm_socket,
            control_socket,
            data_directory: arguments.data_dir.clone(),
            plugin_path: arguments.plugin_socket.clone(),
            capabilities,
            live,
            tunnel_end,
            encrypt: EncryptWish::new(arguments.encrypt),
            wireguard,
            encryption: Some(setup),
        })
    }

    /// Creates the shared services with what their tasks own, and starts the data plane's thread.
    pub(super) fn services(
        &self,
        kernel: LinuxKernel,
        member: watch::Receiver<Membership>,
    ) -> Result<(Services, Owners)> {
        let meters = Meters::default();
        let me = self.consensus.identity().host();
        let (consensus, wish) = (self.consensus.clone(), self.encrypt.clone());
        let agreement = Agreement::new(me, consensus, member, wish, meters.clone());
        let encrypt = self.default_encryption(&agreement);
        let observer = Arc::new(meters.clone());
        let reconciler = Reconciler::spawn_observed(kernel, self.capabilities.tier, observer)
            .context("cannot start the data plane's thread")?;
        let (heard, hearing) = watch::channel(Arc::default());
        let local_memberships = LocalMemberships {
            observed: reconciler.watch_observed(),
            memberships: reconciler.memberships(),
        };
        let keys = tunnel_keys::Opened::open(&self.credentials);
        let (plane, applier) = Plane::new(
            agreement.clone(),
            self.local.clone(),
            hearing,
            self.underlay.subscribe(),
            keys.watch(),
            reconciler,
        );
        let plane = Arc::new(plane);
        let events = Arc::new(Events::open(&self.data_directory));
        let (local, peers) = (self.local.clone(), self.peers.clone());
        let tunnel_keys =
            TunnelKeys::new(keys, agreement.clone(), plane.clone(), peers.clone(), events.clone());
        let advertiser = Advertiser::new(
            agreement.clone(),
            local,
            plane.clone(),
            peers,
            local_memberships,
            heard,
            events.clone(),
            meters.clone(),
        );
        let (claims, pending_claims) = Claims::new();
        let advertiser = Arc::new(advertiser);
        let prober = Prober::new(
            agreement.clone(),
            self.local.clone(),
            plane.clone(),
            advertiser.clone(),
            self.peers.clone(),
            self.live.probes(),
            meters.clone(),
        );
        let sessions = SessionReader::new(agreement.clone(), plane.clone());
        let services = Services {
            encrypt,
            plane,
            claims: Arc::new(claims),
            advertiser,
            prober: Arc::new(prober),
            tunnel_keys: Arc::new(tunnel_keys),
            sessions: Arc::new(sessions),
            removals: Arc::new(PendingRemovals::new(
                agreement.clone(),
                self.local.clone(),
                events.clone(),
            )),
            events,
            meters,
            agreement,
            local: self.local.clone(),
            peers: self.peers.clone(),
            engine: self.engine.clone(),
            in_flight: Arc::default(),
        };
        Ok((services, Owners { applier, pending_claims }))
    }

    /// Follows whether the cluster encrypts new networks by default.
    fn default_encryption(&self, agreement: &Agreement) -> Arc<DefaultEncryption> {
        let wireguard = (self.wireguard, self.tunnel_end.port);
        Arc::new(DefaultEncryption::new(agreement.clone(), self.encrypt.clone(), wireguard))
    }

    /// Follows the cluster's certificate authority.
    pub(super) fn authority_keeper(&self, services: &Services) -> AuthorityKeeper {
        let (credentials, peers) = (self.credentials.clone(), self.peers.clone());
        AuthorityKeeper::new(
            services.agreement.clone(),
            credentials,
            peers,
            services.events.clone(),
        )
    }

    /// Makes this host a member of its cluster.
    pub(super) fn formation(&self, membership: watch::Sender<Membership>) -> Formation {
        Formation {
            consensus: self.consensus.clone(),
            applicant: Applicant {
                name: self.name.clone(),
                identity: self.consensus.identity().clone(),
                credentials: self.credentials.clone(),
                token: self.token.clone(),
                address: self.resolved.settings.advertise_address,
                swarm: self.swarm.as_ref().map(|swarm| swarm.identity.clone()),
                waits_for: OnceLock::new(),
            },
            settings: self.resolved.settings.clone(),
            moved_from: self.resolved.moved_from,
            rounds: Mutex::new(SwarmRounds::new(
                self.resolved.settings.advertise_address,
                self.swarm.as_ref().is_some_and(|swarm| swarm.is_manager),
            )),
            peers: self.peers.clone(),
            membership,
        }
    }
}

/// Starts the Raft node. Credentials that the cluster agreed on while this host was down, or before
/// a crash, count from its first call on. An expired certificate would be refused.
async fn start_consensus(
    store: Store,
    settings: ConsensusSettings,
    peers: Client,
    credentials: &CredentialStore,
) -> Result<Arc<Consensus>> {
    let consensus = Consensus::start_prepared(store, settings, peers, |cluster| {
        authority::trust_agreed(cluster, credentials);
        renewal::renew_now(cluster, credentials);
    });
    Ok(Arc::new(consensus.await?))
}

/// The WireGuard that the user chose. Whoever needs one must be able to have it.
fn wireguard(arguments: &StartArguments) -> Result<WireguardChoice> {
    let wireguard = arguments.wireguard.unwrap_or_default();
    if arguments.encrypt == Some(Encrypt::Always) || wireguard != WireguardChoice::Auto {
        check_wireguard(wireguard)?;
    }
    Ok(wireguard)
}

/// What the kernel can do, with the way of replication that the user chose.
fn capabilities(arguments: &StartArguments) -> Result<Capabilities> {
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
    Ok(capabilities)
}

/// Refuses a data directory whose agreed state is of another host than its key.
fn refuse_other_key(directory: &Path, stored: HostId, key: HostId) -> Result<()> {
    if stored != key {
        bail!(
            "the data directory {} is of host {stored}, but its key is of host {key}: {}",
            directory.display(),
            remedy(directory)
        );
    }
    Ok(())
}

/// The token. A member needs none: the file that the configuration names may be gone.
fn read_token(arguments: &StartArguments, is_member: bool) -> Result<Option<Token>> {
    let text = match arguments.token_text() {
        Err(_) if is_member => None,
        text => text.context("cannot read the token from its file")?,
    };
    Ok(text.map(|text| text.parse()).transpose()?)
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
pub(super) fn raise_descriptor_limit() -> Result<()> {
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
