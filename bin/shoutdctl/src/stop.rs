//! `shoutdctl stop`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shoutd_cli::Directories;
use shoutd_core::view::Done;
use tokio::time::{Instant, sleep};

use crate::boot::Systemd;
use crate::control::{self, ControlError};
use crate::presence;

/// How long the daemon may take to stop by itself.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// How often a process is looked for that is about to end.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Stop shoutd.
#[derive(Debug, Args)]
pub struct Stop {
    /// Leave the cluster first, with all that this host holds of it; its next start is its first
    #[arg(long)]
    leave: bool,
}

impl Stop {
    /// Stops the daemon and returns when it is gone. One that does not run is stopped already.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        if self.leave {
            return leave(directories).await;
        }
        match control::daemon(directories).await.or_else(|error| presence::daemon().ok_or(error)) {
            Err(ControlError::NotRunning { .. }) => {
                println!("shoutd does not run");
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(pid) => {
                terminate(pid).await?;
                println!("shoutd has stopped; containers stay connected");
                Ok(())
            }
        }
    }
}

/// The daemon leaves the cluster and ends by itself.
async fn leave(directories: &Directories) -> Result<()> {
    let pid =
        control::daemon(directories).await.context("only a host that runs can leave by itself")?;
    let done: Done = control::post(directories, "/v1/leave", &()).await?;
    await_end(pid).await?;
    println!("{}; shoutd has stopped", done.message);
    match Systemd::of_this_host() {
        Some(systemd) => {
            systemd.uninstall().await.context("this host would still start shoutd when it boots")
        }
        None => Ok(()),
    }
}

/// Ends a process by SIGTERM and waits until it is gone.
pub async fn terminate(pid: Pid) -> Result<()> {
    // One that is stopped (SIGSTOP) heeds it only when it goes on.
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
                "shoutd (process {pid}) has not stopped within {} s; see its log",
                STOP_DEADLINE.as_secs()
            );
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Whether the process is there and has not ended: one that ended but that its parent has not taken
/// note of does not run.
fn is_running(pid: Pid) -> bool {
    control::process_state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}
