//! `shoutd`: the daemon of one host. It runs in the foreground and logs to stderr; `shoutdctl
//! start` runs it in the background.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Result, anyhow, bail};
use clap::{ArgMatches, CommandFactory};
use shoutd_cli::{
    Configuration, DaemonArguments, EXIT_OTHER_RUNS, EXIT_REMOVED, LogFilter, LogFormat,
};
use shoutd_consensus::StoreError;
use shoutd_core::configuration::Layer;
use shoutd_daemon::app::daemon::{self, Ended, Removed};
use shoutd_daemon::app::last_run;
use shoutd_daemon::app::log::Log;
use shoutd_daemon::app::privileges;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == shoutd_tunnel::SUBCOMMAND) {
        return wireguard();
    }
    let matches = match DaemonArguments::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return shoutd_cli::refuse::<DaemonArguments>(&error),
    };
    shoutd_cli::hide_token();
    let checks_only = matches.get_flag("check_config");
    let configuration = match Configuration::read(&matches) {
        Ok(configuration) => configuration,
        Err(error) => {
            eprintln!("shoutd: {error}");
            if let Some(directory) = matches.get_one::<PathBuf>("run_dir").filter(|_| !checks_only)
            {
                last_run::note_end(directory, &error.to_string());
            }
            return ExitCode::FAILURE;
        }
    };
    if checks_only {
        println!("{}", checked(&configuration));
        return ExitCode::SUCCESS;
    }
    let format = configuration.start.log_format;
    let log = Log::begin(&configuration.start.log, format);
    let run_directory = configuration.directories.run_dir.clone();
    let ended = run(configuration, matches, log).and_then(|ended| match ended {
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
            report(&error, format);
            last_run::note_end(&run_directory, &format!("{error:#}"));
            exit_code(&error)
        }
    }
}

/// Runs WireGuard in user space, as a process of its own.
fn wireguard() -> ExitCode {
    if let Ok(filter) = "info,gotatun=warn".parse::<LogFilter>() {
        drop(Log::begin(&filter, LogFormat::Text));
    }
    let arguments = shoutd_tunnel::Arguments::parse(std::env::args_os().skip(2));
    let served = arguments.map_err(anyhow::Error::from).and_then(|arguments| {
        Ok(shoutd_tunnel::serve(&arguments, shoutd_tunnel::Tuning::default())?)
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shoutd {}: {error:#}", shoutd_tunnel::SUBCOMMAND);
            ExitCode::FAILURE
        }
    }
}

/// Logs why the daemon ends. `shoutdctl start` shows this last line to the user.
fn report(error: &anyhow::Error, format: LogFormat) {
    match format {
        LogFormat::Text => eprintln!("shoutd: {error:#}"),
        LogFormat::Json => tracing::error!(target: "shoutd", "{error:#}"),
    }
}

/// The answer to `--check-config`.
fn checked(configuration: &Configuration) -> String {
    let mut files = configuration.settings.iter().filter_map(|setting| match &setting.layer {
        Layer::File(path) => Some((path, setting.name.as_str())),
        _ => None,
    });
    let Some((path, first)) = files.next() else {
        return "the configuration is valid; no file sets anything".to_owned();
    };
    let names: Vec<_> = [first].into_iter().chain(files.map(|(_, name)| name)).collect();
    format!("the configuration is valid; {} sets {}", path.display(), names.join(", "))
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
fn run(configuration: Configuration, matches: ArgMatches, log: Log) -> Result<Ended> {
    if !nix::unistd::geteuid().is_root() {
        bail!("shoutd creates network devices and must run as root");
    }
    privileges::drop_capabilities()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(daemon::run(configuration, matches, log));
    // Only calls whose callers are gone are left.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}
