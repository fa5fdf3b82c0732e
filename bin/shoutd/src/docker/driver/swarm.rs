//! Networks of a Docker Swarm, whose calls arrive through the managed plugin. The Swarm manages the
//! networks and their addresses; shoutd agrees on their VNIs and carries their traffic.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use shoutd_core::cluster::{Cluster, Command, Pool, Settings};
use shoutd_core::limits::AGREEMENT_DEADLINE;
use shoutd_core::swarm::{RefusedNetwork, check_network};
use shoutd_core::{DockerNetworkId, NetworkId};
use shoutd_docker::plugin::{AddressPool, AllocateNetwork, CreateNetwork, DriverError};
use tracing::{info, warn};

use super::network::pool;
use super::{Driver, driver_error};
use crate::membership::agreement::AgreementError;

/// Deadline of a proposal during a call of the Swarm's leader, which allocates nothing else for any
/// service while it waits.
const LEADER_DEADLINE: Duration = Duration::from_secs(4);

/// `AllocateNetwork`, on the leader of the Swarm, and again on a new leader. The returned options
/// replace the user's, so we return the user's.
///
/// If shoutd refuses a network, the Swarm only logs that on its leader, so we also record an event.
/// After a failure, a Swarm tries again only after five minutes. So a network that cannot be agreed
/// on now is no failure: it is proposed again by a manager (`crate::swarm::follower`) or with the
/// first task.
pub async fn allocate(
    driver: &Driver,
    request: AllocateNetwork,
) -> Result<BTreeMap<String, String>, DriverError> {
    let network = NetworkId::from(&request.network);
    let pools = pools(request.ipv4, request.ipv6);
    let options = request.options;
    let settings = Settings {
        pools,
        options: options.clone(),
        internal: false,
        ipv6: false,
        docker_ipam: true,
        swarm: true,
    };
    check(driver, &network, &settings)?;
    match ensure(driver, &network, settings, LEADER_DEADLINE).await {
        Ok(()) => info!(network = network.short(), "the Swarm allocated a network"),
        Err(error) if error.is_refusal() => return Err(driver_error(error)),
        Err(error) => {
            warn!(network = network.short(), "cannot agree on a Swarm network yet: {error}");
        }
    }
    Ok(options)
}

fn pools(ipv4: Vec<AddressPool>, ipv6: Vec<AddressPool>) -> Vec<Pool> {
    ipv4.into_iter().chain(ipv6).map(pool).collect()
}

/// Refuses a network that shoutd does not support. One that was agreed on by a version that
/// accepted its options stays usable.
fn check(driver: &Driver, network: &NetworkId, settings: &Settings) -> Result<(), DriverError> {
    match check_network(settings) {
        Err(RefusedNetwork::Option(_))
            if knows(&driver.services.agreement.cluster(), network, settings) =>
        {
            Ok(())
        }
        checked => checked.map_err(driver_error),
    }
}

/// Makes sure that the cluster has a network.
async fn ensure(
    driver: &Driver,
    network: &NetworkId,
    settings: Settings,
    deadline: Duration,
) -> Result<(), AgreementError> {
    let agreement = &driver.services.agreement;
    if knows(&agreement.cluster(), network, &settings) {
        return Ok(());
    }
    let command = Command::CreateNetwork { id: network.clone(), origin: agreement.me, settings };
    agreement.propose_within(command, deadline).await.map(|_| ())
}

fn knows(cluster: &Cluster, network: &NetworkId, settings: &Settings) -> bool {
    let known = cluster.networks.get(network).filter(|known| known.settings.swarm);
    known.is_some_and(|known| subnets(&known.settings).eq(subnets(settings)))
}

fn subnets(settings: &Settings) -> impl Iterator<Item = IpNet> {
    settings.pools.iter().map(|pool| pool.subnet)
}

/// `FreeNetwork`: the Swarm removes a network, which no task uses.
pub async fn free(driver: &Driver, docker: &DockerNetworkId) -> Result<(), DriverError> {
    let network = NetworkId::from(docker);
    let cluster = driver.services.agreement.cluster();
    if !cluster.networks.get(&network).is_some_and(|known| known.settings.swarm) {
        return Ok(());
    }
    let command = Command::RemoveNetwork { id: network.clone() };
    driver
        .services
        .agreement
        .propose_within(command, LEADER_DEADLINE)
        .await
        .map_err(driver_error)?;
    info!(network = network.short(), "the Swarm removed a network");
    Ok(())
}

/// `CreateNetwork`, on a node that gets its first task on the network. The id is the same on all
/// nodes.
pub async fn create(driver: &Driver, request: CreateNetwork) -> Result<(), DriverError> {
    let docker = request.network;
    let network = NetworkId::from(&docker);
    let settings = Settings {
        pools: pools(request.ipv4, request.ipv6),
        options: request.options,
        internal: request.internal,
        ipv6: false,
        docker_ipam: true,
        swarm: true,
    };
    driver.services.agreement.member().await.map_err(driver_error)?;
    check(driver, &network, &settings)?;
    ensure(driver, &network, settings, AGREEMENT_DEADLINE).await.map_err(driver_error)?;
    let bound = driver.services.local.change(|local| local.bindings.insert(docker, network));
    bound.await.map(|_| ()).map_err(driver_error)
}
