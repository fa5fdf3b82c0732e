//! Gets unused addresses from another host's stock: a specific one that a user requests, or any one
//! when the subnet is full.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use shoutd_consensus::ProposeError;
use shoutd_core::cluster::{Cluster, Command, Refusal, WantedAddress};
use shoutd_core::stock::{TakenChoice, holders_of_spares, spare};
use shoutd_core::{HostId, NetworkId};
use shoutd_peer::{Caller, Rejection};
use tokio::time::timeout;
use tracing::debug;

use crate::app::condition::met;
use crate::app::services::Services;
use crate::membership::agreement::AgreementError;

/// Path of [`Yield`] requests.
const PATH: &str = "/v1/addresses/yield";

/// How long the other host may take, including its proposal.
const DEADLINE: Duration = Duration::from_secs(5);

/// Deadline of that proposal.
const AGREEMENT: Duration = Duration::from_secs(4);

/// Path of [`WantSpare`] requests.
const SPARE_PATH: &str = "/v1/addresses/spare";

/// How many hosts we ask for a spare address: those that seem to have most.
const HOLDERS_MAX: usize = 16;

/// How long all of them may take together, while Docker waits.
const SPARE_DEADLINE: Duration = Duration::from_secs(8);

/// How long a host that is asked for a spare address waits for its lease gate. Two hosts that ask
/// each other hold their gates; after this time both answer that they have none.
const GATE_DEADLINE: Duration = Duration::from_millis(500);

/// Asks a host to yield an address that it does not use.
#[derive(Debug, Serialize, Deserialize)]
struct Yield {
    network: NetworkId,
    address: IpAddr,
}

/// Whether the address was yielded.
#[derive(Debug, Serialize, Deserialize)]
struct Yielded {
    given_up: bool,
}

/// Leases this address to this host, if necessary from another host's stock.
///
/// # Errors
/// A container has the address, it is not available, or the cluster does not answer.
pub async fn claim_exactly(
    services: &Services,
    network: &NetworkId,
    address: IpAddr,
) -> Result<(), AgreementError> {
    if holds(services, network, address) {
        return Ok(());
    }
    let wanted = WantedAddress::Exactly(address);
    if let Err(refused) = services.agreement.claim(network, wanted).await {
        claim_from_stock(services, network, address, refused).await?;
    }
    let kept = services.local.change(|local| local.keep(network, address)).await;
    kept.map_err(|error| AgreementError::Local(error.to_string()))
}

/// Whether this host holds the address and is not returning it.
fn holds(services: &Services, network: &NetworkId, address: IpAddr) -> bool {
    let holder = holder(&services.agreement.cluster(), network, address);
    holder == Some(services.agreement.me) && !services.local.get().is_returning(network, address)
}

/// The host that has the lease of this address.
fn holder(cluster: &Cluster, network: &NetworkId, address: IpAddr) -> Option<HostId> {
    cluster.networks.get(network)?.leases.get(&address).copied()
}

/// Asks the host that holds the address to yield it, unless a container there has it.
async fn claim_from_stock(
    services: &Services,
    network: &NetworkId,
    address: IpAddr,
    refused: AgreementError,
) -> Result<(), AgreementError> {
    let cluster = services.agreement.cluster();
    let holder = holder(&cluster, network, address);
    let Some((id, host)) = holder.and_then(|id| cluster.hosts.get_key_value(&id)) else {
        return Err(refused);
    };
    let request = Yield { network: network.clone(), address };
    match services.peers.call_host::<_, Yielded>(*id, host.address, PATH, &request, DEADLINE).await
    {
        Ok(Yielded { given_up: true }) => {
            services.agreement.claim(network, WantedAddress::Exactly(address)).await
        }
        // A container there has it, or the host does not answer.
        _ => Err(refused),
    }
}

/// Asks a host to yield any unused address of this part of the network.
#[derive(Debug, Serialize, Deserialize)]
struct WantSpare {
    network: NetworkId,
    range: IpNet,
}

/// The yielded address.
#[derive(Debug, Serialize, Deserialize)]
struct Spared {
    address: Option<IpAddr>,
}

/// When neither this host nor the cluster has a free address in this part of a network, asks other
/// hosts to yield one. Returns whether one did; then this host has the lease.
pub async fn take_spare(services: &Services, network: &NetworkId, range: IpNet) -> bool {
    let cluster = services.agreement.cluster();
    let heard = services.advertiser.watch_heard().borrow().clone();
    let holders = holders_of_spares(&cluster, &heard, services.agreement.me, network, range);
    let ask = async {
        for host in holders.into_iter().take(HOLDERS_MAX) {
            if let Some(address) = ask_for_spare(services, host, network, range).await {
                return Some(address);
            }
        }
        None
    };
    let Ok(Some(address)) = timeout(SPARE_DEADLINE, ask).await else { return false };
    let me = services.agreement.me;
    let leased = met(&services.agreement.watch(), DEADLINE, |cluster| {
        holder(cluster, network, address) == Some(me)
    })
    .await;
    leased.is_ok() && services.local.change(|local| local.keep(network, address)).await.is_ok()
}

/// Asks one host. An older version does not know the request.
async fn ask_for_spare(
    services: &Services,
    host: HostId,
    network: &NetworkId,
    range: IpNet,
) -> Option<IpAddr> {
    let address = services.agreement.cluster().hosts.get(&host)?.address;
    let request = WantSpare { network: network.clone(), range };
    match services.peers.call_host::<_, Spared>(host, address, SPARE_PATH, &request, DEADLINE).await
    {
        Ok(Spared { address }) => address.filter(|address| range.contains(address)),
        Err(error) => {
            debug!(%host, "the host yields no address: {error}");
            None
        }
    }
}

/// Explains to the user why an address is not available. If the engine chose the address, suggests
/// an available one, which another host yields if necessary.
pub async fn explain(
    services: &Services,
    network: &NetworkId,
    address: IpAddr,
    refused: AgreementError,
) -> AgreementError {
    if !matches!(
        refused,
        AgreementError::Propose(ProposeError::Refused(Refusal::AddressTaken { .. }))
    ) {
        return refused;
    }
    let Some(taken) = taken_choice(services, network, address) else { return refused };
    let is_final = taken.usable.is_some() || !take_spare(services, network, taken.subnet).await;
    let taken = if is_final { Some(taken) } else { taken_choice(services, network, address) };
    taken.map_or(refused, |taken| AgreementError::Local(taken.to_string()))
}

/// Why an address that the engine chose is not available, as this host knows it now.
fn taken_choice(services: &Services, network: &NetworkId, address: IpAddr) -> Option<TakenChoice> {
    let (cluster, local) = (services.agreement.cluster(), services.local.get());
    TakenChoice::of(&cluster, &local, services.agreement.me, network, address)
}

/// The routes for peers.
pub fn router(services: Services) -> Router {
    let router = Router::new().route(PATH, post(give_up)).route(SPARE_PATH, post(give_spare));
    router.with_state(Arc::new(services))
}

async fn give_spare(
    State(services): State<Arc<Services>>,
    Extension(caller): Extension<Caller>,
    Json(wanted): Json<WantSpare>,
) -> Result<Json<Spared>, Rejection> {
    let WantSpare { network, range } = wanted;
    // Check before taking the gate: a host without spare addresses may itself hold it.
    if own_spare(&services, &network, range).is_none() {
        return Ok(Json(Spared { address: None }));
    }
    let Ok(_gate) = timeout(GATE_DEADLINE, services.agreement.settle_leases()).await else {
        return Ok(Json(Spared { address: None }));
    };
    let address = own_spare(&services, &network, range);
    if let Some(address) = address {
        yield_address(&services, network, address, caller.host).await?;
    }
    Ok(Json(Spared { address }))
}

/// An unused address of this host in this part of a network.
fn own_spare(services: &Services, network: &NetworkId, range: IpNet) -> Option<IpAddr> {
    let (cluster, local) = (services.agreement.cluster(), services.local.get());
    spare(&cluster, &local, services.agreement.me, network, range)
}

/// Transfers the lease directly to the caller. If it were released first, this host could claim it
/// again for its stock before the caller does.
async fn give_up(
    State(services): State<Arc<Services>>,
    Extension(caller): Extension<Caller>,
    Json(wanted): Json<Yield>,
) -> Result<Json<Yielded>, Rejection> {
    let _gate = services.agreement.settle_leases().await;
    if services.local.get().uses(&wanted.network, wanted.address) {
        return Ok(Json(Yielded { given_up: false }));
    }
    yield_address(&services, wanted.network, wanted.address, caller.host).await?;
    Ok(Json(Yielded { given_up: true }))
}

/// Transfers a lease to another host. The caller holds the lease gate, and has checked that this
/// host does not use the address.
async fn yield_address(
    services: &Services,
    network: NetworkId,
    address: IpAddr,
    to: HostId,
) -> Result<(), Rejection> {
    let noted = services.local.change(|local| local.start_returning(&network, &[address])).await;
    noted.map_err(|error| Rejection::Failed { reason: error.to_string() })?;
    let from = services.agreement.me;
    let claims = services
        .agreement
        .cluster()
        .networks
        .get(&network)
        .map_or(0, |known| known.claims_of(from));
    let command = Command::YieldAddress { network, address, from, claims, to };
    let released = services.agreement.propose_within(command, AGREEMENT).await;
    released.map(drop).map_err(|error| Rejection::Failed { reason: error.to_string() })
}
