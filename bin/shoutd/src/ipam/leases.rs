//! Keeps what the cluster knows of this host's use of networks true: attachments, leases of
//! endpoints, and a small stock.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shoutd_core::NetworkId;
use shoutd_core::cluster::Command;
use shoutd_core::events::EventKind;
use shoutd_core::stock::{plan_leases, taken};
use shoutd_core::view::Membership;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::api::events::Events;
use crate::app::local_state::LocalState;
use crate::membership::agreement::Agreement;

/// How often it is looked at when nothing has changed: what failed is tried again after this time.
const PERIOD: Duration = Duration::from_secs(5);

/// How long one agreement may take: whoever stops a container waits for it.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long a container that starts waits for the other hosts to be told of it. Without a majority
/// they are told later.
const ATTACH_DEADLINE: Duration = Duration::from_secs(1);

/// The time since 1970. A clock that is set before it counts as 1970 itself.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Tells the cluster that this host has endpoints on a network, so that the other hosts send to it.
/// What cannot be told now is told by [`run`].
pub async fn attach(agreement: &Agreement, network: &NetworkId) {
    let cluster = agreement.cluster();
    if cluster
        .networks
        .get(network)
        .is_some_and(|known| known.attached.contains(&agreement.me) && !known.removing)
    {
        return;
    }
    let command = Command::Attach { network: network.clone(), host: agreement.me };
    if let Err(error) = agreement.propose_within(command, ATTACH_DEADLINE).await {
        warn!(
            network = network.short(),
            "the other hosts do not know yet that it is in use here: {error}"
        );
    }
}

/// Makes it true. What the cluster does not take now is tried again by [`run`].
pub async fn settle(agreement: &Agreement, local: &LocalState) {
    let _gate = agreement.settle_leases().await;
    for command in plan_leases(&agreement.cluster(), &local.get(), agreement.me) {
        if let Command::ReleaseAddresses { network, addresses, .. } = &command
            && let Err(error) =
                local.change(|local| local.start_returning(network, addresses)).await
        {
            error!("{error}");
            return;
        }
        if let Err(error) = agreement.propose_within(command, DEADLINE).await {
            warn!(
                "cannot bring the cluster's view of this host's networks up to date yet: {error}"
            );
            // One that was refused must not hold up the others; without agreement all would fail.
            if error.is_refusal() {
                continue;
            }
            return;
        }
        // Before the next is claimed, which may be one that was just given back.
        finish_returning(agreement, local).await;
    }
}

async fn finish_returning(agreement: &Agreement, local: &LocalState) {
    let cluster = agreement.cluster();
    if let Err(error) = local.change(|local| local.finish_returning(&cluster, agreement.me)).await {
        error!("{error}");
    }
}

/// Follows state until it is told to stop.
pub async fn run(
    agreement: Agreement,
    local: Arc<LocalState>,
    events: Arc<Events>,
    stop: CancellationToken,
) {
    let mut told = Vec::new();
    let mut tick = tokio::time::interval(PERIOD);
    let (mut cluster, mut memory) = (agreement.watch(), local.watch());
    loop {
        let changed = tokio::select! {
            _ = tick.tick() => true,
            changed = cluster.changed() => changed.is_ok(),
            changed = memory.changed() => changed.is_ok(),
            () = stop.cancelled() => false,
        };
        if !changed {
            return;
        }
        if agreement.membership() != Membership::Member {
            continue;
        }
        let known = agreement.cluster();
        if let Err(error) = local.change(|local| local.expire_reservations(&known, now())).await {
            error!("{error}");
        }
        settle(&agreement, &local).await;
        let now_taken = taken(&agreement.cluster(), &local.get(), agreement.me);
        for news in now_taken.iter().filter(|one| !told.contains(*one)) {
            let cluster = agreement.cluster();
            events.note(
                EventKind::AddressTaken,
                cluster.network_title(&news.network),
                &news.text(&cluster),
            );
        }
        told = now_taken;
    }
}
