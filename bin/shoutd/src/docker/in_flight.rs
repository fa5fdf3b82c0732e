//! What is under way between this host's engine and shoutd, where a callback alone does not tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoutd_core::{DockerNetworkId, NetworkId};

/// How long after the cluster agreed to a network its engine may take to store it, before it counts
/// as never made.
const CREATION_TIME_MAX: Duration = Duration::from_secs(60);

/// How long an engine takes to store a network, once the cluster has agreed to it: milliseconds,
/// unless it is very busy.
const STORING_TIME_MAX: Duration = Duration::from_secs(2);

/// What is under way between this host's engine and shoutd, where a callback alone does not tell.
#[derive(Debug, Default)]
pub struct InFlight {
    /// Networks whose creation the engine has asked for, and when.
    creations: Mutex<BTreeMap<NetworkId, Instant>>,
    /// Networks whose mirror shoutd itself is making: if the engine takes that back, it is not a
    /// user who removes the network.
    mirrorings: Mutex<BTreeSet<NetworkId>>,
    /// Copies that shoutd itself is removing, to make them anew.
    replacements: Mutex<BTreeSet<DockerNetworkId>>,
    /// Networks of this host whose names are another network's, why, and since when.
    yielded: Mutex<BTreeMap<NetworkId, (Instant, String)>>,
}

impl InFlight {
    /// Notes that the engine creates a network.
    pub fn creating(&self, network: &NetworkId) {
        let mut creations = self.creations.lock().unwrap_or_else(PoisonError::into_inner);
        creations.retain(|_, since| since.elapsed() < CREATION_TIME_MAX);
        creations.insert(network.clone(), Instant::now());
    }

    /// Whether the engine may be in the middle of creating a network, of whatever name.
    pub fn is_creating(&self) -> bool {
        let creations = self.creations.lock().unwrap_or_else(PoisonError::into_inner);
        creations.values().any(|since| since.elapsed() < STORING_TIME_MAX)
    }

    /// Notes that the engine has given up creating a network, or has removed it.
    pub fn not_creating(&self, network: &NetworkId) {
        self.creations.lock().unwrap_or_else(PoisonError::into_inner).remove(network);
    }

    /// Notes that a network that was created here makes room for another of its name.
    pub fn yielding(&self, network: &NetworkId, why: String) {
        let mut yielded = self.yielded.lock().unwrap_or_else(PoisonError::into_inner);
        yielded.retain(|_, (since, _)| since.elapsed() < CREATION_TIME_MAX);
        yielded.insert(network.clone(), (Instant::now(), why));
    }

    /// Why a network that was created here made room for another of its name, if it did so lately.
    pub fn yielded(&self, network: &NetworkId) -> Option<String> {
        let yielded = self.yielded.lock().unwrap_or_else(PoisonError::into_inner);
        yielded.get(network).map(|(_, why)| why.clone())
    }

    /// Whether shoutd itself is making a mirror of this network.
    pub fn is_mirroring(&self, network: &NetworkId) -> bool {
        self.mirrorings.lock().unwrap_or_else(PoisonError::into_inner).contains(network)
    }

    /// Whether shoutd itself is removing this copy.
    pub fn is_replacing(&self, copy: &DockerNetworkId) -> bool {
        self.replacements.lock().unwrap_or_else(PoisonError::into_inner).contains(copy)
    }

    /// Notes that shoutd itself removes this copy, or has done so.
    pub fn replacing(&self, copy: &DockerNetworkId, is_under_way: bool) {
        let mut replacements = self.replacements.lock().unwrap_or_else(PoisonError::into_inner);
        if is_under_way {
            replacements.insert(copy.clone());
        } else {
            replacements.remove(copy);
        }
    }

    /// Networks whose creation may be under way.
    pub fn creations(&self) -> BTreeSet<NetworkId> {
        let mut creations = self.creations.lock().unwrap_or_else(PoisonError::into_inner);
        creations.retain(|_, since| since.elapsed() < CREATION_TIME_MAX);
        creations.keys().cloned().collect()
    }

    /// Notes that shoutd itself makes a mirror of this network, or has stopped making it.
    pub fn mirroring(&self, network: &NetworkId, is_under_way: bool) {
        let mut mirrorings = self.mirrorings.lock().unwrap_or_else(PoisonError::into_inner);
        if is_under_way {
            mirrorings.insert(network.clone());
        } else {
            mirrorings.remove(network);
        }
    }
}
