//! What follows from the hosts' counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::exchange::ADDRESSED;
use super::{Echoes, Heard, Ping, PingPair, RoundTrip, Sizes};
use crate::HostId;

/// The answer of one host, or why it did not take part.
#[derive(Debug, Clone)]
pub struct PingAnswer {
    /// Its id.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// Its counts.
    pub echoes: Result<Echoes, String>,
}

impl Ping {
    /// `listeners` are the hosts with members of the group, by name; `None` if all hosts are
    /// pinged.
    pub fn new(
        network: String,
        to: Option<IpAddr>,
        sizes: Sizes,
        answers: &[PingAnswer],
        listeners: Option<&BTreeSet<String>>,
    ) -> Self {
        let mut ping = Self { network, to, ..Self::default() };
        let mut counts: BTreeMap<HostId, (&str, &Echoes)> = BTreeMap::new();
        for answer in answers {
            match &answer.echoes {
                Ok(echoes) => {
                    ping.hosts.push(answer.name.clone());
                    let why = echoes.unsent.iter();
                    ping.problems.extend(why.map(|why| format!("{}: {why}", answer.name)));
                    counts.insert(answer.id, (&answer.name, echoes));
                }
                Err(why) => ping.problems.push(format!("{} did not take part: {why}", answer.name)),
            }
        }
        ping.hosts.sort();
        let address = to.filter(|to| !to.is_multicast());
        for (from, (name, echoes)) in &counts {
            if let Some(address) = address {
                if echoes.sent == 0 {
                    // Its only container has this address.
                    continue;
                }
                let answered = echoes.heard.get(&ADDRESSED);
                ping.pairs.push(PingPair::answered(name, address, echoes, answered));
                continue;
            }
            for (to, (other, others)) in counts.iter().filter(|(to, _)| *to != from) {
                if listeners.is_none_or(|listeners| listeners.contains(*other)) {
                    let (there, back) = (others.heard.get(from), echoes.heard.get(to));
                    ping.pairs.push(PingPair::new(name, other, echoes, there, back));
                }
            }
        }
        ping.pairs.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        ping.problems.extend(ping.pairs.iter().filter_map(|pair| pair.problem(sizes)));
        ping
    }
}

impl PingPair {
    fn new(
        from: &str,
        to: &str,
        echoes: &Echoes,
        there: Option<&Heard>,
        back: Option<&Heard>,
    ) -> Self {
        let there = there.cloned().unwrap_or_default();
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            sent: echoes.sent,
            received: there.requests,
            duplicates: there.duplicates,
            largest: (there.requests > 0).then_some(there.largest),
            mtu: echoes.mtu,
            round_trip: back.and_then(|back| RoundTrip::of(&back.round_trips)),
        }
    }

    /// What an address answered.
    fn answered(from: &str, to: IpAddr, echoes: &Echoes, answered: Option<&Heard>) -> Self {
        let heard = answered.cloned().unwrap_or_default();
        let received = u16::try_from(heard.round_trips.len()).unwrap_or(u16::MAX);
        Self {
            from: from.to_owned(),
            to: to.to_string(),
            sent: echoes.sent,
            received,
            duplicates: heard.duplicates,
            largest: (received > 0).then_some(heard.largest_answered),
            mtu: echoes.mtu,
            round_trip: RoundTrip::of(&heard.round_trips),
        }
    }

    /// How many requests did not arrive, in percent.
    pub fn loss(&self) -> f64 {
        let lost = self.sent.saturating_sub(self.received);
        100.0 * f64::from(lost) / f64::from(self.sent.max(1))
    }

    /// What is wrong, and what to do.
    fn problem(&self, sizes: Sizes) -> Option<String> {
        let Self { from, to, sent, received, mtu, .. } = self;
        let lost = sent.saturating_sub(*received);
        if lost == 0 {
            return None;
        }
        if to.parse::<IpAddr>().is_ok() {
            return Some(format!("{from} to {to}: {lost} of {sent} requests were not answered"));
        }
        let Some(largest) = self.largest else {
            return Some(format!(
                "{from} to {to}: none of {sent} requests arrived; `shoutdctl why` tells more"
            ));
        };
        // Requests above the largest one that arrived are lost for their size.
        let is_cut = sizes == Sizes::Sweep && largest < *mtu;
        Some(if is_cut {
            format!(
                "{from} to {to}: nothing larger than {largest} octets arrived, though the \
                 network's MTU is {mtu}: correct the MTU of the links between them, or create the \
                 network with --opt com.docker.network.driver.mtu={largest}"
            )
        } else {
            format!("{from} to {to}: {lost} of {sent} requests did not arrive")
        })
    }
}

impl RoundTrip {
    fn of(times: &[u32]) -> Option<Self> {
        let mut times = times.to_vec();
        times.sort_unstable();
        let last = times.len().checked_sub(1)?;
        let at = |percent: usize| times.get(last * percent / 100).copied();
        Some(Self { samples: times.len(), p50: at(50)?, p99: at(99)? })
    }
}
