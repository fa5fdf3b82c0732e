//! Networks of a Docker Swarm, whose calls come by the managed plugin. The Swarm says which
//! networks there are and who has which address; shoutd agrees on their VNIs and carries their
//! traffic.

use std::collections::BTreeMap;
use std::time::Duration;

use shoutd_core::cluster::{Cluster, Command, Pool, Settings};
use shoutd_core::limits::AGREEMENT_DEADLINE;
use shoutd_core::swarm::{RefusedNetwork, check_network};
use shoutd_core::{DockerNetworkId, NetworkId};
use shoutd_docker::plugin::{AddressPool, AllocateNetwork, CreateNetwork, DriverError};
use tracing::{info, warn};

use super::network::pool;
use super::{Driver, told};
use crate::membership::agreement::AgreementError;

/// How long a Swarm's leader waits for an agreement. It allocates nothing else meanwhile, for any
/// service.
const LEADERS_PATIENCE: Duration = Duration::from_secs(4);

/// `AllocateNetwork`, on the node that leads the Swarm, and again on its successor. The options
/// that are returned take the place of the user's, so they are the user's.
///
/// What shoutd refuses, the Swarm does not take up, and says so in its leader's log alone: there is
/// an event besides. But a Swarm that is told of a failure tries again only after five minutes:
/// what cannot be agreed on just now is agreed on later, by a manager's comparison
/// (`crate::swarm::follower`) or when the first task comes.
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
    match ensure(driver, &network, settings, LEADERS_PATIENCE).await {
        Ok(()) => info!(network = network.short(), "the Swarm has a network"),
        Err(error) if error.is_refusal() => return Err(told(error)),
        Err(error) => {
            warn!(network = network.short(), "cannot agree on a network of the Swarm yet: {error}")
        }
    }
    Ok(options)
}

/// The subnets of a network.
fn pools(ipv4: Vec<AddressPool>, ipv6: Vec<AddressPool>) -> Vec<Pool> {
    ipv4.into_iter().chain(ipv6).map(pool).collect()
}

/// Refuses a network that shoutd does not carry. One that was agreed on before its options were
/// refused stays usable.
fn check(driver: &Driver, network: &NetworkId, settings: &Settings) -> Result<(), DriverError> {
    match check_network(settings) {
        Err(RefusedNetwork::Option(_))
            if knows(&driver.services.agreement.cluster(), network, settings) =>
        {
            Ok(())
        }
        checked => checked.map_err(told),
    }
}

/// Has the cluster know a network.
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
    let subnets =
        |settings: &Settings| settings.pools.iter().map(|pool| pool.subnet).collect::<Vec<_>>();
    let known = cluster.networks.get(network).filter(|known| known.settings.swarm);
    known.is_some_and(|known| subnets(&known.settings) == subnets(settings))
}

/// `FreeNetwork`: no task of the Swarm is on the network any more.
pub async fn free(driver: &Driver, docker: &DockerNetworkId) -> Result<(), DriverError> {
    let network = NetworkId::from(docker);
    let cluster = driver.services.agreement.cluster();
    if !cluster.networks.get(&network).is_some_and(|known| known.settings.swarm) {
        return Ok(());
    }
    let command = Command::RemoveNetwork { id: network.clone() };
    driver.services.agreement.propose_within(command, LEADERS_PATIENCE).await.map_err(told)?;
    info!(network = network.short(), "the Swarm has removed a network");
    Ok(())
}

/// `CreateNetwork`, on a node that gets its first task on the network, under the id that it has on
/// all nodes.
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
    driver.services.agreement.member().await.map_err(told)?;
    check(driver, &network, &settings)?;
    ensure(driver, &network, settings, AGREEMENT_DEADLINE).await.map_err(told)?;
    let bound = driver.services.local.change(|local| local.bindings.insert(docker, network));
    bound.await.map(|_| ()).map_err(told)
}
