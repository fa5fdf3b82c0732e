//! What the page shows, made from the daemon's views. Pure.

use std::collections::{BTreeMap, BTreeSet};

use shoutd_core::events::Event;
use shoutd_core::health::HostHealth;
use shoutd_core::rates::{RateRow, Top};
use shoutd_core::view::{Endpoints, GroupRow, HostRow, NetworkRow, Status};

use crate::moment::when;
use crate::show::{cell, short};

/// Colours of networks; then they begin again. A network's name is always shown with its colour.
const COLOURS: usize = 12;

/// Containers that one host shows. The others are counted.
const CONTAINERS_MAX: usize = 60;

/// Groups that are shown, those with the highest rates first.
const GROUPS_MAX: usize = 200;

/// Events that are shown.
const EVENTS_MAX: usize = 50;

/// The views of a daemon, as they were read at the same time.
#[derive(Debug, Clone)]
pub struct Views {
    /// The daemon's own state.
    pub status: Status,
    /// The hosts, as it sees them.
    pub hosts: Vec<HostRow>,
    /// The networks.
    pub networks: Vec<NetworkRow>,
    /// The endpoints of all hosts that answered.
    pub endpoints: Endpoints,
    /// The groups of all networks.
    pub groups: Vec<GroupRow>,
    /// The problems of all hosts.
    pub health: Vec<HostHealth>,
    /// The daemon's events, newest first.
    pub events: Vec<Event>,
    /// The rates.
    pub top: Top,
}

/// Everything on the page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Board {
    /// The host that was asked.
    pub host: String,
    /// Its daemon's version.
    pub version: String,
    /// Number of problems of all hosts.
    pub problems: usize,
    /// The hosts.
    pub hosts: Vec<HostBox>,
    /// The networks.
    pub networks: Vec<NetworkKey>,
    /// The groups.
    pub groups: Vec<GroupLine>,
    /// How many groups are not shown.
    pub more_groups: usize,
    /// The events.
    pub events: Vec<EventLine>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostBox {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// `well`, `ill` or `away`, as the style sheet calls it.
    pub class: &'static str,
    /// The same in words.
    pub state: String,
    /// Its containers.
    pub containers: Vec<Chip>,
    /// How many more it has.
    pub more: usize,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chip {
    /// Names it on the page: host and name.
    pub key: String,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: String,
    /// Its networks.
    pub networks: Vec<NetworkKey>,
}

/// A network with its colour.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetworkKey {
    /// Its name, as Docker has it.
    pub name: String,
    /// Its name, as it is shown.
    pub title: String,
    /// The number of its colour.
    pub colour: usize,
    /// Whether it is encrypted.
    pub encrypted: bool,
}

/// A group on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLine {
    /// The network.
    pub network: NetworkKey,
    /// The group's address, or `every`.
    pub group: String,
    /// Whether it is one group, about which `why` can be asked.
    pub is_one: bool,
    /// The keys of the containers that send.
    pub senders: String,
    /// The keys of the containers that are members.
    pub receivers: String,
    /// How many send.
    pub sending: usize,
    /// How many are members.
    pub members: usize,
    /// Packets per second.
    pub packets: String,
    /// Bits per second.
    pub bits: String,
    /// Copies per second, and those that flooding would send.
    pub copies: String,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLine {
    /// When.
    pub at: String,
    /// Its kind.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// What happened.
    pub text: String,
}

/// Separates keys in an attribute. Neither host names nor names of containers have it, since
/// [`cell`] escapes control characters.
const SEPARATOR: &str = "\u{1f}";

fn key(host: &str, container: &str) -> String {
    format!("{}/{}", cell(host), cell(container))
}

impl Board {
    /// What the page shows of these views.
    pub fn new(views: &Views) -> Self {
        let networks = networks(&views.networks);
        let mut groups = groups(views, &networks);
        let more_groups = groups.len().saturating_sub(GROUPS_MAX);
        groups.truncate(GROUPS_MAX);
        Self {
            host: cell(&views.status.name),
            version: views.status.version.clone(),
            problems: views.health.iter().map(|host| host.problems.len()).sum(),
            hosts: hosts(views, &networks),
            networks: networks.into_values().collect(),
            groups,
            more_groups,
            events: views.events.iter().take(EVENTS_MAX).map(event).collect(),
        }
    }
}

/// The networks by the names that other rows use.
fn networks(rows: &[NetworkRow]) -> BTreeMap<String, NetworkKey> {
    let names: BTreeMap<String, bool> = rows
        .iter()
        .map(|row| {
            let name = row.name.clone().unwrap_or_else(|| row.id.short().to_owned());
            (name, row.encrypted)
        })
        .collect();
    let keys = names.into_iter().enumerate().map(|(number, (name, encrypted))| {
        let (title, colour) = (cell(&name), number % COLOURS);
        let key = NetworkKey { name: name.clone(), title, colour, encrypted };
        (name, key)
    });
    keys.collect()
}

fn network(networks: &BTreeMap<String, NetworkKey>, name: &str) -> NetworkKey {
    let unknown =
        || NetworkKey { name: name.to_owned(), title: cell(name), colour: 0, encrypted: false };
    networks.get(name).cloned().unwrap_or_else(unknown)
}

fn hosts(views: &Views, networks: &BTreeMap<String, NetworkKey>) -> Vec<HostBox> {
    let mut chips: BTreeMap<&str, BTreeMap<String, Chip>> = BTreeMap::new();
    for row in &views.endpoints.endpoints {
        let name = row.container.clone().unwrap_or_else(|| row.id.short().to_owned());
        let key = key(&row.host, &name);
        let of_host = chips.entry(&row.host).or_default();
        let chip = of_host.entry(key.clone()).or_insert_with(|| Chip {
            key,
            name: cell(&name),
            addresses: String::new(),
            networks: Vec::new(),
        });
        for address in &row.addresses {
            let space = if chip.addresses.is_empty() { "" } else { " " };
            chip.addresses += &format!("{space}{address}");
        }
        chip.networks.push(network(networks, &row.network));
    }
    let boxes = views.hosts.iter().map(|row| {
        let mut containers: Vec<Chip> =
            chips.remove(row.name.as_str()).unwrap_or_default().into_values().collect();
        let more = containers.len().saturating_sub(CONTAINERS_MAX);
        containers.truncate(CONTAINERS_MAX);
        let health = views.health.iter().find(|health| health.id == row.id);
        let problems = health.map_or(0, |health| health.problems.len());
        let (class, state) = match (row.reachable || row.this_host, problems) {
            (false, _) => ("away", "does not answer".to_owned()),
            (true, 0) => ("well", "no problems".to_owned()),
            (true, 1) => ("ill", "1 problem".to_owned()),
            (true, count) => ("ill", format!("{count} problems")),
        };
        let (name, address) = (cell(&row.name), row.address.ip().to_string());
        HostBox { name, address, class, state, containers, more }
    });
    boxes.collect()
}

/// A group's members and its senders.
#[derive(Default)]
struct Found<'a> {
    receivers: BTreeSet<String>,
    senders: BTreeSet<String>,
    rates: Vec<&'a RateRow>,
}

fn groups(views: &Views, networks: &BTreeMap<String, NetworkKey>) -> Vec<GroupLine> {
    let mut found: BTreeMap<_, Found<'_>> = BTreeMap::new();
    for row in &views.groups {
        let group = found.entry((row.network.as_str(), row.group)).or_default();
        for host in &row.hosts {
            group.receivers.extend(host.containers.iter().map(|name| key(&host.name, name)));
        }
    }
    for row in &views.top.rows {
        let group = found.entry((row.network.as_str(), Some(row.group))).or_default();
        group.senders.extend(row.sender.as_deref().map(|name| key(&row.host, name)));
        group.rates.push(row);
    }
    let mut lines: Vec<(f64, GroupLine)> = found
        .into_iter()
        .map(|((of_network, group), found)| {
            let sum = |rate: fn(&RateRow) -> f64| found.rates.iter().map(|row| rate(row)).sum();
            let packets: f64 = sum(|row| row.packets);
            let line = GroupLine {
                network: network(networks, of_network),
                group: group.map_or_else(|| "every".to_owned(), |group| group.to_string()),
                is_one: group.is_some(),
                sending: found.senders.len(),
                members: found.receivers.len(),
                senders: Vec::from_iter(found.senders).join(SEPARATOR),
                receivers: Vec::from_iter(found.receivers).join(SEPARATOR),
                packets: short(packets),
                bits: short(sum(|row| row.bits)),
                copies: format!(
                    "{} of {}",
                    short(sum(|row| row.copies)),
                    short(sum(|row| row.flooded))
                ),
            };
            (packets, line)
        })
        .collect();
    // Groups with traffic first, in a steady order, so that lines do not jump with each rate.
    lines.sort_by(|(a, left), (b, right)| {
        let order = (*b > 0.0).cmp(&(*a > 0.0));
        order.then_with(|| (&left.network, &left.group).cmp(&(&right.network, &right.group)))
    });
    lines.into_iter().map(|(_, line)| line).collect()
}

fn event(event: &Event) -> EventLine {
    EventLine {
        at: when(event.last),
        kind: event.kind.to_string(),
        subject: cell(&event.subject),
        text: cell(&event.text),
    }
}
