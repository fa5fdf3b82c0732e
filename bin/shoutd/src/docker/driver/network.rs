//! Networks: claimed from the cluster when a user creates one, bound to it when shoutd mirrors one.

use shoutd_core::cluster::{Command, Pool, Settings};
use shoutd_core::mirror::NETWORK_OPTION;
use shoutd_core::plane::check_options;
use shoutd_core::{DockerNetworkId, NetworkId};
use shoutd_docker::plugin::{AddressPool, CreateNetwork, DriverError, LOCAL_ADDRESS_SPACE};

use super::{Driver, told};

/// `CreateNetwork`.
pub async fn create(driver: &Driver, request: CreateNetwork) -> Result<(), DriverError> {
    driver.services.agreement.member().await.map_err(told)?;
    let docker = request.network.clone();
    let network = match request.options.get(NETWORK_OPTION) {
        Some(id) => check_mirror(driver, id, &request)?,
        None => claim(driver, request).await?,
    };
    let is_mirror = network != NetworkId::from(&docker);
    let bound = driver.services.local.change(|local| {
        // `Mirrors` forgets all copies before it asks for one. A daemon that was killed may have
        // asked before: the engine goes on with that request, and calls this daemon.
        let is_second =
            local.bindings.iter().any(|(copy, other)| *other == network && *copy != docker);
        if is_mirror && is_second {
            return false;
        }
        local.removals.remove(&network);
        local.bindings.insert(docker, network);
        true
    });
    if !bound.await.map_err(told)? {
        return Err(DriverError::new(
            "this host has a copy of this network, and needs no second one",
        ));
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

/// A mirror is a copy of a network that the cluster has, with the same subnets.
fn check_mirror(
    driver: &Driver,
    id: &str,
    request: &CreateNetwork,
) -> Result<NetworkId, DriverError> {
    let unknown = || {
        DriverError::new(format!(
            "option {NETWORK_OPTION} is shoutd's own, and the cluster has no network {id}; leave \
             it out"
        ))
    };
    let network: NetworkId = id.parse().map_err(|_| unknown())?;
    let cluster = driver.services.agreement.cluster();
    let known = cluster.networks.get(&network).ok_or_else(unknown)?;
    if !driver.services.in_flight.is_mirroring(&network) {
        return Err(DriverError::new(format!(
            "option {NETWORK_OPTION} is shoutd's own: leave it out; shoutd itself makes the \
             copies of a network on each host"
        )));
    }
    let subnets: Vec<_> =
        request.ipv4.iter().chain(&request.ipv6).map(|pool| pool.subnet).collect();
    let agreed: Vec<_> = known.settings.pools.iter().map(|pool| pool.subnet).collect();
    if subnets != agreed {
        let title = known.title(&network);
        return Err(DriverError::new(format!(
            "network {title} has the subnets {agreed:?} in the cluster, not {subnets:?}"
        )));
    }
    Ok(network)
}

/// Has the cluster take the network up under the id that this engine gave it.
async fn claim(driver: &Driver, request: CreateNetwork) -> Result<NetworkId, DriverError> {
    let network = NetworkId::from(&request.network);
    check_options(&request.options).map_err(told)?;
    let settings = settings(request);
    // Noted before it is agreed: from then on this host must not take it for a network whose
    // creation was given up.
    driver.services.in_flight.creating(&network);
    let command = Command::CreateNetwork {
        id: network.clone(),
        origin: driver.services.agreement.me,
        settings,
    };
    if let Err(error) = driver.services.agreement.propose(command).await {
        driver.services.in_flight.not_creating(&network);
        return Err(told(error));
    }
    Ok(network)
}

/// `DeleteNetwork`. Docker removes its copy whatever is answered, and tells its user nothing of it;
/// whether the network goes is for the cluster to say. That it stays is an error all the same: the
/// engine writes the reason to its log (moby `libnetwork/network.go`, `deleteNetwork`).
pub async fn delete(driver: &Driver, docker: &DockerNetworkId) -> Result<(), DriverError> {
    let Some(network) = driver.services.local.get().bindings.get(docker).cloned() else {
        return Ok(());
    };
    driver.services.in_flight.not_creating(&network);
    let cluster = driver.services.agreement.cluster();
    // A Swarm takes a network from a node that has no more tasks on it, and says itself when it
    // removes it.
    let is_staying = cluster
        .networks
        .get(&network)
        .is_some_and(|known| !known.removing && !known.settings.swarm);
    let in_flight = &driver.services.in_flight;
    let is_users_wish =
        is_staying && !in_flight.is_mirroring(&network) && !in_flight.is_replacing(docker);
    let changed = driver.services.local.change(|local| {
        local.bindings.remove(docker);
        // A second copy of the same network can only be a mistake: it goes alone.
        let is_last = !local.bindings.values().any(|other| *other == network);
        // An engine removes no network that has endpoints: what is left here is of containers that
        // went when it, or shoutd, was killed.
        if is_last {
            local.endpoints.retain(|_, endpoint| endpoint.network != network);
            local.reservations.remove(&network);
        }
        if is_users_wish && is_last {
            local.removals.insert(network.clone());
        }
        is_users_wish && is_last
    });
    if !changed.await.map_err(told)? {
        return Ok(());
    }
    let mut kept = driver.services.removals.settle().await.map_err(told)?;
    kept.remove(&network).map_or(Ok(()), |why| Err(DriverError::new(why)))
}
