//! The way from a container that sends to the underlay.

use std::net::IpAddr;

use super::encryption::not_encrypting;
use super::receiver::is_never_snooped;
use super::{
    Answer, Case, Finding, HostFacts, Place, SegmentFacts, SendingSocket, Station, Verdict,
};
use crate::plane::REPAIRS_REMEMBERED;

impl Case<'_> {
    /// The container that sends.
    pub(super) fn sender(&self, from: Place<'_>) -> Vec<Finding> {
        let mut findings = self.state(from, Station::Sender);
        let Ok(inside) = &from.container.inside else { return findings };
        let Some(interface) = inside.interface.as_ref().filter(|interface| interface.up) else {
            return findings;
        };
        // Packets that were counted say more than routes, which do not matter to a program that
        // selects its interface.
        if self.is_general || self.has_sent(from) {
            return findings;
        }
        let netfilter = self.netfilter(from, inside);
        findings.extend(netfilter.map(|found| Finding { station: Station::Sender, ..found }));
        let own = &interface.name;
        let certain: Vec<&SendingSocket> =
            inside.senders.iter().filter(|socket| socket.is_connected).collect();
        for socket in &certain {
            findings.extend(self.fault_of_socket(from, socket, own));
        }
        // A program that selects its interface does not use routes.
        let selected = certain.iter().find_map(|socket| socket.interface.as_deref());
        match selected {
            None => findings.push(self.route(from, inside.route.as_deref(), own)),
            Some(selected) if selected == own => {
                findings.push(self.route(from, Some(own), own));
            }
            Some(_) => {}
        }
        if certain.is_empty() {
            findings.extend(self.fault_of_possible_senders(from, &inside.senders, own));
        }
        findings
    }

    /// The first fault of sockets that may send to the group. If one of them has none, it is not
    /// known whether another one's fault matters.
    fn fault_of_possible_senders(
        &self,
        from: Place<'_>,
        sockets: &[SendingSocket],
        own: &str,
    ) -> Option<Finding> {
        let faults = sockets.iter().filter_map(|socket| self.fault_of_socket(from, socket, own));
        let faults: Vec<Finding> = faults.collect();
        let all = faults.len() == sockets.len();
        let fault = faults.into_iter().next()?;
        Some(if all { fault } else { Finding { verdict: Verdict::Unknown, ..fault } })
    }

    /// Whether the sender's routes lead to the network.
    fn route(&self, from: Place<'_>, by: Option<&str>, own: &str) -> Finding {
        let (name, group) = (&from.container.name, self.group);
        let found = |verdict, text, remedy| Finding {
            station: Station::Sender,
            host: from.host.host.clone(),
            container: Some(name.clone()),
            verdict,
            text,
            remedy,
        };
        let address = self.address(from).map_or_else(|| own.to_owned(), |one| one.to_string());
        match by {
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
        }
    }

    /// What a program set on its socket that keeps the packets from the network.
    fn fault_of_socket(
        &self,
        from: Place<'_>,
        socket: &SendingSocket,
        own: &str,
    ) -> Option<Finding> {
        let (name, local) = (&from.container.name, socket.local);
        let elsewhere = socket.interface.as_deref().filter(|interface| *interface != own);
        let (text, remedy) = match elsewhere {
            Some(interface) => (
                format!(
                    "the socket {local} of {name} sends multicast by {interface}, which its \
                     program selected, not by {own} (network {})",
                    self.network
                ),
                format!("have the program select {own} (often an option such as --interface)"),
            ),
            // Linux drops such a packet only if the sender has joined the group, too
            // (`ip_mc_output`; `ip6_finish_output2` for IPv6).
            None if socket.ttl == 0 && from.has_joined(own) => (
                format!(
                    "the socket {local} of {name} sends multicast with a TTL of 0, which does not \
                     leave a container that has joined the group"
                ),
                "have the program set a TTL of 1 or more (IP_MULTICAST_TTL, often an option such \
                 as --ttl)"
                    .to_owned(),
            ),
            None => return None,
        };
        Some(Finding {
            station: Station::Sender,
            host: from.host.host.clone(),
            container: Some(name.clone()),
            verdict: Verdict::Broken,
            text,
            remedy: Some(remedy),
        })
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
        let mut findings: Vec<Finding> =
            not_encrypting(host, facts, Station::SenderHost).into_iter().collect();
        findings.extend(devices(host, facts, Station::SenderHost));
        let Some(Ok(segment)) = &facts.segment else { return findings };
        if !segment.tunnel {
            return findings;
        }
        findings.extend(over_rate(host, facts, segment.over_rate_now, from));
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
        let is_flooded = port.router || is_never_snooped(self.group);
        selects.unwrap_or(is_flooded || !self.is_general && receiver.is_not_snooped())
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
            Some(_) if is_never_snooped(self.group) => (
                format!(
                    "the VXLAN device of {here} does not send {group} to {other}, though every \
                     host of the network gets it: something removed the flood entry"
                ),
                format!(
                    "on {here}: shoutdctl status; find what changes the devices of shoutd \
                     (bridge monitor fdb, in the namespaces of ip netns list)"
                ),
            ),
            Some(_) if !selects && receiver.is_not_snooped() => (
                format!(
                    "the network's bridge on {other} does not snoop multicast (mcast_snooping is \
                     0), so {other} cannot tell {here} that {} joined {group}",
                    receiver.container.name
                ),
                format!(
                    "on {other}: shoutdctl status; find what changes the bridge (ip monitor, in \
                     the namespaces of ip netns list)"
                ),
            ),
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

/// What the network's limit drops. It holds for each container, and the host does not know whose
/// packets they were.
fn over_rate(
    host: &Answer,
    facts: &HostFacts,
    dropped: u64,
    from: Option<Place<'_>>,
) -> Option<Finding> {
    let is_clear = from.is_none() || facts.containers.len() == 1;
    (dropped > 0).then(|| Finding {
        station: Station::SenderHost,
        host: host.host.clone(),
        container: None,
        verdict: if is_clear { Verdict::Broken } else { Verdict::Unknown },
        text: format!(
            "a container on {} sends more multicast and broadcast than the network's limit \
             (shoutd.max-rate): {dropped} packets were dropped just now",
            host.host
        ),
        remedy: Some(
            "have the program send less, or create the network with a higher --opt \
             shoutd.max-rate; shoutdctl top shows who sends how much"
                .to_owned(),
        ),
    })
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
        Some(Ok(segment)) => {
            let devices = [(segment.bridge, "bridge"), (segment.tunnel, "VXLAN device")];
            let missing = devices.into_iter().filter(|(is_up, _)| !is_up).map(|(_, device)| {
                let text = format!("the network's {device} on {} is missing or down", host.host);
                found(Verdict::Broken, text)
            });
            undone(host, segment, station).into_iter().chain(missing).collect()
        }
    }
}

/// What something else on a host removes again and again.
fn undone(host: &Answer, segment: &SegmentFacts, station: Station) -> Option<Finding> {
    let (what, times) = segment.undone.as_ref()?;
    Some(Finding {
        station,
        host: host.host.clone(),
        container: None,
        verdict: Verdict::Broken,
        text: format!(
            "something else on {} removes the network's {what} again and again: {times} times \
             within {} s",
            host.host,
            REPAIRS_REMEMBERED.as_secs()
        ),
        remedy: Some(format!(
            "on {}: find what does it (ip monitor link, in the namespaces of ip netns list)",
            host.host
        )),
    })
}

fn restores_itself(host: &Answer) -> String {
    format!(
        "on {}: shoutdctl status says why shoutd does not restore it; it must run and serve Docker",
        host.host
    )
}
