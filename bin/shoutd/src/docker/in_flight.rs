//! Operations that are in flight between this host's engine and shoutd. A plugin call alone does
//! not tell its origin.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use parking_lot::Mutex;
use shoutd_core::{DockerNetworkId, NetworkId};

/// How long an engine may take to store a network after the cluster has agreed to it. After that,
/// the creation counts as failed.
const CREATION_TIME_MAX: Duration = Duration::from_secs(60);

/// How long an engine normally takes to store a network after the cluster has agreed to it:
/// milliseconds, unless it is very busy.
const STORING_TIME_MAX: Duration = Duration::from_secs(2);

/// Operations that are in flight between this host's engine and shoutd.
#[derive(Debug, Default)]
pub struct InFlight {
    /// Networks that the engine is creating, and since when.
    creations: Mutex<BTreeMap<NetworkId, Instant>>,
    /// Networks whose mirror shoutd is creating. If the engine rolls that back, its `DeleteNetwork`
    /// is not a user's removal.
    mirrorings: Mutex<BTreeSet<NetworkId>>,
    /// Copies that shoutd is removing, to create them again.
    replacements: Mutex<BTreeSet<DockerNetworkId>>,
    /// Networks of this host that lost their names to another network, since when, and why.
    yielded: Mutex<BTreeMap<NetworkId, (Instant, Yielded)>>,
}

/// Why a network is replaced by another one of its name.
#[derive(Debug, Clone)]
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

impl InFlight {
    /// Records that the engine creates a network.
    pub fn creating(&self, network: &NetworkId) {
        let mut creations = self.creations.lock();
        creations.retain(|_, since| since.elapsed() < CREATION_TIME_MAX);
        creations.insert(network.clone(), Instant::now());
    }

    /// Whether the engine may be creating a network, of any name.
    pub fn is_creating(&self) -> bool {
        let creations = self.creations.lock();
        creations.values().any(|since| since.elapsed() < STORING_TIME_MAX)
    }

    /// Records that the engine no longer creates a network, or has removed it.
    pub fn not_creating(&self, network: &NetworkId) {
        self.creations.lock().remove(network);
    }

    /// Records that a network of this host is replaced by another one of its name.
    pub fn yielding(&self, network: &NetworkId, why: Yielded) {
        let mut yielded = self.yielded.lock();
        yielded.retain(|_, (since, _)| since.elapsed() < CREATION_TIME_MAX);
        yielded.insert(network.clone(), (Instant::now(), why));
    }

    /// Why a network of this host was replaced by another one of its name, if that was recent.
    pub fn yielded(&self, network: &NetworkId) -> Option<Yielded> {
        let yielded = self.yielded.lock();
        yielded.get(network).map(|(_, why)| why.clone())
    }

    /// The same for a network that had this subnet.
    pub fn yielded_with(&self, subnet: IpNet) -> Option<Yielded> {
        let yielded = self.yielded.lock();
        let with_subnet = yielded.values().filter(|(_, why)| why.subnets.contains(&subnet));
        with_subnet.max_by_key(|(since, _)| *since).map(|(_, why)| why.clone())
    }

    /// Whether shoutd is creating a mirror of this network.
    pub fn is_mirroring(&self, network: &NetworkId) -> bool {
        self.mirrorings.lock().contains(network)
    }

    /// Whether shoutd is removing this copy.
    pub fn is_replacing(&self, copy: &DockerNetworkId) -> bool {
        self.replacements.lock().contains(copy)
    }

    /// Records that shoutd is removing this copy, or has finished.
    pub fn replacing(&self, copy: &DockerNetworkId, is_in_flight: bool) {
        let mut replacements = self.replacements.lock();
        if is_in_flight {
            replacements.insert(copy.clone());
        } else {
            replacements.remove(copy);
        }
    }

    /// Networks whose creation may be in flight.
    pub fn creations(&self) -> BTreeSet<NetworkId> {
        let mut creations = self.creations.lock();
        creations.retain(|_, since| since.elapsed() < CREATION_TIME_MAX);
        creations.keys().cloned().collect()
    }

    /// Records that shoutd is creating a mirror of this network, or has finished.
    pub fn mirroring(&self, network: &NetworkId, is_in_flight: bool) {
        let mut mirrorings = self.mirrorings.lock();
        if is_in_flight {
            mirrorings.insert(network.clone());
        } else {
            mirrorings.remove(network);
        }
    }
}
