//! What `shoutdctl` shows, as tables for people and as JSON for their scripts.

use std::fmt::Display;

use anyhow::Result;
use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoutd_cli::Places;
use shoutd_core::events::Event;
use shoutd_core::multicast::SourceFilter;
use shoutd_core::view::{Endpoints, Engine, GroupRow, HostRow, ListeningHost, Membership, NetworkRow, Status};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::control;

/// How long ago a leader may have been heard, in milliseconds, for the view of what is agreed to be that of all: longer than an election.
const FRESH: u64 = 5000;

/// How to show it.
#[derive(Debug, Clone, Copy, Args)]
pub struct Format {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `shoutdctl status`.
pub async fn status(places: &Places, format: Format) -> Result<()> {
    show(places, format, "/v1/status", |status: &Status| {
        let mut table = table([]);
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        row("host", format!("{} ({})", status.name, status.host));
        row("address", format!("{} (underlay MTU {})", status.address, status.underlay_mtu));
        row("replication", status.replication.clone());
        row("cluster", status.cluster.map_or_else(|| "none".to_owned(), |id| id.to_string()));
        row("membership", membership(&status.membership));
        row("role", status.role.clone());
        row("leader", status.leader.map_or_else(|| "unknown".to_owned(), |id| id.to_string()));
        row("agreed state", format!("as of {}", status.agreed_ago.map_or_else(|| "its last start".to_owned(), ago)));
        row("hosts", status.hosts.to_string());
        row("networks", status.networks.to_string());
        row("endpoints here", status.endpoints.to_string());
        row("docker", engine(&status.docker));
        row("version", format!("{} (process {})", status.version, status.pid));
        for problem in &status.problems {
            row("problem", problem.clone());
        }
        for event in &status.events {
            row("event", format!("{} {} {}: {}", when(event.last), event.kind, event.subject, event.text));
        }
        table
    })
    .await
}

fn membership(membership: &Membership) -> String {
    match membership {
        Membership::Member => "member".to_owned(),
        Membership::Joining(why) => format!("joining: {why}"),
        Membership::AwaitingApproval { host, .. } => format!("waits for: shoutdctl approve {host}"),
    }
}

fn engine(engine: &Engine) -> String {
    match engine {
        Engine::Serving(version) => version.clone(),
        Engine::Absent(why) => format!("absent: {why}"),
    }
}

/// `shoutdctl hosts`.
pub async fn hosts(places: &Places, format: Format) -> Result<()> {
    show(places, format, "/v1/hosts", |hosts: &Vec<HostRow>| {
        let mut table = table(["NAME", "ID", "ADDRESS", "ROLE", "STATE", "ANNOUNCEMENTS"]);
        for host in hosts {
            let state = match (host.this_host, host.reachable) {
                (true, _) => "this host",
                (false, true) => "reachable",
                (false, false) => "UNREACHABLE",
            };
            let (id, address, announcements) = (host.id.to_string(), host.address.to_string(), announcements(host));
            table.add_row([&host.name, &id, &address, &host.role, state, &announcements]);
        }
        table
    })
    .await
}

/// Whether it is known what the containers of a host listen to.
fn announcements(host: &HostRow) -> String {
    match (host.in_sync, host.heard_ago) {
        (None, _) => "none".to_owned(),
        (Some(true), Some(ago)) => format!("in sync, heard {}", self::ago(ago)),
        (Some(false), Some(ago)) => format!("NOT IN SYNC, heard {}", self::ago(ago)),
        (Some(_), None) => "NOT IN SYNC, never heard".to_owned(),
    }
}

/// A time in milliseconds.
fn ago(milliseconds: u64) -> String {
    format!("{}.{} s ago", milliseconds / 1000, milliseconds % 1000 / 100)
}

/// `shoutdctl networks`.
pub async fn networks(places: &Places, format: Format) -> Result<()> {
    show(places, format, "/v1/networks", |networks: &Vec<NetworkRow>| {
        let mut table = table(["NAME", "ID", "VNI", "SUBNETS", "CREATED ON", "IN USE ON", "ADDRESSES"]);
        for network in networks {
            let name = network.name.as_deref().unwrap_or("(being created)");
            let vni = network.vni.to_string();
            let addresses = if network.swarm { "of the Swarm".to_owned() } else { network.addresses.to_string() };
            let subnets = list(&network.subnets);
            let hosts = match &network.removal_waits_for {
                Some(hosts) => format!("(being removed; waits for {})", list(hosts)),
                None => list(&network.hosts),
            };
            table.add_row([name, network.id.short(), &vni, &subnets, &network.origin, &hosts, &addresses]);
        }
        table
    })
    .await
}

/// `shoutdctl endpoints`.
pub async fn endpoints(places: &Places, format: Format) -> Result<()> {
    show(places, format, "/v1/endpoints", |answer: &Endpoints| {
        let mut table = table(["NETWORK", "HOST", "ADDRESSES", "MAC", "CONTAINER", "ENDPOINT"]);
        for endpoint in &answer.endpoints {
            let mac = endpoint.mac.to_string();
            let container = endpoint.container.as_deref().unwrap_or_default();
            let id = endpoint.id.short();
            table.add_row([&endpoint.network, &endpoint.host, &list(&endpoint.addresses), &mac, container, id]);
        }
        if !answer.unanswered.is_empty() {
            table.add_row([format!("(no answer from {})", list(&answer.unanswered))]);
        }
        table
    })
    .await
}

/// `shoutdctl groups`.
pub async fn groups(places: &Places, format: Format) -> Result<()> {
    show(places, format, "/v1/groups", |groups: &Vec<GroupRow>| {
        let mut table = table(["NETWORK", "GROUP", "SOURCES", "HOSTS"]);
        for row in groups {
            let group = row.group.map_or_else(|| "every (multicast router)".to_owned(), |group| group.to_string());
            let sources = match &row.sources {
                SourceFilter::Exclude(sources) if sources.is_empty() => "all".to_owned(),
                SourceFilter::Exclude(sources) => format!("all but {}", list(&sources.iter().collect::<Vec<_>>())),
                SourceFilter::Include(sources) => list(&sources.iter().collect::<Vec<_>>()),
            };
            let named = |host: &ListeningHost| match host.in_sync {
                true => host.name.clone(),
                false => format!("{} (not in sync)", host.name),
            };
            let hosts: Vec<_> = row.hosts.iter().map(named).collect();
            table.add_row([&row.network, &group, &sources, &list(&hosts)]);
        }
        table
    })
    .await
}

/// `shoutdctl events`.
pub async fn events(places: &Places, format: Format) -> Result<()> {
    show(places, format, "/v1/events", |events: &Vec<Event>| {
        let mut table = table(["LAST", "TIMES", "EVENT", "OF", "WHAT"]);
        for event in events {
            let (times, kind) = (event.count.to_string(), event.kind.to_string());
            table.add_row([&when(event.last), &times, &kind, &event.subject, &event.text]);
        }
        table
    })
    .await
}

/// A time in milliseconds since 1970, as RFC 3339 has it, in UTC.
fn when(milliseconds: u64) -> String {
    let seconds = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds).map(|time| time.format(&Rfc3339));
    time.map_or_else(|_| seconds.to_string(), |text| text.unwrap_or_else(|_| seconds.to_string()))
}

async fn show<T>(places: &Places, format: Format, path: &str, render: impl Fn(&T) -> Table) -> Result<()>
where
    T: DeserializeOwned + Serialize,
{
    let answer: T = control::get(places, path).await?;
    if format.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        println!("{}", render(&answer).trim_fmt());
        if path != "/v1/status" && path != "/v1/events" {
            tell_age(places).await?;
        }
    }
    Ok(())
}

/// Says so if what was shown may have changed since.
async fn tell_age(places: &Places) -> Result<()> {
    let status: Status = control::get(places, "/v1/status").await?;
    match (status.membership, status.agreed_ago) {
        (Membership::Member, Some(age)) if age < FRESH => {}
        (Membership::Member, age) => {
            let age = age.map_or_else(|| "its last start".to_owned(), ago);
            eprintln!("(this host hears no leader: what is agreed is as of {age})");
        }
        (other, _) => eprintln!("(this host is no member yet: {})", membership(&other)),
    }
    Ok(())
}

/// A table without lines, as Docker's own are.
fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if N > 0 {
        table.set_header(header);
    }
    table
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
