//! `cargo xtask lab`: hosts that stay until they are taken down.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use shoutd_lab::{EngineSource, Lab, LabOptions};
use shoutd_tooling::terminal::show_progress;
use shoutd_tooling::{interrupt, machine, programs};

/// The default name of a lab.
const DEFAULT_NAME: &str = "lab";

/// The option for a lab's name.
#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The name of the lab.
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
}

/// The commands for labs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring hosts up, each with a Docker engine, and with shoutd and shoutdctl in its path. They
    /// stay until `lab down`.
    Up {
        /// How many hosts.
        #[arg(
            long,
            default_value_t = 3,
            value_parser = clap::value_parser!(u8).range(1..=i64::from(shoutd_lab::MAX_HOSTS)),
        )]
        hosts: u8,
        /// The Docker engine of the hosts: `installed`, `debian-13`, `debian-14`, or a directory of
        /// programs. Given several times, the first is host1's, the second host2's, and the last
        /// that of all others.
        #[arg(long = "engine", value_name = "ENGINE")]
        engines: Vec<String>,
        #[command(flatten)]
        lab: Name,
    },
    /// Get a shell on a host, or run a command there.
    Enter {
        /// The host: `host1`, or just `1`.
        host: String,
        #[command(flatten)]
        lab: Name,
        /// The command.
        #[arg(last = true, default_values_t = ["bash".to_owned()])]
        command: Vec<String>,
    },
    /// Add a host.
    Add {
        #[command(flatten)]
        lab: Name,
    },
    /// Take all hosts down; nothing is left of them.
    Down {
        #[command(flatten)]
        lab: Name,
    },
    /// List the labs of this machine.
    List,
}

/// # Errors
///
/// Fails when the command does; the exit code is that of the command on the host.
pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Up { hosts, engines, lab } => up(&lab.name, *hosts, engines)?,
        Command::Enter { host, lab, command } => return enter(&lab.name, host, command),
        Command::Add { lab } => {
            let mut lab = Lab::attach(&lab.name)?;
            let host = lab.add_host()?;
            println!("{} is up at {}", host.name(), host.address());
        }
        Command::Down { lab } => Lab::attach(&lab.name)?.down()?,
        Command::List => {
            for lab in Lab::list() {
                println!("{}: {}", lab.name, lab.hosts.join(" "));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn up(name: &str, hosts: u8, engines: &[String]) -> Result<()> {
    machine::prepare()?;
    let engines =
        engines.iter().map(|name| EngineSource::named(name)).collect::<Result<Vec<_>>>()?;
    let directory = programs::build()?;
    interrupt::take_down_on_interrupt(name)?;
    let lab = LabOptions::new(name)
        .hosts(hosts)
        .engines(&engines)
        .programs(&directory)
        .progress(show_progress)
        .up()?;
    let addresses: Vec<String> =
        lab.hosts().iter().map(|host| format!("{} at {}", host.name(), host.address())).collect();
    lab.detach()?;
    println!("up: {}", addresses.join(", "));
    let option = if name == DEFAULT_NAME { String::new() } else { format!(" --name {name}") };
    println!(
        "get a shell on one with `cargo xtask lab enter{option} host1`, end them all with `cargo \
         xtask lab down{option}`"
    );
    Ok(())
}

fn enter(name: &str, host: &str, command: &[String]) -> Result<ExitCode> {
    let number = host.strip_prefix("host").unwrap_or(host);
    let number: u8 = number.parse().with_context(|| format!("there is no host {host}"))?;
    let status = Lab::attach(name)?.host(number)?.interact(command)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
