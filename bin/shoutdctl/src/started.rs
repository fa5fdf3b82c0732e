//! What `shoutdctl start` prints once shoutd serves Docker.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use schemars::JsonSchema;
use serde::Serialize;
use shoutd_cli::Directories;
use shoutd_core::view::{Status, TokenView};
use tokio::time::{Instant, sleep};

use crate::control;
use crate::token::{JoinToken, print_invitation};

/// How long the hosts of a cluster that was just started may take to elect a leader.
const ELECTION_TIME_MAX: Duration = Duration::from_secs(5);

/// Interval between questions to the daemon.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A host on which shoutd serves Docker.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Started {
    /// The host's name.
    name: String,
    /// Its advertise address.
    address: SocketAddr,
    /// Number of hosts of its cluster, with itself.
    hosts: usize,
    /// Whether the hosts can agree on changes now. Without a leader, containers stay connected.
    has_leader: bool,
    /// How other hosts join; `null` if the cluster has several hosts, or this host has no token.
    join: Option<JoinToken>,
}

/// Prints that shoutd serves Docker, and, on the only host of a cluster, how others join.
///
/// # Errors
/// The daemon does not answer.
pub async fn report(directories: &Directories, status: &Status, json: bool) -> Result<()> {
    if !json {
        let hosts = match status.hosts {
            1 => "1 host".to_owned(),
            hosts => format!("{hosts} hosts"),
        };
        println!(
            "shoutd serves Docker on {} ({}), in a cluster of {hosts}",
            status.name, status.address
        );
    }
    let has_leader = status.leader.is_some() || await_leader(directories).await?;
    let view: Option<TokenView> = match status.hosts {
        1 => Some(control::get(directories, "/v1/token").await?),
        _ => None,
    };
    if json {
        let (name, address, hosts) = (status.name.clone(), status.address, status.hosts);
        let join = view.as_ref().and_then(JoinToken::of);
        let started = Started { name, address, hosts, has_leader, join };
        println!("{}", serde_json::to_string_pretty(&started)?);
    } else if let Some(view) = view {
        print_invitation(&view, "on every other host: ");
    }
    Ok(())
}

/// Gives the hosts time to elect a leader, and warns if they do not: existing containers keep
/// working, but nothing new can be agreed on.
async fn await_leader(directories: &Directories) -> Result<bool> {
    let deadline = Instant::now() + ELECTION_TIME_MAX;
    loop {
        let status: Status = control::get(directories, "/v1/status").await?;
        if status.leader.is_some() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            let reasons = if status.problems.is_empty() {
                "no leader".to_owned()
            } else {
                status.problems.join("; ")
            };
            eprintln!(
                "shoutd serves from the last agreed state, but the cluster cannot agree on \
                 changes yet: {reasons}"
            );
            return Ok(false);
        }
        sleep(POLL_INTERVAL).await;
    }
}
