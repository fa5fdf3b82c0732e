//! Explains why a group's packets do not reach a container: from the [facts](HostFacts) of the
//! hosts concerned to [findings](Finding) in the order of a packet's way. Pure.

mod counts;
mod encryption;
mod facts;
mod finding;
mod packets;
mod receiver;
mod sender;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

pub use counts::{
    AskCounts, AskTrace, ContainerCounts, CountedAt, Counts, InOut, Kept, KeptAt, KeptPacket,
    KeptPlace, Trace, TraceProbe,
};
pub use facts::{
    AskFacts, ContainerFacts, EncryptionFacts, HostFacts, InsideFacts, InterfaceFacts,
    NetfilterDrops, PeerFacts, PortFacts, SegmentFacts, SendingSocket, SendsTo, SocketFacts,
};
pub use finding::{Explanation, Finding, Station, Verdict};
use serde::{Deserialize, Serialize};

use self::encryption::WIREGUARD;
use crate::EndpointId;

/// What a user asks: why do packets to this group not arrive?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskWhy {
    /// Name or id of the network.
    pub network: String,
    /// The group; `None` to ask for what holds for all groups.
    pub group: Option<IpAddr>,
    /// The UDP port, if the user names it.
    pub port: Option<u16>,
    /// The sender: a container's name, its address, or a prefix of its endpoint's id; `None` for
    /// any.
    pub from: Option<String>,
    /// The receiver; `None` for all members of the group.
    pub to: Option<String>,
}

/// A host that has the network, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The host's name.
    pub host: String,
    /// Its VTEP.
    pub vtep: IpAddr,
    /// Its facts, or why it gave none.
    pub facts: Result<HostFacts, String>,
}

/// Why there is nothing to explain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCase {
    /// The group is an address of another kind.
    #[error(
        "{0} is not a multicast address: give a group such as 239.1.1.1 (224.0.0.0/4) or \
         ff15::1 (ff00::/8)"
    )]
    NotMulticast(IpAddr),
    /// No container has this name.
    #[error(
        "network {network} has no container {wanted}{}; it has {}",
        unless_empty(", as far as hosts answer; no answer came from ", .silent),
        or_none(.known)
    )]
    NoContainer {
        /// The network's title.
        network: String,
        /// What the user named.
        wanted: String,
        /// The network's containers.
        known: Vec<String>,
        /// The hosts that did not answer.
        silent: Vec<String>,
    },
}

fn unless_empty(prefix: &str, names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("{prefix}{}", names.join(", ")) }
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The group to which every host sends, and that every container has joined: it stands for all
/// groups where none is asked for (RFC 1112, section 4).
pub const ALL_HOSTS: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1));

/// Everything that the rules look at.
struct Case<'a> {
    /// The group.
    group: IpAddr,
    /// The UDP port, if the user named it.
    port: Option<u16>,
    /// Whether the group stands for all groups, so that programs do not matter.
    is_general: bool,
    /// The network as users call it.
    network: &'a str,
    answers: &'a [Answer],
}

/// A container, and its host's answer.
#[derive(Clone, Copy)]
struct Place<'a> {
    host: &'a Answer,
    facts: &'a HostFacts,
    container: &'a ContainerFacts,
}

impl Place<'_> {
    /// Whether the container has joined the group, and its bridge does not look at memberships.
    fn is_not_snooped(&self) -> bool {
        let segment = self.facts.segment.as_ref().and_then(|segment| segment.as_ref().ok());
        let own = self.container.inside.as_ref().ok().and_then(|own| own.interface.as_ref());
        segment.is_some_and(|segment| segment.bridge && !segment.snooping)
            && own.is_some_and(|own| self.has_joined(&own.name))
    }

    /// Whether the container has joined the group on this interface.
    fn has_joined(&self, interface: &str) -> bool {
        self.container.inside.as_ref().is_ok_and(|inside| inside.joined.contains(interface))
    }
}

impl ContainerFacts {
    /// Whether the user means this container.
    fn is_called(&self, wanted: &str) -> bool {
        self.name == wanted
            || (wanted.len() >= 6 && self.endpoint.to_string().starts_with(wanted))
            || wanted.parse().is_ok_and(|address| self.addresses.contains(&address))
    }
}

impl<'a> Case<'a> {
    fn new(asked: &AskWhy, network: &'a str, answers: &'a [Answer]) -> Result<Self, NoCase> {
        let group = asked.group.unwrap_or(ALL_HOSTS);
        if !group.is_multicast() {
            return Err(NoCase::NotMulticast(group));
        }
        let is_general = asked.group.is_none();
        Ok(Self { group, port: asked.port, is_general, network, answers })
    }

    fn places(&self) -> impl Iterator<Item = Place<'a>> + use<'a> {
        self.answers.iter().filter_map(|host| Some((host, host.facts.as_ref().ok()?))).flat_map(
            |(host, facts)| {
                facts.containers.iter().map(move |container| Place { host, facts, container })
            },
        )
    }

    /// The container that the user named.
    fn named(&self, wanted: &str) -> Result<Place<'a>, NoCase> {
        self.places().find(|place| place.container.is_called(wanted)).ok_or_else(|| {
            let silent = self.answers.iter().filter(|answer| answer.facts.is_err());
            NoCase::NoContainer {
                network: self.network.to_owned(),
                wanted: wanted.to_owned(),
                known: self.places().map(|place| place.container.name.clone()).collect(),
                silent: silent.map(|answer| answer.host.clone()).collect(),
            }
        })
    }
}

/// Finds out why the group's packets do not arrive. `network` is the network as users call it, and
/// `answers` are those of all hosts that have it.
///
/// # Errors
/// The user asks for what does not exist.
pub fn explain(asked: &AskWhy, network: &str, answers: &[Answer]) -> Result<Explanation, NoCase> {
    let (case, from, receivers) = open(asked, network, answers)?;
    let hosts: BTreeSet<&str> = receivers.iter().map(|place| place.host.host.as_str()).collect();
    let mut findings = Vec::new();
    findings.extend(answers.iter().filter_map(|answer| silent(answer, from, asked.to.is_some())));
    let idle = answers.iter();
    findings.extend(idle.filter_map(|answer| case.cannot_start(answer, from, asked.to.is_some())));
    if let Some(from) = from {
        findings.extend(case.sender(from));
    }
    for answer in answers {
        if from.is_none_or(|from| from.host.host == answer.host)
            && let Ok(facts) = &answer.facts
            && !facts.containers.is_empty()
        {
            findings.extend(case.sending_host(answer, facts, from, &receivers));
        }
    }
    for answer in answers.iter().filter(|answer| hosts.contains(answer.host.as_str())) {
        if let Ok(facts) = &answer.facts {
            findings.extend(case.tunnels(answer, facts, from));
            findings.extend(case.receiving_host(answer, facts, from));
        }
    }
    if receivers.is_empty() {
        findings.push(case.nobody(from));
    }
    for place in &receivers {
        findings.extend(case.receiver(*place, from));
    }
    findings.extend(case.uncounted());
    findings.extend(case.packets(from, &receivers));
    findings.sort_by_key(|finding| finding.station);
    findings.extend(problems(answers));
    Ok(Explanation { findings })
}

/// Shows how many packets passed each place. `answers` hold what hosts counted in this time, in
/// milliseconds.
///
/// # Errors
/// See [`explain`].
pub fn trace(
    asked: &AskWhy,
    network: &str,
    answers: &[Answer],
    milliseconds: u64,
) -> Result<Trace, NoCase> {
    let explanation = explain(asked, network, answers)?;
    let (case, from, receivers) = open(asked, network, answers)?;
    let counts = case.counted(from, &receivers);
    Ok(Trace { milliseconds, explanation, counts, kept: kept_places(answers) })
}

/// The packets that all hosts kept, with the places in words.
fn kept_places(answers: &[Answer]) -> Vec<KeptPlace> {
    let mut places = Vec::new();
    for answer in answers {
        let Ok(facts) = &answer.facts else { continue };
        for Kept { at, packets } in &facts.kept {
            let place = format!("{}: {}", answer.host, place_name(at, facts, answers));
            places.push(KeptPlace { place, packets: packets.clone() });
        }
    }
    places
}

fn place_name(at: &KeptAt, facts: &HostFacts, answers: &[Answer]) -> String {
    let container = |id: &EndpointId| {
        let found = facts.containers.iter().find(|container| container.endpoint == *id);
        let inside = found.and_then(|container| container.inside.as_ref().ok());
        let interface = inside.and_then(|inside| inside.interface.as_ref());
        (
            found.map_or_else(|| id.short().to_owned(), |container| container.name.clone()),
            interface.map_or("interface", |interface| &interface.name),
        )
    };
    match at {
        KeptAt::Interface(id) => {
            let (name, interface) = container(id);
            format!("{interface} of {name}")
        }
        KeptAt::Elsewhere(id) => format!("other interfaces of {}", container(id).0),
        KeptAt::Port(id) => format!("port of {}", container(id).0),
        KeptAt::Tunnel => "VXLAN device".to_owned(),
        KeptAt::Underlay(vtep) => {
            let host = answers.iter().find(|answer| answer.vtep == *vtep);
            let host = host.map_or_else(|| vtep.to_string(), |answer| answer.host.clone());
            let device = if facts.encryption.is_some() { WIREGUARD } else { "underlay" };
            format!("{device}, {host}")
        }
    }
}

/// The container that a user calls so, and its host's VTEP.
///
/// # Errors
/// There is none.
pub fn find<'a>(
    asked: &AskWhy,
    wanted: &str,
    network: &'a str,
    answers: &'a [Answer],
) -> Result<(IpAddr, &'a ContainerFacts), NoCase> {
    let place = Case::new(asked, network, answers)?.named(wanted)?;
    Ok((place.host.vtep, place.container))
}

/// What the user asks about: the case, the sender, and the receivers.
type Opened<'a> = (Case<'a>, Option<Place<'a>>, Vec<Place<'a>>);

fn open<'a>(asked: &AskWhy, network: &'a str, answers: &'a [Answer]) -> Result<Opened<'a>, NoCase> {
    let case = Case::new(asked, network, answers)?;
    let from = asked.from.as_deref().map(|wanted| case.named(wanted)).transpose()?;
    let to = asked.to.as_deref().map(|wanted| case.named(wanted)).transpose()?;
    let receivers = case.receivers(from, to);
    Ok((case, from, receivers))
}

/// The station and the verdict of a host whose containers cannot be seen. If the sender and the
/// receiver are on other hosts, this host does not matter.
fn place_of_unseen(from: Option<Place<'_>>, has_receiver: bool) -> (Station, Verdict) {
    match from {
        None => (Station::SenderHost, Verdict::Broken),
        Some(_) if !has_receiver => (Station::ReceiverHost, Verdict::Broken),
        Some(_) => (Station::ReceiverHost, Verdict::Unknown),
    }
}

/// The finding that a host does not answer. What its containers do is not known then.
fn silent(answer: &Answer, from: Option<Place<'_>>, has_receiver: bool) -> Option<Finding> {
    let why = answer.facts.as_ref().err()?;
    let (station, verdict) = place_of_unseen(from, has_receiver);
    Some(Finding {
        station,
        host: answer.host.clone(),
        container: None,
        verdict,
        text: format!(
            "shoutd on {} does not answer ({why}): it tells no other host what its containers \
             join, and learns nothing from them",
            answer.host
        ),
        remedy: Some(format!(
            "on {}: shoutdctl status; if it does not run, shoutdctl start",
            answer.host
        )),
    })
}

/// The problems in the hosts' status. They may or may not have to do with the group.
fn problems(answers: &[Answer]) -> Vec<Finding> {
    let mut by_text: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for answer in answers {
        for problem in answer.facts.iter().flat_map(|facts| &facts.problems) {
            by_text.entry(problem).or_default().push(&answer.host);
        }
    }
    let findings = by_text.into_iter().map(|(problem, hosts)| Finding {
        station: Station::SenderHost,
        host: hosts.join(", "),
        container: None,
        verdict: Verdict::Unknown,
        text: format!("its status has the problem: {problem}"),
        remedy: None,
    });
    findings.collect()
}
