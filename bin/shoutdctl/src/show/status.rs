//! `shoutdctl status`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use comfy_table::Table;
use serde::Serialize;
use shoutd_cli::{Directories, EXIT_PROBLEMS};
use shoutd_core::encryption::Encrypt;
use shoutd_core::health::HostHealth;
use shoutd_core::host_view::HostView;
use shoutd_core::sessions::WireguardView;
use shoutd_core::view::{Engine, Membership, Status as View};

use super::{Format, ago, cell, membership, of_host, table};
use crate::control;
use crate::moment::when;

/// Show the state of this host, or the problems of all hosts.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Exit codes: 0 if there are no problems, 3 if there are, 1 if shoutd does \
                        not answer, 2 for a wrong command line.")]
pub struct Status {
    #[command(flatten)]
    format: Format,
    /// Show the problems of all hosts of the cluster instead
    #[arg(long)]
    cluster: bool,
    /// Show the state of this host of the cluster instead (name or id)
    #[arg(long, value_name = "HOST", conflicts_with = "cluster")]
    host: Option<String>,
}

impl Status {
    /// Prints the status. The exit code says whether there are problems.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub async fn run(self, directories: &Directories) -> Result<ExitCode> {
        let is_well = if self.cluster {
            let hosts: Vec<HostHealth> = control::get(directories, "/v1/health").await?;
            print(self.format, &hosts, cluster_table)?;
            hosts.iter().all(|host| host.problems.is_empty())
        } else {
            let status: View = of_host(directories, self.host.as_deref(), HostView::Status).await?;
            print(self.format, &status, host_table)?;
            status.faults().is_empty()
        };
        Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(EXIT_PROBLEMS) })
    }
}

fn print<T: Serialize>(format: Format, view: &T, render: impl Fn(&T) -> Table) -> Result<()> {
    if format.json {
        println!("{}", serde_json::to_string_pretty(view)?);
    } else {
        println!("{}", render(view).trim_fmt());
    }
    Ok(())
}

fn cluster_table(hosts: &Vec<HostHealth>) -> Table {
    let mut table = table(["HOST", "PROBLEM"]);
    for host in hosts {
        let none = ["none".to_owned()];
        let problems = if host.problems.is_empty() { &none[..] } else { &host.problems };
        for problem in problems {
            table.add_row([cell(&host.name), cell(problem)]);
        }
    }
    table
}

fn host_table(status: &View) -> Table {
    let agreed = status.agreed_ago.map_or_else(|| "its last start".to_owned(), ago);
    let rule = status.address_rule.iter().map(|rule| format!("{rule}, ")).collect::<String>();
    let mut rows = vec![
        ("host", format!("{} ({})", status.name, status.host)),
        ("address", format!("{} ({rule}underlay MTU {})", status.address, status.underlay_mtu)),
        ("replication", status.replication.clone()),
        ("encryption", encryption(status.encryption.encrypt).to_owned()),
        ("cluster", status.cluster.map_or_else(|| "none".to_owned(), |id| id.to_string())),
        ("membership", membership(&status.membership)),
        ("role", status.role.clone()),
        ("leader", leader(status)),
        ("agreed state", format!("as of {agreed}")),
        ("hosts", status.hosts.to_string()),
        ("networks", status.networks.to_string()),
        ("endpoints here", status.endpoints.to_string()),
        ("docker", engine(&status.docker)),
        ("version", format!("{} (process {})", status.version, status.pid)),
    ];
    rows.extend(status.wireguard.as_ref().map(|own| ("wireguard", wireguard(own))));
    rows.extend(status.faults().into_iter().map(|problem| ("problem", problem)));
    for event in &status.events {
        let text = format!("{} {} {}: {}", when(event.last), event.kind, event.subject, event.text);
        rows.push(("event", text));
    }
    let mut table = table([]);
    for (name, value) in rows {
        table.add_row([name.to_owned(), cell(&value)]);
    }
    table
}

fn encryption(encrypt: Encrypt) -> &'static str {
    match encrypt {
        Encrypt::Always => "of all new networks (--encrypt=always)",
        Encrypt::OnRequest => "on request",
    }
}

fn leader(status: &View) -> String {
    match (&status.leader_name, status.leader) {
        (Some(name), Some(id)) => format!("{name} ({id})"),
        (None, Some(id)) => id.to_string(),
        (_, None) => "unknown".to_owned(),
    }
}

fn wireguard(own: &WireguardView) -> String {
    let tier = match own.tier.as_deref() {
        Some("kernel") => "in the kernel",
        Some("userspace") => "in user space",
        Some(other) => other,
        None => "not running",
    };
    let port =
        own.port.map_or_else(|| "no key published".to_owned(), |port| format!("port {port}/udp"));
    format!("{tier}, {port}, sessions with {} of {} hosts", own.sessions, own.peers)
}

fn engine(engine: &Engine) -> String {
    match engine {
        Engine::Serving(version) => version.clone(),
        Engine::Absent(why) => format!("absent: {why}"),
    }
}

/// A note if the agreed state of this host may be out of date; `None` if it is current.
pub(super) fn staleness(status: &View) -> Option<String> {
    match (&status.membership, status.agreed_ago) {
        (Membership::Member, Some(age)) if age < shoutd_core::health::FRESH => None,
        (Membership::Member, age) => {
            let age = age.map_or_else(|| "its last start".to_owned(), ago);
            Some(format!("this host has no contact to the leader; agreed state as of {age}"))
        }
        (other, _) => Some(format!("this host is not a member yet: {}", membership(other))),
    }
}
