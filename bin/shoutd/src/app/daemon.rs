//! Starts and stops the daemon.

use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use axum::Router;
use clap::ArgMatches;
use shoutd_cli::Configuration;
use shoutd_consensus::{Consensus, NoticeKind};
use shoutd_core::cluster::TunnelEnd;
use shoutd_core::events::EventKind;
use shoutd_core::view::{self, Membership};
use shoutd_dataplane::LinuxKernel;
use shoutd_docker::engine::EngineClient;
use shoutd_docker::plugin::{self, Scope};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::advertise;
use crate::api::control::{self, Control};
use crate::api::events::Events;
use crate::api::rollout::{self, Rollouts};
use crate::api::trace::Countings;
use crate::api::views::Views;
use crate::app::live_settings::LiveSettings;
use crate::app::log::Log;
use crate::app::opening::{Daemon, raise_descriptor_limit};
use crate::app::services::{Owners, Services};
use crate::app::settings::{Wanted, needs_swarm};
use crate::app::supervision::Tasks;
use crate::app::{data, last_run, memory, readiness, sockets};
use crate::docker::driver::Driver;
use crate::docker::follower::EngineFollower;
use crate::docker::mirrors::Mirrors;
use crate::docker::recall::recall;
use crate::ipam::{claimer, leases, stock};
use crate::membership::authority::AuthorityKeeper;
use crate::membership::enrollment::Waiting;
use crate::membership::formation::Formation;
use crate::membership::leaving::Leaving;
use crate::membership::swarm_node::SwarmStart;
use crate::membership::tokens::Tokens;
use crate::membership::{encryption, enrollment, renewal, tunnel_keys};
use crate::metrics::{self, Collector, Served};
use crate::names::{HostsFiles, Learner, Resolvers};
use crate::plane::{NAMESPACES, underlay};
use crate::probes;
use crate::swarm::follower::SwarmFollower;
use crate::swarm::orphans;

/// Deadline of the shutdown of all tasks.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How long Raft takes to say that it has stopped, after its state is closed.
const RAFT_STOPS: Duration = Duration::from_secs(1);

/// This host was removed from its cluster; the daemon ends at every start. The removal notice, in
/// one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Removed(String);

/// Why the daemon ended, if not by an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was stopped.
    Stopped,
    /// This host has left its cluster.
    HasLeft,
    /// This host has another address: start again, to advertise that one.
    Moved,
}

/// Runs until it must stop, or cannot continue.
///
/// # Errors
/// [`Removed`], or a problem with the arguments, the host, or the data directory.
pub async fn run(configuration: Configuration, matches: ArgMatches, log: Log) -> Result<Ended> {
    raise_descriptor_limit()?;
    let engine = EngineClient::new(&configuration.start.docker_socket);
    let swarm = match needs_swarm(&configuration.start)? {
        true => SwarmStart::read(&engine).await?,
        false => None,
    };
    let wanted = Wanted::read(&configuration.start, swarm.as_ref())?;
    let live = Arc::new(LiveSettings::new(&configuration, matches, log));
    let mut daemon = Daemon::open(&configuration, live, wanted, swarm).await?;
    last_run::note_start(&configuration.directories.run_dir);
    let mut kernel = LinuxKernel::new(NAMESPACES)?;
    if let Some(setup) = daemon.encryption.take() {
        kernel = kernel.with_encryption(setup);
    }
    daemon.run(kernel).await
}

/// The running parts that know each other.
struct Parts {
    services: Services,
    leaving: Arc<Leaving>,
    control: Arc<Control>,
    authority: Arc<AuthorityKeeper>,
    follower: EngineFollower,
    learner: Learner,
    swarm: Arc<SwarmFollower>,
    peer_router: Router,
    underlay_problem: watch::Sender<Option<String>>,
    metrics: Served,
    moved: watch::Sender<Option<IpAddr>>,
}

/// All parts of a daemon, before they run.
struct Built {
    /// Makes this host a member.
    formation: Formation,
    /// The tasks that the driver's handlers wait for.
    owners: Owners,
    parts: Parts,
}

impl Daemon {
    /// Builds the parts. Nothing runs yet, except the data plane's threads.
    fn build(&self, kernel: LinuxKernel) -> Result<Built> {
        let (underlay_problem, underlay_seen) = watch::channel(None);
        let (metrics_problem, metrics_seen) = watch::channel(None);
        let (membership, member) =
            watch::channel(Membership::Joining("it has only just started".to_owned()));
        let (engine_state, engine_seen) = watch::channel(view::Engine::Absent(
            "shoutd serves it only when this host is a member of a cluster".to_owned(),
        ));
        let (services, owners) = self.services(kernel, member)?;
        let mirrors = Arc::new(Mirrors::new(services.clone()));
        let swarm = Arc::new(SwarmFollower::new(services.clone()));
        let waiting = Arc::new(Waiting::default());
        let formation = self.formation(membership.clone());
        let leaving = Arc::new(Leaving::new(services.clone(), mirrors.clone(), membership));
        let rollouts = Arc::new(Rollouts {
            services: services.clone(),
            mirrors: mirrors.clone(),
            engine_state: engine_seen.clone(),
        });
        let (agreement, credentials) = (services.agreement.clone(), self.credentials.clone());
        let authority = Arc::new(self.authority_keeper(&services));
        let control = Arc::new(Control {
            views: self.views(
                &services,
                &authority,
                &mirrors,
                &swarm,
                (underlay_seen, metrics_seen, engine_seen),
            ),
            tokens: Tokens::new(agreement.clone(), credentials.clone(), &self.data_directory),
            held_token: self.token.clone(),
            waiting: waiting.clone(),
            rollouts: rollouts.clone(),
            leaving: leaving.clone(),
            scenes: Arc::default(),
        });
        let peer_router = self
            .consensus
            .router()
            .merge(control::peer_router(control.clone()))
            .merge(enrollment::router(agreement, credentials, waiting, self.swarm_door.clone()))
            .merge(stock::router(services.clone()))
            .merge(orphans::router(services.clone()))
            .merge(rollout::router(rollouts))
            .merge(probes::router(services.prober.clone()))
            .merge(tunnel_keys::router(services.tunnel_keys.clone()))
            .merge(advertise::router(services.advertiser.clone()));
        let (compared, comparisons) = watch::channel(0);
        let follower = EngineFollower {
            services: services.clone(),
            mirrors,
            underlay: self.underlay.subscribe(),
            state: engine_state,
            compared,
        };
        let learner = Learner { services: services.clone(), compared: comparisons };
        let metrics = Served {
            address: self.live.metrics_address(),
            source: Arc::new(Collector::new(control.clone(), &services.meters)),
            problem: metrics_problem,
        };
        let parts = Parts {
            services,
            leaving,
            control,
            authority,
            follower,
            learner,
            swarm,
            peer_router,
            underlay_problem,
            metrics,
            moved: watch::channel(None).0,
        };
        Ok(Built { formation, owners, parts })
    }

    /// What the control server shows, with the problems of the underlay and of the metrics, and the
    /// engine's state.
    fn views(
        &self,
        services: &Services,
        authority: &Arc<AuthorityKeeper>,
        mirrors: &Arc<Mirrors>,
        swarm: &Arc<SwarmFollower>,
        (underlay_problem, metrics_problem, engine_state): (
            watch::Receiver<Option<String>>,
            watch::Receiver<Option<String>>,
            watch::Receiver<view::Engine>,
        ),
    ) -> Views {
        Views {
            name: self.name.clone(),
            address: self.resolved.settings.advertise_address,
            address_rule: self.choice.rule.clone(),
            peer_addresses: self.resolved.settings.peer_addresses.clone(),
            data_directory: self.data_directory.clone(),
            plugin_socket: self.plugin_path.clone(),
            underlay: self.underlay.subscribe(),
            underlay_problem,
            live: self.live.clone(),
            metrics_problem,
            replication: self.capabilities.tier,
            services: services.clone(),
            authority: authority.clone(),
            mirrors: mirrors.clone(),
            swarm: swarm.clone(),
            engine_state,
            plugin_socket_state: self.plugin_socket.watch(),
            countings: Countings::default(),
            container_names: parking_lot::Mutex::default(),
        }
    }

    async fn run(self, kernel: LinuxKernel) -> Result<Ended> {
        let Built { formation, owners, parts } = self.build(kernel)?;
        let (services, leaving) = (parts.services.clone(), parts.leaving.clone());
        // Before anything acts on local state.
        recall(&services, &self.name).await;
        let address = self.resolved.settings.advertise_address;
        let (consensus, credentials) = (self.consensus.clone(), self.credentials.clone());
        let (data_directory, plugin_path) = (self.data_directory.clone(), self.plugin_path.clone());
        let (control, mut moved) = (parts.control.clone(), parts.moved.subscribe());
        let (stop, stop_owners) = (CancellationToken::new(), CancellationToken::new());
        let mut owners = spawn_owners(owners, &services, &stop_owners);
        let mut tasks = self.spawn(parts, &stop);
        info!(host = %services.agreement.me, %address, "shoutd has started");
        readiness::ready();

        let member = form_and_wait(&formation, &control.tokens, &leaving, &data_directory);
        let ended = tokio::select! {
            ended = until_a_task_ends([&mut tasks, &mut owners], member) => {
                ended.map(|()| Ended::Stopped)
            }
            Ok(_) = moved.wait_for(Option::is_some) => Ok(Ended::Moved),
        };
        // The service manager must not wait for the end of a daemon that starts again in place.
        if !matches!(ended, Ok(Ended::Moved)) {
            readiness::stopping();
        }
        info!("stopping; containers stay connected");
        // The owners last: calls of Docker that are in progress wait for them.
        for (stop, tasks) in [(&stop, &mut tasks), (&stop_owners, &mut owners)] {
            stop.cancel();
            if let Err(running) = tasks.join_all(STOP_DEADLINE).await {
                warn!("these tasks did not end in time: {}", running.join(", "));
            }
        }
        consensus.shutdown().await;
        if leaving.has_left() {
            if let Err(error) = services.plane.withdraw(STOP_DEADLINE).await {
                warn!(
                    "cannot remove everything of the cluster that this host has left from the \
                     kernel: {error}"
                );
            }
            data::forget(&credentials, &data_directory, &plugin_path)?;
            return ended.map(|_| Ended::HasLeft);
        }
        ended
    }

    /// Starts all tasks. First the plugin socket: a starting engine waits for its plugins.
    fn spawn(self, parts: Parts, stop: &CancellationToken) -> Tasks {
        let services = parts.services;
        let mut tasks = Tasks::default();
        let driver = Arc::new(Driver::new(services.clone(), parts.follower.state.subscribe()));
        let serve =
            |socket, router| sockets::serve(socket, router, services.events.clone(), stop.clone());
        let observed = |driver, scope| {
            plugin::observed_router(driver, scope, Arc::new(services.meters.clone()))
        };
        let router = observed(driver.clone(), Scope::Local);
        tasks.spawn("plugin server", serve(self.plugin_socket, router));
        if let Some(socket) = self.swarm_socket {
            tasks.spawn("Swarm plugin server", serve(socket, observed(driver, Scope::Swarm)));
        }
        let watching = parts.control.scenes.clone().run(parts.control.clone(), stop.clone());
        tasks.spawn("watching", watching);
        tasks.spawn("control server", serve(self.control_socket, control::router(parts.control)));
        let mut observed = services.plane.watch_observed();
        let observed = async move { _ = observed.changed().await };
        tasks.spawn("metrics server", metrics::serve(parts.metrics, observed, stop.clone()));
        let consensus = self.consensus.clone();
        let server = self.server.refusing(move |host| consensus.has_left(host));
        let until = stop.clone().cancelled_owned();
        tasks.spawn("peer server", server.serve(parts.peer_router, until));
        let published = underlay::Published {
            underlay: self.underlay,
            problem: parts.underlay_problem,
            moved: parts.moved,
        };
        let follow = underlay::follow(self.choice.rule, published, stop.clone());
        tasks.spawn("underlay follower", follow);
        tasks.spawn("settings", self.live.follow_signal(stop.clone()));
        tasks.spawn("service manager", readiness::keep_alive(stop.clone()));
        let notices = record_notices(self.consensus, services.events.clone(), stop.clone());
        tasks.spawn("notices", notices);
        tasks.spawn("engine follower", parts.follower.run(stop.clone()));
        tasks.spawn("name learner", parts.learner.run(stop.clone()));
        tasks.spawn("Swarm follower", parts.swarm.run(stop.clone()));
        tasks.spawn("authority", parts.authority.follow(stop.clone()));
        let renewal = renewal::run(services.agreement.clone(), self.credentials, stop.clone());
        tasks.spawn("renewal", renewal);
        spawn_background(&mut tasks, &services, self.tunnel_end, stop);
        tasks
    }
}

/// Starts the tasks that the driver's handlers wait for.
fn spawn_owners(owners: Owners, services: &Services, stop: &CancellationToken) -> Tasks {
    let mut tasks = Tasks::default();
    tasks.spawn("plane", owners.applier.run(stop.clone()));
    let claims = claimer::run(services.clone(), owners.pending_claims, stop.clone());
    tasks.spawn("claims", claims);
    tasks
}

/// Starts the tasks that need nothing but the shared services.
fn spawn_background(
    tasks: &mut Tasks,
    services: &Services,
    end: TunnelEnd,
    stop: &CancellationToken,
) {
    tasks.spawn("memory", memory::run(stop.clone()));
    let (plane, events) = (services.plane.clone(), services.events.clone());
    let until = stop.clone();
    tasks.spawn("filter watch", async move { plane.watch_filter(&events, until).await });
    tasks.spawn("advertiser", services.advertiser.clone().run(stop.clone()));
    tasks.spawn("prober", services.prober.clone().run(stop.clone()));
    tasks.spawn("session reader", services.sessions.clone().run(stop.clone()));
    let published = encryption::publish(services.agreement.clone(), end, stop.clone());
    tasks.spawn("encryption", published);
    tasks.spawn("preshared keys", services.tunnel_keys.clone().run(stop.clone()));
    tasks.spawn("default of encryption", services.encrypt.clone().run(stop.clone()));
    let (agreement, local) = (services.agreement.clone(), services.local.clone());
    let leases = leases::run(agreement, local, services.events.clone(), stop.clone());
    tasks.spawn("leases", leases);
    let (events, until) = (services.events.clone(), stop.clone());
    tasks.spawn("event writer", async move { events.run(until).await });
    let resolvers = Resolvers::new(services.clone(), services.advertiser.watch_heard());
    tasks.spawn("resolvers", resolvers.run(stop.clone()));
    let hosts_files = HostsFiles::new(services.clone(), services.advertiser.watch_heard());
    tasks.spawn("hosts files", hosts_files.run(stop.clone()));
}

/// Waits for `member`, or for a task that ends before it is asked to.
async fn until_a_task_ends(
    [tasks, owners]: [&mut Tasks; 2],
    member: impl Future<Output = Result<()>>,
) -> Result<()> {
    tokio::pin!(member);
    let ended = tokio::select! {
        ended = &mut member => return ended,
        ended = tasks.first_ended() => ended,
        ended = owners.first_ended() => ended,
    };
    // A task also ends because Raft has stopped, which tells more.
    match timeout(RAFT_STOPS, member).await {
        Ok(stopped) => stopped,
        Err(_) => Err(anyhow!(ended)),
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
            duplicate = formation.consensus.duplicate_identity() => return Err(anyhow!(duplicate)),
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

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_takes_the_daemon_down_with_its_name() {
        let stop = CancellationToken::new();
        let (mut tasks, mut owners) = (Tasks::default(), Tasks::default());
        tasks.spawn("leases", stop.clone().cancelled_owned());
        owners.spawn("plane", stop.clone().cancelled_owned());
        tasks.spawn("advertiser", async { panic!("no room") });
        let ended = until_a_task_ends([&mut tasks, &mut owners], pending()).await;
        let ended = ended.unwrap_err().to_string();
        assert_eq!(
            ended,
            "the task advertiser panicked: no room; shoutd stops, to be started again"
        );
        owners.spawn("claims", async {});
        let ended = until_a_task_ends([&mut tasks, &mut owners], pending()).await;
        let ended = ended.unwrap_err().to_string();
        assert_eq!(ended, "the task claims ended; shoutd stops, to be started again");
        stop.cancel();
        assert_eq!(tasks.join_all(STOP_DEADLINE).await, Ok(()), "the others end in order");
        assert_eq!(owners.join_all(STOP_DEADLINE).await, Ok(()));
    }

    #[tokio::test]
    async fn the_end_of_raft_tells_more_than_the_tasks_that_end_with_it() {
        let (mut tasks, mut owners) = (Tasks::default(), Tasks::default());
        tasks.spawn("notices", async {});
        let member = ready(Err(anyhow!("Raft has stopped: the disk is full")));
        let ended = until_a_task_ends([&mut tasks, &mut owners], member).await;
        let ended = ended.unwrap_err().to_string();
        assert_eq!(ended, "Raft has stopped: the disk is full");
    }
}
