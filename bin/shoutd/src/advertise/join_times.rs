//! How long it takes until peers have programmed their kernels for a join of this host's
//! containers.

use std::collections::BTreeMap;
use std::time::Duration;

use shoutd_core::advertise::Content;
use shoutd_core::{HostId, NetworkId};

/// Since when each peer has not acknowledged a join. Joins during that time count with the first,
/// as one.
#[derive(Debug, Default)]
pub struct JoinTimes {
    waiting: BTreeMap<HostId, Duration>,
}

impl JoinTimes {
    /// Notes the networks with joins, and the peers that are told of them.
    pub fn joined(
        &mut self,
        networks: &[NetworkId],
        audience: &BTreeMap<HostId, Content>,
        now: Duration,
    ) {
        self.waiting.retain(|host, _| audience.contains_key(host));
        if networks.is_empty() {
            return;
        }
        for (host, content) in audience {
            if networks.iter().any(|network| content.contains_key(network)) {
                self.waiting.entry(*host).or_insert(now);
            }
        }
    }

    /// A peer has acknowledged all that it should have. Returns how long ago the first join was
    /// that it has acknowledged only now.
    pub fn acknowledged(&mut self, host: HostId, now: Duration) -> Option<Duration> {
        self.waiting.remove(&host).map(|since| now.saturating_sub(since))
    }
}

/// The networks on which this host has members of a group that had none before. A network that was
/// not advertised before does not count: after a start all of its groups are new.
pub fn joins(before: &Content, after: &Content) -> Vec<NetworkId> {
    let grown = after.iter().filter(|(id, network)| {
        let Some(known) = before.get(*id) else { return false };
        let known = &known.memberships.groups;
        network.memberships.groups.keys().any(|group| !known.contains_key(group))
    });
    grown.map(|(id, _)| id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use shoutd_core::advertise::AdvertisedNetwork;
    use shoutd_core::multicast::SourceFilter;

    use super::*;

    fn network() -> NetworkId {
        serde_json::from_value(serde_json::json!("0123456789abcdef0123456789abcdef")).unwrap()
    }

    fn content(groups: &[u8]) -> Content {
        let mut advertised = AdvertisedNetwork::default();
        for group in groups {
            let group = IpAddr::from([224, 1, 1, *group]);
            advertised.memberships.groups.insert(group, SourceFilter::all());
        }
        [(network(), Arc::new(advertised))].into()
    }

    #[test]
    fn only_groups_without_members_before_are_joins() {
        assert_eq!(joins(&content(&[1]), &content(&[1, 2])), [network()]);
        for (before, after) in [
            (content(&[1, 2]), content(&[1])),
            (content(&[]), content(&[])),
            (Content::new(), content(&[1])),
        ] {
            assert_eq!(joins(&before, &after), []);
        }
    }

    #[test]
    fn joins_before_an_acknowledgement_count_once_from_the_first() {
        let [first, second] = [1, 2].map(|number| HostId::new(number).unwrap());
        let audience = [(first, content(&[])), (second, Content::new())].into();
        let mut times = JoinTimes::default();
        times.joined(&[network()], &audience, Duration::from_millis(10));
        times.joined(&[network()], &audience, Duration::from_millis(12));
        let now = Duration::from_millis(15);
        assert_eq!(times.acknowledged(first, now), Some(Duration::from_millis(5)));
        assert_eq!(times.acknowledged(first, now), None);
        assert_eq!(times.acknowledged(second, now), None, "it does not have the network");
        times.joined(&[network()], &audience, now);
        times.joined(&[], &BTreeMap::new(), now);
        assert_eq!(times.acknowledged(first, now), None, "it is told once");
    }
}
