//! Validates the claims that peers advertise: each host speaks for its own containers only.
//!
//! Mutual TLS proves who a host is, but not that its claims are true. The claims go into the hosts
//! files of all containers of a network, and decide where packets go. So we check them against
//! agreed state. An address is accepted if it is leased to the host that advertises it. A MAC
//! address is accepted if no endpoint of this host has it, and no other host in sync advertised it
//! first. One that is derived from an address leased to the advertising host wins over one that is
//! not. A name is accepted if it is not one that every host has for itself, such as `localhost`,
//! and cannot be a public DNS name, unless the network has `shoutd.names=all`. A rejected claim is
//! left out, and both hosts report it. Memberships are not validated, because they affect only the
//! host that advertises them.
//!
//! A lease may be agreed and not have arrived here yet, and containers move. Such rejections pass
//! by themselves, so they are reported only if they last. Swarm networks have no leases; there we
//! can check only that addresses lie in the subnets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{
    AddressRejection, AdvertisedEndpoint, AdvertisedNetwork, PeerState, PeerStates, Rejection,
    ReportedRejection,
};
use crate::cluster::{Cluster, Network};
use crate::limits::{REJECTIONS_PER_NETWORK_MAX, REPORTED_REJECTIONS_MAX};
use crate::local::Local;
use crate::names::Name;
use crate::plane::GATEWAY_MAC;
use crate::plane::resolves_public_names;
use crate::{EndpointId, HostId, MacAddress, NetworkId};

/// The state against which claims are checked.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Agreed state, as far as this host knows it.
    pub cluster: &'a Cluster,
    /// This host's endpoints.
    pub local: &'a Local,
}

/// The results for all peers, kept so that only changes are validated again.
#[derive(Debug, Clone, Default)]
pub struct ClaimValidation {
    hosts: BTreeMap<HostId, BTreeMap<NetworkId, Validated>>,
}

/// The result for one network of one host.
#[derive(Debug, Clone)]
struct Validated {
    advertised: Arc<AdvertisedNetwork>,
    network: Option<Arc<Network>>,
    accepted: Arc<AdvertisedNetwork>,
    /// The rejections, each with the time at which it began.
    rejections: BTreeMap<Rejection, Duration>,
    /// Whether another host, or this one, claims one of the MAC addresses. Such a network is
    /// validated again in every update, even if it has not changed.
    contested: bool,
}

impl Validated {
    /// Whether the result holds for this network and this advertisement too.
    fn is_valid_for(
        &self,
        network: Option<&Arc<Network>>,
        advertised: &Arc<AdvertisedNetwork>,
    ) -> bool {
        let is_same_network = match (&self.network, network) {
            (Some(was), Some(is)) => Arc::ptr_eq(was, is),
            (was, is) => was.is_none() && is.is_none(),
        };
        !self.contested && is_same_network && Arc::ptr_eq(&self.advertised, advertised)
    }
}

impl ClaimValidation {
    /// Updates `peers` with the accepted part of what `host` advertises; `None` removes the host.
    pub fn update(
        &mut self,
        peers: &mut Arc<PeerStates>,
        host: HostId,
        advertised: Option<PeerState>,
        known: Known<'_>,
        now: Duration,
    ) {
        let accepted = advertised.map(|state| self.validate(peers, host, state, known, now));
        if accepted.is_none() {
            self.hosts.remove(&host);
        }
        if peers.hosts.get(&host).map(Arc::as_ref) == accepted.as_ref() {
            return;
        }
        let hosts = &mut Arc::make_mut(peers).hosts;
        match accepted {
            Some(accepted) => hosts.insert(host, Arc::new(accepted)),
            None => hosts.remove(&host),
        };
    }

    /// The hosts that claim a MAC address which another host claims too. They must be validated
    /// again after an update of any other host.
    pub fn contested(&self) -> BTreeSet<HostId> {
        self.hosts
            .iter()
            .filter(|(_, networks)| networks.values().any(|validated| validated.contested))
            .map(|(host, _)| *host)
            .collect()
    }

    /// The rejections of a host that are due to be reported, up to [`REPORTED_REJECTIONS_MAX`].
    pub fn rejections(
        &self,
        host: HostId,
        cluster: &Cluster,
        now: Duration,
    ) -> Vec<ReportedRejection> {
        let all = self.hosts.get(&host).into_iter().flatten();
        let due = all.flat_map(|(id, validated)| {
            let due = validated
                .rejections
                .iter()
                .filter(|(rejection, since)| now >= **since + rejection.grace());
            due.map(move |(rejection, _)| ReportedRejection {
                text: rejection.text(id, cluster),
                is_fault: rejection.is_fault(),
            })
        });
        due.take(REPORTED_REJECTIONS_MAX).collect()
    }

    fn validate(
        &mut self,
        peers: &PeerStates,
        host: HostId,
        mut state: PeerState,
        known: Known<'_>,
        now: Duration,
    ) -> PeerState {
        let before = peers.hosts.get(&host);
        // While a host was away, its MAC addresses may have gone to other hosts, so it has no
        // precedence.
        let is_back = state.in_sync && before.is_none_or(|before| !before.in_sync);
        let mut validated = self.hosts.remove(&host).unwrap_or_default();
        validated.retain(|id, _| state.networks.contains_key(id));
        for (id, advertised) in &mut state.networks {
            let network = known.cluster.networks.get(id);
            let is_valid = !is_back
                && validated
                    .get(id)
                    .is_some_and(|validated| validated.is_valid_for(network, advertised));
            if !is_valid {
                let claims = Claims::of(peers, known.local, (host, is_back), id, advertised);
                let was =
                    validated.remove(id).map(|validated| validated.rejections).unwrap_or_default();
                let (is, losers) =
                    validate_network(host, network, advertised, &claims, (&was, now));
                losers.iter().for_each(|rival| self.contest(*rival, id));
                validated.insert(id.clone(), is);
            }
            if let Some(validated) = validated.get(id) {
                *advertised = validated.accepted.clone();
            }
        }
        self.hosts.insert(host, validated);
        state
    }

    fn contest(&mut self, host: HostId, network: &NetworkId) {
        if let Some(validated) =
            self.hosts.get_mut(&host).and_then(|networks| networks.get_mut(network))
        {
            validated.contested = true;
        }
    }
}

/// The accepted claims to the MAC addresses that a host advertises.
struct Claims {
    /// MAC addresses of this host's endpoints.
    local: BTreeSet<MacAddress>,
    /// MAC addresses that were accepted from the advertising host before.
    own: BTreeSet<MacAddress>,
    /// MAC addresses of other hosts that are in sync, and whether each is derived from its
    /// endpoint's address.
    others: BTreeMap<MacAddress, (HostId, bool)>,
}

impl Claims {
    fn of(
        peers: &PeerStates,
        local: &Local,
        (host, is_back): (HostId, bool),
        id: &NetworkId,
        advertised: &AdvertisedNetwork,
    ) -> Self {
        let wanted: BTreeSet<MacAddress> =
            advertised.endpoints.values().map(|endpoint| endpoint.mac).collect();
        let here = local
            .endpoints
            .values()
            .filter(|endpoint| endpoint.network == *id)
            .map(|endpoint| endpoint.mac);
        let mut claims =
            Self { local: here.collect(), own: BTreeSet::new(), others: BTreeMap::new() };
        for (other, peer) in peers.hosts.iter().filter(|(_, peer)| peer.in_sync) {
            let accepted =
                peer.networks.get(id).into_iter().flat_map(|network| network.endpoints.values());
            for endpoint in accepted.filter(|endpoint| wanted.contains(&endpoint.mac)) {
                if *other != host {
                    claims.others.insert(endpoint.mac, (*other, is_derived_from_address(endpoint)));
                } else if !is_back {
                    claims.own.insert(endpoint.mac);
                }
            }
        }
        claims
    }
}

/// To which host a MAC address belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// To the advertising host; no other claims it.
    Alone,
    /// To the advertising host, which claimed it first.
    First,
    /// To the advertising host, because the MAC address is derived from the endpoint's leased
    /// address. The other host's claim had been accepted.
    Overrides(HostId),
    /// To another host; `None` is this host.
    Taken(Option<HostId>),
}

impl Claims {
    fn verdict(&self, endpoint: &AdvertisedEndpoint) -> Verdict {
        // This host's gateways have theirs on every network.
        if self.local.contains(&endpoint.mac) || endpoint.mac == GATEWAY_MAC {
            return Verdict::Taken(None);
        }
        match self.others.get(&endpoint.mac) {
            None => Verdict::Alone,
            Some((rival, false)) if is_derived_from_address(endpoint) => Verdict::Overrides(*rival),
            Some((_, false)) if self.own.contains(&endpoint.mac) => Verdict::First,
            Some((rival, _)) => Verdict::Taken(Some(*rival)),
        }
    }
}

/// Whether the MAC address is the one that shoutd derives from one of the endpoint's addresses. It
/// then belongs to the host that holds the lease of that address.
fn is_derived_from_address(endpoint: &AdvertisedEndpoint) -> bool {
    endpoint.addresses.iter().any(|address| match address {
        IpAddr::V4(v4) => MacAddress::for_ipv4(*v4) == endpoint.mac,
        IpAddr::V6(_) => false,
    })
}

/// Validates one network, and returns the hosts that lose a MAC address by it.
fn validate_network(
    host: HostId,
    network: Option<&Arc<Network>>,
    advertised: &Arc<AdvertisedNetwork>,
    claims: &Claims,
    (was, now): (&BTreeMap<Rejection, Duration>, Duration),
) -> (Validated, BTreeSet<HostId>) {
    let mut validated = Validated {
        advertised: advertised.clone(),
        network: network.cloned(),
        accepted: advertised.clone(),
        rejections: BTreeMap::new(),
        contested: false,
    };
    // This host does not know the network yet. It uses no claim about such a network, and validates
    // the claims once the network is known.
    let Some(network) = network else { return (validated, BTreeSet::new()) };
    let (mut rejections, mut losers, mut seen) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (id, claimed) in &advertised.endpoints {
        let accepted =
            validate_endpoint((host, network), (id, claimed), &mut seen, &mut rejections);
        let verdict = claims.verdict(&accepted);
        validated.contested |= verdict != Verdict::Alone;
        match verdict {
            Verdict::Taken(holder) => {
                rejections.insert(Rejection::Mac {
                    endpoint: id.clone(),
                    mac: accepted.mac,
                    holder,
                });
                Arc::make_mut(&mut validated.accepted).endpoints.remove(id);
                continue;
            }
            Verdict::Overrides(rival) => drop(losers.insert(rival)),
            Verdict::Alone | Verdict::First => {}
        }
        if accepted != *claimed {
            Arc::make_mut(&mut validated.accepted).endpoints.insert(id.clone(), accepted);
        }
    }
    let rejections = rejections.into_iter().take(REJECTIONS_PER_NETWORK_MAX);
    let rejections =
        rejections.map(|rejection| (was.get(&rejection).copied().unwrap_or(now), rejection));
    validated.rejections = rejections.map(|(since, rejection)| (rejection, since)).collect();
    (validated, losers)
}

/// The accepted part of an endpoint, its MAC address aside. `seen` are the addresses of the host's
/// other endpoints.
fn validate_endpoint(
    (host, network): (HostId, &Network),
    (id, claimed): (&EndpointId, &AdvertisedEndpoint),
    seen: &mut BTreeSet<IpAddr>,
    rejections: &mut BTreeSet<Rejection>,
) -> AdvertisedEndpoint {
    let mut accepted = claimed.clone();
    accepted.addresses.retain(|address| match check_address(network, host, *address, seen) {
        None => true,
        Some(why) => {
            rejections.insert(Rejection::Address { endpoint: id.clone(), address: *address, why });
            false
        }
    });
    accepted.names.retain(|name| accepts_name(network, name, rejections));
    // Names without an address cannot be resolved.
    if accepted.addresses.is_empty() {
        accepted.names.clear();
    }
    accepted
}

/// Why an address is not accepted; `None` if it is. `seen` are the addresses of the host's other
/// endpoints.
fn check_address(
    network: &Network,
    host: HostId,
    address: IpAddr,
    seen: &mut BTreeSet<IpAddr>,
) -> Option<AddressRejection> {
    let Some(pool) = network.pool_of(address) else { return Some(AddressRejection::Outside) };
    // The Swarm manages the addresses.
    if network.settings.swarm {
        return None;
    }
    if pool.is_reserved(address) {
        return Some(AddressRejection::Reserved);
    }
    match network.leases.get(&address) {
        Some(holder) if *holder == host => {
            (!seen.insert(address)).then_some(AddressRejection::Twice)
        }
        holder => Some(AddressRejection::NotLeased(holder.copied())),
    }
}

/// Whether containers on other hosts may resolve this name.
fn accepts_name(network: &Network, name: &Name, rejections: &mut BTreeSet<Rejection>) -> bool {
    if name.is_this_hosts() {
        rejections.insert(Rejection::NameOfHost(name.clone()));
        return false;
    }
    let is_withheld = name.may_be_public() && !resolves_public_names(&network.settings.options);
    if is_withheld && network.resolves_names() {
        rejections.insert(Rejection::PublicName(name.clone()));
    }
    !is_withheld
}
