//! `shoutdctl swarm-plugin`. Swarm accepts a network driver only from a managed plugin, which the
//! engine runs in its own container. We build the plugin from this program; it forwards Docker's
//! calls to the daemon.

mod archive;
mod program;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use archive::Plugin;
use clap::{Args, Subcommand};
use hyper::StatusCode;
use program::Program;
use shoutd_cli::Directories;
use shoutd_core::swarm::{PLUGIN, SOCKET, SOCKET_DIRECTORY, SWARM_DRIVER};
use shoutd_core::view::DATA_DIRECTORY;
use shoutd_docker::engine::{EngineClient, EngineError};
use shoutd_docker::plugin;
use tokio::signal::unix::{SignalKind, signal};

/// How long the daemon may take to answer on its second socket.
const DAEMON_TIME_MAX: Duration = Duration::from_secs(5);

/// Serve the networks of a Swarm with a managed plugin.
#[derive(Debug, Subcommand)]
pub enum SwarmPlugin {
    /// Install or update the plugin in this host's Docker Engine; run it on every node of the Swarm
    Install(Target),
    /// Remove the plugin from this host's Docker Engine
    Remove(Target),
    /// Run inside the plugin's container and forward calls to the daemon
    #[command(hide = true)]
    Serve(Serve),
}

/// Engine and daemon of this host.
#[derive(Debug, Args)]
pub struct Target {
    /// The daemon's data directory
    #[arg(long, value_name = "DIR", default_value = DATA_DIRECTORY)]
    data_dir: PathBuf,

    /// Docker's API socket
    #[arg(long, value_name = "PATH", default_value = "/var/run/docker.sock")]
    docker_socket: PathBuf,
}

/// Forward Docker's calls to the daemon.
#[derive(Debug, Args)]
pub struct Serve {
    /// The socket that Docker calls
    #[arg(long, value_name = "PATH")]
    listen: PathBuf,

    /// The daemon's socket
    #[arg(long, value_name = "PATH")]
    daemon: PathBuf,
}

impl SwarmPlugin {
    /// Installs, removes or serves the plugin.
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
        // If the daemon does not run, this error says how to start it.
        crate::control::daemon(directories).await?;
        let directory = self.directory()?;
        let socket = directory.join(SOCKET);
        if !plugin::daemon_answers(&socket, DAEMON_TIME_MAX).await {
            bail!(
                "shoutd does not answer at {}; give its data directory with --data-dir, or \
                 restart it if it is an older version",
                socket.display()
            );
        }
        let engine = EngineClient::new(&self.docker_socket);
        let info = engine.engine_info().await?;
        if !info.swarm_active {
            eprintln!(
                "shoutdctl: this host is not a node of a Swarm yet; the plugin has no effect \
                 until it is (docker swarm init, docker swarm join)"
            );
        }
        let plugin = Plugin::new(&Program::running()?, &directory)?;
        match engine.plugin(PLUGIN).await? {
            Some(installed) if installed.description == plugin.description && installed.enabled => {
                println!("plugin {PLUGIN} is installed");
                return Ok(());
            }
            Some(installed) if installed.description == plugin.description => {
                engine.enable_plugin(PLUGIN).await?;
            }
            Some(installed) => {
                remove(
                    &engine,
                    installed.enabled,
                    "it was not updated, which is harmless while it works;",
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

    /// The directory that plugin and daemon share, as an absolute path because the engine needs
    /// one.
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
        // Do not leave behind a plugin that cannot run.
        let _ = engine.remove_plugin(PLUGIN).await;
        return Err(error).context("the plugin did not start; the reason is in the engine's log");
    }
    Ok(())
}

/// Removes the plugin unless it is in use. We do not force the removal: networks of running tasks
/// would be left without a driver. `if_in_use` is a part of the error message.
async fn remove(engine: &EngineClient, is_enabled: bool, if_in_use: &str) -> Result<()> {
    if is_enabled {
        match engine.disable_plugin(PLUGIN).await {
            Err(EngineError::Refused {
                status: StatusCode::CONFLICT | StatusCode::INTERNAL_SERVER_ERROR,
                message,
                ..
            }) if message.contains("in use") => {
                bail!(
                    "plugin {PLUGIN} is in use on this host: {if_in_use} to remove it, first move \
                     the tasks to other nodes (on a manager: docker node update --availability \
                     drain <this node>)"
                );
            }
            result => result?,
        }
    }
    Ok(engine.remove_plugin(PLUGIN).await?)
}

impl Serve {
    /// Forwards calls until the engine stops the plugin.
    async fn run(self) -> Result<()> {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .without_time()
            .init();
        // We are PID 1 of the container: the kernel ignores signals for it that have no handler
        // (pid_namespaces(7)).
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
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
