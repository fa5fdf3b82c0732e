//! The page and its parts as HTML. The templates escape everything that they show.

use askama::Template;
use shoutd_core::explain::{Explanation, Verdict};
use shoutd_core::tunnel::TunnelState;
use shoutd_core::view::{HostRow, Status};

use super::board::{Board, EventLine, GroupLine, HostBox, NetworkKey};
use crate::show::cell;

/// The parts of the page that change by themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Regions {
    /// The line at the top.
    pub summary: String,
    /// The networks with their colours.
    pub networks: String,
    /// The hosts with their containers.
    pub hosts: String,
    /// The groups.
    pub groups: String,
    /// The events.
    pub events: String,
}

impl Regions {
    /// The regions by the names that the page's script uses.
    pub fn named(&self) -> [(&'static str, &str); 5] {
        [
            ("summary", &self.summary),
            ("networks", &self.networks),
            ("hosts", &self.hosts),
            ("groups", &self.groups),
            ("events", &self.events),
        ]
    }

    /// Says that there is nothing to show, and why. The page keeps its other regions.
    pub fn silent(why: &str) -> Self {
        Self { summary: render(&Silent { why: &cell(why) }), ..Self::default() }
    }
}

/// The regions of a board.
pub fn regions(board: &Board) -> Regions {
    let Board { hosts, networks, groups, more_groups, events, .. } = board;
    let containers = hosts.iter().map(|host| host.containers.len() + host.more).sum();
    Regions {
        summary: render(&Summary { board, containers, groups: groups.len() + *more_groups }),
        networks: render(&Networks { networks }),
        hosts: render(&Hosts { hosts }),
        groups: render(&Groups { groups, more: *more_groups }),
        events: render(&Events { events }),
    }
}

/// The whole page.
pub fn page(regions: &Regions) -> String {
    render(&Page { regions })
}

/// What `shoutdctl why` finds about a group.
pub fn group_panel(network: &str, group: &str, found: &Result<Explanation, String>) -> String {
    let (findings, why) = match found {
        Ok(found) => (found.findings.as_slice(), None),
        Err(why) => (&[][..], Some(cell(why))),
    };
    let lines: Vec<FindingLine> = findings
        .iter()
        .map(|finding| FindingLine {
            class: match finding.verdict {
                Verdict::Good => "good",
                Verdict::Broken => "broken",
                Verdict::Unknown => "unknown",
            },
            verdict: finding.verdict.to_string(),
            station: finding.station.to_string(),
            host: cell(&finding.host),
            text: cell(&finding.text),
            remedy: finding.remedy.as_deref().map(cell),
        })
        .collect();
    let cause = lines.iter().find(|line| line.class == "broken").cloned();
    render(&GroupPanel { network: &cell(network), group, cause, lines, why })
}

/// A host's state, problems and tunnels.
pub fn host_panel(name: &str, found: &Result<(Status, Vec<HostRow>), String>) -> String {
    let mut panel = HostPanel { name: &cell(name), ..HostPanel::default() };
    match found {
        Ok((status, hosts)) => {
            panel.address = status.address.to_string();
            panel.version.clone_from(&status.version);
            panel.role.clone_from(&status.role);
            panel.replication.clone_from(&status.replication);
            panel.problems = status.faults().iter().map(|problem| cell(problem)).collect();
            let others = hosts.iter().filter(|row| !row.this_host);
            panel.tunnels = others.flat_map(tunnel_lines).collect();
        }
        Err(why) => panel.why = Some(cell(why)),
    }
    render(&panel)
}

/// The tunnels to a peer: that of plain networks, and that of encrypted ones if they share one.
fn tunnel_lines(row: &HostRow) -> Vec<TunnelLine> {
    let name = cell(&row.name);
    let line = |host: String, tunnel: Option<TunnelState>| {
        let (from, to) = tunnel.map_or_else(
            || ("no common network".to_owned(), "no common network".to_owned()),
            |tunnel| (tunnel.inbound.to_string(), tunnel.outbound.to_string()),
        );
        TunnelLine { host, from, to }
    };
    let encrypted =
        row.encrypted_tunnel.map(|tunnel| line(format!("{name} (encrypted)"), Some(tunnel)));
    let plain = (row.tunnel.is_some() || encrypted.is_none()).then(|| line(name, row.tunnel));
    plain.into_iter().chain(encrypted).collect()
}

/// Says that the address lacks the token.
pub fn denied() -> String {
    render(&Denied)
}

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    regions: &'a Regions,
}

#[derive(Template)]
#[template(path = "denied.html")]
struct Denied;

#[derive(Template)]
#[template(path = "silent.html")]
struct Silent<'a> {
    why: &'a str,
}

#[derive(Template)]
#[template(path = "summary.html")]
struct Summary<'a> {
    board: &'a Board,
    containers: usize,
    groups: usize,
}

#[derive(Template)]
#[template(path = "networks.html")]
struct Networks<'a> {
    networks: &'a [NetworkKey],
}

#[derive(Template)]
#[template(path = "hosts.html")]
struct Hosts<'a> {
    hosts: &'a [HostBox],
}

#[derive(Template)]
#[template(path = "groups.html")]
struct Groups<'a> {
    groups: &'a [GroupLine],
    more: usize,
}

#[derive(Template)]
#[template(path = "events.html")]
struct Events<'a> {
    events: &'a [EventLine],
}

/// A finding, as the page shows it.
#[derive(Debug, Clone)]
struct FindingLine {
    class: &'static str,
    verdict: String,
    station: String,
    host: String,
    text: String,
    remedy: Option<String>,
}

#[derive(Template)]
#[template(path = "group.html")]
struct GroupPanel<'a> {
    network: &'a str,
    group: &'a str,
    cause: Option<FindingLine>,
    lines: Vec<FindingLine>,
    why: Option<String>,
}

/// Both directions of a tunnel.
#[derive(Debug)]
struct TunnelLine {
    host: String,
    from: String,
    to: String,
}

#[derive(Default, Template)]
#[template(path = "host.html")]
struct HostPanel<'a> {
    name: &'a str,
    address: String,
    version: String,
    role: String,
    replication: String,
    problems: Vec<String>,
    tunnels: Vec<TunnelLine>,
    why: Option<String>,
}

/// Our templates cannot fail: they write only to memory, and their values are text and numbers.
fn render(template: &impl Template) -> String {
    template.render().unwrap_or_default()
}
