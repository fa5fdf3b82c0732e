//! What one host remembers of its own engine.
//!
//! Docker does not send networks and endpoints again when a plugin or dockerd itself restarts, so
//! this state is kept on disk. It is only about this host; what other hosts need is agreed or
//! advertised.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::names::EndpointContainer;
use crate::plane::DeviceName;
use crate::{DockerNetworkId, EndpointId, HostId, MacAddress, NetworkId};

/// How long a reserved address may wait for its endpoint. Docker releases unused addresses itself,
/// unless it is killed before.
const RESERVATION_TIME_MAX: Duration = Duration::from_secs(300);

/// This host's local state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Local {
    /// The network of the cluster for each Docker network.
    pub bindings: BTreeMap<DockerNetworkId, NetworkId>,
    /// The endpoints of this host.
    pub endpoints: BTreeMap<EndpointId, Endpoint>,
    /// Addresses that shoutd's IPAM driver has given to Docker, by network: from `RequestAddress`
    /// until `ReleaseAddress`.
    pub reservations: BTreeMap<NetworkId, BTreeMap<IpAddr, Reservation>>,
    /// Addresses that this host has begun to release, by network. The release may be agreed at any
    /// time after, even if this host gets no answer. So a container may get such an address only
    /// after the cluster has leased it to this host again.
    pub returning: BTreeMap<NetworkId, BTreeSet<IpAddr>>,
    /// Pending removals: networks that a user removed here, and about which the cluster has not
    /// been asked.
    pub removals: BTreeSet<NetworkId>,
}

/// A container's attachment to a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network.
    pub network: NetworkId,
    /// Addresses, with the prefix length of their subnet.
    pub addresses: BTreeSet<IpNet>,
    /// MAC address.
    pub mac: MacAddress,
    /// The file of the container's network namespace, from `Join` to `Leave`.
    pub sandbox: Option<PathBuf>,
    /// The multicast routes that the container has on this interface.
    #[serde(default)]
    pub multicast_routes: BTreeSet<Ipv4Net>,
    /// The name of its interface in the container, if the user asked for one.
    #[serde(default)]
    pub interface_name: Option<DeviceName>,
    /// The gateway that Docker was given for the container's default route.
    #[serde(default)]
    pub default_route: Option<Ipv4Addr>,
    /// When it was created, as the time since 1970.
    pub created: Duration,
    /// When it left its container, as the time since 1970. The engine deletes it right afterwards.
    #[serde(default)]
    pub left: Option<Duration>,
    /// Its container, once the engine has told us.
    #[serde(default)]
    pub container: Option<EndpointContainer>,
}

/// An address that shoutd's IPAM driver has given to Docker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// When Docker got it, as the time since 1970.
    pub since: Duration,
}

/// Why a change to local state is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocalRefusal {
    /// Docker names an endpoint that it did not create here.
    #[error("endpoint {0} is not known to shoutd; stop the container and start it again")]
    UnknownEndpoint(EndpointId),
    /// Another endpoint of this host has the address.
    #[error("address {address} is in use on this host, by endpoint {holder}")]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// The endpoint that has it, as a short id.
        holder: String,
    },
    /// Another endpoint of this host has the MAC address.
    #[error("MAC address {mac} is in use on this host, by endpoint {holder}: set another, or none")]
    MacInUse {
        /// The MAC address.
        mac: MacAddress,
        /// The endpoint that has it, as a short id.
        holder: String,
    },
}

impl Local {
    /// Whether this Docker network is known, or was until a user removed it.
    pub fn knows(&self, docker: &DockerNetworkId, network: &NetworkId) -> bool {
        self.bindings.contains_key(docker) || self.removals.contains(network)
    }

    /// The Docker networks that this host remembers as copies of a network.
    pub fn copies_of(&self, network: &NetworkId) -> Vec<DockerNetworkId> {
        let bound = self.bindings.iter().filter(|(_, bound)| *bound == network);
        bound.map(|(docker, _)| docker.clone()).collect()
    }

    /// The endpoint of this network that has this address.
    pub fn holder(&self, network: &NetworkId, address: IpAddr) -> Option<&EndpointId> {
        let mut endpoints = self.endpoints.iter();
        endpoints
            .find(|(_, endpoint)| endpoint.network == *network && endpoint.has(address))
            .map(|(id, _)| id)
    }

    /// The endpoint of this network that has this MAC address.
    pub fn holder_of_mac(&self, network: &NetworkId, mac: MacAddress) -> Option<&EndpointId> {
        let mut endpoints = self.endpoints.iter();
        endpoints
            .find(|(_, endpoint)| endpoint.network == *network && endpoint.mac == mac)
            .map(|(id, _)| id)
    }

    /// Whether this address is reserved.
    pub fn is_reserved(&self, network: &NetworkId, address: IpAddr) -> bool {
        self.reservations.get(network).is_some_and(|addresses| addresses.contains_key(&address))
    }

    /// Adds an endpoint. To add the same one again changes nothing.
    ///
    /// # Errors
    /// If another endpoint of this host has one of its addresses, or its MAC address.
    pub fn add_endpoint(&mut self, id: EndpointId, endpoint: Endpoint) -> Result<(), LocalRefusal> {
        for address in endpoint.addresses.iter().map(IpNet::addr) {
            if let Some(holder) =
                self.holder(&endpoint.network, address).filter(|holder| **holder != id)
            {
                return Err(LocalRefusal::AddressInUse {
                    address,
                    holder: holder.short().to_owned(),
                });
            }
        }
        if let Some(holder) =
            self.holder_of_mac(&endpoint.network, endpoint.mac).filter(|holder| **holder != id)
        {
            return Err(LocalRefusal::MacInUse {
                mac: endpoint.mac,
                holder: holder.short().to_owned(),
            });
        }
        self.endpoints.insert(id, endpoint);
        Ok(())
    }

    /// Notes the container that an endpoint joins, and the gateway that Docker is given for its
    /// default route. Assigns it the multicast routes of its
    /// network that no other endpoint of the container has. A second route to the same prefix would
    /// make Docker fail the attachment.
    ///
    /// # Errors
    /// If the endpoint is not known.
    pub fn join(
        &mut self,
        id: &EndpointId,
        sandbox: &Path,
        default_route: Option<Ipv4Addr>,
        routes_of: impl Fn(&NetworkId) -> BTreeSet<Ipv4Net>,
    ) -> Result<&Endpoint, LocalRefusal> {
        let taken = self.routes_in(sandbox, id);
        let endpoint =
            self.endpoints.get_mut(id).ok_or_else(|| LocalRefusal::UnknownEndpoint(id.clone()))?;
        endpoint.multicast_routes =
            routes_of(&endpoint.network).difference(&taken).copied().collect();
        endpoint.default_route = default_route;
        endpoint.sandbox = Some(sandbox.to_owned());
        endpoint.left = None;
        Ok(endpoint)
    }

    /// The multicast routes of a container, except for those of one endpoint.
    fn routes_in(&self, sandbox: &Path, except: &EndpointId) -> BTreeSet<Ipv4Net> {
        let others =
            self.endpoints.iter().filter(|(id, endpoint)| *id != except && endpoint.is_in(sandbox));
        others.flat_map(|(_, endpoint)| endpoint.multicast_routes.iter().copied()).collect()
    }

    /// Notes that an endpoint left its container; an unknown endpoint is ignored. Its multicast
    /// routes go to the container's oldest other endpoints whose networks have these routes, so
    /// that a container which is still on another network can go on sending.
    pub fn leave(
        &mut self,
        id: &EndpointId,
        now: Duration,
        routes_of: impl Fn(&NetworkId) -> BTreeSet<Ipv4Net>,
    ) {
        let Some(endpoint) = self.endpoints.get_mut(id) else {
            return;
        };
        let mut unassigned = std::mem::take(&mut endpoint.multicast_routes);
        let Some(left) = endpoint.sandbox.take() else {
            return;
        };
        endpoint.left = Some(now);
        let mut heirs: Vec<&mut Endpoint> =
            self.endpoints.values_mut().filter(|other| other.is_in(&left)).collect();
        heirs.sort_by_key(|heir| heir.created);
        for heir in heirs {
            let inherited: BTreeSet<Ipv4Net> =
                routes_of(&heir.network).intersection(&unassigned).copied().collect();
            unassigned.retain(|route| !inherited.contains(route));
            heir.multicast_routes.extend(inherited);
        }
    }

    /// Forgets an endpoint that the engine no longer has, and the reservations of its addresses.
    /// Its multicast routes go to other endpoints, as in [`leave`](Self::leave).
    pub fn forget(
        &mut self,
        id: &EndpointId,
        now: Duration,
        routes_of: impl Fn(&NetworkId) -> BTreeSet<Ipv4Net>,
    ) {
        self.leave(id, now, routes_of);
        if let Some(endpoint) = self.endpoints.remove(id)
            && let Some(reservations) = self.reservations.get_mut(&endpoint.network)
        {
            reservations.retain(|address, _| !endpoint.has(*address));
        }
    }

    /// Whether an endpoint of this host has this address, or the address is reserved.
    pub fn uses(&self, network: &NetworkId, address: IpAddr) -> bool {
        self.holder(network, address).is_some() || self.is_reserved(network, address)
    }

    /// Whether this host has endpoints on this network.
    pub fn is_attached(&self, network: &NetworkId) -> bool {
        self.endpoints.values().any(|endpoint| endpoint.network == *network)
    }

    /// Whether this host has begun to release this address.
    pub fn is_returning(&self, network: &NetworkId, address: IpAddr) -> bool {
        self.returning.get(network).is_some_and(|addresses| addresses.contains(&address))
    }

    /// Notes that this host begins to release addresses. This precedes the proposal.
    pub fn start_returning(&mut self, network: &NetworkId, addresses: &[IpAddr]) {
        self.returning.entry(network.clone()).or_default().extend(addresses);
    }

    /// Notes that the cluster has leased this address to this host after the release began.
    pub fn keep(&mut self, network: &NetworkId, address: IpAddr) {
        if let Some(addresses) = self.returning.get_mut(network) {
            addresses.remove(&address);
        }
    }

    /// Forgets the addresses whose release is agreed.
    pub fn finish_returning(&mut self, cluster: &Cluster, me: HostId) {
        self.returning.retain(|id, addresses| {
            let Some(network) = cluster.networks.get(id) else { return false };
            addresses.retain(|address| network.leases.get(address) == Some(&me));
            !addresses.is_empty()
        });
    }

    /// Reserves an address of this host's stock: the highest unused one in `range`, which is a part
    /// of `subnet`.
    pub fn reserve_from_stock(
        &mut self,
        cluster: &Cluster,
        me: HostId,
        id: &NetworkId,
        (subnet, range): (IpNet, IpNet),
        now: Duration,
    ) -> Option<IpNet> {
        let network = cluster.networks.get(id).filter(|network| !network.removing)?;
        let mine = network
            .leases
            .iter()
            .rev()
            .filter(|(address, host)| **host == me && range.contains(*address));
        let address = mine
            .map(|(address, _)| *address)
            .find(|address| !self.uses(id, *address) && !self.is_returning(id, *address))?;
        self.reservations
            .entry(id.clone())
            .or_default()
            .insert(address, Reservation { since: now });
        IpNet::new(address, subnet.prefix_len()).ok()
    }

    /// Forgets reservations that did not become an endpoint's, and those of deleted networks.
    /// Returns whether there were any.
    pub fn expire_reservations(&mut self, cluster: &Cluster, now: Duration) -> bool {
        let before: usize = self.reservations.values().map(BTreeMap::len).sum();
        let mut reservations = std::mem::take(&mut self.reservations);
        reservations.retain(|id, addresses| {
            addresses.retain(|address, reservation| {
                // If the clock was set back, the age is 0: the reservation stays until later.
                let age = now.saturating_sub(reservation.since);
                self.holder(id, *address).is_some() || age < RESERVATION_TIME_MAX
            });
            cluster.networks.contains_key(id) && !addresses.is_empty()
        });
        self.reservations = reservations;
        before != self.reservations.values().map(BTreeMap::len).sum::<usize>()
    }

    /// The namespaces of the containers on this host.
    pub fn sandboxes(&self) -> BTreeSet<PathBuf> {
        self.endpoints.values().filter_map(|endpoint| endpoint.sandbox.clone()).collect()
    }
}

impl Endpoint {
    /// Whether this is one of its addresses.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.addr() == address)
    }

    fn is_in(&self, sandbox: &Path) -> bool {
        self.sandbox.as_deref() == Some(sandbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::ALL_MULTICAST;

    fn endpoint(last: u8) -> Endpoint {
        Endpoint {
            network: "aaaaaaaaaaaaaaaa".parse().unwrap(),
            addresses: [format!("10.0.0.{last}/24").parse().unwrap()].into(),
            mac: MacAddress([2, 0, 0, 0, 0, last]),
            sandbox: None,
            multicast_routes: BTreeSet::new(),
            interface_name: None,
            default_route: None,
            created: Duration::from_secs(last.into()),
            left: None,
            container: None,
        }
    }

    #[test]
    fn addresses_and_mac_addresses_are_unique_within_a_network() {
        let ids: Vec<EndpointId> =
            ["1", "2"].iter().map(|digit| digit.repeat(16).parse().unwrap()).collect();
        let mut local = Local::default();
        local.add_endpoint(ids[0].clone(), endpoint(1)).unwrap();
        local.add_endpoint(ids[0].clone(), endpoint(1)).unwrap();
        let same_address = Endpoint { mac: endpoint(2).mac, ..endpoint(1) };
        let same_mac = Endpoint { mac: endpoint(1).mac, ..endpoint(2) };
        let elsewhere = Endpoint { network: "bbbbbbbbbbbbbbbb".parse().unwrap(), ..endpoint(1) };
        let refused = local.add_endpoint(ids[1].clone(), same_address);
        assert!(matches!(refused, Err(LocalRefusal::AddressInUse { .. })), "{refused:?}");
        let refused = local.add_endpoint(ids[1].clone(), same_mac);
        assert!(matches!(refused, Err(LocalRefusal::MacInUse { .. })), "{refused:?}");
        assert_eq!(local.add_endpoint(ids[1].clone(), elsewhere), Ok(()));
    }

    fn all(_: &NetworkId) -> BTreeSet<Ipv4Net> {
        BTreeSet::from([ALL_MULTICAST])
    }

    /// The multicast routes of each endpoint, in the order of the ids.
    fn routes(local: &Local) -> Vec<String> {
        let mut routes = Vec::new();
        for endpoint in local.endpoints.values() {
            let each: Vec<_> = endpoint.multicast_routes.iter().map(ToString::to_string).collect();
            routes.push(each.join(" "));
        }
        routes
    }

    #[test]
    fn each_multicast_route_is_on_one_endpoint_per_container_and_moves_when_that_leaves() {
        let ids: Vec<EndpointId> =
            ["1", "2", "3"].iter().map(|digit| digit.repeat(16).parse().unwrap()).collect();
        let mut local = Local::default();
        for (id, last) in ids.iter().zip(1..) {
            local.add_endpoint(id.clone(), endpoint(last)).unwrap();
        }
        local.join(&ids[0], Path::new("/a"), None, all).unwrap();
        local.join(&ids[1], Path::new("/a"), None, all).unwrap();
        local.join(&ids[2], Path::new("/b"), None, all).unwrap();
        assert_eq!(routes(&local), ["224.0.0.0/4", "", "224.0.0.0/4"]);
        local.leave(&ids[0], Duration::ZERO, all);
        assert_eq!(routes(&local), ["", "224.0.0.0/4", "224.0.0.0/4"]);
        local.leave(&ids[1], Duration::ZERO, all);
        assert_eq!(routes(&local), ["", "", "224.0.0.0/4"]);
        assert!(local.join(&"9".repeat(16).parse().unwrap(), Path::new("/a"), None, all).is_err());
    }

    #[test]
    fn a_forgotten_endpoint_passes_its_routes_on_and_frees_its_addresses() {
        let ids: Vec<EndpointId> =
            ["1", "2"].iter().map(|digit| digit.repeat(16).parse().unwrap()).collect();
        let mut local = Local::default();
        for (id, last) in ids.iter().zip(1..) {
            local.add_endpoint(id.clone(), endpoint(last)).unwrap();
            local.join(id, Path::new("/a"), None, all).unwrap();
            let address = endpoint(last).addresses.first().unwrap().addr();
            let reservations = local.reservations.entry(endpoint(last).network).or_default();
            reservations.insert(address, Reservation { since: Duration::ZERO });
        }
        local.forget(&ids[0], Duration::ZERO, all);
        assert_eq!(local.endpoints.keys().collect::<Vec<_>>(), [&ids[1]]);
        assert!(!local.endpoints[&ids[1]].multicast_routes.is_empty());
        let network = endpoint(1).network;
        assert!(!local.uses(&network, "10.0.0.1".parse().unwrap()));
        assert!(local.is_reserved(&network, "10.0.0.2".parse().unwrap()));
    }

    #[test]
    fn an_endpoint_gets_only_the_multicast_routes_of_its_network() {
        let mut local = Local::default();
        let sandbox = Path::new("/a");
        for (letter, last) in ["d", "a", "b", "c"].into_iter().zip(1..) {
            let id: EndpointId = letter.repeat(16).parse().unwrap();
            let network = letter.repeat(16).parse().unwrap();
            local.add_endpoint(id.clone(), Endpoint { network, ..endpoint(last) }).unwrap();
            local.join(&id, sandbox, None, routes_of).unwrap();
        }
        // The endpoints on the networks a, b, c and d.
        assert_eq!(routes(&local), ["224.0.0.0/4", "224.0.1.0/24 239.0.0.0/8", "", ""]);
        // Only an endpoint whose network has the route inherits it.
        local.leave(&"b".repeat(16).parse().unwrap(), Duration::ZERO, routes_of);
        assert_eq!(routes(&local), ["224.0.0.0/4", "", "239.0.0.0/8", ""]);
        local.leave(&"a".repeat(16).parse().unwrap(), Duration::ZERO, routes_of);
        assert_eq!(routes(&local), ["", "", "239.0.0.0/8", ""]);
    }

    fn routes_of(id: &NetworkId) -> BTreeSet<Ipv4Net> {
        let texts: &[&str] = match id.to_string().get(..1) {
            Some("a") => &["224.0.0.0/4"],
            Some("b") => &["239.0.0.0/8", "224.0.1.0/24"],
            Some("c") => &["239.0.0.0/8"],
            _ => &[],
        };
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }
}
