//! The way from a container that sends to the underlay.

use std::net::IpAddr;

use super::receiver::is_never_snooped;
use super::{Answer, Case, Finding, HostFacts, Place, Station, Verdict};

impl Case<'_> {
    /// The container that sends.
    pub(super) fn sender(&self, from: Place<'_>) -> Vec<Finding> {
        let (name, group) = (&from.container.name, self.group);
        let found = |verdict, text: String, remedy: Option<String>| Finding {
            station: Station::Sender,
            host: from.host.host.clone(),
            container: Some(name.clone()),
            verdict,
            text,
            remedy,
        };
        let mut findings = self.state(from, Station::Sender);
        let Ok(inside) = &from.container.inside else { return findings };
        let Some(interface) = inside.interface.as_ref().filter(|interface| interface.up) else {
            return findings;
        };
        if self.is_general {
            return findings;
        }
        let own = &interface.name;
        let address = from.container.addresses.iter().find(|one| one.is_ipv4() == group.is_ipv4());
        let address = address.map_or_else(|| own.clone(), IpAddr::to_string);
        findings.push(match &inside.route {
            Some(route) if route == own => {
                found(Verdict::Good, format!("{name} sends {group} by {own}"), None)
            }
            Some(route) => found(
                Verdict::Broken,
                format!(
                    "the routes of {name} send {group} by {route}, not by {own} (network {})",
                    self.network
                ),
                Some(format!(
                    "have the program select the interface (IP_MULTICAST_IF, often an option \
                     such as --interface {own} or --bind {address}), or in the container: ip route \
                     replace {group} dev {own}"
                )),
            ),
            None => found(
                Verdict::Broken,
                format!("{name} has no route to {group}"),
                Some(format!("in the container: ip route add {group} dev {own}")),
            ),
        });
        findings
    }

    /// What holds for every container: that it runs, and that its interface is up.
    pub(super) fn state(&self, place: Place<'_>, station: Station) -> Vec<Finding> {
        let name = &place.container.name;
        let found = |verdict, text: String, remedy: Option<String>| Finding {
            station,
            host: place.host.host.clone(),
            container: Some(name.clone()),
            verdict,
            text,
            remedy,
        };
        let mut findings = Vec::new();
        if place.container.paused == Some(true) {
            findings.push(found(
                Verdict::Broken,
                format!("{name} is paused"),
                Some(format!("on {}: docker unpause {name}", place.host.host)),
            ));
        }
        match &place.container.inside {
            Err(why) => findings.push(found(
                Verdict::Unknown,
                format!("the network namespace of {name} cannot be read: {why}"),
                None,
            )),
            Ok(inside) => match &inside.interface {
                None => findings.push(found(
                    Verdict::Broken,
                    format!("{name} has no interface on network {}", self.network),
                    Some(format!(
                        "connect it again: docker network disconnect {0} {name}; docker network \
                         connect {0} {name}",
                        self.network
                    )),
                )),
                Some(interface) if !interface.up => findings.push(found(
                    Verdict::Broken,
                    format!("interface {} of {name} is down", interface.name),
                    Some(format!("in the container: ip link set {} up", interface.name)),
                )),
                Some(_) => {}
            },
        }
        if place.container.port.as_ref().is_none_or(|port| !port.up) {
            findings.push(found(
                Verdict::Broken,
                format!(
                    "the port of {name} on the bridge of {} is missing or down",
                    place.host.host
                ),
                Some(restores_itself(place.host)),
            ));
        }
        findings
    }

    /// The host of a sender: whether its VXLAN device sends to the hosts of the receivers.
    pub(super) fn sending_host(
        &self,
        host: &Answer,
        facts: &HostFacts,
        from: Option<Place<'_>>,
        receivers: &[Place<'_>],
    ) -> Vec<Finding> {
        let mut findings = devices(host, facts, Station::SenderHost);
        let Some(Ok(segment)) = &facts.segment else { return findings };
        if !segment.tunnel {
            return findings;
        }
        let source = from.and_then(|from| self.address(from));
        let sends_to = segment.sends_to.of(source);
        let mut checked = vec![host.vtep];
        for receiver in receivers {
            let (other, vtep) = (&receiver.host.host, receiver.host.vtep);
            if checked.contains(&vtep) || !self.is_to_be_sent(*receiver, source) {
                continue;
            }
            checked.push(vtep);
            findings.push(if sends_to.contains(&vtep) {
                Finding {
                    station: Station::SenderHost,
                    host: host.host.clone(),
                    container: None,
                    verdict: Verdict::Good,
                    text: format!("{} sends {} to {other}", host.host, self.subject()),
                    remedy: None,
                }
            } else {
                self.not_sent(host, facts, *receiver, source)
            });
        }
        findings
    }

    /// Whether the other hosts must send the group to this container's host: its bridge knows the
    /// membership, which the host advertises then, and the membership selects the source.
    fn is_to_be_sent(&self, receiver: Place<'_>, source: Option<IpAddr>) -> bool {
        let Some(port) = &receiver.container.port else { return false };
        let filter = port.filter.as_ref();
        let selects = filter.map(|filter| source.is_none_or(|source| filter.admits(source)));
        selects.unwrap_or(port.router || is_never_snooped(self.group))
    }

    /// Why a host does not send the group to the receiver's host.
    fn not_sent(
        &self,
        host: &Answer,
        facts: &HostFacts,
        receiver: Place<'_>,
        source: Option<IpAddr>,
    ) -> Finding {
        let (here, other) = (&host.host, &receiver.host.host);
        let group = self.subject();
        let peer = facts.peers.get(&receiver.host.vtep);
        let selects = peer
            .and_then(|peer| peer.filter.as_ref())
            .is_some_and(|filter| source.is_none_or(|source| filter.admits(source)));
        let (text, remedy) = match peer {
            None => (
                format!("{here} does not know that {other} has containers on {}", self.network),
                format!("on {here}: shoutdctl hosts; {other} must be reachable and in sync"),
            ),
            Some(_) if selects => (
                format!(
                    "the VXLAN device of {here} does not send {group} to {other}, though {here} \
                     knows that {other} has members: something removed the entry"
                ),
                format!(
                    "on {here}: shoutdctl status; find what changes the devices of shoutd (ip \
                     monitor, in the namespaces of ip netns list)"
                ),
            ),
            Some(peer) => (
                format!(
                    "{here} has not received that containers of {other} joined {group}{}",
                    if peer.in_sync { "" } else { "; it is not in sync with it" }
                ),
                format!("on {other}: shoutdctl hosts; {here} must be reachable and in sync"),
            ),
        };
        Finding {
            station: Station::SenderHost,
            host: here.clone(),
            container: None,
            verdict: Verdict::Broken,
            text,
            remedy: Some(remedy),
        }
    }

    /// What is sent.
    fn subject(&self) -> String {
        if self.is_general { "multicast".to_owned() } else { self.group.to_string() }
    }

    /// The address of a container from which the group's packets come.
    pub(super) fn address(&self, place: Place<'_>) -> Option<IpAddr> {
        let mut addresses = place.container.addresses.iter();
        addresses.find(|address| address.is_ipv4() == self.group.is_ipv4()).copied()
    }
}

/// Whether a host has the devices of the network.
pub(super) fn devices(host: &Answer, facts: &HostFacts, station: Station) -> Vec<Finding> {
    let found = |verdict, text| Finding {
        station,
        host: host.host.clone(),
        container: None,
        verdict,
        text,
        remedy: (verdict == Verdict::Broken).then(|| restores_itself(host)),
    };
    match &facts.segment {
        None => Vec::new(),
        Some(Err(why)) => {
            vec![found(
                Verdict::Broken,
                format!("the devices of the network on {} cannot be read: {why}", host.host),
            )]
        }
        Some(Ok(segment)) => [(segment.bridge, "bridge"), (segment.tunnel, "VXLAN device")]
            .into_iter()
            .filter(|(is_up, _)| !is_up)
            .map(|(_, device)| {
                found(
                    Verdict::Broken,
                    format!("the network's {device} on {} is missing or down", host.host),
                )
            })
            .collect(),
    }
}

fn restores_itself(host: &Answer) -> String {
    format!(
        "on {}: shoutdctl status says why shoutd does not restore it; it must run and serve Docker",
        host.host
    )
}
