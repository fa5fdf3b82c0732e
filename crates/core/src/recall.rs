//! Finds endpoints that the kernel has and local state lacks, because this host's data directory
//! was rolled back after it had created them.
//!
//! An engine reports a new endpoint only once. So without this, a host with rolled-back local state
//! would cut off a running container and give its address to another.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use crate::local::{Endpoint, Local, LocalRefusal};
use crate::plane::{Observed, OwnerTag};
use crate::{EndpointId, NetworkId};

/// The endpoints that have a port and are missing from local state, with their networks. They
/// include endpoints whose removal was interrupted; the engine does not list those.
pub fn forgotten(observed: &Observed, local: &Local) -> BTreeMap<EndpointId, NetworkId> {
    let mut forgotten = BTreeMap::new();
    for segment in observed.segments.values() {
        let Some(network) = segment.network() else { continue };
        for port in segment.ports.values() {
            if let Some(OwnerTag::Endpoint(endpoint)) = &port.mark
                && !local.endpoints.contains_key(endpoint)
            {
                forgotten.insert(endpoint.clone(), network.clone());
            }
        }
    }
    forgotten
}

/// Adds an endpoint that the engine has in a container. Endpoints in local state with the same
/// address or MAC address are older, and are removed: the engine has since given the address to
/// this endpoint.
///
/// # Errors
/// As [`Local::add_endpoint`].
pub fn restore_endpoint(
    local: &mut Local,
    id: &EndpointId,
    endpoint: Endpoint,
    routes_of: impl Fn(&NetworkId) -> BTreeSet<Ipv4Net>,
) -> Result<(), LocalRefusal> {
    let mut before = Vec::new();
    for (other, known) in &local.endpoints {
        let has_address = endpoint.addresses.iter().any(|address| known.has(address.addr()));
        if other != id
            && known.network == endpoint.network
            && (has_address || known.mac == endpoint.mac)
        {
            before.push(other.clone());
        }
    }
    for other in before {
        local.forget(&other, endpoint.created, &routes_of);
    }
    let sandbox = endpoint.sandbox.clone();
    local.add_endpoint(id.clone(), endpoint)?;
    sandbox.map_or(Ok(()), |sandbox| local.join(id, &sandbox, None, routes_of).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::Cluster;
    use crate::plane::{
        Action, DeviceName, GATEWAY_MAC, ObservedBridge, ObservedPort, ObservedSegment,
        ReplicationCache, Underlay, desired, diff,
    };
    use crate::{HostId, MacAddress, Vni};

    fn network() -> NetworkId {
        "aaaaaaaaaaaaaaaa".parse().unwrap()
    }

    fn endpoint(digit: &str) -> EndpointId {
        digit.repeat(16).parse().unwrap()
    }

    fn local_endpoint() -> Endpoint {
        Endpoint {
            network: network(),
            addresses: BTreeSet::new(),
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            sandbox: None,
            multicast_routes: BTreeSet::new(),
            interface_name: None,
            default_route: None,
            created: Duration::ZERO,
            left: None,
            container: None,
        }
    }

    fn remembering(endpoints: &[EndpointId]) -> Local {
        let endpoints = endpoints.iter().map(|id| (id.clone(), local_endpoint())).collect();
        Local { endpoints, ..Local::default() }
    }

    /// A segment of the network with ports of two endpoints.
    fn observed() -> Observed {
        let bridge = ObservedBridge {
            mark: Some(OwnerTag::Network(network())),
            mac: GATEWAY_MAC,
            addresses: BTreeSet::new(),
            forwards: false,
            mtu: 1450,
            up: true,
            snooping: true,
            querier: true,
            igmp_version: 3,
            mld_version: 2,
            groups_max: 0,
            multicast_router: 2,
            membership_interval: 0,
            learned_max: None,
            link_local: true,
        };
        let ports = ["1", "2"].map(endpoint).map(|id| {
            let port = ObservedPort {
                mark: Some(OwnerTag::Endpoint(id.clone())),
                mtu: 1450,
                up: true,
                enslaved: true,
                learning: true,
                groups_max: None,
                container_end: None,
            };
            (DeviceName::port(&id), port)
        });
        let ports = ports.into();
        let segment = ObservedSegment { bridge: Some(bridge), ports, ..ObservedSegment::default() };
        Observed { segments: [(Vni::new(7).unwrap(), segment)].into(), ..Observed::default() }
    }

    #[test]
    fn what_the_kernel_has_and_memory_lacks_is_found() {
        let both = remembering(&[endpoint("1"), endpoint("2")]);
        assert_eq!(forgotten(&observed(), &both), BTreeMap::new());
        let one = remembering(&[endpoint("1"), endpoint("3")]);
        assert_eq!(forgotten(&observed(), &one), [(endpoint("2"), network())].into());
        let none = remembering(&[]);
        assert_eq!(forgotten(&observed(), &none).len(), 2);
        assert_eq!(forgotten(&Observed::default(), &none), BTreeMap::new(), "as after a boot");
    }

    #[test]
    fn what_the_engine_has_takes_the_place_of_what_is_of_before() {
        let mut local = remembering(&[endpoint("1"), endpoint("3")]);
        for (id, mac, address) in [("1", 1, "10.0.0.7/24"), ("3", 3, "10.0.0.3/24")] {
            let known = local.endpoints.get_mut(&endpoint(id)).unwrap();
            known.mac = MacAddress([2, 0, 0, 0, 0, mac]);
            known.addresses = BTreeSet::from([address.parse().unwrap()]);
        }
        let second = Endpoint {
            addresses: BTreeSet::from(["10.0.0.7/24".parse().unwrap()]),
            mac: MacAddress([2, 0, 0, 0, 0, 2]),
            sandbox: Some("/run/docker/netns/2".into()),
            ..local_endpoint()
        };
        let third = Endpoint {
            addresses: BTreeSet::from(["10.0.0.8/24".parse().unwrap()]),
            mac: MacAddress([2, 0, 0, 0, 0, 3]),
            ..second.clone()
        };
        let all = BTreeSet::from(["224.0.0.0/4".parse().unwrap()]);
        restore_endpoint(&mut local, &endpoint("2"), second, |_| all.clone()).unwrap();
        assert_eq!(
            local.endpoints.keys().cloned().collect::<Vec<_>>(),
            [endpoint("2"), endpoint("3")]
        );
        assert_eq!(local.endpoints[&endpoint("2")].multicast_routes, all);
        restore_endpoint(&mut local, &endpoint("4"), third, |_| BTreeSet::new()).unwrap();
        assert!(!local.endpoints.contains_key(&endpoint("3")), "its MAC address is another's");
    }

    #[test]
    fn a_network_with_containers_that_the_host_has_yet_to_be_told_of_again_stays() {
        let delete = Action::DeleteSegment { vni: Vni::new(7).unwrap() };
        for (endpoints, plan) in [([endpoint("1")].as_slice(), vec![]), (&[], vec![delete])] {
            let underlay = Underlay { address: "192.0.2.1".parse().unwrap(), mtu: 1500 };
            let (me, mut cache) = (HostId::new(1).unwrap(), ReplicationCache::default());
            let (cluster, local) = (Cluster::default(), remembering(endpoints));
            let wanted = desired(&cluster, &local, me, underlay, &Default::default(), &mut cache);
            assert_eq!(diff(&wanted, &observed()), plan);
        }
    }
}
