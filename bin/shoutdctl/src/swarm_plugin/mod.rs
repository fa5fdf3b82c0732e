//! `shoutdctl swarm-plugin`: Swarm takes a network driver from a managed plugin only, which the
//! engine runs in a container of its own. This one is made on the spot, of this very program, and
//! hands Docker's calls on to the daemon.

mod archive;
mod program;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use hyper::StatusCode;
use shoutd_cli::Directories;
use shoutd_core::swarm::{PLUGIN, SOCKET, SOCKET_DIRECTORY, SWARM_DRIVER};
use shoutd_core::view::DATA_DIRECTORY;
use shoutd_docker::engine::{EngineClient, EngineError};
use shoutd_docker::plugin;
use tokio::signal::unix::{SignalKind, signal};

use archive::Plugin;
use program::Program;

/// How long the daemon may take to answer on its second socket.
const DAEMON_PATIENCE: Duration = Duration::from_secs(5);

/// Serve the networks of a Swarm.
#[derive(Debug, Subcommand)]
pub enum SwarmPlugin {
    /// Install the plugin in this host's Docker Engine, or bring it up to date; on every node of
    /// the Swarm
    Install(Target),
    /// Remove the plugin from this host's Docker Engine
    Remove(Target),
    /// What the plugin does inside its container
    #[command(hide = true)]
    Serve(Serve),
}

/// Which engine and daemon.
#[derive(Debug, Args)]
pub struct Target {
    /// The daemon's data directory
    #[arg(long, value_name = "DIR", default_value = DATA_DIRECTORY)]
    data_dir: PathBuf,

    /// Docker's API socket
    #[arg(long, value_name = "PATH", default_value = "/var/run/docker.sock")]
    docker_socket: PathBuf,
}

/// Hand calls on.
#[derive(Debug, Args)]
pub struct Serve {
    /// Where Docker calls
    #[arg(long, value_name = "PATH")]
    listen: PathBuf,

    /// Where the daemon listens
    #[arg(long, value_name = "PATH")]
    daemon: PathBuf,
}

impl SwarmPlugin {
    /// Installs, removes or serves.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        match self {
            Self::Install(target) => target.install(directories).await,
            Self::Remove(target) => target.remove().await,
            Self::Serve(serve) => serve.run().await,
        }
    }
}

impl Target {
    async fn install(self, directories: &Directories) -> Result<()> {
        // Says how to start it where it does not run.
        crate::control::daemon(directories).await?;
        let directory = self.directory()?;
        let socket = directory.join(SOCKET);
        if !plugin::daemon_answers(&socket, DAEMON_PATIENCE).await {
            bail!(
                "shoutd does not answer at {}: give its data directory with --data-dir, or \
                 restart it if it is of an older version",
                socket.display()
            );
        }
        let engine = EngineClient::new(&self.docker_socket);
        let info = engine.engine_info().await?;
        if !info.swarm_active {
            eprintln!(
                "shoutdctl: this host is no node of a Swarm yet; the plugin is of use once it is \
                 (docker swarm init, docker swarm join)"
            );
        }
        let plugin = Plugin::new(&Program::running()?, &directory)?;
        match engine.plugin(PLUGIN).await? {
            Some(installed) if installed.description == plugin.description && installed.enabled => {
                println!("plugin {PLUGIN} is installed");
                return Ok(());
            }
            Some(installed) if installed.description == plugin.description => {
                engine.enable_plugin(PLUGIN).await?
            }
            Some(installed) => {
                remove(
                    &engine,
                    installed.enabled,
                    "it stays as it is, which does no harm as long as it works;",
                )
                .await?;
                create(&engine, plugin).await?;
            }
            None => create(&engine, plugin).await?,
        }
        println!(
            "plugin {PLUGIN} is installed; on a manager: docker network create --driver \
             {SWARM_DRIVER} --attachable <name>"
        );
        Ok(())
    }

    async fn remove(self) -> Result<()> {
        let engine = EngineClient::new(&self.docker_socket);
        match engine.plugin(PLUGIN).await? {
            None => println!("plugin {PLUGIN} is not installed"),
            Some(installed) => {
                remove(&engine, installed.enabled, "").await?;
                println!("plugin {PLUGIN} is removed");
            }
        }
        Ok(())
    }

    /// The directory that plugin and daemon share; an absolute path, as the engine wants it.
    fn directory(&self) -> Result<PathBuf> {
        let directory = self.data_dir.join(SOCKET_DIRECTORY);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        let absolute = made.and_then(|()| directory.canonicalize());
        absolute.with_context(|| format!("cannot use the directory {}", directory.display()))
    }
}

async fn create(engine: &EngineClient, plugin: Plugin) -> Result<()> {
    engine.create_plugin(PLUGIN, plugin.archive).await?;
    if let Err(error) = engine.enable_plugin(PLUGIN).await {
        // One that cannot run is of no use to anybody; why it cannot is in the engine's log.
        let _ = engine.remove_plugin(PLUGIN).await;
        return Err(error).context("the engine's log has what the plugin said");
    }
    Ok(())
}

/// Removes it unless it is in use. The engine could be forced to, but its networks would be without
/// a driver then, running tasks included.
async fn remove(engine: &EngineClient, is_enabled: bool, otherwise: &str) -> Result<()> {
    if is_enabled {
        match engine.disable_plugin(PLUGIN).await {
            Err(EngineError::Refused {
                status: StatusCode::CONFLICT | StatusCode::INTERNAL_SERVER_ERROR,
                message,
                ..
            }) if message.contains("in use") => {
                bail!(
                    "plugin {PLUGIN} is in use on this host: {otherwise} to be rid of it, move \
                     the tasks elsewhere first (on a manager: docker node update --availability \
                     drain <this node>)"
                );
            }
            result => result?,
        }
    }
    Ok(engine.remove_plugin(PLUGIN).await?)
}

impl Serve {
    /// Hands calls on until the engine stops the plugin.
    async fn run(self) -> Result<()> {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .without_time()
            .init();
        // Its first process: the kernel lets signals that it has no handler for pass it by.
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        let stopped = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let listener = plugin::bind(Path::new(&self.listen)).await?;
        plugin::serve(listener, plugin::adapter(self.daemon), stopped).await;
        Ok(())
    }
}
