//! Endpoints: an address leased to this host, an interface made by the reconciler, and a container
//! that takes it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use shoutd_core::local::{Endpoint, LocalRefusal};
use shoutd_core::plane::{CONTAINER_PREFIX, DeviceName};
use shoutd_core::{EndpointId, MacAddress, NetworkId};
use shoutd_docker::plugin::{
    CreateEndpoint, CreatedInterface, DriverError, Join, JoinReply, StaticRoute,
};
use tracing::{info, warn};

use super::{Driver, naming, told};
use crate::ipam::{leases, stock};

/// `CreateEndpoint`. If it fails, Docker does not take it back: nothing may be left of it but
/// leases, which go back by themselves.
pub async fn create(
    driver: &Driver,
    request: CreateEndpoint,
) -> Result<CreatedInterface, DriverError> {
    driver.services.agreement.member().await.map_err(told)?;
    let local = driver.services.local.get();
    let network = driver.network(&local, &request.network)?;
    naming::settle(driver, &network).await?;
    let ipv4 = request
        .ipv4
        .ok_or_else(|| DriverError::new("a container on a shoutd network needs an IPv4 address"))?;
    let addresses: BTreeSet<IpNet> =
        std::iter::once(IpNet::V4(ipv4)).chain(request.ipv6.map(IpNet::V6)).collect();
    let mac = request.mac.unwrap_or_else(|| MacAddress::for_ipv4(ipv4.addr()));
    let cluster = driver.services.agreement.cluster();
    // A Swarm gives out the addresses for all its nodes, and one of a node that is lost to another
    // at once.
    let is_swarms = cluster.networks.get(&network).is_some_and(|known| known.settings.swarm);
    if let Some(mac) = request.mac {
        ensure_mac_is_free(driver, &network, mac).await?;
    }
    let _gate = driver.services.agreement.hold_leases().await;
    for address in addresses.iter().map(IpNet::addr) {
        // Asked first, as the cluster cannot tell one endpoint of this host from another.
        driver.evict_gone(&network, address).await?;
        if !is_swarms
            && let Err(error) = stock::claim_exactly(&driver.services, &network, address).await
        {
            return Err(told(stock::explain(&driver.services, &network, address, error).await));
        }
    }
    let attached = network.clone();
    let endpoint = Endpoint {
        network,
        addresses,
        mac,
        sandbox: None,
        multicast_routes: BTreeSet::new(),
        created: leases::now(),
        left: None,
        container: None,
    };
    let added =
        driver.services.local.try_change(|local| local.add_endpoint(request.endpoint, endpoint));
    added.await.map_err(told)?;
    leases::attach(&driver.services.agreement, &attached).await;
    Ok(CreatedInterface { mac })
}

/// Two endpoints with one MAC address would take each other's packets. Only one that a user gives
/// can be another's: those that follow from addresses are as unique as these.
async fn ensure_mac_is_free(
    driver: &Driver,
    network: &NetworkId,
    mac: MacAddress,
) -> Result<(), DriverError> {
    driver.evict_gone_with_mac(network, mac).await?;
    match driver.services.advertiser.holder_of_mac(network, mac).await {
        None => Ok(()),
        Some(host) => Err(DriverError::new(format!(
            "MAC address {mac} is in use by a container on host {host}: give another, or none"
        ))),
    }
}

/// `Join`. When this returns the interface is there, and the other hosts that share the network
/// know of it, if they answer: what the container sends first reaches everybody, and what everybody
/// sends reaches it.
pub async fn join(driver: &Driver, request: &Join) -> Result<JoinReply, DriverError> {
    let local = driver.services.local.get();
    let unknown = || told(LocalRefusal::UnknownEndpoint(request.endpoint.clone()));
    let network = local
        .endpoints
        .get(&request.endpoint)
        .map(|endpoint| endpoint.network.clone())
        .ok_or_else(unknown)?;
    // Made before its sandbox is noted: from then on an interface that is missing belongs into the
    // sandbox, which engines before 28 make only after this.
    driver.services.plane.settle(&network, &request.endpoint).await.map_err(told)?;
    driver.services.advertiser.ready(&network, &request.endpoint).await;
    let sandbox = Path::new(&request.sandbox);
    // Without routes of its own multicast would leave by the default route, through
    // `docker_gwbridge`.
    let cluster = driver.services.agreement.cluster();
    let routes_of = |network: &NetworkId| cluster.multicast_routes(network);
    let joined = driver
        .services
        .local
        .try_change(|local| local.join(&request.endpoint, sandbox, routes_of).cloned());
    let endpoint = joined.await.map_err(told)?;
    let routes = endpoint.multicast_routes.iter();
    let routes = routes
        .map(|route| StaticRoute { destination: IpNet::V4(*route), next_hop: None })
        .collect();
    let addresses: Vec<IpAddr> = endpoint.addresses.iter().map(IpNet::addr).collect();
    info!(
        endpoint = request.endpoint.short(),
        network = endpoint.network.short(),
        ?addresses,
        "a container joined"
    );
    Ok(JoinReply {
        interface: DeviceName::container(&request.endpoint).to_string(),
        container_prefix: CONTAINER_PREFIX.to_owned(),
        routes,
        without_gateway: false,
    })
}

/// `Leave`. Docker takes the interface out of the container when this returns; the reconciler has
/// let go of it by then.
pub async fn leave(driver: &Driver, endpoint: &EndpointId) -> Result<(), DriverError> {
    let cluster = driver.services.agreement.cluster();
    let left = driver.services.local.change(|local| {
        local.leave(endpoint, leases::now(), |network| cluster.multicast_routes(network));
        local.endpoints.get(endpoint).map(|endpoint| endpoint.network.clone())
    });
    if let Some(network) = left.await.map_err(told)?
        && let Err(error) = driver.services.plane.settle(&network, endpoint).await
    {
        warn!(endpoint = endpoint.short(), "the kernel is not in order: {error}");
    }
    Ok(())
}

/// `DeleteEndpoint`. Returns when the lease is given back, so that a `docker network rm` right
/// after it finds the network unused; if that takes too long, it is done later. It does not wait
/// for the kernel, which takes some tens of milliseconds to remove a device (`synchronize_net`):
/// nobody has the interface any more.
pub async fn delete(driver: &Driver, endpoint: &EndpointId) -> Result<(), DriverError> {
    let removed = driver
        .services
        .local
        .change(|local| local.endpoints.remove(endpoint))
        .await
        .map_err(told)?;
    if removed.is_none() {
        return Ok(());
    }
    leases::settle(&driver.services.agreement, &driver.services.local).await;
    info!(endpoint = endpoint.short(), "a container left");
    Ok(())
}
