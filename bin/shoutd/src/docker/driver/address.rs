//! shoutd's IPAM driver, for mirrors and for networks with `--ipam-driver shoutd`.
//!
//! A pool id is the subnet and, if `--ip-range` was given, a comma and the range. Docker's IPAM
//! calls do not name the network. Subnets of networks do not overlap, so the subnet identifies it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use shoutd_consensus::ProposeError;
use shoutd_core::NetworkId;
use shoutd_core::cluster::{Refusal, WantedAddress};
use shoutd_core::driver::{
    AddressAnswer, Wanted, answer_address, choose_subnet, pools_to_try, with_prefix,
};
use shoutd_core::local::Reservation;
use shoutd_docker::plugin::{
    AddressPurpose, DriverError, GrantedPool, PoolId, ReleaseAddress, RequestAddress, RequestPool,
};

use super::{Driver, driver_error, naming};
use crate::app::clock;
use crate::ipam::claims::Claim;
use crate::ipam::leases;
use crate::membership::agreement::AgreementError;

/// How long a subnet that we chose for Docker is not chosen again. Docker creates its network at
/// once or never.
const GRANT_TIME_MAX: Duration = Duration::from_secs(60);

/// How often we claim an address for a container: another one may take each from the stock.
const TRIES_FOR_STOCK_MAX: usize = 16;

/// `RequestPool`.
pub fn request_pool(driver: &Driver, request: &RequestPool) -> Result<GrantedPool, DriverError> {
    let subnet = match request.subnet {
        Some(subnet) => subnet,
        None if request.ipv6 => {
            return Err(DriverError::new(
                "shoutd chooses no IPv6 subnet; give one: --ipv6 --subnet <subnet>",
            ));
        }
        None => IpNet::V4(choose_free_subnet(driver)?),
    };
    let id = match request.range {
        Some(range) if !subnet.contains(&range) => {
            return Err(DriverError::new(format!("range {range} is not in subnet {subnet}")));
        }
        Some(range) => format!("{subnet},{range}"),
        None => subnet.to_string(),
    };
    Ok(GrantedPool { id: id.parse().map_err(DriverError::new)?, subnet, gateway: None })
}

/// Chooses a subnet that is free on every host.
fn choose_free_subnet(driver: &Driver) -> Result<Ipv4Net, DriverError> {
    let agreement = &driver.services.agreement;
    let mut granted = driver.granted.lock();
    granted.retain(|_, since| since.elapsed() < GRANT_TIME_MAX);
    let before = granted.keys().copied().collect();
    let chosen = choose_subnet(&agreement.cluster(), agreement.me, &before).ok_or_else(|| {
        DriverError::new("no subnet is free on every host; choose one: --subnet <subnet>")
    })?;
    granted.insert(IpNet::V4(chosen), Instant::now());
    Ok(chosen)
}

/// The subnet of a pool, and the part of it to choose addresses from.
fn subnet_of(pool: &PoolId) -> Result<(IpNet, IpNet), DriverError> {
    let (subnet, range) = pool.as_str().split_once(',').unwrap_or((pool.as_str(), pool.as_str()));
    match (subnet.parse(), range.parse()) {
        (Ok(subnet), Ok(range)) => Ok((subnet, range)),
        _ => Err(DriverError::new(format!("pool {pool} is not a shoutd pool"))),
    }
}

/// `RequestAddress`.
pub async fn request(driver: &Driver, request: &RequestAddress) -> Result<IpNet, DriverError> {
    let (subnet, range) = subnet_of(&request.pool)?;
    let cluster = driver.services.agreement.cluster();
    let is_for_gateway = request.purpose == AddressPurpose::Gateway;
    match answer_address(&cluster, subnet, request.address, is_for_gateway).map_err(driver_error)? {
        AddressAnswer::Grant(address) => Ok(address),
        AddressAnswer::NoNetwork => Err(naming::no_such_subnet(driver, subnet)),
        AddressAnswer::Lease(id) => lease(driver, &id, (subnet, range), request.address).await,
    }
}

/// Reserves an address for an endpoint that Docker is about to create, from this host's stock or
/// else from the cluster.
async fn lease(
    driver: &Driver,
    network: &NetworkId,
    (subnet, range): (IpNet, IpNet),
    requested: Option<IpAddr>,
) -> Result<IpNet, DriverError> {
    driver.services.agreement.member().await.map_err(driver_error)?;
    // First: a lease would delay the removal of a network that loses its name to another.
    naming::settle(driver, network).await?;
    let _gate = driver.services.agreement.hold_leases().await;
    match requested {
        Some(address) => lease_exactly(driver, network, address, subnet).await,
        None => lease_any(driver, network, (subnet, range)).await,
    }
}

async fn lease_exactly(
    driver: &Driver,
    network: &NetworkId,
    address: IpAddr,
    subnet: IpNet,
) -> Result<IpNet, DriverError> {
    let claims = &driver.services.claims;
    let none_gone = Claim::NoneGone(Wanted::Address(address));
    claims.met(network, none_gone).await.map_err(driver_error)?;
    if driver.services.local.get().uses(network, address) {
        return Err(in_use(address));
    }
    claims.met(network, Claim::Leased(address)).await.map_err(driver_error)?;
    let reserved = driver.services.local.change(|local| {
        let is_free = !local.uses(network, address);
        if is_free {
            let reservation = Reservation { since: clock::now() };
            local.reservations.entry(network.clone()).or_default().insert(address, reservation);
        }
        is_free
    });
    if !reserved.await.map_err(driver_error)? {
        return Err(in_use(address));
    }
    with_prefix(address, subnet).map_err(driver_error)
}

fn in_use(address: IpAddr) -> DriverError {
    DriverError::new(format!("address {address} is already in use on this host"))
}

/// Reserves any address of the requested subnet or, if that is full, of the network's other
/// subnets. Docker tries the next subnet itself only with its own IPAM.
async fn lease_any(
    driver: &Driver,
    network: &NetworkId,
    (subnet, range): (IpNet, IpNet),
) -> Result<IpNet, DriverError> {
    let cluster = driver.services.agreement.cluster();
    let mut full = Vec::new();
    for pool in pools_to_try(&cluster, network, (subnet, range)) {
        match lease_from(driver, network, pool).await? {
            Ok(address) => return Ok(address),
            Err(refusal) => full.push(refusal.to_string()),
        }
    }
    Err(DriverError::new(format!(
        "this host's stock of addresses is used up, and {}: remove containers, or create a \
         network with a larger subnet",
        full.join("; ")
    )))
}

/// Reserves an address of one pool, or returns why it has none left.
async fn lease_from(
    driver: &Driver,
    network: &NetworkId,
    pool: (IpNet, IpNet),
) -> Result<Result<IpNet, Refusal>, DriverError> {
    let (agreement, local) = (&driver.services.agreement, &driver.services.local);
    let (subnet, range) = pool;
    for _ in 0..TRIES_FOR_STOCK_MAX {
        let cluster = agreement.cluster();
        let reserved = local.change(|local| {
            local.reserve_from_stock(&cluster, agreement.me, network, pool, clock::now())
        });
        if let Some(address) = reserved.await.map_err(driver_error)? {
            return Ok(Ok(address));
        }
        match agreement.claim(network, WantedAddress::Highest { subnet, count: 1 }).await {
            Ok(()) => {}
            // Another host may hold a lease that it does not use.
            Err(AgreementError::Propose(ProposeError::Refused(
                refusal @ Refusal::Exhausted { .. },
            ))) => {
                if driver.services.claims.met(network, Claim::Spare(range)).await.is_err() {
                    return Ok(Err(refusal));
                }
            }
            Err(error) => {
                return Err(DriverError::new(format!(
                    "this host has no unused address left, and {error}"
                )));
            }
        }
    }
    Err(DriverError::new(format!(
        "too many containers request addresses of {subnet} at once; try again"
    )))
}

/// `ReleaseAddress`. If no endpoint has the address, its lease becomes stock or is returned.
pub async fn release(driver: &Driver, request: &ReleaseAddress) -> Result<(), DriverError> {
    let (subnet, _) = subnet_of(&request.pool)?;
    let cluster = driver.services.agreement.cluster();
    let Some((network, _)) = cluster.network_with_subnet(subnet) else {
        return Ok(());
    };
    let released = driver.services.local.change(|local| {
        let Some(addresses) = local.reservations.get_mut(network) else {
            return false;
        };
        let released = addresses.remove(&request.address).is_some();
        if addresses.is_empty() {
            local.reservations.remove(network);
        }
        released
    });
    if released.await.map_err(driver_error)? {
        leases::settle(&driver.services.agreement, &driver.services.local).await;
    }
    Ok(())
}
