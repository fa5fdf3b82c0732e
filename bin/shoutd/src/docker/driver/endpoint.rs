//! Endpoints: an address that is leased to this host, and an interface that the reconciler creates
//! for the container.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use shoutd_core::driver::{Wanted, crashes_with_gateways};
use shoutd_core::local::{Endpoint, LocalRefusal};
use shoutd_core::plane::{DeviceName, GATEWAY_MAC};
use shoutd_core::{EndpointId, MacAddress, NetworkId, view};
use shoutd_docker::plugin::{
    CreateEndpoint, CreatedInterface, DriverError, Join, JoinReply, StaticRoute,
};
use tracing::{info, warn};

use super::{Driver, driver_error, naming};
use crate::app::clock;
use crate::app::condition::met;
use crate::ipam::claims::Claim;
use crate::ipam::leases;

/// How long `Join` waits for the way out of a network. The reconciler makes it with the network's
/// first endpoint on this host. The engine follower has its bridge made at its first comparison.
const WAY_OUT_DEADLINE: Duration = Duration::from_secs(2);

/// `CreateEndpoint`. If it fails, Docker does not call `DeleteEndpoint`, so a failure may leave
/// nothing behind but leases, which are returned automatically.
pub async fn create(
    driver: &Driver,
    request: CreateEndpoint,
) -> Result<CreatedInterface, DriverError> {
    driver.services.agreement.member().await.map_err(driver_error)?;
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
    // A Swarm itself allocates addresses for all its nodes. It reuses an address of a lost node at
    // once.
    let is_swarm = cluster.networks.get(&network).is_some_and(|known| known.settings.swarm);
    if request.mac == Some(GATEWAY_MAC) {
        return Err(DriverError::new(format!(
            "MAC address {GATEWAY_MAC} is that of the networks' gateways; give another one, or none"
        )));
    }
    if let Some(mac) = request.mac {
        ensure_mac_is_free(driver, &network, mac).await?;
    }
    let claims = &driver.services.claims;
    let _gate = driver.services.agreement.hold_leases().await;
    for address in addresses.iter().map(IpNet::addr) {
        // First, because the cluster cannot distinguish two endpoints of this host.
        let none_gone = Claim::NoneGone(Wanted::Address(address));
        claims.met(&network, none_gone).await.map_err(driver_error)?;
        if !is_swarm {
            let leased = claims.met(&network, Claim::LeasedOrExplained(address)).await;
            leased.map_err(driver_error)?;
        }
    }
    let attached = network.clone();
    let endpoint = Endpoint {
        network,
        addresses,
        mac,
        sandbox: None,
        multicast_routes: BTreeSet::new(),
        interface_name: interface_name(&request.options),
        default_route: None,
        created: clock::now(),
        left: None,
        container: None,
    };
    let added =
        driver.services.local.try_change(|local| local.add_endpoint(request.endpoint, endpoint));
    added.await.map_err(driver_error)?;
    leases::attach(&driver.services.agreement, &attached).await;
    Ok(CreatedInterface { mac })
}

/// The name that the user asked for, on engines that take it. They have checked it.
fn interface_name(options: &BTreeMap<String, String>) -> Option<DeviceName> {
    options.get("com.docker.network.endpoint.ifname").and_then(|name| name.parse().ok())
}

/// Refuses a MAC address that another endpoint has: both would take each other's packets. Only a
/// MAC address from the user needs this check; derived ones are as unique as the IP addresses.
async fn ensure_mac_is_free(
    driver: &Driver,
    network: &NetworkId,
    mac: MacAddress,
) -> Result<(), DriverError> {
    let none_gone = Claim::NoneGone(Wanted::Mac(mac));
    driver.services.claims.met(network, none_gone).await.map_err(driver_error)?;
    match driver.services.advertiser.holder_of_mac(network, mac).await {
        None => Ok(()),
        Some(host) => Err(DriverError::new(format!(
            "MAC address {mac} is in use by a container on host {host}; give another one, or none"
        ))),
    }
}

/// `Join`. When this returns, the interface exists, and the peers that share the network (and
/// answer) have the endpoint. So the container's first packets reach all peers, and theirs reach
/// it.
pub async fn join(driver: &Driver, request: &Join) -> Result<JoinReply, DriverError> {
    let local = driver.services.local.get();
    let Some(endpoint) = local.endpoints.get(&request.endpoint) else {
        return Err(driver_error(LocalRefusal::UnknownEndpoint(request.endpoint.clone())));
    };
    let network = endpoint.network.clone();
    // The interface must exist before we record the sandbox: from then on, the reconciler expects
    // the interface in the sandbox, which engines before 28 create only after this call.
    driver.services.plane.settle(&network, &request.endpoint).await.map_err(driver_error)?;
    driver.services.advertiser.ready(&network, &request.endpoint).await;
    let gateway = if request.publishes { None } else { gateway(driver, &network, endpoint).await };
    let sandbox = Path::new(&request.sandbox);
    // With several interfaces, the default route, which multicast takes without these routes, may
    // lead to another network.
    let cluster = driver.services.agreement.cluster();
    let joined = driver.services.local.try_change(|local| {
        let routes_of = |network: &NetworkId| cluster.multicast_routes(network);
        local.join(&request.endpoint, sandbox, gateway, routes_of).cloned()
    });
    let endpoint = joined.await.map_err(driver_error)?;
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
        container_prefix: cluster.interface_prefix(&network).to_owned(),
        container_name: endpoint.interface_name.as_ref().map(DeviceName::to_string),
        gateway,
        routes,
        without_gateway: false,
    })
}

/// The gateway of a container that publishes no ports: its network's, once packets go out by it.
/// Without one, Docker attaches `docker_gwbridge`, as it does for published ports.
async fn gateway(driver: &Driver, network: &NetworkId, endpoint: &Endpoint) -> Option<Ipv4Addr> {
    let cluster = driver.services.agreement.cluster();
    let known = cluster.networks.get(network)?;
    let gateway = known.gateway_of(&endpoint.addresses)?;
    if let view::Engine::Serving(version) = &*driver.engine.borrow()
        && crashes_with_gateways(version)
    {
        warn!(
            version,
            "a container gets Docker's way out, as a second interface: this engine crashes with \
             shoutd's (moby#51554); 29.0.3 does not"
        );
        return None;
    }
    let observed = driver.services.plane.watch_observed();
    let leads_out = met(&observed, WAY_OUT_DEADLINE, |observed| observed.leads_out(known.vni));
    match leads_out.await {
        Ok(_) => Some(gateway),
        Err(unmet) => {
            let title = known.title(network);
            warn!(
                network = title,
                "a container gets Docker's way out, as a second interface: its \
                   network's own is not ready: {unmet}"
            );
            None
        }
    }
}

/// `Leave`. Docker moves the interface out of the container when this returns. The reconciler has
/// stopped managing it by then.
pub async fn leave(driver: &Driver, endpoint: &EndpointId) -> Result<(), DriverError> {
    let cluster = driver.services.agreement.cluster();
    let left = driver.services.local.change(|local| {
        local.leave(endpoint, clock::now(), |network| cluster.multicast_routes(network));
        local.endpoints.get(endpoint).map(|endpoint| endpoint.network.clone())
    });
    if let Some(network) = left.await.map_err(driver_error)?
        && let Err(error) = driver.services.plane.settle(&network, endpoint).await
    {
        warn!(endpoint = endpoint.short(), "the data plane could not be programmed: {error}");
    }
    Ok(())
}

/// `DeleteEndpoint`. Returns once the lease is released, so that a `docker network rm` right after
/// it finds the network unused; if that takes too long, it is done later. It does not wait for the
/// kernel, which needs tens of milliseconds to remove a device (`synchronize_net`): no container
/// uses the interface.
pub async fn delete(driver: &Driver, endpoint: &EndpointId) -> Result<(), DriverError> {
    let removed = driver
        .services
        .local
        .change(|local| local.endpoints.remove(endpoint))
        .await
        .map_err(driver_error)?;
    if removed.is_none() {
        return Ok(());
    }
    leases::settle(&driver.services.agreement, &driver.services.local).await;
    info!(endpoint = endpoint.short(), "a container left");
    Ok(())
}
