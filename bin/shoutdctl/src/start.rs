//! `shoutdctl start`.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use nix::unistd::Pid;
use shoutd_cli::{Configuration, Directories, EXIT_OTHER_RUNS, StartArguments, TOKEN_VARIABLE};
use shoutd_core::encryption::SetEncrypt;
use shoutd_core::view::{Done, Engine, Membership, OfferToken, Status};
use tokio::time::{Instant, sleep};

use crate::boot::{Installed, Systemd};
use crate::container;
use crate::control::{self, ControlError};
use crate::daemon_log::Log;
use crate::started;
use crate::stop::terminate;
use crate::waiting::Waiting;
use crate::wishes;

/// Interval between questions to the daemon.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long a killed daemon may take to exit.
const EXIT_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a daemon that has locked its data may take to open its control socket.
const OPENING_TIME_MAX: Duration = Duration::from_secs(10);

/// How long the daemon of a cluster member may take to serve Docker after systemd reports it ready.
const RESTART_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a host without a token waits for approval.
const APPROVAL_TIME_MAX: Duration = Duration::from_secs(600);

/// Start shoutd in the background.
#[derive(Debug, Args)]
pub struct Start {
    // Only for the help: they are read together with the environment and the configuration file.
    #[command(flatten)]
    _arguments: StartArguments,

    /// Seconds to wait until shoutd serves Docker and is a cluster member
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = parse_seconds)]
    timeout: u64,

    /// The daemon's log file; if systemd runs the daemon, see journalctl --unit=shoutd instead
    #[arg(long, value_name = "FILE", default_value = "/var/log/shoutd.log")]
    log_file: PathBuf,

    /// Run shoutd in a container of the engine, which starts it again, instead of under systemd
    #[arg(long)]
    container: bool,

    /// The image of the container
    #[arg(long, value_name = "IMAGE", default_value = container::IMAGE, requires = "container")]
    image: String,

    /// Print JSON; all other lines go to standard error
    #[arg(long)]
    json: bool,
}

/// The addresses as `--peer-addresses` takes them.
fn list(peers: &[SocketAddr]) -> String {
    peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn parse_seconds(text: &str) -> Result<u64> {
    let seconds = text.parse().ok().filter(|seconds| (1..=3600).contains(seconds));
    seconds.ok_or_else(|| anyhow!("give a number of seconds from 1 to 3600"))
}

impl Start {
    /// Starts the daemon unless it already runs, and waits until it serves Docker.
    ///
    /// # Errors
    /// It does not serve Docker in time, or not as the configuration says.
    pub async fn run(self, configuration: Configuration) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        let image = self.container.then_some(self.image);
        let (log_file, json) = (self.log_file, self.json);
        Starting { configuration, log_file, image, json }.run(deadline).await
    }
}

/// A start with all its settings.
struct Starting {
    configuration: Configuration,
    log_file: PathBuf,
    /// The image of the container to run shoutd in.
    image: Option<String>,
    /// Whether the result is printed as JSON.
    json: bool,
}

impl Starting {
    async fn run(self, deadline: Instant) -> Result<()> {
        let directories = &self.configuration.directories;
        let token = self.token()?;
        if let Some(status) = running(directories).await? {
            return self.already_running(directories, &status, token.as_deref(), deadline).await;
        }
        self.check_engine()?;
        if let Some(image) = &self.image {
            return self.run_container(image, token.as_deref(), deadline).await;
        }
        let log = Log::open(&self.log_file)?;
        let mut child = self.spawn(&log, token.as_deref())?;
        let pid = Pid::from_raw(
            i32::try_from(child.id()).context("the kernel gave a process id out of range")?,
        );
        let waited = tokio::select! {
            waited = wait_until_serving(directories, deadline, || {
                check_alive(&mut child, &log)
            }) => waited,
            signal = tokio::signal::ctrl_c() => {
                signal.map_err(Into::into).and(Err(anyhow!("interrupted")))
            }
        };
        let waited = match waited {
            Ok(_) => self.set_encrypt(directories).await,
            Err(error) => Err(error),
        };
        if let Err(error) = waited {
            if child.try_wait()?.is_some_and(|status| status.code() == Some(EXIT_OTHER_RUNS.into()))
                && let Some(status) = starting(directories).await?
            {
                return self
                    .already_running(directories, &status, token.as_deref(), deadline)
                    .await;
            }
            // Do not leave behind a daemon that could not serve in time, or not as it should.
            terminate(pid).await?;
            return Err(error);
        }
        self.hand_to_systemd(directories, token.as_deref(), deadline).await
    }

    /// The token. Read it only once: it may come from standard input or a pipe. The file that the
    /// configuration names may be gone on a member, which needs no token.
    fn token(&self) -> Result<Option<String>> {
        let text = self.configuration.start.token_text();
        match text {
            Err(_) if !self.configuration.is_given("token-file") => Ok(None),
            text => text.context("cannot take the token from its file"),
        }
    }

    /// Starts the daemon in a container. One that ends at once is started again and again by the
    /// engine: it is removed, like a daemon that could not serve in time.
    async fn run_container(
        &self,
        image: &str,
        token: Option<&str>,
        deadline: Instant,
    ) -> Result<()> {
        let directories = &self.configuration.directories;
        let socket = &self.configuration.start.docker_socket;
        container::run(image, &self.configuration, token).await?;
        let served = match wait_until_serving(directories, deadline, || Ok(())).await {
            Ok(status) => self.set_encrypt(directories).await.map(|()| status),
            Err(error) => Err(error),
        };
        let status = match served {
            Ok(status) => status,
            Err(error) => {
                let said = container::last_error(socket).await;
                container::remove(socket).await?;
                return Err(said.map_or(error, |said| anyhow!(said)));
            }
        };
        wishes::check(&self.configuration.start, token, directories, &status).await?;
        started::report(directories, &status, self.json).await
    }

    /// If the host runs systemd, replaces the daemon with one that systemd runs: systemd restarts
    /// it after a failure and starts it at boot. Then waits until it serves, and reports that.
    async fn hand_to_systemd(
        &self,
        directories: &Directories,
        token: Option<&str>,
        deadline: Instant,
    ) -> Result<()> {
        let mut deadline = deadline;
        let daemon = control::daemon(directories).await?;
        let is_contained = container::runs(&self.configuration.start.docker_socket, daemon).await;
        if self.image.is_some() && !is_contained {
            bail!(
                "shoutd is already running, and not in a container; to run it in one, stop it \
                 first: shoutdctl stop"
            );
        }
        // The engine starts a container again, also at boot.
        let systemd = if is_contained { None } else { Systemd::of_this_host() };
        if let Some(systemd) = systemd {
            match self.install_unit(&systemd).await {
                Ok(Some(daemon)) => {
                    terminate(daemon).await?;
                    systemd.start().await?;
                    // The first daemon may have used up most of the time.
                    deadline = deadline.max(Instant::now() + RESTART_TIME_MAX);
                }
                Ok(None) => {}
                Err(error) => eprintln!(
                    "shoutd serves Docker, but will not start when this host boots: {error:#}"
                ),
            }
        }
        let status = wait_until_serving(directories, deadline, || Ok(())).await?;
        wishes::check(&self.configuration.start, token, directories, &status).await?;
        started::report(directories, &status, self.json).await
    }

    /// Prints a line that is not the result.
    fn say(&self, line: &str) {
        if self.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }

    /// Installs the systemd unit. Returns the running daemon if systemd must replace it: not if
    /// systemd already runs it, nor if the unit is not ours.
    async fn install_unit(&self, systemd: &Systemd) -> Result<Option<Pid>> {
        // The program may have been found on our PATH; systemd uses a different one.
        let program = daemon_program();
        let program = fs::canonicalize(&program).unwrap_or(program);
        match systemd.install(&program, &self.configuration).await? {
            Installed::New => {
                self.say(
                    "systemd now runs shoutd and starts it at boot, before Docker (shoutd.service)",
                );
            }
            Installed::Unchanged => {}
            Installed::Foreign => {
                self.say(
                    "this host's administrator wrote or masked shoutd.service; it is left alone, \
                     and must start shoutd at boot",
                );
                return Ok(None);
            }
        }
        let daemon = control::daemon(&self.configuration.directories).await?;
        Ok((!systemd.runs(daemon).await?).then_some(daemon))
    }

    async fn already_running(
        &self,
        directories: &Directories,
        status: &Status,
        token: Option<&str>,
        deadline: Instant,
    ) -> Result<()> {
        if let Some(wanted) = self.configuration.start.address_rule()
            && wanted.to_string() != wishes::address_rule(status)
        {
            let found = match &status.address_rule {
                Some(rule) => format!(" of {rule}"),
                None => String::new(),
            };
            bail!(
                "shoutd is already running, with address {}{found}; to start it with {wanted}, \
                 stop it first: shoutdctl stop",
                status.address
            );
        }
        if status.membership != Membership::Member {
            self.offer_token(directories, status, token).await?;
        }
        let pid = control::daemon(directories).await?;
        let status =
            wait_until_serving(directories, deadline, || match control::process_state(pid) {
                None | Some('Z' | 'X') => Err(control::not_running(directories).into()),
                Some(_) => Ok(()),
            });
        let status = status.await?;
        // Check before we write these arguments into the systemd unit.
        wishes::check(&self.configuration.start, token, directories, &status).await?;
        self.set_encrypt(directories).await?;
        self.hand_to_systemd(directories, token, deadline).await
    }

    /// Lets the cluster agree on which new networks are encrypted, if this start asks for it.
    async fn set_encrypt(&self, directories: &Directories) -> Result<()> {
        let Some(encrypt) = self.configuration.start.encrypt else { return Ok(()) };
        let wanted = SetEncrypt { encrypt };
        let set = control::post::<_, Done>(directories, "/v1/encrypt", &wanted).await;
        set.map(drop).with_context(|| format!("--encrypt={encrypt} is not in force"))
    }

    /// Gives the token to a daemon that runs and has not joined a cluster yet.
    async fn offer_token(
        &self,
        directories: &Directories,
        status: &Status,
        token: Option<&str>,
    ) -> Result<()> {
        let wanted = &self.configuration.start.peer_addresses;
        if !wanted.is_empty() && *wanted != status.peer_addresses {
            bail!(
                "shoutd is already running and joins a cluster with --peer-addresses={}; to start \
                 it with {}, stop it first: shoutdctl stop",
                list(&status.peer_addresses),
                list(wanted)
            );
        }
        if let Some(token) = token {
            let offer = OfferToken { token: token.to_owned() };
            let _: Done = control::post(directories, "/v1/token/offer", &offer).await?;
        }
        Ok(())
    }

    /// The daemon would wait for its engine, as it must at boot. A user who starts it by hand
    /// should see the error at once.
    fn check_engine(&self) -> Result<()> {
        let socket = &self.configuration.start.docker_socket;
        let connected = UnixStream::connect(socket);
        connected.with_context(|| {
            format!(
                "no Docker Engine answers at {}; start it (systemctl start docker), then run this \
                 again",
                socket.display()
            )
        })?;
        Ok(())
    }

    fn spawn(&self, log: &Log, token: Option<&str>) -> Result<Child> {
        let program = daemon_program();
        let mut command = Command::new(&program);
        command.args(self.configuration.command_line()).current_dir("/");
        command.stdin(Stdio::null()).stdout(log.handle()?).stderr(log.handle()?);
        // Not as an argument, which every user of the host can read.
        if let Some(token) = token {
            command.env(TOKEN_VARIABLE, token);
        }
        // Its own process group: Ctrl-C here must not reach the daemon.
        command.process_group(0);
        command.spawn().with_context(|| format!("cannot start {}", program.display()))
    }
}

/// Status of the daemon of this host; `None` if none runs. A daemon that was just killed may still
/// accept a connection and close it, so we ask again until it is gone.
async fn running(directories: &Directories) -> Result<Option<Status>> {
    let deadline = Instant::now() + EXIT_TIME_MAX;
    loop {
        match control::get::<Status>(directories, "/v1/status").await {
            Ok(status) => return Ok(Some(status)),
            Err(ControlError::NotRunning { .. }) => return Ok(None),
            Err(ControlError::Transport { .. }) if Instant::now() < deadline => {
                sleep(POLL_INTERVAL).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Status of a daemon that something else, such as systemd, has just started. It opens its control
/// socket shortly after it has locked its data; `None` if it does not.
async fn starting(directories: &Directories) -> Result<Option<Status>> {
    let deadline = Instant::now() + OPENING_TIME_MAX;
    loop {
        let status = running(directories).await?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// The `shoutd` program: in the directory of this program, or on the PATH.
fn daemon_program() -> PathBuf {
    let sibling = std::env::current_exe().ok().map(|own| own.with_file_name("shoutd"));
    sibling.filter(|program| program.is_file()).unwrap_or_else(|| PathBuf::from("shoutd"))
}

/// Polls the daemon until it serves Docker, and returns its status. Fails at the deadline, or when
/// `check_alive` says that it has ended.
async fn wait_until_serving(
    directories: &Directories,
    mut deadline: Instant,
    mut check_alive: impl FnMut() -> Result<()>,
) -> Result<Status> {
    let mut reason = "it has not opened its control socket yet".to_owned();
    let mut waiting = Waiting::begin("until shoutd serves Docker");
    while Instant::now() < deadline {
        waiting.go_on();
        check_alive()?;
        match control::get::<Status>(directories, "/v1/status").await {
            Ok(status) => match why_not_serving(&status) {
                None => return Ok(status),
                Some(why) => {
                    if matches!(status.membership, Membership::AwaitingApproval { .. })
                        && why != reason
                    {
                        waiting.say(&why);
                        deadline = deadline.max(Instant::now() + APPROVAL_TIME_MAX);
                    }
                    reason = why;
                }
            },
            Err(ControlError::NotRunning { .. }) => {}
            Err(error) => reason = format!("{:#}", anyhow!(error)),
        }
        sleep(POLL_INTERVAL).await;
    }
    bail!("shoutd does not serve Docker in time: {reason}")
}

fn why_not_serving(status: &Status) -> Option<String> {
    match (&status.membership, &status.docker) {
        (Membership::AwaitingApproval { host, cluster }, _) => Some(format!(
            "this host waits for approval; on a member of the cluster, run shoutdctl approve to \
             check that the cluster's fingerprint is {cluster}, then: shoutdctl approve {host}"
        )),
        (Membership::Joining(why), _) | (Membership::Member, Engine::Absent(why)) => {
            Some(why.clone())
        }
        (Membership::Member, Engine::Serving(_)) => None,
    }
}

/// If the daemon has ended, returns the error that it logged.
fn check_alive(child: &mut Child, log: &Log) -> Result<()> {
    match child.try_wait()? {
        None => Ok(()),
        Some(status) => {
            Err(anyhow!(log.last_error().unwrap_or_else(|| format!(
                "shoutd ended ({status}); see {}",
                log.path().display()
            ))))
        }
    }
}
