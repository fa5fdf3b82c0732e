//! Networks: one that a user creates is proposed to the cluster; one that shoutd mirrors is bound
//! to a network of the cluster.

use shoutd_core::cluster::{Command, Pool, Settings};
use shoutd_core::mirror::NETWORK_OPTION;
use shoutd_core::plane::check_options;
use shoutd_core::{DockerNetworkId, NetworkId};
use shoutd_docker::plugin::{AddressPool, CreateNetwork, DriverError, LOCAL_ADDRESS_SPACE};

use super::{Driver, driver_error};

/// `CreateNetwork`.
pub async fn create(driver: &Driver, request: CreateNetwork) -> Result<(), DriverError> {
    driver.services.agreement.member().await.map_err(driver_error)?;
    let docker = request.network.clone();
    let network = match request.options.get(NETWORK_OPTION) {
        Some(id) => check_mirror(driver, id, &request)?,
        None => claim(driver, request).await?,
    };
    let is_mirror = network != NetworkId::from(&docker);
    let bound = driver.services.local.change(|local| {
        // `Mirrors` forgets all copies before it creates one. But an earlier daemon, which was
        // killed, may have sent a create: the engine continues with it and calls this daemon.
        let is_second =
            local.bindings.iter().any(|(copy, other)| *other == network && *copy != docker);
        if is_mirror && is_second {
            return false;
        }
        local.removals.remove(&network);
        local.bindings.insert(docker, network);
        true
    });
    if !bound.await.map_err(driver_error)? {
        return Err(DriverError::new("this host already has a copy of this network"));
    }
    Ok(())
}

fn settings(request: CreateNetwork) -> Settings {
    let docker_ipam = request.ipv4.iter().all(|pool| pool.address_space != LOCAL_ADDRESS_SPACE);
    let pools = request.ipv4.into_iter().chain(request.ipv6).map(pool);
    Settings {
        pools: pools.collect(),
        options: request.options,
        internal: request.internal,
        ipv6: request.enable_ipv6,
        docker_ipam,
        swarm: false,
    }
}

pub(super) fn pool(pool: AddressPool) -> Pool {
    Pool { subnet: pool.subnet, gateway: pool.gateway, auxiliary: pool.auxiliary, range: None }
}

/// Checks that a mirror is for a network of the cluster, has the same subnets, and that we are
/// creating it.
fn check_mirror(
    driver: &Driver,
    id: &str,
    request: &CreateNetwork,
) -> Result<NetworkId, DriverError> {
    let unknown = || {
        DriverError::new(format!(
            "option {NETWORK_OPTION} is reserved for shoutd, and the cluster has no network {id}; \
             leave it out"
        ))
    };
    let network: NetworkId = id.parse().map_err(|_| unknown())?;
    let cluster = driver.services.agreement.cluster();
    let known = cluster.networks.get(&network).ok_or_else(unknown)?;
    if !driver.services.in_flight.is_mirroring(&network) {
        return Err(DriverError::new(format!(
            "option {NETWORK_OPTION} is reserved for shoutd, which creates the copies of a \
             network on each host; leave it out"
        )));
    }
    let subnets: Vec<_> =
        request.ipv4.iter().chain(&request.ipv6).map(|pool| pool.subnet).collect();
    let agreed: Vec<_> = known.settings.pools.iter().map(|pool| pool.subnet).collect();
    if subnets != agreed {
        let title = known.title(&network);
        return Err(DriverError::new(format!(
            "in the cluster, network {title} has the subnets {agreed:?}, not {subnets:?}"
        )));
    }
    Ok(network)
}

/// Proposes the network to the cluster, with the id of this engine.
async fn claim(driver: &Driver, request: CreateNetwork) -> Result<NetworkId, DriverError> {
    let network = NetworkId::from(&request.network);
    check_options(&request.options).map_err(driver_error)?;
    let settings = settings(request);
    // Before the proposal: once it is agreed, we must not mistake the network for one whose
    // creation was aborted.
    driver.services.in_flight.creating(&network);
    let command = Command::CreateNetwork {
        id: network.clone(),
        origin: driver.services.agreement.me,
        settings,
    };
    if let Err(error) = driver.services.agreement.propose(command).await {
        driver.services.in_flight.not_creating(&network);
        return Err(driver_error(error));
    }
    Ok(network)
}

/// `DeleteNetwork`. Docker removes its copy whatever we answer, and does not show an error to the
/// user; the cluster decides whether the network is removed. If it stays we return an error, which
/// the engine writes to its log (moby `libnetwork/network.go`, `deleteNetwork`).
pub async fn delete(driver: &Driver, docker: &DockerNetworkId) -> Result<(), DriverError> {
    let Some(network) = driver.services.local.get().bindings.get(docker).cloned() else {
        return Ok(());
    };
    driver.services.in_flight.not_creating(&network);
    let cluster = driver.services.agreement.cluster();
    // A Swarm removes a network from a node without tasks on it. It removes the network itself with
    // `FreeNetwork`.
    let is_staying = cluster
        .networks
        .get(&network)
        .is_some_and(|known| !known.removing && !known.settings.swarm);
    let in_flight = &driver.services.in_flight;
    let is_by_user =
        is_staying && !in_flight.is_mirroring(&network) && !in_flight.is_replacing(docker);
    let changed = driver.services.local.change(|local| {
        local.bindings.remove(docker);
        // If this was an accidental second copy, only the copy is removed.
        let is_last = !local.bindings.values().any(|other| *other == network);
        // An engine does not remove a network with endpoints. Endpoints that we still have are of
        // containers that ended when the engine or shoutd was killed.
        if is_last {
            local.endpoints.retain(|_, endpoint| endpoint.network != network);
            local.reservations.remove(&network);
        }
        if is_by_user && is_last {
            local.removals.insert(network.clone());
        }
        is_by_user && is_last
    });
    if !changed.await.map_err(driver_error)? {
        return Ok(());
    }
    let mut kept = driver.services.removals.settle().await.map_err(driver_error)?;
    kept.remove(&network).map_or(Ok(()), |why| Err(DriverError::new(why)))
}
