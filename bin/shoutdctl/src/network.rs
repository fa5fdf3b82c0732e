//! `shoutdctl network`: like `docker network`, but waits until every host has followed.

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

/// How long the daemon may wait within one request.
const PATIENCE_PER_QUESTION: Duration = Duration::from_secs(10);

/// Pause between two requests.
const PAUSE: Duration = Duration::from_millis(200);

/// Create, remove or show networks on all hosts, or wait for one.
#[derive(Debug, Subcommand)]
pub enum Network {
    /// Create a network like `docker network create --driver shoutd`; returns when every reachable
    /// host has it
    Create(Create),
    /// Remove networks like `docker network rm`, or those of a Swarm that no longer exists; returns
    /// when they are gone from every reachable host
    Rm(Remove),
    /// Wait until every reachable host has a network
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
    /// Any options of `docker network create`, and the name
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
    /// Runs the subcommand.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        match self {
            Self::Create(create) => create.run(directories).await,
            Self::Rm(remove) => remove.run(directories).await,
            Self::Wait(wait) if wait.gone => {
                await_gone(directories, &wait.network, &wait.network, wait.patience).await
            }
            Self::Wait(wait) => {
                await_everywhere(directories, &wait.network, false, wait.patience).await
            }
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
                "--timeout is not an option of docker network create; give it before Docker's \
                 options and the name"
            );
        }
        let status: Status = control::get(directories, "/v1/status").await?;
        let mut command = docker(&status);
        command.args(["network", "create", "--driver", "shoutd"]).args(&self.arguments);
        let output = finished(command).await?;
        // Pass on Docker's messages: `output()` captures stderr.
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "docker network create failed");
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        await_everywhere(directories, &id, true, self.patience).await?;
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
                // The cluster and the Swarm may know it by different names.
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

/// Whether the engine has a network with this id. A node that is not a manager only has the Swarm
/// networks of its own tasks.
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

/// Deadline of a `docker` command: the engine may wait for shoutd several times, 15 s each.
const DOCKER_TIME_MAX: Duration = Duration::from_secs(120);

/// Runs a `docker` command and returns its output.
async fn finished(mut command: Command) -> Result<Output> {
    match tokio::time::timeout(DOCKER_TIME_MAX, command.kill_on_drop(true).output()).await {
        Ok(output) => output.context("cannot run `docker`, Docker's command line"),
        Err(_) => bail!(
            "the Docker Engine did not answer within {} s; see its log (journalctl --unit=docker)",
            DOCKER_TIME_MAX.as_secs()
        ),
    }
}

/// The `docker` command for the engine that the daemon serves.
fn docker(status: &Status) -> Command {
    let mut docker = Command::new("docker");
    docker
        .env("DOCKER_HOST", format!("unix://{}", status.docker_socket.display()))
        .env_remove("DOCKER_CONTEXT");
    docker.stdin(Stdio::null());
    docker
}

/// Asks the daemon until `will_do` accepts an answer or the time is over. Returns the last answer.
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

/// Waits until all hosts have the network. With `is_created`, Docker has created it on this host,
/// so the cluster had agreed on it: if the cluster does not have it now, waiting is pointless.
async fn await_everywhere(
    directories: &Directories,
    network: &str,
    is_created: bool,
    patience: Timeouts,
) -> Result<()> {
    let standing =
        ask_until(directories, network, false, patience, |standing| match standing.phase {
            NetworkPhase::There(_) => {
                !standing.hosts.iter().any(|copy| copy.state == CopyState::Absent)
            }
            NetworkPhase::Leaving(_) => true,
            NetworkPhase::Unknown => is_created,
            NetworkPhase::Nameless | NetworkPhase::Asking => false,
        });
    let standing = standing.await?;
    if let Some(why) = &standing.made_room {
        bail!("network {network} of this host is replaced by another one: {why}");
    }
    match &standing.phase {
        NetworkPhase::Unknown => bail!(
            "the cluster has no network {network}: it was never created with driver shoutd, or \
             was replaced by one of the same name that was created on another host at the same \
             time (shoutdctl networks, shoutdctl events)"
        ),
        NetworkPhase::Nameless => {
            bail!("network {network} is still being created after {} s", patience.timeout);
        }
        NetworkPhase::Asking | NetworkPhase::Leaving(_) => {
            bail!("network {network} is being removed")
        }
        NetworkPhase::There(_) => {
            for problem in &standing.tunnel_problems {
                eprintln!("({problem})");
            }
            tell(&standing, CopyState::Absent, "does not have it", network, patience)
        }
    }
}

/// Waits until the network is gone from all hosts. `title` is its name in messages.
async fn await_gone(
    directories: &Directories,
    network: &str,
    title: &str,
    patience: Timeouts,
) -> Result<()> {
    let standing =
        ask_until(directories, network, true, patience, |standing| match &standing.phase {
            NetworkPhase::Unknown => {
                !standing.hosts.iter().any(|copy| copy.state == CopyState::Present)
            }
            // In use: it stays until a user stops its containers and removes it again.
            NetworkPhase::There(hosts) => !hosts.is_empty(),
            _ => false,
        });
    let standing = standing.await?;
    match &standing.phase {
        NetworkPhase::There(hosts) if hosts.is_empty() => {
            bail!("network {title} still exists after {} s", patience.timeout)
        }
        NetworkPhase::There(hosts) => {
            bail!(
                "network {title} is in use on {}; it was not removed from any host",
                hosts.join(", ")
            )
        }
        NetworkPhase::Asking => {
            bail!(
                "the cluster has no leader (shoutdctl hosts); network {title} is removed when it \
                 has one again"
            )
        }
        NetworkPhase::Leaving(hosts) => bail!(
            "the removal of network {title} waits for {}; it completes when they are back, or are \
             removed with: shoutdctl remove <host>",
            hosts.join(", ")
        ),
        NetworkPhase::Nameless => bail!("network {title} is being created"),
        NetworkPhase::Unknown => {
            tell(&standing, CopyState::Present, "still has it", title, patience)
        }
    }
}

/// Reports the result. Hosts that do not answer are only named, because they follow when they are
/// back; hosts that answer and have not followed are an error.
fn tell(
    standing: &NetworkStanding,
    wrong: CopyState,
    what: &str,
    network: &str,
    patience: Timeouts,
) -> Result<()> {
    for copy in standing.hosts.iter().filter(|copy| copy.state == CopyState::Unreachable) {
        eprintln!("(host {} does not answer; it will follow when it is back)", copy.host);
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
