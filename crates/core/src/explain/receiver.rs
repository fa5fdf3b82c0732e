//! The way from the underlay to the program that receives.

use std::net::{IpAddr, Ipv6Addr};

use super::encryption::{direction_problem, not_encrypting};
use super::sender::devices;
use super::{
    Answer, Case, Finding, HostFacts, InsideFacts, NetfilterDrops, Place, Station, Verdict,
};
use crate::multicast::SourceFilter;
use crate::tunnel::{Carriage, TunnelProblem};

/// Groups and ports that are named in one text.
const NAMED_MAX: usize = 8;

impl<'a> Case<'a> {
    /// The containers that are to receive: the one that the user named, or all that have joined
    /// the group on any interface, but the sender.
    pub(super) fn receivers(
        &self,
        from: Option<Place<'a>>,
        to: Option<Place<'a>>,
    ) -> Vec<Place<'a>> {
        if let Some(to) = to {
            return vec![to];
        }
        let others = self.places().filter(|place| {
            from.is_none_or(|from| from.container.endpoint != place.container.endpoint)
        });
        others.filter(|place| self.is_receiver(*place)).collect()
    }

    /// Whether the container has joined the group on any interface, or gets every group. A bridge
    /// keeps a membership for some seconds after a leave, so it counts only if the container cannot
    /// be looked into.
    fn is_receiver(&self, place: Place<'_>) -> bool {
        let port = place.container.port.as_ref();
        port.is_some_and(|port| port.router)
            || match &place.container.inside {
                Ok(inside) => !inside.joined.is_empty(),
                Err(_) => port.is_some_and(|port| port.filter.is_some()),
            }
    }

    /// The finding that no container has joined the group.
    pub(super) fn nobody(&self, from: Option<Place<'_>>) -> Finding {
        let except = from.map_or_else(String::new, |from| format!(" but {}", from.container.name));
        let joined = self.places().filter_map(|place| {
            let inside = place.container.inside.as_ref().ok()?;
            let groups = groups(inside)?;
            Some(format!("{} has joined {groups}", place.container.name))
        });
        let joined: Vec<String> = joined.take(NAMED_MAX).collect();
        let others =
            if joined.is_empty() { String::new() } else { format!(" ({})", joined.join("; ")) };
        Finding {
            station: Station::Receiver,
            host: String::new(),
            container: None,
            verdict: if self.is_general { Verdict::Unknown } else { Verdict::Broken },
            text: if self.is_general {
                format!("no container{except} is on network {}", self.network)
            } else {
                format!(
                    "no container on network {}{except} has joined {}{others}",
                    self.network, self.group
                )
            },
            remedy: (!self.is_general).then(|| {
                "start the receiving program, or have it join this group (IP_ADD_MEMBERSHIP); \
                 then see shoutdctl groups"
                    .to_owned()
            }),
        }
    }

    /// The tunnels from the senders' hosts to the host of a receiver.
    pub(super) fn tunnels(
        &self,
        host: &Answer,
        facts: &HostFacts,
        from: Option<Place<'_>>,
    ) -> Vec<Finding> {
        if let Some(failure) = not_encrypting(host, facts, Station::Tunnel) {
            return vec![failure];
        }
        let senders = self.answers.iter().filter(|sender| {
            sender.vtep != host.vtep && from.is_none_or(|from| from.host.host == sender.host)
        });
        let findings = senders.map(|sender| {
            let carriage = facts.tunnels.get(&sender.vtep).copied().unwrap_or_default();
            let problem = direction_problem(&sender.host, host, facts, carriage);
            let (verdict, text, remedy) = match (carriage, problem) {
                (_, Some(TunnelProblem { what, remedy })) => (Verdict::Broken, what, Some(remedy)),
                (Carriage::Unknown, None) => (
                    Verdict::Unknown,
                    format!(
                        "it is not known whether the tunnel from {} to {} carries",
                        sender.host, host.host
                    ),
                    None,
                ),
                (_, None) => (
                    Verdict::Good,
                    format!("the tunnel from {} to {} carries", sender.host, host.host),
                    None,
                ),
            };
            let (station, host) = (Station::Tunnel, host.host.clone());
            Finding { station, host, container: None, verdict, text, remedy }
        });
        findings.collect()
    }

    /// The host of a receiver.
    pub(super) fn receiving_host(
        &self,
        host: &Answer,
        facts: &HostFacts,
        from: Option<Place<'_>>,
    ) -> Vec<Finding> {
        // A sender's host was checked as such.
        let is_senders = from.is_none_or(|from| from.host.host == host.host);
        if is_senders { Vec::new() } else { devices(host, facts, Station::ReceiverHost) }
    }

    /// The container that receives.
    pub(super) fn receiver(&self, to: Place<'_>, from: Option<Place<'_>>) -> Vec<Finding> {
        let mut findings = self.state(to, Station::Receiver);
        if self.is_general {
            return findings;
        }
        let Ok(inside) = &to.container.inside else { return findings };
        let Some(own) = inside.interface.as_ref().filter(|own| own.up) else { return findings };
        if !inside.joined.contains(&own.name) {
            if to.container.port.as_ref().is_some_and(|port| port.router) {
                let text =
                    format!("{} is a multicast router, and gets every group", to.container.name);
                findings.push(self.found(to, Verdict::Good, text));
                return findings;
            }
            findings.push(self.not_joined(to, inside, &own.name));
            return findings;
        }
        let source = from.and_then(|from| self.address(from));
        let broken =
            [self.not_in_bridge(to), self.excluded(to, source), self.off_path(to, inside, source)];
        findings.extend(broken.into_iter().flatten());
        findings.extend(self.netfilter(to, inside));
        findings.push(self.sockets(to, inside, &own.name));
        findings
    }

    pub(super) fn found(&self, to: Place<'_>, verdict: Verdict, text: String) -> Finding {
        Finding {
            station: Station::Receiver,
            host: to.host.host.clone(),
            container: Some(to.container.name.clone()),
            verdict,
            text,
            remedy: None,
        }
    }

    fn not_joined(&self, to: Place<'_>, inside: &InsideFacts, own: &str) -> Finding {
        let (name, group) = (&to.container.name, self.group);
        let on = &self.network;
        let elsewhere: Vec<&str> = inside.joined.iter().map(String::as_str).collect();
        let (text, remedy) = if !elsewhere.is_empty() {
            (
                format!(
                    "{name} has joined {group} on {}, not on {own} (network {on})",
                    elsewhere.join(", ")
                ),
                format!(
                    "have the program join on {own}: many have an option for the interface or its \
                     address"
                ),
            )
        } else if let Some(groups) = groups(inside) {
            (
                format!("{name} has not joined {group}; on network {on} it has joined {groups}"),
                format!("have the sender and {name} use the same group"),
            )
        } else {
            (
                format!("{name} has not joined {group}, nor any other group on network {on}"),
                "start the receiving program, or have it join the group (IP_ADD_MEMBERSHIP)"
                    .to_owned(),
            )
        };
        Finding { remedy: Some(remedy), ..self.found(to, Verdict::Broken, text) }
    }

    /// The bridge does not know the membership, and forwards to members only.
    fn not_in_bridge(&self, to: Place<'_>) -> Option<Finding> {
        let Some(Ok(segment)) = &to.facts.segment else { return None };
        let port = to.container.port.as_ref()?;
        if port.filter.is_some() || port.router || !segment.snooping || is_never_snooped(self.group)
        {
            return None;
        }
        let text = format!(
            "the bridge of {} does not know that {} has joined {}",
            to.host.host, to.container.name, self.group
        );
        let remedy = "the container's kernel must send IGMP or MLD: see its netfilter rules, and \
                      whether shoutdctl status names a full MDB";
        Some(Finding { remedy: Some(remedy.to_owned()), ..self.found(to, Verdict::Broken, text) })
    }

    /// Its sockets do not select the sender as a source.
    fn excluded(&self, to: Place<'_>, source: Option<IpAddr>) -> Option<Finding> {
        let filter = to.container.port.as_ref()?.filter.as_ref()?;
        let source = source.filter(|source| !filter.admits(*source))?;
        let (name, group) = (&to.container.name, self.group);
        let selected = match filter {
            SourceFilter::Include(sources) => format!("only {}", list(sources.iter())),
            SourceFilter::Exclude(sources) => format!("all but {}", list(sources.iter())),
        };
        let text = format!(
            "{name} selects sources of {group} ({selected}), and {source}, the sender, is not one"
        );
        Some(Finding {
            remedy: Some(format!("have {name} join with source {source}, or from any source")),
            ..self.found(to, Verdict::Broken, text)
        })
    }

    /// The container's kernel drops packets of the sender: the route back leads elsewhere.
    fn off_path(
        &self,
        to: Place<'_>,
        inside: &InsideFacts,
        source: Option<IpAddr>,
    ) -> Option<Finding> {
        let own = inside.interface.as_ref().filter(|own| own.strict_reverse_path)?;
        let source = source.filter(IpAddr::is_ipv4)?;
        let detour = inside.detours.get(&source)?;
        let name = &to.container.name;
        let text = format!(
            "{name} drops packets from {source}: its route back is by {detour}, and rp_filter of \
             {} is 1",
            own.name
        );
        Some(Finding {
            remedy: Some(format!(
                "docker run --sysctl net.ipv4.conf.all.rp_filter=2, or in the container: ip route \
                 add {source} dev {}",
                own.name
            )),
            ..self.found(to, Verdict::Broken, text)
        })
    }

    /// What the container's netfilter drops now. Which packets it were is not known; `trace` counts
    /// the group's.
    pub(super) fn netfilter(&self, to: Place<'_>, inside: &InsideFacts) -> Option<Finding> {
        let NetfilterDrops { place, packets } = inside.netfilter_now.as_ref()?;
        let text = format!(
            "netfilter of {} dropped {packets} packets just now ({place}): these may be packets of \
             {}, which shoutdctl trace counts",
            to.container.name, self.group
        );
        Some(self.found(to, Verdict::Unknown, text))
    }

    /// Whether a socket can take the packets, and does.
    fn sockets(&self, to: Place<'_>, inside: &InsideFacts, own: &str) -> Finding {
        let (name, group) = (&to.container.name, self.group);
        let wanted = self.port;
        let mut matching = inside
            .sockets
            .iter()
            .filter(|socket| wanted.is_none_or(|port| socket.local.port() == port));
        if let Some(full) = matching.clone().find(|socket| socket.drops_now > 0) {
            let text = format!(
                "{name} does not read its socket {} fast enough: it has dropped {} datagrams, {} \
                 just now",
                full.local, full.drops, full.drops_now
            );
            let remedy = "give the socket a larger receive buffer (SO_RCVBUF, and \
                          net.core.rmem_max of its host), or make the program faster";
            return Finding {
                remedy: Some(remedy.to_owned()),
                ..self.found(to, Verdict::Broken, text)
            };
        }
        if let Some(socket) = matching.next() {
            let text =
                format!("{name} has joined {group} on {own}; a socket listens at {}", socket.local);
            return self.found(to, Verdict::Good, text);
        }
        let Some(port) = wanted else {
            let text = format!(
                "{name} has joined {group} on {own}, but no UDP socket listens there; shoutd does \
                 not look at other protocols"
            );
            return self.found(to, Verdict::Unknown, text);
        };
        let ports = list(inside.sockets.iter().map(|socket| socket.local.port()));
        let (text, remedy) = if ports.is_empty() {
            (
                format!("no socket of {name} listens at UDP port {port}"),
                "start the receiving program",
            )
        } else {
            (
                format!("no socket of {name} listens at UDP port {port}; its ports are {ports}"),
                "have sender and receiver use the same UDP port",
            )
        };
        Finding { remedy: Some(remedy.to_owned()), ..self.found(to, Verdict::Broken, text) }
    }
}

/// Whether a bridge sends the group to all ports, and keeps no memberships of it
/// (`br_ip4_multicast_add_group`, `br_ip6_multicast_add_group`).
pub(super) fn is_never_snooped(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets()[..3] == [224, 0, 0],
        IpAddr::V6(group) => group == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    }
}

/// The other groups that a container has joined.
fn groups(inside: &InsideFacts) -> Option<String> {
    (!inside.other_groups.is_empty()).then(|| list(inside.other_groups.iter()))
}

/// The first of these, and how many more there are.
fn list<T: ToString>(items: impl Iterator<Item = T>) -> String {
    let mut items: Vec<String> = items.map(|item| item.to_string()).collect();
    items.dedup();
    let more = items.len().saturating_sub(NAMED_MAX);
    items.truncate(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", items.join(", "))
}
