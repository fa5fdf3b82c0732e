//! `shoutdctl stop`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shoutd_cli::{DOCKER_SOCKET, Directories};
use shoutd_core::last_run::LAST_RUN_FILE;
use shoutd_core::view::{Done, Status};
use tokio::time::{Instant, sleep};

use crate::boot::Systemd;
use crate::container;
use crate::control::{self, ControlError};
use crate::presence;

/// How long the daemon may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Interval between checks whether the process has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Stop shoutd.
#[derive(Debug, Args)]
pub struct Stop {
    /// Leave the cluster first and delete this host's identity and data; its next start is like
    /// its first
    #[arg(long)]
    leave: bool,
}

impl Stop {
    /// Stops the daemon and returns when it has ended. It is not an error if none runs.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        if self.leave {
            return leave(directories).await;
        }
        match control::daemon(directories).await.or_else(|error| presence::daemon().ok_or(error)) {
            Err(ControlError::NotRunning { .. }) => {
                println!("shoutd is not running");
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(pid) => {
                let socket = engine(directories).await;
                if container::runs(&socket, pid).await {
                    container::stop(&socket).await?;
                } else {
                    terminate(pid).await?;
                }
                println!("shoutd has stopped; containers stay connected");
                Ok(())
            }
        }
    }
}

/// The socket of the engine that the daemon serves. A daemon that does not answer may be one that
/// hangs; then it is the default.
async fn engine(directories: &Directories) -> PathBuf {
    let status = control::get::<Status>(directories, "/v1/status").await;
    status.map_or_else(|_| PathBuf::from(DOCKER_SOCKET), |status| status.docker_socket)
}

/// Asks the daemon to leave the cluster, after which it ends by itself.
async fn leave(directories: &Directories) -> Result<()> {
    let pid =
        control::daemon(directories).await.context("only a running host can leave the cluster")?;
    let status = control::get::<Status>(directories, "/v1/status").await?;
    let socket = status.docker_socket;
    let is_contained = container::runs(&socket, pid).await;
    if is_contained {
        // Otherwise the engine would start it again when it has left, with its first arguments.
        container::set_restart(&socket, false).await?;
    }
    let left = control::post::<_, Done>(directories, "/v1/leave", &()).await;
    if is_contained && left.is_err() {
        container::set_restart(&socket, true).await?;
    }
    let done = left?;
    await_end(pid).await?;
    if is_contained {
        container::remove(&socket).await?;
    }
    remove_directories(directories, &status.data_directory);
    println!("{}; shoutd has stopped", done.message);
    match Systemd::of_this_host() {
        Some(systemd) => {
            systemd.uninstall().await.context("systemd still starts shoutd when this host boots")
        }
        None => Ok(()),
    }
}

/// Removes the directories of a host that has left. A mount point stays, and so does what is not
/// empty.
fn remove_directories(directories: &Directories, data: &Path) {
    let _ = fs::remove_file(directories.control_socket());
    let _ = fs::remove_file(directories.run_dir.join(LAST_RUN_FILE));
    let within = fs::read_dir(data).into_iter().flatten().flatten().map(|entry| entry.path());
    let own = [data.to_owned(), directories.run_dir.clone()];
    for directory in within.chain(own) {
        let _ = fs::remove_dir(directory);
    }
}

/// Ends a process with SIGTERM and waits until it is gone.
pub async fn terminate(pid: Pid) -> Result<()> {
    // A stopped process (SIGSTOP) handles SIGTERM only after SIGCONT.
    match kill(pid, Signal::SIGTERM).and_then(|()| kill(pid, Signal::SIGCONT)) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return Ok(()),
        Err(errno) => return Err(errno).with_context(|| format!("cannot stop process {pid}")),
    }
    await_end(pid).await
}

async fn await_end(pid: Pid) -> Result<()> {
    let deadline = Instant::now() + STOP_DEADLINE;
    while is_running(pid) {
        if Instant::now() > deadline {
            bail!(
                "shoutd (process {pid}) did not stop within {} s; see its log",
                STOP_DEADLINE.as_secs()
            );
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// Whether the process exists and has not ended. A zombie has ended.
fn is_running(pid: Pid) -> bool {
    control::process_state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}
