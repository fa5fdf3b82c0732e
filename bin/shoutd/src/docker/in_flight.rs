//! The operations that are in flight between this host's engine and shoutd, shared by the plugin's
//! calls and the engine follower. `shoutd_core::in_flight` decides how long they count.

use std::collections::BTreeSet;
use std::time::Instant;

use ipnet::IpNet;
use parking_lot::{Mutex, MutexGuard};
use shoutd_core::in_flight::{Operations, Yielded};
use shoutd_core::{DockerNetworkId, NetworkId};

/// Operations that are in flight.
#[derive(Debug)]
pub struct InFlight {
    /// Zero of the times in `operations`.
    begin: Instant,
    operations: Mutex<Operations>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self { begin: Instant::now(), operations: Mutex::default() }
    }
}

impl InFlight {
    /// The operations, for a decision. No operation begins or ends while this is held.
    pub fn operations(&self) -> MutexGuard<'_, Operations> {
        self.operations.lock()
    }

    /// Records that the engine creates a network.
    pub fn creating(&self, network: &NetworkId) {
        self.operations().creating(network, self.begin.elapsed());
    }

    /// Whether the engine may be creating a network, of any name.
    pub fn is_creating(&self) -> bool {
        self.operations().is_creating(self.begin.elapsed())
    }

    /// Records that the engine no longer creates a network, or has removed it.
    pub fn not_creating(&self, network: &NetworkId) {
        self.operations().not_creating(network);
    }

    /// Networks whose creation may be in flight.
    pub fn creations(&self) -> BTreeSet<NetworkId> {
        self.operations().creations(self.begin.elapsed())
    }

    /// Records that a network of this host is replaced by another one of its name.
    pub fn yielding(&self, network: &NetworkId, why: Yielded) {
        self.operations().yielding(network, why, self.begin.elapsed());
    }

    /// Why a network of this host was replaced by another one of its name, if that was recent.
    pub fn yielded(&self, network: &NetworkId) -> Option<Yielded> {
        self.operations().yielded(network).cloned()
    }

    /// The same for a network that had this subnet.
    pub fn yielded_with(&self, subnet: IpNet) -> Option<Yielded> {
        self.operations().yielded_with(subnet).cloned()
    }

    /// Records that shoutd is creating a mirror of this network, or has finished.
    pub fn mirroring(&self, network: &NetworkId, is_in_flight: bool) {
        self.operations().mirroring(network, is_in_flight);
    }

    /// Records that shoutd is removing this copy, or has finished.
    pub fn replacing(&self, copy: &DockerNetworkId, is_in_flight: bool) {
        self.operations().replacing(copy, is_in_flight);
    }
}
