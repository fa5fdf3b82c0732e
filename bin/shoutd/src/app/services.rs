//! The services that the modules of the daemon share.

use std::sync::Arc;

use shoutd_docker::engine::EngineClient;
use shoutd_peer::Client;
use tokio::sync::mpsc;

use crate::advertise::Advertiser;
use crate::api::events::Events;
use crate::app::local_state::LocalState;
use crate::docker::in_flight::InFlight;
use crate::docker::pending_removals::PendingRemovals;
use crate::ipam::claims::{Claims, Pending};
use crate::membership::agreement::Agreement;
use crate::membership::encrypt::DefaultEncryption;
use crate::membership::tunnel_keys::TunnelKeys;
use crate::metrics::Meters;
use crate::plane::{Applier, Plane};
use crate::probes::{Prober, SessionReader};

/// What the tasks of services own, until they are started.
#[derive(Debug)]
pub struct Owners {
    /// The plane task.
    pub applier: Applier,
    /// For the claims task.
    pub pending_claims: mpsc::Receiver<Pending>,
}

/// Handles to the daemon's state and connections. A clone shares them.
#[derive(Debug, Clone)]
pub struct Services {
    /// Agreed state (Raft).
    pub agreement: Agreement,
    /// This host's own state of its engine.
    pub local: Arc<LocalState>,
    /// The default for the encryption of new networks.
    pub encrypt: Arc<DefaultEncryption>,
    /// The data plane.
    pub plane: Arc<Plane>,
    /// Addresses that Docker requests.
    pub claims: Arc<Claims>,
    /// Advertisements of this host and its peers.
    pub advertiser: Arc<Advertiser>,
    /// Probes of the tunnels to the peers.
    pub prober: Arc<Prober>,
    /// Preshared keys of the encrypted underlay.
    pub tunnel_keys: Arc<TunnelKeys>,
    /// WireGuard's sessions with the peers.
    pub sessions: Arc<SessionReader>,
    /// Client of the peers.
    pub peers: Client,
    /// Client of the engine.
    pub engine: EngineClient,
    /// Operations on networks that are in flight.
    pub in_flight: Arc<InFlight>,
    /// Networks that a user removed here, with a pending removal in the cluster.
    pub removals: Arc<PendingRemovals>,
    /// Events for `shoutdctl events`.
    pub events: Arc<Events>,
    /// Counters and histograms.
    pub meters: Meters,
}
