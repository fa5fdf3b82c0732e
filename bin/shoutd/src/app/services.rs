//! What the parts of the daemon share.

use std::sync::Arc;

use shoutd_docker::engine::EngineClient;
use shoutd_peer::Client;

use crate::advertise::Advertiser;
use crate::api::events::Events;
use crate::app::local_state::LocalState;
use crate::docker::in_flight::InFlight;
use crate::docker::pending_removals::PendingRemovals;
use crate::membership::agreement::Agreement;
use crate::plane::Plane;

/// The three homes of state, and the ways to change them. Clones are the same parts.
#[derive(Debug, Clone)]
pub struct Services {
    /// What the hosts agree on.
    pub agreement: Agreement,
    /// What this host remembers of its engine.
    pub local: Arc<LocalState>,
    /// The kernel.
    pub plane: Arc<Plane>,
    /// What the hosts tell each other.
    pub advertiser: Arc<Advertiser>,
    /// The other hosts.
    pub peers: Client,
    /// The engine.
    pub engine: EngineClient,
    /// What the engine and shoutd are doing with networks just now.
    pub in_flight: Arc<InFlight>,
    /// Networks that a user removed here.
    pub removals: Arc<PendingRemovals>,
    /// What was decided on a user's behalf.
    pub events: Arc<Events>,
}
