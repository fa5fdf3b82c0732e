//! Rates of multicast: who sends how much to which group, and how many copies leave the host. Pure.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::NetworkId;
use crate::multicast::SourceFilter;
use crate::view::GroupRow;

/// Asks a host to measure what its containers send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskRates {
    /// Only on this network.
    pub network: Option<NetworkId>,
    /// How long, in milliseconds.
    pub milliseconds: u64,
}

/// What users ask: the rates on a network, by name or id, or on all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskTop {
    /// Only on this network.
    pub network: Option<String>,
    /// How long to measure, in milliseconds.
    pub milliseconds: u64,
}

/// The packets from one source to one group that were read on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The source.
    pub source: IpAddr,
    /// The group.
    pub group: IpAddr,
    /// The packets that were read.
    pub packets: u64,
    /// Their octets, from the IP header on.
    pub octets: u64,
    /// To how many other hosts the VXLAN device sends them.
    pub hosts: usize,
}

/// What was measured on one network of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// How long, in milliseconds.
    pub milliseconds: u64,
    /// The packets that were read.
    pub read: u64,
    /// All packets that passed. If they are more, rates are estimated from those that were read.
    pub passed: u64,
    /// The flows.
    pub flows: Vec<Flow>,
}

/// The answer of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRates {
    /// Its networks.
    pub networks: Vec<NetworkRates>,
}

/// What a host measured on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRates {
    /// The network.
    pub network: NetworkId,
    /// The measurement.
    pub measured: Measured,
    /// The names of the containers that have the flows' sources as addresses.
    pub senders: Vec<(IpAddr, String)>,
}

/// A row of `shoutdctl top`: what one container sends to one group. Rates are per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RateRow {
    /// The network's name.
    pub network: String,
    /// The group.
    pub group: IpAddr,
    /// The source's address.
    pub source: IpAddr,
    /// The container that sends, if one has this address.
    pub sender: Option<String>,
    /// The host of the sender.
    pub host: String,
    /// Packets.
    pub packets: f64,
    /// Bits, from the IP header on.
    pub bits: f64,
    /// Copies that the host sends to other hosts.
    pub copies: f64,
    /// Copies that it would send if it flooded.
    pub flooded: f64,
    /// Containers that are members of the group, as far as hosts tell.
    pub receivers: usize,
    /// Whether the rates are estimated from a part of the packets.
    pub is_estimate: bool,
}

/// The rates on all hosts, or why some are missing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Top {
    /// The rows, the highest packet rate first.
    pub rows: Vec<RateRow>,
    /// The hosts that did not answer, and why.
    pub silent: Vec<(String, String)>,
}

/// The rows of one host's answer for one network. `network` is its name, `others` the number of
/// other hosts that have it, and `groups` the members of all groups.
pub fn rate_rows(
    host: &str,
    network: &str,
    rates: &NetworkRates,
    others: usize,
    groups: &[GroupRow],
) -> Vec<RateRow> {
    let Measured { milliseconds, read, passed, flows } = &rates.measured;
    let scale = number(*passed) / number((*read).max(1));
    let per_second = 1000.0 / number((*milliseconds).max(1)) * scale;
    let rows = flows.iter().map(|flow| {
        let packets = number(flow.packets) * per_second;
        let sender = rates.senders.iter().find(|(address, _)| *address == flow.source);
        RateRow {
            network: network.to_owned(),
            group: flow.group,
            source: flow.source,
            sender: sender.map(|(_, name)| name.clone()),
            host: host.to_owned(),
            packets,
            bits: number(flow.octets) * 8.0 * per_second,
            copies: packets * count(flow.hosts),
            flooded: packets * count(others),
            receivers: receivers(groups, network, flow),
            is_estimate: passed > read,
        }
    });
    rows.collect()
}

/// A row of `shoutdctl groups --rates`. Rates are per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RatedGroup {
    /// The group and its members.
    #[serde(flatten)]
    pub group: GroupRow,
    /// The containers that send to it, or their addresses.
    pub senders: Vec<String>,
    /// Packets of all senders that the members select.
    pub packets: f64,
    /// Their bits, from the IP header on.
    pub bits: f64,
}

/// Adds the senders and the rates to groups, and the groups that have senders and no members.
pub fn rated_groups(groups: Vec<GroupRow>, top: &Top) -> Vec<RatedGroup> {
    let without_members = top.rows.iter().filter(|row| {
        !groups.iter().any(|group| group.network == row.network && group.group == Some(row.group))
    });
    let mut lonely: Vec<GroupRow> = Vec::new();
    for row in without_members {
        let group = Some(row.group);
        if !lonely.iter().any(|known| known.network == row.network && known.group == group) {
            let (network, sources) = (row.network.clone(), SourceFilter::all());
            lonely.push(GroupRow { network, group, sources, hosts: Vec::new() });
        }
    }
    let rated = groups.into_iter().chain(lonely).map(|group| {
        let flows = top.rows.iter().filter(|row| {
            row.network == group.network
                && group.group == Some(row.group)
                && group.sources.admits(row.source)
        });
        RatedGroup {
            senders: flows.clone().map(sender).collect(),
            packets: flows.clone().map(|row| row.packets).sum(),
            bits: flows.map(|row| row.bits).sum(),
            group,
        }
    });
    rated.collect()
}

fn sender(row: &RateRow) -> String {
    row.sender.clone().unwrap_or_else(|| row.source.to_string())
}

/// The containers that are members of a flow's group, and select its source.
fn receivers(groups: &[GroupRow], network: &str, flow: &Flow) -> usize {
    let rows = groups.iter().filter(|row| {
        row.network == network
            && row.group.is_none_or(|group| group == flow.group)
            && row.sources.admits(flow.source)
    });
    rows.flat_map(|row| &row.hosts).map(|host| host.containers.len()).sum()
}

#[expect(clippy::cast_precision_loss, reason = "rates are shown with three digits")]
fn number(count: u64) -> f64 {
    count as f64
}

fn count(items: usize) -> f64 {
    number(u64::try_from(items).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::MemberHost;

    fn rates(read: u64, passed: u64) -> NetworkRates {
        let flow = Flow {
            source: [10, 0, 0, 1].into(),
            group: [224, 1, 1, 1].into(),
            packets: read,
            octets: read * 1000,
            hosts: 1,
        };
        NetworkRates {
            network: "a".repeat(64).parse().unwrap(),
            measured: Measured { milliseconds: 500, read, passed, flows: vec![flow] },
            senders: vec![([10, 0, 0, 1].into(), "c1".to_owned())],
        }
    }

    fn members(group: Option<IpAddr>, sources: SourceFilter) -> GroupRow {
        let host = MemberHost {
            name: "h2".to_owned(),
            in_sync: true,
            containers: vec!["a".to_owned(), "b".to_owned()],
        };
        GroupRow { network: "foo".to_owned(), group, sources, hosts: vec![host] }
    }

    #[test]
    fn rates_are_per_second_and_scaled_to_all_packets() {
        let exact = &rate_rows("h1", "foo", &rates(100, 100), 4, &[])[0];
        assert!((exact.packets - 200.0).abs() < 1e-6 && !exact.is_estimate);
        assert!((exact.bits - 1_600_000.0).abs() < 1e-3);
        assert!((exact.copies - 200.0).abs() < 1e-6 && (exact.flooded - 800.0).abs() < 1e-6);
        assert_eq!(exact.sender.as_deref(), Some("c1"));
        let estimate = &rate_rows("h1", "foo", &rates(100, 300), 4, &[])[0];
        assert!((estimate.packets - 600.0).abs() < 1e-6 && estimate.is_estimate);
    }

    #[test]
    fn groups_have_the_rates_of_senders_that_members_select() {
        let rows = rate_rows("h1", "foo", &rates(100, 100), 4, &[]);
        let top = Top { rows, silent: Vec::new() };
        let group = Some([224, 1, 1, 1].into());
        let stranger = SourceFilter::Include([[10, 9, 9, 9].into()].into());
        let selecting = rated_groups(vec![members(group, SourceFilter::all())], &top);
        assert_eq!(selecting.len(), 1);
        assert_eq!(selecting[0].senders, ["c1"]);
        assert!((selecting[0].packets - 200.0).abs() < 1e-6);
        let other = rated_groups(vec![members(group, stranger)], &top);
        assert!(other.len() == 1 && other[0].senders.is_empty() && other[0].packets == 0.0);
        let lonely = rated_groups(Vec::new(), &top);
        assert!(lonely.len() == 1 && lonely[0].group.hosts.is_empty());
        assert_eq!(lonely[0].senders, ["c1"]);
    }

    #[test]
    fn receivers_are_the_members_that_select_the_source() {
        let group = Some([224, 1, 1, 1].into());
        let stranger = SourceFilter::Include([[10, 9, 9, 9].into()].into());
        let count = |row| rate_rows("h1", "foo", &rates(1, 1), 1, &[row])[0].receivers;
        assert_eq!(count(members(group, SourceFilter::all())), 2);
        assert_eq!(count(members(None, SourceFilter::all())), 2);
        assert_eq!(count(members(group, stranger)), 0);
        assert_eq!(count(members(Some([224, 1, 1, 2].into()), SourceFilter::all())), 0);
    }
}
