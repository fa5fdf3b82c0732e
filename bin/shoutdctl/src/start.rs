//! `shoutdctl start`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use nix::unistd::Pid;
use shoutd_cli::{Directories, EXIT_OTHER_RUNS, StartArguments, TOKEN_VARIABLE};
use shoutd_core::view::{Done, Engine, Membership, OfferToken, Status, TokenView};
use tokio::time::{Instant, sleep};

use crate::boot::{Installed, Systemd};
use crate::control::{self, ControlError};
use crate::stop::terminate;
use crate::token::{invitation, private_invitation};
use crate::wishes;

/// How often the daemon is asked how far it is.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long a daemon that was killed may take to be gone.
const DYING_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a daemon that has locked its data may take to open its control socket.
const OPENING_TIME_MAX: Duration = Duration::from_secs(10);

/// How long the daemon of a host that belongs to a cluster may take, once it is ready, until it
/// serves.
const RESTART_TIME_MAX: Duration = Duration::from_secs(30);

/// How long the hosts of a cluster that was just started may take to elect a leader.
const ELECTION_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a host without a token waits for somebody to approve of it.
const APPROVAL_PATIENCE: Duration = Duration::from_secs(600);

/// A log larger than this, in octets, is put aside at the next start, so that two such files are
/// the most there is after it.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Start shoutd in the background.
#[derive(Debug, Args)]
pub struct Start {
    #[command(flatten)]
    arguments: StartArguments,

    /// Seconds to wait until it serves Docker and belongs to a cluster
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = parse_seconds)]
    timeout: u64,

    /// Where the daemon's log goes, unless systemd runs it: see journalctl --unit=shoutd then
    #[arg(long, value_name = "FILE", default_value = "/var/log/shoutd.log")]
    log_file: PathBuf,
}

fn parse_seconds(text: &str) -> Result<u64> {
    let seconds = text.parse().ok().filter(|seconds| (1..=3600).contains(seconds));
    seconds.ok_or_else(|| anyhow!("give a number of seconds from 1 to 3600"))
}

impl Start {
    /// Starts the daemon unless it runs, and waits until it serves.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        // Once: standard input and pipes give it once.
        let token = self.arguments.token_text().context("cannot take the token from its file")?;
        if let Some(status) = running(directories).await? {
            return self.already_running(directories, &status, token.as_deref(), deadline).await;
        }
        self.check_engine()?;
        let log = Log::open(&self.log_file)?;
        let mut child = self.spawn(directories, &log, token.as_deref())?;
        let pid = Pid::from_raw(
            i32::try_from(child.id()).context("the kernel gave a process id out of range")?,
        );
        let waited = tokio::select! {
            waited = wait_until_serving(directories, deadline, || ended(&mut child, &log)) => waited,
            signal = tokio::signal::ctrl_c() => signal.map_err(Into::into).and(Err(anyhow!("interrupted"))),
        };
        if let Err(error) = waited {
            if child.try_wait()?.is_some_and(|status| status.code() == Some(EXIT_OTHER_RUNS.into()))
                && let Some(status) = starting(directories).await?
            {
                return self
                    .already_running(directories, &status, token.as_deref(), deadline)
                    .await;
            }
            // Nothing half-made stays behind: a daemon that could not serve in time does not run on
            // unseen.
            terminate(pid).await?;
            return Err(error);
        }
        self.leave_to_systemd(directories, token.as_deref(), deadline).await
    }

    /// Has systemd run the daemon that serves, if it runs this host: it starts it again when it
    /// ends by mistake, and when the host boots. Then tells the user that it serves.
    async fn leave_to_systemd(
        &self,
        directories: &Directories,
        token: Option<&str>,
        deadline: Instant,
    ) -> Result<()> {
        let mut deadline = deadline;
        if let Some(systemd) = Systemd::of_this_host() {
            match self.stranger_to(&systemd, directories).await {
                Ok(Some(daemon)) => {
                    terminate(daemon).await?;
                    systemd.start().await?;
                    // Whatever the first one took of the time.
                    deadline = deadline.max(Instant::now() + RESTART_TIME_MAX);
                }
                Ok(None) => {}
                Err(error) => eprintln!(
                    "shoutd serves, but will not start by itself when this host boots: {error:#}"
                ),
            }
        }
        let status = wait_until_serving(directories, deadline, || Ok(())).await?;
        wishes::check(&self.arguments, token, directories, &status).await?;
        announce(directories, &status).await
    }

    /// Sees to it that systemd has a unit for shoutd. Returns the daemon that it is to replace by
    /// one of its own, unless it runs that already, or the unit is none of ours.
    async fn stranger_to(
        &self,
        systemd: &Systemd,
        directories: &Directories,
    ) -> Result<Option<Pid>> {
        // It may have been found on the PATH, and systemd has another.
        let program = daemon_program();
        let program = fs::canonicalize(&program).unwrap_or(program);
        match systemd.install(&program, &self.arguments, directories).await? {
            Installed::New => {
                println!(
                    "from now on systemd runs shoutd, also when this host boots, before Docker \
                     (shoutd.service)"
                );
            }
            Installed::Before => {}
            Installed::SomebodyElses => {
                println!(
                    "there is a shoutd.service that is not shoutdctl's; it is for that one to \
                     start shoutd when this host boots"
                );
                return Ok(None);
            }
        }
        let daemon = control::daemon(directories).await?;
        Ok((!systemd.runs(daemon).await?).then_some(daemon))
    }

    async fn already_running(
        &self,
        directories: &Directories,
        status: &Status,
        token: Option<&str>,
        deadline: Instant,
    ) -> Result<()> {
        if let Some(wanted) =
            self.arguments.advertise_address.filter(|wanted| *wanted != status.address)
        {
            bail!(
                "shoutd runs already, with address {}; to start it with {wanted}, stop it first: \
                 shoutdctl stop",
                status.address
            );
        }
        if status.membership != Membership::Member {
            self.help_in(directories, status, token).await?;
        }
        let pid = control::daemon(directories).await?;
        let ended = || match control::process_state(pid) {
            None | Some('Z' | 'X') => Err(control::not_running(directories).into()),
            Some(_) => Ok(()),
        };
        let status = wait_until_serving(directories, deadline, ended).await?;
        // Before systemd is told to run it so.
        wishes::check(&self.arguments, token, directories, &status).await?;
        self.leave_to_systemd(directories, token, deadline).await
    }

    /// Tells a daemon that is not in a cluster yet what it was not told when it was started.
    async fn help_in(
        &self,
        directories: &Directories,
        status: &Status,
        token: Option<&str>,
    ) -> Result<()> {
        let wanted = &self.arguments.peer_addresses;
        if !wanted.is_empty() && *wanted != status.peer_addresses {
            let list = |peers: &[SocketAddr]| {
                peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            };
            bail!(
                "shoutd runs already and is on its way into a cluster with --peer-addresses={}; \
                 to start it with {}, stop it first: shoutdctl stop",
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

    /// A daemon can wait for its engine, as at boot; a person who starts it by hand wants to be
    /// told.
    fn check_engine(&self) -> Result<()> {
        let socket = &self.arguments.docker_socket;
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

    fn spawn(&self, directories: &Directories, log: &Log, token: Option<&str>) -> Result<Child> {
        let program = daemon_program();
        let mut command = Command::new(&program);
        command.args(self.arguments.to_command_line(directories)).current_dir("/");
        command.stdin(Stdio::null()).stdout(log.file.try_clone()?).stderr(log.file.try_clone()?);
        // Not as an argument, which everybody on the host can read.
        if let Some(token) = token {
            command.env(TOKEN_VARIABLE, token);
        }
        // A process group of its own: Ctrl-C here is not for the daemon.
        command.process_group(0);
        command.spawn().with_context(|| format!("cannot start {}", program.display()))
    }
}

/// How the daemon of this host is doing; `None` if there is none. One that was just killed may
/// still take a connection, and break it off: it is asked again until it is gone.
async fn running(directories: &Directories) -> Result<Option<Status>> {
    let deadline = Instant::now() + DYING_TIME_MAX;
    loop {
        match control::get::<Status>(directories, "/v1/status").await {
            Ok(status) => return Ok(Some(status)),
            Err(ControlError::NotRunning { .. }) => return Ok(None),
            Err(ControlError::Transport { .. }) if Instant::now() < deadline => {
                sleep(LOOK_AGAIN).await
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// How the daemon of this host is doing that somebody else, such as systemd, has just started: it
/// opens its control socket a moment after it has locked its data. `None` if it does not.
async fn starting(directories: &Directories) -> Result<Option<Status>> {
    let deadline = Instant::now() + OPENING_TIME_MAX;
    loop {
        let status = running(directories).await?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// The daemon that belongs to this command: beside it, or on the PATH.
fn daemon_program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("shoutd"));
    beside.filter(|program| program.is_file()).unwrap_or_else(|| PathBuf::from("shoutd"))
}

/// Asks the daemon until it serves, and returns how it is doing, or until `alive` says that it has
/// ended, or time is up.
async fn wait_until_serving(
    directories: &Directories,
    mut deadline: Instant,
    mut alive: impl FnMut() -> Result<()>,
) -> Result<Status> {
    let mut reason = "it has not opened its control socket yet".to_owned();
    while Instant::now() < deadline {
        alive()?;
        match control::get::<Status>(directories, "/v1/status").await {
            Ok(status) => match not_serving_because(&status) {
                None => return Ok(status),
                Some(why) => {
                    if matches!(status.membership, Membership::AwaitingApproval { .. })
                        && why != reason
                    {
                        eprintln!("{why}");
                        deadline = deadline.max(Instant::now() + APPROVAL_PATIENCE);
                    }
                    reason = why;
                }
            },
            Err(ControlError::NotRunning { .. }) => {}
            Err(error) => reason = format!("{:#}", anyhow!(error)),
        }
        sleep(LOOK_AGAIN).await;
    }
    bail!("shoutd did not come to serve in time: {reason}")
}

fn not_serving_because(status: &Status) -> Option<String> {
    match (&status.membership, &status.docker) {
        (Membership::AwaitingApproval { host, cluster }, _) => Some(format!(
            "it waits to be let in; type on a host of the cluster, if that shows the fingerprint \
             {cluster} too: shoutdctl approve {host}"
        )),
        (Membership::Joining(why), _) | (Membership::Member, Engine::Absent(why)) => {
            Some(why.clone())
        }
        (Membership::Member, Engine::Serving(_)) => None,
    }
}

async fn announce(directories: &Directories, status: &Status) -> Result<()> {
    let hosts =
        if status.hosts == 1 { "1 host".to_owned() } else { format!("{} hosts", status.hosts) };
    println!(
        "shoutd serves Docker on {} ({}), in a cluster of {hosts}",
        status.name, status.address
    );
    if status.leader.is_none() {
        warn_without_leader(directories).await?;
    }
    if status.hosts == 1 {
        let token: TokenView = control::get(directories, "/v1/token").await?;
        if let Some(line) = invitation(&token) {
            println!("on every other host: {line}");
            println!(
                "(or, with the token typed or piped in, where nobody else sees it: {})",
                private_invitation(&token)
            );
        }
    }
    Ok(())
}

/// Gives the hosts time to elect a leader, and says so if they do not: what runs here goes on, but
/// nothing can be agreed on.
async fn warn_without_leader(directories: &Directories) -> Result<()> {
    let deadline = Instant::now() + ELECTION_TIME_MAX;
    loop {
        let status: Status = control::get(directories, "/v1/status").await?;
        if status.leader.is_some() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let reasons = if status.problems.is_empty() {
                "no leader".to_owned()
            } else {
                status.problems.join("; ")
            };
            eprintln!(
                "shoutd serves what it knows, but the hosts do not agree on anything yet: \
                 {reasons}"
            );
            return Ok(());
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// An error with the daemon's own last words, if it has ended.
fn ended(child: &mut Child, log: &Log) -> Result<()> {
    match child.try_wait()? {
        None => Ok(()),
        Some(status) => Err(anyhow!(
            log.last_words()
                .unwrap_or_else(|| format!("shoutd ended ({status}); see {}", log.path.display()))
        )),
    }
}

/// The daemon's log, and where in it this start begins.
struct Log {
    path: PathBuf,
    file: File,
    start: u64,
}

impl Log {
    fn open(path: &Path) -> Result<Self> {
        let context = || format!("cannot open the log file {}", path.display());
        if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
            fs::rename(path, path.with_extension("log.1")).with_context(context)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(path)
            .with_context(context)?;
        let start = file.metadata().with_context(context)?.len();
        Ok(Self { path: path.to_owned(), file, start })
    }

    /// The line in which the daemon says why it ended.
    fn last_words(&self) -> Option<String> {
        let mut file = File::open(&self.path).ok()?;
        file.seek(SeekFrom::Start(self.start)).ok()?;
        let mut text = String::new();
        file.take(1 << 20).read_to_string(&mut text).ok()?;
        text.lines().rev().find_map(|line| line.strip_prefix("shoutd: ")).map(str::to_owned)
    }
}
