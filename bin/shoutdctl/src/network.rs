//! `shoutdctl network`: what `docker network` does, and then the wait until every host has
//! followed.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use shoutd_cli::Directories;
use shoutd_core::view::{
    AwaitNetwork, CopyState, Done, ForgetNetwork, NetworkPhase, NetworkRow, NetworkStanding, Status,
};
use tokio::process::Command;

use crate::control;
use crate::show::{Inspect, Networks};

/// How long the daemon may wait within one question.
const PATIENCE_PER_QUESTION: Duration = Duration::from_secs(10);

/// How long to wait before asking again, if the daemon answered at once.
const PAUSE: Duration = Duration::from_millis(200);

/// Create, remove or show a network of all hosts, or wait for one.
#[derive(Debug, Subcommand)]
pub enum Network {
    /// Create a network as `docker network create --driver shoutd` does; returns when every host
    /// that can be reached has it
    Create(Create),
    /// Remove networks as `docker network rm` does, or those of a Swarm that is no more; returns
    /// when they are gone from every host that can be reached
    Rm(Remove),
    /// Wait until every host that can be reached has a network
    Wait(Wait),
    /// List the networks of the cluster
    #[command(visible_alias = "list")]
    Ls(Networks),
    /// Show networks with their endpoints and groups, as JSON
    Inspect(Inspect),
}

/// `shoutdctl network create`.
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    patience: Timeouts,
    /// The name, and any of the options of `docker network create`
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "DOCKER'S OPTIONS> <NAME"
    )]
    arguments: Vec<String>,
}

/// `shoutdctl network rm`.
#[derive(Debug, Args)]
pub struct Remove {
    #[command(flatten)]
    patience: Timeouts,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// `shoutdctl network wait`.
#[derive(Debug, Args)]
pub struct Wait {
    #[command(flatten)]
    patience: Timeouts,
    /// Wait until it is gone from every host instead
    #[arg(long)]
    gone: bool,
    /// Name or id
    network: String,
}

#[derive(Debug, Clone, Copy, Args)]
struct Timeouts {
    /// Seconds to wait for the other hosts
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl Network {
    /// Does it.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        match self {
            Self::Create(create) => create.run(directories).await,
            Self::Rm(remove) => remove.run(directories).await,
            Self::Wait(wait) if wait.gone => {
                await_gone(directories, &wait.network, &wait.network, wait.patience).await
            }
            Self::Wait(wait) => await_everywhere(directories, &wait.network, wait.patience).await,
            Self::Ls(networks) => networks.run(directories).await,
            Self::Inspect(inspect) => inspect.run(directories).await,
        }
    }
}

impl Create {
    async fn run(self, directories: &Directories) -> Result<()> {
        let chooses_driver =
            |argument: &&String| argument.starts_with("--driver") || argument.starts_with("-d");
        if let Some(argument) = self.arguments.iter().find(chooses_driver) {
            bail!("{argument}: the driver is shoutd; leave it out, or use docker network create");
        }
        if self.arguments.iter().any(|argument| argument.starts_with("--timeout")) {
            bail!(
                "--timeout is none of Docker's options: write it before those and before the name"
            );
        }
        let status: Status = control::get(directories, "/v1/status").await?;
        let mut command = docker(&status);
        command.args(["network", "create", "--driver", "shoutd"]).args(&self.arguments);
        let output = finished(command).await?;
        // What Docker says of it; tokio takes it from the command whatever that is told.
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "docker network create failed");
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        await_everywhere(directories, &id, self.patience).await?;
        println!("{id}");
        Ok(())
    }
}

impl Remove {
    async fn run(self, directories: &Directories) -> Result<()> {
        let status: Status = control::get(directories, "/v1/status").await?;
        let known: Vec<NetworkRow> = control::get(directories, "/v1/networks").await?;
        for wanted in &self.networks {
            let Some(row) = known.iter().find(|row| row.is_called(wanted)) else {
                bail!("there is no network {wanted} in the cluster; shoutdctl networks lists them");
            };
            let name = row.name.as_deref().unwrap_or(wanted);
            if row.swarm && !engine_has(&status, row.id.as_str()).await? {
                let forget = ForgetNetwork { network: row.id.clone() };
                let done: Done = control::post(directories, "/v1/networks/forget", &forget).await?;
                eprintln!("({})", done.message);
            } else {
                // What the cluster calls it may be another name than the Swarm's.
                let engines_name = if row.swarm { row.id.as_str() } else { name };
                let mut command = docker(&status);
                command.args(["network", "rm", engines_name]);
                let output = finished(command).await?;
                eprint!("{}", String::from_utf8_lossy(&output.stderr));
                ensure!(output.status.success(), "docker network rm {name} failed");
            }
            await_gone(directories, row.id.as_str(), name, self.patience).await?;
            println!("{wanted}");
        }
        Ok(())
    }
}

/// Whether the engine has a network of this id. Of a Swarm's networks, one that does not manage the
/// Swarm has those of its own tasks.
async fn engine_has(status: &Status, id: &str) -> Result<bool> {
    let mut command = docker(status);
    command.args(["network", "ls", "--quiet", "--no-trunc"]);
    let listed = finished(command).await?;
    ensure!(
        listed.status.success(),
        "docker network ls failed: {}",
        String::from_utf8_lossy(&listed.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&listed.stdout).lines().any(|line| line == id))
}

/// How long Docker's command line may take: the engine waits for shoutd, for 15 s where that does
/// not run, and several times.
const DOCKER_TIME_MAX: Duration = Duration::from_secs(120);

/// Runs it to its end.
async fn finished(mut command: Command) -> Result<Output> {
    match tokio::time::timeout(DOCKER_TIME_MAX, command.kill_on_drop(true).output()).await {
        Ok(output) => output.context("cannot run `docker`, Docker's command line"),
        Err(_) => bail!(
            "the Docker Engine has not answered within {} s; see its log (journalctl \
             --unit=docker)",
            DOCKER_TIME_MAX.as_secs()
        ),
    }
}

/// Docker's command line, for the engine that the daemon serves.
fn docker(status: &Status) -> Command {
    let mut docker = Command::new("docker");
    docker
        .env("DOCKER_HOST", format!("unix://{}", status.docker_socket.display()))
        .env_remove("DOCKER_CONTEXT");
    docker.stdin(Stdio::null());
    docker
}

/// Asks until the answer will do, or time is up; returns the last answer.
async fn ask_until(
    directories: &Directories,
    network: &str,
    gone: bool,
    patience: Timeouts,
    will_do: impl Fn(&NetworkStanding) -> bool,
) -> Result<NetworkStanding> {
    let deadline = Instant::now() + Duration::from_secs(patience.timeout);
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).min(PATIENCE_PER_QUESTION);
        let patience = left.as_millis().try_into().unwrap_or(u64::MAX);
        let question = AwaitNetwork { network: network.to_owned(), gone, patience };
        let standing: NetworkStanding =
            control::post(directories, "/v1/networks/wait", &question).await?;
        if will_do(&standing) || Instant::now() >= deadline {
            return Ok(standing);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn await_everywhere(
    directories: &Directories,
    network: &str,
    patience: Timeouts,
) -> Result<()> {
    let will_do = |standing: &NetworkStanding| match standing.phase {
        NetworkPhase::There(_) => {
            !standing.hosts.iter().any(|copy| copy.state == CopyState::Absent)
        }
        NetworkPhase::Leaving(_) => true,
        _ => false,
    };
    let standing = ask_until(directories, network, false, patience, will_do).await?;
    match &standing.phase {
        NetworkPhase::Unknown => bail!(
            "the cluster has no network {network}: it was never created with driver shoutd, or \
             made room for one of its name that was created on another host in the same moment \
             (shoutdctl networks, shoutdctl events)"
        ),
        NetworkPhase::Nameless => {
            bail!("network {network} is still being created after {} s", patience.timeout);
        }
        NetworkPhase::Asking | NetworkPhase::Leaving(_) => {
            bail!("network {network} is being removed")
        }
        NetworkPhase::There(_) => {
            tell(&standing, CopyState::Absent, "does not have it", network, patience)
        }
    }
}

/// `title` is what the user calls it.
async fn await_gone(
    directories: &Directories,
    network: &str,
    title: &str,
    patience: Timeouts,
) -> Result<()> {
    let will_do = |standing: &NetworkStanding| match &standing.phase {
        NetworkPhase::Unknown => {
            !standing.hosts.iter().any(|copy| copy.state == CopyState::Present)
        }
        // In use: it stays until somebody stops its containers and removes it again.
        NetworkPhase::There(hosts) => !hosts.is_empty(),
        _ => false,
    };
    let standing = ask_until(directories, network, true, patience, will_do).await?;
    match &standing.phase {
        NetworkPhase::There(hosts) if hosts.is_empty() => {
            bail!("network {title} is still there after {} s", patience.timeout)
        }
        NetworkPhase::There(hosts) => {
            bail!("network {title} is in use on {}: it stays on all hosts", hosts.join(", "))
        }
        NetworkPhase::Asking => {
            bail!(
                "the cluster cannot be asked now (shoutdctl hosts): network {title} is removed as \
                 soon as it can"
            )
        }
        NetworkPhase::Leaving(hosts) => bail!(
            "the removal of network {title} waits for {}: it is gone when they are back, or \
             removed with: shoutdctl remove <host>",
            hosts.join(", ")
        ),
        NetworkPhase::Nameless => bail!("network {title} is being created"),
        NetworkPhase::Unknown => {
            tell(&standing, CopyState::Present, "still has it", title, patience)
        }
    }
}

/// Hosts that do not answer follow when they are back, and are only named; those that answer and
/// have not followed are an error.
fn tell(
    standing: &NetworkStanding,
    wrong: CopyState,
    what: &str,
    network: &str,
    patience: Timeouts,
) -> Result<()> {
    for copy in standing.hosts.iter().filter(|copy| copy.state == CopyState::Unreachable) {
        eprintln!("(host {} does not answer: it follows when it is back)", copy.host);
    }
    let late = standing.hosts.iter().filter(|copy| copy.state == wrong);
    let late: Vec<_> = late
        .map(|copy| match &copy.problem {
            Some(problem) => format!("{} {what}: {problem}", copy.host),
            None => format!("{} {what}", copy.host),
        })
        .collect();
    ensure!(
        late.is_empty(),
        "network {network}, after {} s: {}",
        patience.timeout,
        late.join("; ")
    );
    Ok(())
}
