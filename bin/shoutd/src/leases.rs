//! Keeps this host's leases in step with its endpoints: what nothing uses goes back, what is used is held.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shoutd_core::cluster::WantedAddress;
use shoutd_core::view::Membership;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::agreement::Agreement;
use crate::local_state::LocalState;

/// How often leases are looked at when nothing has changed: a return that failed is tried again after this time.
const PERIOD: Duration = Duration::from_secs(5);

/// How long one return may take: whoever stops a container waits for it.
const RELEASE_DEADLINE: Duration = Duration::from_secs(2);

/// The time since 1970. A clock that is set before it counts as 1970 itself.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Gives surplus leases back. What the cluster does not take now is tried again by [`run`].
pub async fn settle(agreement: &Agreement, local: &LocalState) {
    let _gate = agreement.settle_leases().await;
    let surplus = local.get().surplus_leases(&agreement.cluster(), agreement.me);
    for (network, addresses) in surplus {
        if let Err(error) = agreement.release(&network, addresses, RELEASE_DEADLINE).await {
            warn!(%network, "cannot give addresses back yet: {error}");
            return;
        }
    }
}

/// Follows state until it is told to stop.
pub async fn run(agreement: Agreement, local: Arc<LocalState>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        if agreement.membership() != Membership::Member {
            continue;
        }
        let cluster = agreement.cluster();
        if let Err(error) = local.change(|local| local.expire_reservations(&cluster, now())).await {
            error!("{error}");
        }
        hold_missing(&agreement, &local).await;
        settle(&agreement, &local).await;
    }
}

/// Claims addresses that endpoints have without a lease.
async fn hold_missing(agreement: &Agreement, local: &LocalState) {
    let _gate = agreement.hold_leases().await;
    for (network, address) in local.get().missing_leases(&agreement.cluster(), agreement.me) {
        if let Err(error) = agreement.claim(&network, WantedAddress::Exactly(address)).await {
            error!(%network, %address, "an endpoint has an address that is not leased to this host: {error}");
        }
    }
}
