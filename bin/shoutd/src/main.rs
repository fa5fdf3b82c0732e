//! `shoutd`: the daemon of one host. It runs in the foreground and logs to stderr; `shoutdctl
//! start` runs it in the background.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use shoutd_cli::{Directories, EXIT_OTHER_RUNS, EXIT_REMOVED, StartArguments};
use shoutd_consensus::StoreError;
use tracing_subscriber::EnvFilter;

use shoutd_daemon::app::daemon::{self, Removed};
use shoutd_daemon::app::last_run;

/// Docker network plugin: containers on different hosts talk by multicast.
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
    // openraft repeats at each heartbeat what `shoutd-consensus` says once.
    let filter = EnvFilter::try_from_env("SHOUTD_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,openraft=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let run_directory = arguments.directories.run_dir.clone();
    match run(arguments) {
        Ok(why) => {
            last_run::note_end(&run_directory, why);
            ExitCode::SUCCESS
        }
        Err(error) => {
            // The last line says why; `shoutdctl start` shows it to whoever waits.
            eprintln!("shoutd: {error:#}");
            last_run::note_end(&run_directory, &format!("{error:#}"));
            exit_code(&error)
        }
    }
}

/// What `shoutdctl start` and systemd go by.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| matches!(cause.downcast_ref(), Some(StoreError::InUse { .. }))) {
        return ExitCode::from(EXIT_OTHER_RUNS);
    }
    if error.is::<Removed>() { ExitCode::from(EXIT_REMOVED) } else { ExitCode::FAILURE }
}

/// Returns why it ended, if not by an error.
fn run(arguments: Arguments) -> Result<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        bail!("it makes network devices and must run as root");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(daemon::run(arguments.start, arguments.directories));
    // What is left are calls that nobody waits for any more.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}
