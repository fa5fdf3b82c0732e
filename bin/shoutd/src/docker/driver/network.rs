//! Networks: one that a user creates is proposed to the cluster; one that shoutd mirrors is bound
//! to a network of the cluster.

use shoutd_core::cluster::{Command, Pool, Settings};
use shoutd_core::driver::{Deleted, bind, check_mirror, delete_copy};
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
        Some(option) => {
            let subnets = request.ipv4.iter().chain(&request.ipv6).map(|pool| pool.subnet);
            let (cluster, operations) =
                (driver.services.agreement.cluster(), driver.services.in_flight.operations());
            check_mirror(&cluster, &operations, option, subnets.collect()).map_err(driver_error)?
        }
        None => claim(driver, request).await?,
    };
    let bound = driver.services.local.change(|local| bind(local, docker, network));
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
    let in_flight = &driver.services.in_flight;
    let deleted = driver
        .services
        .local
        .change(|local| delete_copy(local, &cluster, &in_flight.operations(), docker));
    let Deleted::Network(network) = deleted.await.map_err(driver_error)? else { return Ok(()) };
    let mut kept = driver.services.removals.settle().await.map_err(driver_error)?;
    kept.remove(&network).map_or(Ok(()), |why| Err(DriverError::new(why)))
}
