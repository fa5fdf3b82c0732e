//! Operations that are in flight between this host's engine and shoutd. A plugin call alone does
//! not tell its origin.
//!
//! All times are of a monotonic clock, since any instant.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use ipnet::IpNet;

use crate::{DockerNetworkId, NetworkId};

/// How long an engine may take to store a network after the cluster has agreed to it. After that,
/// the creation counts as failed.
pub const CREATION_TIME_MAX: Duration = Duration::from_secs(60);

/// How long an engine normally takes to store a network after the cluster has agreed to it:
/// milliseconds, unless it is very busy.
pub const STORING_TIME_MAX: Duration = Duration::from_secs(2);

/// Operations that are in flight.
#[derive(Debug, Default)]
pub struct Operations {
    /// Networks that the engine is creating, and since when.
    creations: BTreeMap<NetworkId, Duration>,
    /// Networks whose mirror shoutd is creating. If the engine rolls that back, its `DeleteNetwork`
    /// is not a user's removal.
    mirrorings: BTreeSet<NetworkId>,
    /// Copies that shoutd is removing, to create them again.
    replacements: BTreeSet<DockerNetworkId>,
    /// Networks of this host that lost their names to another network, since when, and why.
    yielded: BTreeMap<NetworkId, (Duration, Yielded)>,
}

/// Why a network is replaced by another one of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Yielded {
    /// The name of both.
    pub name: String,
    /// The subnets of the network that is replaced.
    pub subnets: Vec<IpNet>,
    /// Why the cluster refused the name.
    pub refusal: String,
}

impl fmt::Display for Yielded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.refusal)
    }
}

impl Operations {
    /// Records that the engine creates a network.
    pub fn creating(&mut self, network: &NetworkId, now: Duration) {
        self.creations.retain(|_, since| now.saturating_sub(*since) < CREATION_TIME_MAX);
        self.creations.insert(network.clone(), now);
    }

    /// Whether the engine may be creating a network, of any name.
    pub fn is_creating(&self, now: Duration) -> bool {
        self.creations.values().any(|since| now.saturating_sub(*since) < STORING_TIME_MAX)
    }

    /// Records that the engine no longer creates a network, or has removed it.
    pub fn not_creating(&mut self, network: &NetworkId) {
        self.creations.remove(network);
    }

    /// Networks whose creation may be in flight.
    pub fn creations(&self, now: Duration) -> BTreeSet<NetworkId> {
        let recent = self
            .creations
            .iter()
            .filter(|(_, since)| now.saturating_sub(**since) < CREATION_TIME_MAX);
        recent.map(|(network, _)| network.clone()).collect()
    }

    /// Records that a network of this host is replaced by another one of its name.
    pub fn yielding(&mut self, network: &NetworkId, why: Yielded, now: Duration) {
        self.yielded.retain(|_, (since, _)| now.saturating_sub(*since) < CREATION_TIME_MAX);
        self.yielded.insert(network.clone(), (now, why));
    }

    /// Why a network of this host was replaced by another one of its name, if that was recent.
    pub fn yielded(&self, network: &NetworkId) -> Option<&Yielded> {
        self.yielded.get(network).map(|(_, why)| why)
    }

    /// The same for a network that had this subnet: the last one, if there were several.
    pub fn yielded_with(&self, subnet: IpNet) -> Option<&Yielded> {
        let with_subnet = self.yielded.values().filter(|(_, why)| why.subnets.contains(&subnet));
        with_subnet.max_by_key(|(since, _)| *since).map(|(_, why)| why)
    }

    /// Records that shoutd is creating a mirror of this network, or has finished.
    pub fn mirroring(&mut self, network: &NetworkId, is_in_flight: bool) {
        note(&mut self.mirrorings, network, is_in_flight);
    }

    /// Whether shoutd is creating a mirror of this network.
    pub fn is_mirroring(&self, network: &NetworkId) -> bool {
        self.mirrorings.contains(network)
    }

    /// Records that shoutd is removing this copy, or has finished.
    pub fn replacing(&mut self, copy: &DockerNetworkId, is_in_flight: bool) {
        note(&mut self.replacements, copy, is_in_flight);
    }

    /// Whether shoutd is removing this copy.
    pub fn is_replacing(&self, copy: &DockerNetworkId) -> bool {
        self.replacements.contains(copy)
    }
}

fn note<T: Ord + Clone>(set: &mut BTreeSet<T>, item: &T, is_in: bool) {
    if is_in {
        set.insert(item.clone());
    } else {
        set.remove(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(digit: char) -> NetworkId {
        digit.to_string().repeat(16).parse().unwrap()
    }

    fn yielded(refusal: &str) -> Yielded {
        Yielded {
            name: "foo".to_owned(),
            subnets: vec!["10.1.0.0/16".parse().unwrap()],
            refusal: refusal.to_owned(),
        }
    }

    #[test]
    fn a_creation_is_in_flight_until_it_ends_or_counts_as_failed() {
        let (mut operations, begin) = (Operations::default(), Duration::from_secs(5));
        operations.creating(&network('a'), begin);
        operations.creating(&network('b'), begin);
        operations.not_creating(&network('b'));
        assert!(operations.is_creating(begin));
        assert!(!operations.is_creating(begin + STORING_TIME_MAX));
        let just = begin + CREATION_TIME_MAX - Duration::from_nanos(1);
        assert_eq!(operations.creations(just), BTreeSet::from([network('a')]));
        assert_eq!(operations.creations(begin + CREATION_TIME_MAX), BTreeSet::new());
    }

    #[test]
    fn the_last_network_that_lost_its_name_explains_a_subnet() {
        let mut operations = Operations::default();
        operations.yielding(&network('a'), yielded("first"), Duration::from_secs(1));
        operations.yielding(&network('b'), yielded("second"), Duration::from_secs(2));
        assert_eq!(operations.yielded(&network('a')), Some(&yielded("first")));
        let subnet = yielded("").subnets[0];
        assert_eq!(operations.yielded_with(subnet), Some(&yielded("second")));
        assert_eq!(operations.yielded_with("10.2.0.0/16".parse().unwrap()), None);
        let later = Duration::from_secs(3) + CREATION_TIME_MAX;
        operations.yielding(&network('c'), yielded("third"), later);
        assert_eq!(operations.yielded(&network('a')), None);
    }

    #[test]
    fn mirrorings_and_replacements_end() {
        let (mut operations, copy) = (Operations::default(), "c0ffee0123456789".parse().unwrap());
        operations.mirroring(&network('a'), true);
        operations.replacing(&copy, true);
        assert!(operations.is_mirroring(&network('a')) && operations.is_replacing(&copy));
        operations.mirroring(&network('a'), false);
        operations.replacing(&copy, false);
        assert!(!operations.is_mirroring(&network('a')) && !operations.is_replacing(&copy));
    }
}
