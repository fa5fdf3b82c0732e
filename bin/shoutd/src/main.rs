//! `shoutd`: the daemon of one host. It runs in the foreground and logs to stderr; `shoutdctl
//! start` runs it in the background.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Result, anyhow, bail};
use clap::Parser;
use shoutd_cli::{Directories, EXIT_OTHER_RUNS, EXIT_REMOVED, StartArguments};
use shoutd_consensus::StoreError;
use shoutd_daemon::app::daemon::{self, Ended, Removed};
use shoutd_daemon::app::last_run;
use tracing_subscriber::EnvFilter;

/// Docker network plugin for multicast between containers on different hosts
#[derive(Debug, Parser)]
#[command(name = "shoutd", version)]
struct Arguments {
    #[command(flatten)]
    start: StartArguments,
    #[command(flatten)]
    directories: Directories,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return shoutd_cli::refuse::<Arguments>(&error),
    };
    shoutd_cli::hide_token();
    // openraft logs at each heartbeat what `shoutd-consensus` logs once.
    let filter = EnvFilter::try_from_env("SHOUTD_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,openraft=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let run_directory = arguments.directories.run_dir.clone();
    let ended = run(arguments).and_then(|ended| match ended {
        Ended::Stopped => Ok("it was stopped"),
        Ended::HasLeft => Ok("it has left its cluster"),
        Ended::Moved => Err(start_again()),
    });
    match ended {
        Ok(why) => {
            last_run::note_end(&run_directory, why);
            ExitCode::SUCCESS
        }
        Err(error) => {
            // `shoutdctl start` shows this last line to the user.
            eprintln!("shoutd: {error:#}");
            last_run::note_end(&run_directory, &format!("{error:#}"));
            exit_code(&error)
        }
    }
}

/// The exit code, which `shoutdctl start` and systemd evaluate.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| matches!(cause.downcast_ref(), Some(StoreError::InUse { .. }))) {
        return ExitCode::from(EXIT_OTHER_RUNS);
    }
    if error.is::<Removed>() { ExitCode::from(EXIT_REMOVED) } else { ExitCode::FAILURE }
}

/// Executes this program again in the same process: a service manager sees no restart.
/// Returns only if that fails.
fn start_again() -> anyhow::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return not_started_again(&error),
    };
    // An upgrade may have replaced the program's file (proc_pid_exe(5)).
    let path = program.as_os_str().as_bytes();
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let mut command = Command::new(OsStr::from_bytes(path));
    not_started_again(&command.arg0(name).args(arguments).exec())
}

fn not_started_again(error: &io::Error) -> anyhow::Error {
    anyhow!("this host has another address, but shoutd cannot start again with it: {error}")
}

/// Runs the daemon, until it ends without an error.
fn run(arguments: Arguments) -> Result<Ended> {
    if !nix::unistd::geteuid().is_root() {
        bail!("shoutd creates network devices and must run as root");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(daemon::run(arguments.start, arguments.directories));
    // Only calls whose callers are gone are left.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}
