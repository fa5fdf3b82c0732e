//! Keeps this host's part of agreed state up to date: its attachments to networks, the leases of
//! its endpoints, and a small stock.

use std::sync::Arc;
use std::time::Duration;

use shoutd_core::NetworkId;
use shoutd_core::cluster::Command;
use shoutd_core::events::EventKind;
use shoutd_core::stock::{plan_leases, taken};
use shoutd_core::view::Membership;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::api::events::Events;
use crate::app::clock::now;
use crate::app::local_state::LocalState;
use crate::membership::agreement::Agreement;

/// Interval at which failed changes are tried again.
const PERIOD: Duration = Duration::from_secs(5);

/// Deadline of one proposal: stopping a container waits for it.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long a starting container waits for the attachment to be agreed on. Without a majority it is
/// agreed on later.
const ATTACH_DEADLINE: Duration = Duration::from_secs(1);

/// Attaches this host to a network in agreed state, so that the other hosts send to it. If that
/// fails, [`run`] tries again.
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
        warn!(network = network.short(), "cannot attach this host to the network yet: {error}");
    }
}

/// Proposes all changes that are needed. What fails is tried again by [`run`].
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
            warn!("cannot update this host's networks and leases in the cluster yet: {error}");
            // A refusal concerns only this command. Without a majority, the others would fail, too.
            if error.is_refusal() {
                continue;
            }
            return;
        }
        // Before the next claim, which may be for an address that we have just released.
        finish_returning(agreement, local).await;
    }
}

async fn finish_returning(agreement: &Agreement, local: &LocalState) {
    let cluster = agreement.cluster();
    if let Err(error) = local.change(|local| local.finish_returning(&cluster, agreement.me)).await {
        error!("{error}");
    }
}

/// Settles leases after every change of state, and periodically, until `stop`.
pub async fn run(
    agreement: Agreement,
    local: Arc<LocalState>,
    events: Arc<Events>,
    stop: CancellationToken,
) {
    let mut reported = Vec::new();
    let mut tick = tokio::time::interval(PERIOD);
    let (mut cluster, mut local_changes) = (agreement.watch(), local.watch());
    loop {
        let changed = tokio::select! {
            _ = tick.tick() => true,
            changed = cluster.changed() => changed.is_ok(),
            changed = local_changes.changed() => changed.is_ok(),
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
        let taken = taken(&agreement.cluster(), &local.get(), agreement.me);
        for address in taken.iter().filter(|address| !reported.contains(*address)) {
            let cluster = agreement.cluster();
            events.note(
                EventKind::AddressTaken,
                cluster.network_title(&address.network),
                &address.text(&cluster),
            );
        }
        reported = taken;
    }
}
