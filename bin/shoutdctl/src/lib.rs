//! `shoutdctl`: starts and stops the daemon of this host and shows its state.

/// Like std's `println!`, but a closed pipe is not an error: `head` reads only the first lines. The
/// default action of SIGPIPE would not do, because it would also kill us when the daemon closes
/// a socket.
macro_rules! println {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod backup;
mod boot;
mod config;
mod container;
mod control;
mod daemon_log;
mod dashboard;
mod deploy;
mod doctor;
mod examples;
mod manual;
mod moment;
mod network;
mod presence;
mod programs;
mod recovery;
mod remove;
mod rotate_keys;
mod schema;
mod show;
mod start;
mod started;
mod stop;
mod style;
mod support;
mod swarm_plugin;
mod token;
mod top;
mod waiting;
mod wishes;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use shoutd_cli::{Configuration, ConfigurationError, Directories};

use crate::start::Start;
use crate::style::Colour;

/// Start and stop shoutd on this host, and show the hosts, networks and endpoints of its cluster
#[derive(Debug, Parser)]
#[command(name = "shoutdctl", version, propagate_version = true)]
struct Arguments {
    #[command(flatten)]
    directories: Directories,
    /// When to use colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    color: Colour,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start shoutd in the background; returns once it serves Docker and is a cluster member
    Start(Box<Start>),
    /// Install and start shoutd on all hosts of a cluster by ssh
    Deploy(deploy::Deploy),
    /// Stop shoutd; containers stay connected
    Stop(stop::Stop),
    /// Show or create the token that lets hosts join the cluster
    #[command(subcommand)]
    Token(token::Token),
    /// Let a host without a token join the cluster
    Approve(token::Approve),
    /// Remove a host, dead or alive, and its leases from the cluster
    Remove(remove::Remove),
    /// Replace the preshared keys of encrypted networks on all hosts, and wait for it
    RotateKeys(rotate_keys::RotateKeys),
    /// Show this host's settings and where they come from, or read the configuration file again
    #[command(subcommand)]
    Config(config::Config),
    /// Write the agreed state of the cluster to a file
    Backup(backup::Backup),
    /// Restore the cluster on this host from a backup, after all hosts lost their data; shoutd
    /// must not be running
    Restore(recovery::Restore),
    /// Make this host the only member of its cluster, after a majority of the voters is lost for
    /// good; shoutd must not be running
    Recover(recovery::Recover),
    /// Create, remove and show networks on all hosts, and wait for them
    #[command(subcommand)]
    Network(network::Network),
    /// Serve the networks of Docker Swarm services and stacks on this host with a managed plugin
    #[command(subcommand)]
    SwarmPlugin(swarm_plugin::SwarmPlugin),
    /// Show the state and the problems of this host
    Status(show::Status),
    /// List the hosts of the cluster
    Hosts(show::Hosts),
    /// List the networks of the cluster
    Networks(show::Networks),
    /// List the endpoints of the cluster: the addresses of containers
    Endpoints(show::Endpoints),
    /// List the multicast groups with members on the networks of this host, and the hosts and
    /// containers that are members
    Groups(show::Groups),
    /// Say why multicast does not arrive: what is broken, where, and what to do
    Why(show::Why),
    /// Count a group's packets at every place that they pass, on all hosts, and say where they stop
    Trace(show::Trace),
    /// Count a group's packets, and write them to a file with an interface for each place, for
    /// Wireshark
    Capture(show::Capture),
    /// Ping between the segments of all hosts at the same time, through the tunnels
    Ping(show::Ping),
    /// Show who sends how much multicast to whom, live
    Top(top::Top),
    /// Serve a page that shows the cluster live, until it is interrupted
    Dashboard(dashboard::Dashboard),
    /// List what shoutd decided by itself on this host, newest first
    Events(show::Events),
    /// Show what changes as it happens
    Watch(show::Watch),
    /// Write an archive for a bug report, without secrets
    Support(support::Support),
    /// Print the script that completes commands and options in a shell
    Completion(manual::Completion),
    /// Write man pages, completions and the reference of commands
    #[command(hide = true)]
    Manual(manual::Manual),
    /// Print the JSON Schema of what a command prints with --json
    Schema(schema::SchemaOf),
    /// Check this host before and after the installation, and say what to do
    Doctor(doctor::Doctor),
}

/// Entry point: parses the command line, runs the command and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    // An error is one line on stderr: what is wrong, with what, and what to do.
    let command = examples::with_examples(Arguments::command());
    let parsed = command.try_get_matches().and_then(|matches| {
        Arguments::from_arg_matches(&matches).map(|arguments| (arguments, matches))
    });
    let (arguments, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return shoutd_cli::refuse::<Arguments>(&error),
    };
    shoutd_cli::hide_token();
    style::set_colour(arguments.color);
    let failure = match &arguments.command {
        // 1 means that there are warnings only.
        Command::Doctor(_) => doctor::EXIT_ERRORS.into(),
        _ => ExitCode::FAILURE,
    };
    run(arguments, &matches).unwrap_or_else(|error| {
        eprintln!("shoutdctl: {error:#}");
        failure
    })
}

fn run(arguments: Arguments, matches: &ArgMatches) -> Result<ExitCode> {
    // These need neither root nor a daemon.
    match &arguments.command {
        Command::Schema(schema) => return schema.run().map(|()| ExitCode::SUCCESS),
        Command::Manual(manual) => return manual.run().map(|()| ExitCode::SUCCESS),
        Command::Completion(completion) => {
            completion.run();
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let is_elsewhere = matches!(arguments.command, Command::Deploy(_));
    if !is_elsewhere && !nix::unistd::geteuid().is_root() {
        bail!("only root may talk to shoutd; run this with sudo");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let directories = &directories(&arguments, matches);
        let done = match arguments.command {
            Command::Status(status) => return status.run(directories).await,
            Command::Why(why) => return why.run(directories).await,
            Command::Trace(trace) => return trace.run(directories).await,
            Command::Capture(capture) => return capture.run(directories).await,
            Command::Ping(ping) => return ping.run(directories).await,
            Command::Doctor(doctor) => return doctor.run(directories).await,
            Command::Start(start) => start.run(configuration(matches)?).await,
            Command::Config(config) => config.run(directories, innermost(matches)).await,
            Command::Deploy(deploy) => deploy.run().await,
            Command::Stop(stop) => stop.run(directories).await,
            Command::Token(token) => token.run(directories).await,
            Command::Approve(approve) => approve.run(directories).await,
            Command::Remove(remove) => remove.run(directories).await,
            Command::RotateKeys(rotate) => rotate.run(directories).await,
            Command::Backup(backup) => backup.run(directories).await,
            Command::Restore(restore) => restore.run(directories).await,
            Command::Recover(recover) => recover.run(directories).await,
            Command::Network(network) => network.run(directories).await,
            Command::SwarmPlugin(plugin) => plugin.run(directories).await,
            Command::Hosts(hosts) => hosts.run(directories).await,
            Command::Networks(networks) => networks.run(directories).await,
            Command::Endpoints(endpoints) => endpoints.run(directories).await,
            Command::Groups(groups) => groups.run(directories).await,
            Command::Top(top) => top.run(directories).await,
            Command::Dashboard(dashboard) => dashboard.run(directories).await,
            Command::Events(events) => events.run(directories).await,
            Command::Watch(watch) => watch.run(directories).await,
            Command::Support(support) => support.run(directories).await,
            Command::Schema(_) | Command::Manual(_) | Command::Completion(_) => Ok(()),
        };
        done.map(|()| ExitCode::SUCCESS)
    })
}

/// The settings of a command, by the command line, the environment and the configuration file.
fn configuration(matches: &ArgMatches) -> Result<Configuration, ConfigurationError> {
    Configuration::read(innermost(matches))
}

/// The matches of the subcommand. They have the global options, too.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, below)| innermost(below))
}

/// Where the daemon is. An invalid configuration must not keep its state from being shown.
fn directories(arguments: &Arguments, matches: &ArgMatches) -> Directories {
    match configuration(matches) {
        Ok(configuration) => configuration.directories,
        Err(error) => {
            // `start` fails with it.
            if !matches!(arguments.command, Command::Start(_)) {
                eprintln!("(the configuration is invalid: {error})");
            }
            arguments.directories.clone()
        }
    }
}
