//! What the parts of the daemon share.

use std::sync::Arc;

use shoutd_docker::engine::EngineClient;
use shoutd_peer::Client;

use crate::agreement::Agreement;
use crate::announce::Announcer;
use crate::events::Events;
use crate::local_state::LocalState;
use crate::plane::Plane;
use crate::removals::Removals;
use crate::under_way::UnderWay;

/// The three homes of state, and the ways to change them. Clones are the same parts.
#[derive(Debug, Clone)]
pub struct Parts {
    /// What the hosts agree on.
    pub agreement: Agreement,
    /// What this host remembers of its engine.
    pub local: Arc<LocalState>,
    /// The kernel.
    pub plane: Arc<Plane>,
    /// What the hosts tell each other.
    pub announcer: Arc<Announcer>,
    /// The other hosts.
    pub peers: Client,
    /// The engine.
    pub engine: EngineClient,
    /// What the engine and shoutd are doing with networks just now.
    pub under_way: Arc<UnderWay>,
    /// Networks that a user removed here.
    pub removals: Arc<Removals>,
    /// What was decided on a user's behalf.
    pub events: Arc<Events>,
}
