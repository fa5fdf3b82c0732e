//! From state to the kernel: whenever agreed or local state changes, the reconciler is given what the kernel should have.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoutd_core::announce::Heard;
use shoutd_core::local::Endpoint;
use shoutd_core::plane::{DeviceName, Underlay, desired};
use shoutd_core::{EndpointId, NetworkId};
use shoutd_dataplane::{Generation, ReconcilerHandle, Scope, Unsettled};
use tokio_util::sync::CancellationToken;

use crate::agreement::Agreement;
use crate::local_state::LocalState;

/// How long Docker waits for an interface. Making one takes milliseconds; a machine under load gets this much.
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);

/// The data plane of this host.
#[derive(Debug)]
pub struct Plane {
    agreement: Agreement,
    local: Arc<LocalState>,
    underlay: Underlay,
    reconciler: ReconcilerHandle,
    /// Held while state is read and handed on, so that an older view never follows a newer one.
    handing_on: Mutex<()>,
}

impl Plane {
    /// Puts the parts together; nothing happens yet.
    pub fn new(agreement: Agreement, local: Arc<LocalState>, underlay: Underlay, reconciler: ReconcilerHandle) -> Self {
        Self { agreement, local, underlay, reconciler, handing_on: Mutex::new(()) }
    }

    /// Hands the reconciler what state says now, and waits until the kernel has what concerns this endpoint of this network.
    ///
    /// # Errors
    /// What could not be done, or that it was not done in time.
    pub async fn settle(&self, network: &NetworkId, endpoint: &EndpointId) -> Result<(), Unsettled> {
        let Some(vni) = self.agreement.cluster().networks.get(network).map(|network| network.vni) else {
            return Ok(());
        };
        let scope = Scope::Port { vni, name: DeviceName::port(endpoint) };
        match self.hand_on() {
            Some(generation) => self.reconciler.settled(generation, &scope, SETTLE_DEADLINE).await,
            None => Ok(()),
        }
    }

    /// Hands the reconciler what state says now. A host that belongs to no cluster knows nothing, and knowing nothing is no reason to take anything away
    /// from the kernel.
    fn hand_on(&self) -> Option<Generation> {
        let _in_order = self.handing_on.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = self.agreement.cluster();
        if !cluster.hosts.contains_key(&self.agreement.me) {
            return None;
        }
        let desired = desired(&cluster, &self.local.get(), self.agreement.me, self.underlay, &Heard::default());
        Some(self.reconciler.apply(desired))
    }

    /// Follows state until it is told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut cluster = self.agreement.watch();
        let mut local = self.local.watch();
        loop {
            self.hand_on();
            let changed = tokio::select! {
                changed = cluster.changed() => changed.is_ok(),
                changed = local.changed() => changed.is_ok(),
                () = stop.cancelled() => false,
            };
            if !changed {
                return;
            }
        }
    }

    /// Whether an endpoint that was handed to a container has no interface any more: its container is gone, though the engine, having been killed, never said so.
    pub fn is_gone(&self, id: &EndpointId, endpoint: &Endpoint) -> bool {
        let name = DeviceName::port(id);
        let observed = self.reconciler.observed();
        let mut ports = observed.segments.values().filter_map(|segment| segment.ports.get(&name));
        endpoint.sandbox.is_some() && !ports.any(|port| port.container_end.is_some())
    }

    /// What the kernel did not do, one line each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.reconciler.failures().iter().map(ToString::to_string).collect();
        problems.extend(self.reconciler.forwarding_problems());
        problems
    }
}
