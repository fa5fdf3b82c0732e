//! What is believed of what other hosts announce: each speaks for its own containers, and for no
//! others.
//!
//! A host proves who it is, but not that what it says is so. What it says goes into the hosts files
//! of all containers of a network and decides where packets go. So it is held against what is
//! agreed: an address is believed if it is leased to the host that announces it, a MAC address if
//! no other host's live endpoint has it, a name if it cannot be taken for one of the public DNS.
//! What is not believed is left out, and both hosts say so; multicast goes on, as what a host
//! listens to concerns nobody else.
//!
//! A lease may be agreed and not known here yet, and a container may move: these doubts pass by
//! themselves, and are told of only when they stay. The networks of a Swarm have no leases; of
//! these, subnets alone are known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{
    AddressRejection, AdvertisedEndpoint, AdvertisedNetwork, PeerState, PeerStates, Rejection,
    ReportedRejection,
};
use crate::cluster::{Cluster, Network};
use crate::limits::{DOUBTS_PER_NETWORK_MAX, DOUBTS_TOLD_MAX};
use crate::local::Local;
use crate::names::Name;
use crate::plane::resolves_public_names;
use crate::{EndpointId, HostId, MacAddress, NetworkId};

/// What announcements are held against.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What is agreed, as far as this host knows.
    pub cluster: &'a Cluster,
    /// This host's own endpoints.
    pub local: &'a Local,
}

/// What was made of all announcements, so that only what has changed is looked at again.
#[derive(Debug, Clone, Default)]
pub struct ClaimValidation {
    hosts: BTreeMap<HostId, BTreeMap<NetworkId, Judged>>,
}

/// What was made of what one host announced of one network.
#[derive(Debug, Clone)]
struct Judged {
    announced: Arc<AdvertisedNetwork>,
    network: Option<Arc<Network>>,
    believed: Arc<AdvertisedNetwork>,
    /// Since when each was there.
    doubts: BTreeMap<Rejection, Duration>,
    /// Whether another host has one of its MAC addresses: what becomes of that is looked at again.
    contested: bool,
}

impl ClaimValidation {
    /// Puts into `heard` what is to be made of one host that announced this, or nothing.
    pub fn update(
        &mut self,
        heard: &mut Arc<PeerStates>,
        host: HostId,
        announced: Option<PeerState>,
        known: Known<'_>,
        now: Duration,
    ) {
        let is = announced.map(|announced| self.judge(heard, host, announced, known, now));
        if is.is_none() {
            self.hosts.remove(&host);
        }
        if heard.hosts.get(&host).map(Arc::as_ref) == is.as_ref() {
            return;
        }
        let hosts = &mut Arc::make_mut(heard).hosts;
        match is {
            Some(is) => hosts.insert(host, Arc::new(is)),
            None => hosts.remove(&host),
        };
    }

    /// The hosts that have a MAC address which another has too: they are to be looked at again
    /// after any other was.
    pub fn contested(&self) -> BTreeSet<HostId> {
        let is_contested =
            |judged: &BTreeMap<_, Judged>| judged.values().any(|judged| judged.contested);
        self.hosts
            .iter()
            .filter(|(_, judged)| is_contested(judged))
            .map(|(host, _)| *host)
            .collect()
    }

    /// What is not believed of a host, and does not pass by itself. Not all, if it is much.
    pub fn doubts(&self, host: HostId, cluster: &Cluster, now: Duration) -> Vec<ReportedRejection> {
        let all = self.hosts.get(&host).into_iter().flatten();
        let due = all.flat_map(|(id, judged)| {
            let due = judged.doubts.iter().filter(|(doubt, since)| now >= **since + doubt.grace());
            due.map(move |(doubt, _)| ReportedRejection {
                text: doubt.text(id, cluster),
                is_fault: doubt.is_fault(),
            })
        });
        due.take(DOUBTS_TOLD_MAX).collect()
    }

    fn judge(
        &mut self,
        heard: &PeerStates,
        host: HostId,
        mut announced: PeerState,
        known: Known<'_>,
        now: Duration,
    ) -> PeerState {
        let before = heard.hosts.get(&host);
        // Whoever was away may have lost its addresses to others meanwhile.
        let is_back = announced.in_sync && before.is_none_or(|before| !before.in_sync);
        let mut judged = self.hosts.remove(&host).unwrap_or_default();
        judged.retain(|id, _| announced.networks.contains_key(id));
        for (id, said) in &mut announced.networks {
            let network = known.cluster.networks.get(id);
            let is_same = |judged: &&Judged| {
                let is_same_network = match (&judged.network, network) {
                    (Some(was), Some(is)) => Arc::ptr_eq(was, is),
                    (was, is) => was.is_none() && is.is_none(),
                };
                !is_back
                    && !judged.contested
                    && is_same_network
                    && Arc::ptr_eq(&judged.announced, said)
            };
            if judged.get(id).filter(is_same).is_none() {
                let claims = Claims::of(heard, known.local, (host, is_back), id, said);
                let was = judged.remove(id).map(|judged| judged.doubts).unwrap_or_default();
                let (is, beaten) = judge_network(host, network, said, &claims, (&was, now));
                beaten.iter().for_each(|rival| self.contest(*rival, id));
                judged.insert(id.clone(), is);
            }
            if let Some(judged) = judged.get(id) {
                *said = judged.believed.clone();
            }
        }
        self.hosts.insert(host, judged);
        announced
    }

    fn contest(&mut self, host: HostId, network: &NetworkId) {
        if let Some(judged) =
            self.hosts.get_mut(&host).and_then(|networks| networks.get_mut(network))
        {
            judged.contested = true;
        }
    }
}

/// Who is believed to have the MAC addresses that a host announces.
struct Claims {
    /// Of this host's own endpoints.
    local: BTreeSet<MacAddress>,
    /// Of the host that announces.
    own: BTreeSet<MacAddress>,
    /// Of other hosts that are in sync, and whether the address is known to be theirs.
    others: BTreeMap<MacAddress, (HostId, bool)>,
}

impl Claims {
    fn of(
        heard: &PeerStates,
        local: &Local,
        (host, is_back): (HostId, bool),
        id: &NetworkId,
        said: &AdvertisedNetwork,
    ) -> Self {
        let wanted: BTreeSet<MacAddress> =
            said.endpoints.values().map(|endpoint| endpoint.mac).collect();
        let here = local
            .endpoints
            .values()
            .filter(|endpoint| endpoint.network == *id)
            .map(|endpoint| endpoint.mac);
        let mut claims =
            Self { local: here.collect(), own: BTreeSet::new(), others: BTreeMap::new() };
        for (other, heard) in heard.hosts.iter().filter(|(_, heard)| heard.in_sync) {
            let believed =
                heard.networks.get(id).into_iter().flat_map(|network| network.endpoints.values());
            for endpoint in believed.filter(|endpoint| wanted.contains(&endpoint.mac)) {
                if *other != host {
                    claims.others.insert(endpoint.mac, (*other, is_made_of_address(endpoint)));
                } else if !is_back {
                    claims.own.insert(endpoint.mac);
                }
            }
        }
        claims
    }
}

/// Who has a MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The host that announces it; no other says that it has it.
    Alone,
    /// The host that announces it, and did so first.
    First,
    /// The host that announces it, as it is made of its address; this other one was believed to
    /// have it.
    Beats(HostId),
    /// Another host; this host itself if `None`.
    Taken(Option<HostId>),
}

impl Claims {
    fn verdict(&self, endpoint: &AdvertisedEndpoint) -> Verdict {
        if self.local.contains(&endpoint.mac) {
            return Verdict::Taken(None);
        }
        match self.others.get(&endpoint.mac) {
            None => Verdict::Alone,
            Some((rival, false)) if is_made_of_address(endpoint) => Verdict::Beats(*rival),
            Some((_, false)) if self.own.contains(&endpoint.mac) => Verdict::First,
            Some((rival, _)) => Verdict::Taken(Some(*rival)),
        }
    }
}

/// Whether the MAC address is what shoutd makes of one of its addresses: who has the lease of that
/// has it.
fn is_made_of_address(endpoint: &AdvertisedEndpoint) -> bool {
    let is_made_of = |address: &IpAddr| matches!(address, IpAddr::V4(v4) if MacAddress::for_ipv4(*v4) == endpoint.mac);
    endpoint.addresses.iter().any(is_made_of)
}

/// What is to be made of it, and the hosts that are believed less for it.
fn judge_network(
    host: HostId,
    network: Option<&Arc<Network>>,
    said: &Arc<AdvertisedNetwork>,
    claims: &Claims,
    (was, now): (&BTreeMap<Rejection, Duration>, Duration),
) -> (Judged, BTreeSet<HostId>) {
    let mut judged = Judged {
        announced: said.clone(),
        network: network.cloned(),
        believed: said.clone(),
        doubts: BTreeMap::new(),
        contested: false,
    };
    // Nobody makes anything of a network that is not known here yet.
    let Some(network) = network else { return (judged, BTreeSet::new()) };
    let (mut doubts, mut beaten, mut seen) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (id, announced) in &said.endpoints {
        let is = judge_endpoint((host, network), (id, announced), &mut seen, &mut doubts);
        let verdict = claims.verdict(&is);
        judged.contested |= verdict != Verdict::Alone;
        match verdict {
            Verdict::Taken(holder) => {
                doubts.insert(Rejection::Mac { endpoint: id.clone(), mac: is.mac, holder });
                Arc::make_mut(&mut judged.believed).endpoints.remove(id);
                continue;
            }
            Verdict::Beats(rival) => drop(beaten.insert(rival)),
            Verdict::Alone | Verdict::First => {}
        }
        if is != *announced {
            Arc::make_mut(&mut judged.believed).endpoints.insert(id.clone(), is);
        }
    }
    let doubts = doubts.into_iter().take(DOUBTS_PER_NETWORK_MAX);
    let doubts = doubts.map(|doubt| (was.get(&doubt).copied().unwrap_or(now), doubt));
    judged.doubts = doubts.map(|(since, doubt)| (doubt, since)).collect();
    (judged, beaten)
}

/// What is to be made of an endpoint but for its MAC address. `seen` are the addresses of the
/// host's other endpoints.
fn judge_endpoint(
    (host, network): (HostId, &Network),
    (id, announced): (&EndpointId, &AdvertisedEndpoint),
    seen: &mut BTreeSet<IpAddr>,
    doubts: &mut BTreeSet<Rejection>,
) -> AdvertisedEndpoint {
    let mut is = announced.clone();
    is.addresses.retain(|address| match doubted_address(network, host, *address, seen) {
        None => true,
        Some(why) => {
            doubts.insert(Rejection::Address { endpoint: id.clone(), address: *address, why });
            false
        }
    });
    is.names.retain(|name| believes_name(network, name, doubts));
    // A name that leads nowhere is none.
    if is.addresses.is_empty() {
        is.names.clear();
    }
    is
}

/// Why an address is not this host's; `None` if it is. `seen` are those of its other endpoints.
fn doubted_address(
    network: &Network,
    host: HostId,
    address: IpAddr,
    seen: &mut BTreeSet<IpAddr>,
) -> Option<AddressRejection> {
    let Some(pool) = network.pool_of(address) else { return Some(AddressRejection::Outside) };
    // The Swarm gives them out.
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

/// Whether other hosts' containers may find this name.
fn believes_name(network: &Network, name: &Name, doubts: &mut BTreeSet<Rejection>) -> bool {
    if name.is_this_hosts() {
        doubts.insert(Rejection::NameOfHost(name.clone()));
        return false;
    }
    let is_withheld = name.may_be_public() && !resolves_public_names(&network.settings.options);
    if is_withheld && network.resolves_names() {
        doubts.insert(Rejection::PublicName(name.clone()));
    }
    !is_withheld
}
