//! `shoutdctl`: starts and stops the daemon of this host and shows what it knows.

/// As std's, but whoever reads only the first line, as `head` does, has what it wants: to write on
/// is no error. To die of SIGPIPE instead would be to die of sockets, too, whose daemon ends at
/// that moment.
macro_rules! println {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod backup;
mod boot;
mod control;
mod network;
mod presence;
mod recovery;
mod remove;
mod show;
mod start;
mod stop;
mod swarm_plugin;
mod token;
mod wishes;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use shoutd_cli::Directories;

use crate::start::Start;

/// Starts and stops shoutd on this host, and shows hosts, networks and endpoints of its cluster.
#[derive(Debug, Parser)]
#[command(name = "shoutdctl", version, propagate_version = true)]
struct Arguments {
    #[command(flatten)]
    directories: Directories,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start shoutd in the background; returns when it serves Docker and belongs to a cluster
    Start(Start),
    /// Stop shoutd; containers stay connected
    Stop(stop::Stop),
    /// Show or make the token that lets hosts into the cluster
    #[command(subcommand)]
    Token(token::Token),
    /// Let a host in that has no token
    Approve(token::Approve),
    /// Remove a host from the cluster with all it held, also one that is dead
    Remove(remove::Remove),
    /// Write what the hosts agree on to a file
    Backup(backup::Backup),
    /// Found the cluster anew on this host from a backup, when all hosts have lost their data;
    /// shoutd must not run
    Restore(recovery::Restore),
    /// Make this host the only one of its cluster, when most of the others are lost for good;
    /// shoutd must not run
    Recover(recovery::Recover),
    /// Create, remove and show networks of all hosts, and wait for them
    #[command(subcommand)]
    Network(network::Network),
    /// Serve the networks of Docker Swarm's services and stacks on this host, by a managed plugin
    #[command(subcommand)]
    SwarmPlugin(swarm_plugin::SwarmPlugin),
    /// Show how this host is doing
    Status(show::Status),
    /// List the hosts of the cluster
    Hosts(show::Hosts),
    /// List the networks of the cluster
    Networks(show::Networks),
    /// List the endpoints of the cluster: containers' addresses
    Endpoints(show::Endpoints),
    /// List the multicast groups that are listened to on the networks of this host, and by which
    /// hosts and containers
    Groups(show::Groups),
    /// List what shoutd has decided on users' behalf on this host, the newest first
    Events(show::Events),
}

fn main() -> ExitCode {
    // An error goes to stderr as one line: what was wrong, with what, and what to do.
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return shoutd_cli::refuse::<Arguments>(&error),
    };
    shoutd_cli::hide_token();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shoutdctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("only root may talk to shoutd; run this with sudo");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let directories = &arguments.directories;
        let done = match arguments.command {
            Command::Status(status) => return status.run(directories).await,
            Command::Start(start) => start.run(directories).await,
            Command::Stop(stop) => stop.run(directories).await,
            Command::Token(token) => token.run(directories).await,
            Command::Approve(approve) => approve.run(directories).await,
            Command::Remove(remove) => remove.run(directories).await,
            Command::Backup(backup) => backup.run(directories).await,
            Command::Restore(restore) => restore.run(directories).await,
            Command::Recover(recover) => recover.run(directories).await,
            Command::Network(network) => network.run(directories).await,
            Command::SwarmPlugin(plugin) => plugin.run(directories).await,
            Command::Hosts(hosts) => hosts.run(directories).await,
            Command::Networks(networks) => networks.run(directories).await,
            Command::Endpoints(endpoints) => endpoints.run(directories).await,
            Command::Groups(groups) => groups.run(directories).await,
            Command::Events(events) => events.run(directories).await,
        };
        done.map(|()| ExitCode::SUCCESS)
    })
}
