//! `shoutdctl hosts`, `networks`, `endpoints`, `groups` and `events`.

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::Table;
use shoutd_cli::Directories;
use shoutd_core::events::Event;
use shoutd_core::host_view::HostView;
use shoutd_core::multicast::SourceFilter;
use shoutd_core::no_groups::why_no_groups;
use shoutd_core::rates::{AskTop, RatedGroup, Top, rated_groups};
use shoutd_core::sessions::{PeerWireguard, SESSION_MAX};
use shoutd_core::view::{self, GroupRow, HostRow, MemberHost, NetworkRow, Status};

use super::{Format, ago, cell, list, of_host, short, table};
use crate::control;
use crate::moment::when;

/// `shoutdctl hosts`.
#[derive(Debug, Clone, Args)]
pub struct Hosts {
    #[command(flatten)]
    format: Format,
    /// As this host of the cluster sees them (name or id)
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

/// `shoutdctl networks`, `shoutdctl network ls`.
#[derive(Debug, Clone, Args)]
pub struct Networks {
    #[command(flatten)]
    format: Format,
    /// Only networks with containers on this host (name or id)
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

/// `shoutdctl endpoints`.
#[derive(Debug, Clone, Args)]
pub struct Endpoints {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    only: Only,
}

/// `shoutdctl groups`.
#[derive(Debug, Clone, Args)]
pub struct Groups {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    only: Only,
    /// Measure for a second, and show who sends to each group, and how much
    #[arg(long)]
    rates: bool,
}

/// `shoutdctl events`.
#[derive(Debug, Clone, Args)]
pub struct Events {
    #[command(flatten)]
    format: Format,
    /// Those of this host of the cluster (name or id)
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

/// Filters of a list.
#[derive(Debug, Clone, Args)]
struct Only {
    /// Only those of this network (name or id)
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Only those of this host (name or id)
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

impl Only {
    /// Network and host as rows name them.
    async fn resolve(&self, directories: &Directories) -> Result<(Option<String>, Option<String>)> {
        let network = match &self.network {
            Some(wanted) => Some(title(&network(directories, wanted).await?)),
            None => None,
        };
        Ok((network, host_name(directories, self.host.as_deref()).await?))
    }
}

/// The name by which rows refer to a network. It must be the same as the daemon's.
fn title(network: &NetworkRow) -> String {
    network.name.clone().unwrap_or_else(|| network.id.short().to_owned())
}

/// The network with this name or id prefix.
///
/// # Errors
/// There is none.
pub(super) async fn network(directories: &Directories, wanted: &str) -> Result<NetworkRow> {
    let known: Vec<NetworkRow> = control::get(directories, "/v1/networks").await?;
    match known.into_iter().find(|network| network.is_called(wanted)) {
        Some(network) => Ok(network),
        None => bail!("there is no network {wanted} in the cluster; shoutdctl networks lists them"),
    }
}

/// The name of the host with this name or id.
async fn host_name(directories: &Directories, wanted: Option<&str>) -> Result<Option<String>> {
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    let known: Vec<HostRow> = control::get(directories, "/v1/hosts").await?;
    match known.into_iter().find(|host| host.name == wanted || host.id.to_string() == wanted) {
        Some(host) => Ok(Some(host.name)),
        None => bail!("there is no host {wanted} in the cluster; shoutdctl hosts lists them"),
    }
}

impl Hosts {
    /// Lists the hosts.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let hosts: Vec<HostRow> =
            of_host(directories, self.host.as_deref(), HostView::Hosts).await?;
        let header = ["NAME", "ID", "ADDRESS", "ROLE", "STATE", "ADVERTISEMENTS", "TUNNEL"];
        let has_wireguard = hosts.iter().any(|host| host.wireguard.is_some());
        let mut table = table(header);
        if has_wireguard {
            table.set_header(header.into_iter().chain(["WIREGUARD"]));
        }
        for host in &hosts {
            let state = match (host.this_host, host.reachable) {
                (true, _) => "this host",
                (false, true) => "reachable",
                (false, false) => "UNREACHABLE",
            };
            let (id, address) = (host.id.to_string(), host.address.to_string());
            let advertisements = advertisements(host);
            let (name, tunnel, wireguard) = (cell(&host.name), tunnels(host), wireguard(host));
            let mut row =
                vec![name.as_str(), &id, &address, &host.role, state, &advertisements, &tunnel];
            row.extend(has_wireguard.then_some(wireguard.as_str()));
            table.add_row(row);
        }
        self.format.print(directories, &hosts, table).await
    }
}

/// Whether this host is in sync with a peer's advertisement, and when it last received one.
fn advertisements(host: &HostRow) -> String {
    match (host.in_sync, host.heard_ago) {
        (None, _) => "none".to_owned(),
        (Some(true), Some(ago)) => format!("in sync, received {}", self::ago(ago)),
        (Some(false), Some(ago)) => format!("NOT IN SYNC, received {}", self::ago(ago)),
        (Some(_), None) => "NOT IN SYNC, none received".to_owned(),
    }
}

/// Whether the tunnels between this host and a peer carry.
fn tunnels(host: &HostRow) -> String {
    match (host.tunnel, host.encrypted_tunnel) {
        (None, None) => "none".to_owned(),
        (Some(plain), None) => plain.to_string(),
        (None, Some(encrypted)) => format!("encrypted: {encrypted}"),
        (Some(plain), Some(encrypted)) => format!("plain: {plain}; encrypted: {encrypted}"),
    }
}

/// A peer's WireGuard: its port, and when it last had a handshake with this host.
fn wireguard(host: &HostRow) -> String {
    match (host.this_host, host.wireguard) {
        (true, _) => String::new(),
        (false, None) => "NO KEY".to_owned(),
        (false, Some(PeerWireguard { port, handshake_ago: None })) => {
            format!("port {port}, NO HANDSHAKE")
        }
        (false, Some(PeerWireguard { port, handshake_ago: Some(age) })) => {
            let is_alive = u128::from(age) < SESSION_MAX.as_millis();
            let handshake = if is_alive { "handshake" } else { "NO SESSION, handshake" };
            format!("port {port}, {handshake} {}", ago(age))
        }
    }
}

impl Networks {
    /// Lists the networks.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let mut networks: Vec<NetworkRow> = control::get(directories, "/v1/networks").await?;
        if let Some(host) = host_name(directories, self.host.as_deref()).await? {
            networks.retain(|network| network.hosts.contains(&host));
        }
        let mut table = table([
            "NAME",
            "ID",
            "VNI",
            "SUBNETS",
            "ENCRYPTED",
            "CREATED ON",
            "IN USE ON",
            "ADDRESSES",
        ]);
        for network in &networks {
            let name = network.name.as_deref().map_or_else(|| "(being created)".to_owned(), cell);
            let vni = network.vni.to_string();
            let addresses = if network.swarm {
                "of the Swarm".to_owned()
            } else {
                network.addresses.to_string()
            };
            let subnets = list(&network.subnets);
            let hosts = match &network.removal_waits_for {
                Some(hosts) => format!("(being removed; waiting for {})", list(hosts)),
                None => list(&network.hosts),
            };
            let origin = cell(&network.origin);
            table.add_row([
                name.as_str(),
                network.id.short(),
                &vni,
                &subnets,
                if network.encrypted { "yes" } else { "no" },
                &origin,
                &cell(&hosts),
                &addresses,
            ]);
        }
        self.format.print(directories, &networks, table).await
    }
}

impl Endpoints {
    /// Lists the endpoints.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let (network, host) = self.only.resolve(directories).await?;
        let mut answer: view::Endpoints = control::get(directories, "/v1/endpoints").await?;
        answer.endpoints.retain(|endpoint| {
            network.as_ref().is_none_or(|wanted| endpoint.network == *wanted)
                && host.as_ref().is_none_or(|wanted| endpoint.host == *wanted)
        });
        answer.unanswered.retain(|name| host.as_ref().is_none_or(|wanted| name == wanted));
        let mut table = table(["NETWORK", "HOST", "ADDRESSES", "MAC", "CONTAINER", "ENDPOINT"]);
        for endpoint in &answer.endpoints {
            let (network, host) = (cell(&endpoint.network), cell(&endpoint.host));
            let (addresses, mac) = (list(&endpoint.addresses), endpoint.mac.to_string());
            let container = cell(endpoint.container.as_deref().unwrap_or_default());
            table.add_row([&network, &host, &addresses, &mac, &container, endpoint.id.short()]);
        }
        if !answer.unanswered.is_empty() {
            table.add_row([format!("(no answer from {})", cell(&list(&answer.unanswered)))]);
        }
        self.format.print(directories, &answer, table).await
    }
}

impl Groups {
    /// Lists the groups, and if there are none, says why.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let (network, host) = self.only.resolve(directories).await?;
        // Another host may have other networks.
        let mut groups: Vec<GroupRow> =
            of_host(directories, self.only.host.as_deref(), HostView::Groups).await?;
        groups.retain(|row| network.as_ref().is_none_or(|wanted| row.network == *wanted));
        for row in &mut groups {
            row.hosts.retain(|member| host.as_ref().is_none_or(|wanted| member.name == *wanted));
        }
        groups.retain(|row| !row.hosts.is_empty());
        if self.rates {
            let asked = AskTop { network: self.only.network, milliseconds: 1000 };
            let top: Top = control::post(directories, "/v1/top", &asked).await?;
            let mut rated = rated_groups(groups, &top);
            rated.retain(|row| host.is_none() || !row.group.hosts.is_empty());
            return self.format.print(directories, &rated, rated_table(&rated)).await;
        }
        let mut table = table(["NETWORK", "GROUP", "SOURCES", "HOSTS (CONTAINERS)"]);
        for row in &groups {
            table.add_row(group_cells(row));
        }
        self.format.print(directories, &groups, table).await?;
        if groups.is_empty() && !self.format.json {
            let status: Status = control::get(directories, "/v1/status").await?;
            let networks: Vec<NetworkRow> = control::get(directories, "/v1/networks").await?;
            let asked = host.as_ref().unwrap_or(&status.name);
            let why = why_no_groups(asked, &networks, network.as_deref(), host.as_deref());
            eprintln!("({why})");
        }
        Ok(())
    }
}

/// Network, group, sources and members.
fn group_cells(row: &GroupRow) -> [String; 4] {
    let group =
        row.group.map_or_else(|| "every (multicast router)".to_owned(), |group| group.to_string());
    let sources = match &row.sources {
        SourceFilter::Exclude(sources) if sources.is_empty() => "all".to_owned(),
        SourceFilter::Exclude(sources) => {
            format!("all but {}", list(&sources.iter().collect::<Vec<_>>()))
        }
        SourceFilter::Include(sources) => list(&sources.iter().collect::<Vec<_>>()),
    };
    let hosts: Vec<_> = row.hosts.iter().map(member_host).collect();
    [cell(&row.network), group, sources, cell(&list(&hosts))]
}

fn rated_table(rows: &[RatedGroup]) -> Table {
    let header =
        ["NETWORK", "GROUP", "SOURCES", "HOSTS (CONTAINERS)", "SENDERS", "PACKETS/S", "BITS/S"];
    let mut table = table(header);
    for row in rows {
        let cells = group_cells(&row.group).into_iter();
        let rates = [cell(&list(&row.senders)), short(row.packets), short(row.bits)];
        table.add_row(cells.chain(rates));
    }
    table
}

/// A host with members of a group, and the containers that are the members.
fn member_host(host: &MemberHost) -> String {
    let containers = if host.containers.is_empty() {
        String::new()
    } else {
        format!(" ({})", list(&host.containers))
    };
    let sync = if host.in_sync { "" } else { " (not in sync)" };
    format!("{}{containers}{sync}", host.name)
}

impl Events {
    /// Lists the events.
    pub async fn run(self, directories: &Directories) -> Result<()> {
        let events: Vec<Event> =
            of_host(directories, self.host.as_deref(), HostView::Events).await?;
        let mut table = table(["LAST", "COUNT", "EVENT", "SUBJECT", "DETAILS"]);
        for event in &events {
            let (count, kind) = (event.count.to_string(), event.kind.to_string());
            table.add_row([
                &when(event.last),
                &count,
                &kind,
                &cell(&event.subject),
                &cell(&event.text),
            ]);
        }
        if self.format.json {
            println!("{}", serde_json::to_string_pretty(&events)?);
        } else {
            println!("{}", table.trim_fmt());
        }
        Ok(())
    }
}
