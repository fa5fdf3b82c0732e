//! An address that a user asks for may lie unused in another host's stock: that host is asked to give it up.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use shoutd_core::NetworkId;
use shoutd_core::cluster::{Command, WantedAddress};
use shoutd_peer::{Caller, Rejection};

use crate::agreement::AgreementError;
use crate::parts::Parts;

/// Where peers ask for an address.
const PATH: &str = "/v1/addresses/yield";

/// How long the other host may take: it has the cluster agree.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long that agreement may take.
const AGREEMENT: Duration = Duration::from_secs(4);

/// "Give this address up, if you do not use it."
#[derive(Debug, Serialize, Deserialize)]
struct Yield {
    network: NetworkId,
    address: IpAddr,
}

/// Whether it was given up.
#[derive(Debug, Serialize, Deserialize)]
struct Yielded {
    given_up: bool,
}

/// Leases this very address to this host, also if it lies in another host's stock.
///
/// # Errors
/// If a container has it, it cannot be had, or the cluster does not answer.
pub async fn claim_exactly(parts: &Parts, network: &NetworkId, address: IpAddr) -> Result<(), AgreementError> {
    if holds(parts, network, address) {
        return Ok(());
    }
    let wanted = WantedAddress::Exactly(address);
    if let Err(refused) = parts.agreement.claim(network, wanted).await {
        claim_from_stock(parts, network, address, refused).await?;
    }
    let kept = parts.local.change(|local| local.keep(network, address)).await;
    kept.map_err(|error| AgreementError::Local(error.to_string()))
}

/// Whether this host holds the address, without having begun to give it back: then nobody need be asked.
fn holds(parts: &Parts, network: &NetworkId, address: IpAddr) -> bool {
    let cluster = parts.agreement.cluster();
    let holder = cluster.networks.get(network).and_then(|known| known.leases.get(&address));
    holder == Some(&parts.agreement.me) && !parts.local.get().is_returning(network, address)
}

/// Asks the host that holds the address to leave it to this one, unless a container there has it.
async fn claim_from_stock(
    parts: &Parts,
    network: &NetworkId,
    address: IpAddr,
    refused: AgreementError,
) -> Result<(), AgreementError> {
    let cluster = parts.agreement.cluster();
    let holder = cluster.networks.get(network).and_then(|known| known.leases.get(&address));
    let Some((id, host)) = holder.and_then(|id| cluster.hosts.get_key_value(id)) else {
        return Err(refused);
    };
    let request = Yield { network: network.clone(), address };
    match parts.peers.call_host::<_, Yielded>(*id, host.address, PATH, &request, DEADLINE).await {
        Ok(Yielded { given_up: true }) => parts.agreement.claim(network, WantedAddress::Exactly(address)).await,
        // A container there has it, or nobody can tell.
        _ => Err(refused),
    }
}

/// What peers ask.
pub fn router(parts: Parts) -> Router {
    Router::new().route(PATH, post(give_up)).with_state(Arc::new(parts))
}

/// Straight into the other's hands: given back to all, it could be in this host's stock again before the other asks.
async fn give_up(
    State(parts): State<Arc<Parts>>,
    Extension(caller): Extension<Caller>,
    Json(wanted): Json<Yield>,
) -> Result<Json<Yielded>, Rejection> {
    let _gate = parts.agreement.settle_leases().await;
    if parts.local.get().uses(&wanted.network, wanted.address) {
        return Ok(Json(Yielded { given_up: false }));
    }
    let Yield { network, address } = wanted;
    let noted = parts.local.change(|local| local.start_returning(&network, &[address])).await;
    noted.map_err(|error| Rejection::Failed { reason: error.to_string() })?;
    let from = parts.agreement.me;
    let claims = parts.agreement.cluster().networks.get(&network).map_or(0, |known| known.claims_of(from));
    let command = Command::YieldAddress { network, address, from, claims, to: caller.host };
    let released = parts.agreement.propose_within(command, AGREEMENT).await;
    released.map_err(|error| Rejection::Failed { reason: error.to_string() })?;
    Ok(Json(Yielded { given_up: true }))
}
