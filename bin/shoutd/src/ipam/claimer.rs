//! The claims task. Only it does what a claim takes: it looks for the container of an endpoint in
//! the kernel and in `/proc`, has the cluster lease the address, and calls the host that holds it.

use shoutd_core::NetworkId;
use shoutd_core::driver::{Wanted, rival};
use shoutd_core::events::EventKind;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::clock::now;
use crate::app::services::Services;
use crate::docker::sandbox;
use crate::ipam::claims::{Claim, Pending};
use crate::ipam::stock;
use crate::membership::agreement::AgreementError;

/// How many claims are carried out at once. Most wait for the cluster or for another host.
const AT_ONCE_MAX: usize = 256;

/// Carries out claims until `stop`.
pub async fn run(
    services: Services,
    mut pending: mpsc::Receiver<Pending>,
    stop: CancellationToken,
) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            claim = pending.recv(), if running.len() < AT_ONCE_MAX => match claim {
                Some(claim) => drop(running.spawn(carry_out(services.clone(), claim))),
                None => return,
            },
            Some(_) = running.join_next() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Carries out a claim until its caller gives up.
async fn carry_out(services: Services, pending: Pending) {
    let Pending { network, claim, mut answer } = pending;
    let met = tokio::select! {
        met = meet(&services, &network, claim) => met,
        () = answer.closed() => return,
    };
    // It fails only if the caller has just given up.
    _ = answer.send(met);
}

async fn meet(
    services: &Services,
    network: &NetworkId,
    claim: Claim,
) -> Result<(), AgreementError> {
    match claim {
        Claim::NoneGone(wanted) => evict_gone(services, network, wanted).await,
        Claim::Leased(address) => stock::claim_exactly(services, network, address).await,
        Claim::LeasedOrExplained(address) => {
            match stock::claim_exactly(services, network, address).await {
                Ok(()) => Ok(()),
                Err(refused) => Err(stock::explain(services, network, address, refused).await),
            }
        }
        Claim::Spare(range) if stock::take_spare(services, network, range).await => Ok(()),
        Claim::Spare(range) => {
            Err(AgreementError::Local(format!("no other host yields an address of {range}")))
        }
    }
}

/// Forgets the endpoint that has this address or MAC address if its container is gone.
async fn evict_gone(
    services: &Services,
    network: &NetworkId,
    wanted: Wanted,
) -> Result<(), AgreementError> {
    let local = services.local.get();
    let Some((id, sandbox)) = rival(&local, network, wanted) else { return Ok(()) };
    let is_gone = local.endpoints.get(&id).is_none_or(|rival| services.plane.is_gone(&id, rival));
    if !is_gone
        && tokio::task::spawn_blocking(move || sandbox::is_inhabited(&sandbox))
            .await
            .unwrap_or(true)
    {
        return Ok(());
    }
    let cluster = services.agreement.cluster();
    let forgotten = services.local.change(|local| {
        local.forget(&id, now(), |network| cluster.multicast_routes(network));
    });
    forgotten
        .await
        .map_err(|error| AgreementError::Local(format!("{:#}", anyhow::Error::from(error))))?;
    let text = format!("its container is gone, and its {wanted} was requested again");
    services.events.note(EventKind::EndpointForgotten, id.short(), &text);
    Ok(())
}
