//! What follows from counted packets: the first place that they do not pass.

use super::counts::{ContainerCounts, CountedAt, Counts};
use super::encryption::{direction_problem, received_remedy, sent_remedy};
use super::{Answer, Case, Finding, Place, Station, Verdict};
use crate::tunnel::Carriage;

/// Hosts begin and end to count within this time of each other, in milliseconds, unless the counts
/// are exact.
const SKEW_MS: u64 = 200;

/// Two places that packets pass one after the other.
struct Hop {
    station: Station,
    host: String,
    container: Option<String>,
    /// How many passed the first place.
    before: u64,
    /// How many passed the second one.
    after: u64,
    /// The first place.
    from: String,
    /// The second place.
    to: String,
    /// What to do if packets are lost.
    remedy: String,
}

impl Answer {
    /// What this host counted.
    fn counts(&self) -> Option<&Counts> {
        self.facts.as_ref().ok()?.counts.as_ref()
    }
}

impl Place<'_> {
    fn counts(&self) -> Option<&ContainerCounts> {
        self.facts.counts.as_ref()?.containers.get(&self.container.endpoint)
    }

    fn interface(&self) -> &str {
        let inside = self.container.inside.as_ref().ok();
        let interface = inside.and_then(|inside| inside.interface.as_ref());
        interface.map_or("the interface", |interface| &interface.name)
    }
}

impl<'a> Case<'a> {
    /// Whether hosts have counted.
    pub(super) fn is_counted(&self) -> bool {
        self.answers.iter().any(|answer| answer.counts().is_some())
    }

    /// Whether the container is known to have sent packets by its interface on the network.
    pub(super) fn has_sent(&self, place: Place<'_>) -> bool {
        place.counts().is_some_and(|counts| counts.interface.outbound > 0)
    }

    /// The hosts that did not count, or not everywhere.
    pub(super) fn uncounted(&self) -> Vec<Finding> {
        let found = |answer: &Answer, verdict, text, remedy: &str| Finding {
            station: Station::Sender,
            host: answer.host.clone(),
            container: None,
            verdict,
            text,
            remedy: Some(remedy.to_owned()),
        };
        let mut findings = Vec::new();
        for answer in self.answers {
            let Ok(facts) = &answer.facts else { continue };
            if let Some(why) = &facts.uncounted {
                let text = format!("{} did not count packets: {why}", answer.host);
                findings.push(found(answer, Verdict::Broken, text, "trace again in some seconds"));
            }
            if let Some(counts) = facts.counts.as_ref().filter(|counts| counts.left_out > 0) {
                let text = format!(
                    "{} containers or hosts were left out on {}, which counts at so many only",
                    counts.left_out, answer.host
                );
                findings.push(found(answer, Verdict::Unknown, text, "name --from and --to"));
            }
        }
        findings
    }

    /// The findings that follow from counts.
    pub(super) fn packets(&self, from: Option<Place<'a>>, receivers: &[Place<'a>]) -> Vec<Finding> {
        if !self.is_counted() {
            return Vec::new();
        }
        let senders: Vec<_> = match from {
            Some(from) => vec![from],
            None => self.places().filter(|place| self.has_sent(*place)).collect(),
        };
        let mut findings = self.sent(from, &senders);
        let mut hops: Vec<Hop> = senders.iter().filter_map(|sender| leaves(*sender)).collect();
        hops.extend(self.hosts(&senders).into_iter().filter_map(|host| self.enters_tunnel(host)));
        hops.extend(self.between(&senders, receivers));
        hops.extend(self.hosts(receivers).into_iter().filter_map(|host| self.leaves_tunnel(host)));
        for receiver in receivers {
            hops.extend(self.reaches(*receiver, from));
        }
        findings.extend(hops.into_iter().filter_map(|hop| self.lost(hop)));
        findings.extend(receivers.iter().filter_map(|receiver| self.got(*receiver)));
        findings
    }

    /// How much less a later place may count than an earlier one without a loss.
    fn slack(&self, before: u64) -> u64 {
        let counts = self.answers.iter().filter_map(Answer::counts);
        let shortest = counts.clone().map(|counts| counts.milliseconds).min().unwrap_or_default();
        if counts.into_iter().all(|counts| counts.is_exact) {
            return 0;
        }
        1 + before.saturating_mul(SKEW_MS) / shortest.max(SKEW_MS)
    }

    /// Whether packets were sent.
    fn sent(&self, from: Option<Place<'_>>, senders: &[Place<'_>]) -> Vec<Finding> {
        let silent = |container: Option<Place<'_>>, text: String, remedy: &str| Finding {
            station: Station::Sender,
            host: container.map_or_else(String::new, |place| place.host.host.clone()),
            container: container.map(|place| place.container.name.clone()),
            verdict: Verdict::Broken,
            text,
            remedy: Some(remedy.to_owned()),
        };
        let (network, group) = (self.network, self.subject_with_port());
        let nothing = "start the sending program, and check its address, port, interface and TTL; \
                       shoutdctl trace --probe tries the way without it";
        let Some(from) = from else {
            if senders.is_empty() {
                let text = format!("no container on network {network} sent a packet to {group}");
                return vec![silent(None, text, nothing)];
            }
            return senders.iter().filter_map(|sender| self.has_sent_finding(*sender)).collect();
        };
        let Some(counts) = from.counts() else { return Vec::new() };
        let name = &from.container.name;
        if counts.interface.outbound > 0 {
            return self.has_sent_finding(from).into_iter().collect();
        }
        if counts.elsewhere > 0 {
            let text = format!(
                "{name} sent {} packets to {group} by another interface, and none by {} (network \
                 {network})",
                counts.elsewhere,
                from.interface()
            );
            let remedy = format!(
                "have the program select the interface (IP_MULTICAST_IF, often an option such as \
                 --interface {})",
                from.interface()
            );
            return vec![silent(Some(from), text, &remedy)];
        }
        vec![silent(Some(from), format!("{name} sent no packet to {group}"), nothing)]
    }

    fn has_sent_finding(&self, sender: Place<'_>) -> Option<Finding> {
        let counts = sender.counts()?;
        let text = format!(
            "{} sent {} to {} by {}",
            sender.container.name,
            packets(counts.interface.outbound),
            self.subject_with_port(),
            sender.interface()
        );
        Some(Finding {
            station: Station::Sender,
            host: sender.host.host.clone(),
            container: Some(sender.container.name.clone()),
            verdict: Verdict::Good,
            text,
            remedy: None,
        })
    }

    fn subject_with_port(&self) -> String {
        match self.port {
            Some(port) => format!("{} (UDP port {port})", self.group),
            None => self.group.to_string(),
        }
    }

    /// From the ports of a host's senders to its VXLAN device, which gets every group.
    fn enters_tunnel(&self, host: &Answer) -> Option<Hop> {
        let counts = host.counts().filter(|counts| counts.left_out == 0)?;
        let before = counts.containers.values().map(|container| container.port.inbound).sum();
        Some(Hop {
            station: Station::SenderHost,
            host: host.host.clone(),
            container: None,
            before,
            after: counts.tunnel.outbound,
            from: format!("the containers' ports on {}", host.host),
            to: "its VXLAN device".to_owned(),
            remedy: limited(&host.host),
        })
    }

    /// From the VXLAN devices of the senders' hosts to those of the receivers' hosts.
    fn between(&self, senders: &[Place<'a>], receivers: &[Place<'a>]) -> Vec<Hop> {
        let mut hops = Vec::new();
        for sender in self.hosts(senders) {
            for receiver in self.hosts(receivers) {
                if sender.vtep == receiver.vtep {
                    continue;
                }
                let Some(sent) = sender.counts() else { continue };
                // A host that was left out is not known to have got nothing.
                let Some(towards) = sent.underlay.get(&receiver.vtep) else { continue };
                let towards = towards.outbound;
                let wanted = receivers
                    .iter()
                    .any(|place| place.host.vtep == receiver.vtep && self.wants_all(*place));
                let (from, to) = (&sender.host, &receiver.host);
                if wanted {
                    hops.push(Hop {
                        station: Station::SenderHost,
                        host: from.clone(),
                        container: None,
                        before: sent.tunnel.outbound,
                        after: towards,
                        from: format!("the VXLAN device of {from}"),
                        to: format!("its {} towards {to}", sender.interface()),
                        remedy: sent_remedy(sender),
                    });
                }
                let arrived = receiver.counts().and_then(|own| own.underlay.get(&sender.vtep));
                let Some(arrived) = arrived else { continue };
                let facts = receiver.facts.as_ref().ok();
                let problem = facts
                    .and_then(|facts| direction_problem(from, receiver, facts, Carriage::Silent));
                hops.push(Hop {
                    station: Station::Tunnel,
                    host: to.clone(),
                    container: None,
                    before: towards,
                    after: arrived.inbound,
                    from: format!("the {} of {from}", sender.interface()),
                    to: format!("that of {to}"),
                    remedy: problem.map(|problem| problem.remedy).unwrap_or_default(),
                });
            }
        }
        hops
    }

    /// From the underlay to the VXLAN device of a receiver's host.
    fn leaves_tunnel(&self, host: &Answer) -> Option<Hop> {
        let counts = host.counts()?;
        Some(Hop {
            station: Station::ReceiverHost,
            host: host.host.clone(),
            container: None,
            before: counts.underlay.values().map(|peer| peer.inbound).sum(),
            after: counts.tunnel.inbound,
            from: format!("the {} of {}", host.underlay(), host.host),
            to: "its VXLAN device".to_owned(),
            remedy: received_remedy(host),
        })
    }

    /// From the receiver's host to its program.
    fn reaches(&self, to: Place<'_>, from: Option<Place<'_>>) -> Vec<Hop> {
        let (Some(all), Some(counts)) = (to.host.counts(), to.counts()) else { return Vec::new() };
        let (name, own) = (&to.container.name, to.interface());
        let hop = |before, after, from: String, to_place: String, remedy: String| Hop {
            station: Station::Receiver,
            host: to.host.host.clone(),
            container: Some(name.clone()),
            before,
            after,
            from,
            to: to_place,
            remedy,
        };
        let mut hops = Vec::new();
        if self.wants_all(to) {
            let others = all.containers.iter().filter(|(id, _)| **id != to.container.endpoint);
            let here: u64 = others.map(|(_, other)| other.port.inbound).sum();
            let through = from.is_none_or(|from| from.host.vtep != to.host.vtep);
            hops.push(hop(
                here + if through { all.tunnel.inbound } else { 0 },
                counts.port.outbound,
                format!("the bridge of {}", to.host.host),
                format!("the port of {name}"),
                limited(&to.host.host),
            ));
        }
        hops.push(hop(
            counts.port.outbound,
            counts.interface.inbound,
            format!("the port of {name}"),
            format!("its interface {own}"),
            format!("in the container: see tc filter show dev {own} ingress"),
        ));
        if to.has_joined(own) {
            hops.push(hop(
                counts.interface.inbound,
                counts.delivered,
                format!("the interface {own} of {name}"),
                "its sockets".to_owned(),
                "in the container: look for firewall rules (nft list ruleset, iptables -L -v), \
                 and at rp_filter"
                    .to_owned(),
            ));
        }
        hops
    }

    /// Whether the container's bridge must forward to it all that is counted.
    fn wants_all(&self, place: Place<'_>) -> bool {
        let Some(port) = &place.container.port else { return false };
        port.router
            || super::receiver::is_never_snooped(self.group)
            || port.filter.as_ref() == Some(&crate::multicast::SourceFilter::all())
    }

    fn got(&self, to: Place<'_>) -> Option<Finding> {
        let arrived = to.counts()?.interface.inbound;
        (arrived > 0).then(|| {
            let (name, own) = (&to.container.name, to.interface());
            self.found(to, Verdict::Good, format!("{} reached {own} of {name}", packets(arrived)))
        })
    }

    fn lost(&self, hop: Hop) -> Option<Finding> {
        let Hop { before, after, .. } = hop;
        if before <= after.saturating_add(self.slack(before)) {
            return None;
        }
        let Hop { station, host, container, from, to, remedy, .. } = hop;
        let text = if after == 0 {
            format!("none of {} that passed {from} reached {to}", packets(before))
        } else {
            format!(
                "{} of {} that passed {from} did not reach {to}",
                before - after,
                packets(before)
            )
        };
        let (verdict, remedy) = (Verdict::Broken, Some(remedy));
        Some(Finding { station, host, container, verdict, text, remedy })
    }

    /// The hosts of these containers, each once.
    fn hosts(&self, places: &[Place<'a>]) -> Vec<&'a Answer> {
        let is_one = |host: &&Answer| places.iter().any(|place| place.host.vtep == host.vtep);
        self.answers.iter().filter(is_one).collect()
    }

    /// How many packets passed each place, in the order of the way.
    pub(super) fn counted(
        &self,
        from: Option<Place<'a>>,
        receivers: &[Place<'a>],
    ) -> Vec<CountedAt> {
        let is_sender = |place: &Place<'_>| {
            from.map_or_else(
                || self.has_sent(*place),
                |from| from.container.endpoint == place.container.endpoint,
            )
        };
        let senders: Vec<Place<'a>> = self.places().filter(is_sender).collect();
        let mut rows = Vec::new();
        let mut row = |station, host: &Answer, place: String, packets| {
            rows.push(CountedAt { station, host: host.host.clone(), place, packets });
        };
        for sender in &senders {
            let (Some(counts), name) = (sender.counts(), &sender.container.name) else { continue };
            let own = sender.interface();
            row(
                Station::Sender,
                sender.host,
                format!("{own} of {name}"),
                counts.interface.outbound,
            );
            row(Station::SenderHost, sender.host, format!("port of {name}"), counts.port.inbound);
        }
        let (sending, receiving) = (self.hosts(&senders), self.hosts(receivers));
        for host in &sending {
            let Some(counts) = host.counts() else { continue };
            row(Station::SenderHost, host, "VXLAN device".to_owned(), counts.tunnel.outbound);
            for other in self.answers.iter().filter(|other| other.vtep != host.vtep) {
                let Some(peer) = counts.underlay.get(&other.vtep) else { continue };
                let sent = peer.outbound;
                if sent > 0 || receiving.iter().any(|host| host.vtep == other.vtep) {
                    let place = format!("{}, to {}", host.underlay(), other.host);
                    row(Station::SenderHost, host, place, sent);
                }
            }
        }
        for host in &receiving {
            let Some(counts) = host.counts() else { continue };
            for other in sending.iter().filter(|other| other.vtep != host.vtep) {
                let Some(peer) = counts.underlay.get(&other.vtep) else { continue };
                let came = peer.inbound;
                let place = format!("{}, from {}", host.underlay(), other.host);
                row(Station::ReceiverHost, host, place, came);
            }
            if sending.iter().any(|other| other.vtep != host.vtep) {
                row(Station::ReceiverHost, host, "VXLAN device".to_owned(), counts.tunnel.inbound);
            }
        }
        for receiver in receivers {
            let (Some(counts), name) = (receiver.counts(), &receiver.container.name) else {
                continue;
            };
            let own = receiver.interface();
            let host = receiver.host;
            row(Station::ReceiverHost, host, format!("port of {name}"), counts.port.outbound);
            row(Station::Receiver, host, format!("{own} of {name}"), counts.interface.inbound);
        }
        rows.sort_by_key(|row| row.station);
        rows
    }
}

/// From a sender's interface to its port on the bridge.
fn leaves(sender: Place<'_>) -> Option<Hop> {
    let counts = sender.counts()?;
    let (name, own) = (&sender.container.name, sender.interface());
    Some(Hop {
        station: Station::SenderHost,
        host: sender.host.host.clone(),
        container: Some(name.clone()),
        before: counts.interface.outbound,
        after: counts.port.inbound,
        from: format!("the interface {own} of {name}"),
        to: format!("its port on the bridge of {}", sender.host.host),
        remedy: format!("on {}: see tc filter show of the port", sender.host.host),
    })
}

/// What to do if a bridge did not forward.
fn limited(host: &str) -> String {
    format!(
        "on {host}: shoutdctl status, and shoutdctl network inspect, which shows the network's \
         max-rate"
    )
}

fn packets(count: u64) -> String {
    if count == 1 { "1 packet".to_owned() } else { format!("{count} packets") }
}
