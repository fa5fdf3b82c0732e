//! The addresses that a host should hold, and what it tells the cluster about its use of networks.
//!
//! A host holds the addresses of its endpoints, and a small stock for new ones. So a container can
//! start without agreement, and both sides of a partition can start containers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::advertise::PeerStates;
use crate::cluster::{Cluster, Command, Network, Pool, WantedAddress};
use crate::limits::STOCK_MAX;
use crate::local::{Endpoint, Local};
use crate::{HostId, NetworkId};

/// A subnet must have room for the stocks of all hosts this many times. Other hosts cannot use what
/// one host has in stock.
const SHARE: usize = 4;

/// How many addresses of this pool a host should hold in stock in a cluster of `hosts` hosts.
pub fn stock_size(pool: &Pool, hosts: usize) -> usize {
    (pool.size() / (hosts.max(1) * SHARE)).min(STOCK_MAX)
}

/// The commands that make agreed state match this host's use of networks: attachments, releases and
/// claims, in the order in which they should be proposed. Empty if it already matches.
pub fn plan_leases(cluster: &Cluster, local: &Local, me: HostId) -> Vec<Command> {
    let mut urgent = Vec::new();
    let mut stock = Vec::new();
    for (id, network) in &cluster.networks {
        urgent.extend(plan_attachment(id, network, local, me));
        if network.settings.swarm {
            continue;
        }
        urgent.extend(plan_missing(id, network, local, me));
        urgent.extend(plan_returning(id, network, local, me));
        if !cluster.hosts.contains_key(&me) {
            continue;
        }
        for pool in &network.settings.pools {
            let size = if network.removing { 0 } else { stock_size(pool, cluster.hosts.len()) };
            stock.extend(plan_stock((id, network), pool, local, me, size));
        }
    }
    urgent.extend(stock);
    urgent
}

fn plan_attachment(
    id: &NetworkId,
    network: &Network,
    local: &Local,
    me: HostId,
) -> Option<Command> {
    let (is_attached, is_known) = (local.is_attached(id), network.attached.contains(&me));
    match (is_attached, is_known) {
        (true, false) => Some(Command::Attach { network: id.clone(), host: me }),
        (false, true) => Some(Command::Detach { network: id.clone(), host: me }),
        // A user removed the network on another host while this host was using it, which the
        // cluster did not know then. Attaching again keeps the network.
        (true, true) if network.removing => Some(Command::Attach { network: id.clone(), host: me }),
        _ => None,
    }
}

/// An address of a container of this host that is leased to another host. This happens if this
/// host's data were rolled back to a time when the lease was its own. Only a user can resolve it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taken {
    /// The network.
    pub network: NetworkId,
    /// The address.
    pub address: IpAddr,
    /// The host that holds the lease.
    pub holder: HostId,
}

impl Taken {
    /// A problem text.
    pub fn text(&self, cluster: &Cluster) -> String {
        format!(
            "a container on this host has the address {} on network {}, which is leased to {}: \
             disconnect it from the network and connect it again",
            self.address,
            cluster.network_title(&self.network),
            cluster.host_name(self.holder)
        )
    }
}

/// The addresses of this host's endpoints that are leased to other hosts. A Swarm manages the
/// addresses of its own networks.
pub fn taken(cluster: &Cluster, local: &Local, me: HostId) -> Vec<Taken> {
    let mut taken = Vec::new();
    for Endpoint { network, addresses, .. } in local.endpoints.values() {
        let Some(known) = cluster.networks.get(network).filter(|known| !known.settings.swarm)
        else {
            continue;
        };
        for address in addresses.iter().map(IpNet::addr) {
            if let Some(&holder) = known.leases.get(&address).filter(|holder| **holder != me) {
                taken.push(Taken { network: network.clone(), address, holder });
            }
        }
    }
    taken.sort_unstable();
    taken
}

/// Claims for addresses of this host's endpoints without a lease, for example after the loss of
/// agreed state. Claims for addresses that another host has ([`taken`]) would only be refused.
fn plan_missing(id: &NetworkId, network: &Network, local: &Local, me: HostId) -> Vec<Command> {
    let endpoints = local.endpoints.values().filter(|endpoint| endpoint.network == *id);
    let addresses =
        endpoints.flat_map(|endpoint| endpoint.addresses.iter().map(|address| address.addr()));
    let missing = addresses.filter(|address| !network.leases.contains_key(address));
    missing
        .map(|address| Command::ClaimAddress {
            network: id.clone(),
            host: me,
            address: WantedAddress::Exactly(address),
        })
        .collect()
}

/// A release of the addresses that this host has begun to release and still holds, as far as it
/// knows. The earlier proposal may have been lost.
fn plan_returning(id: &NetworkId, network: &Network, local: &Local, me: HostId) -> Option<Command> {
    let returning =
        local.returning.get(id)?.iter().filter(|address| network.leases.get(address) == Some(&me));
    let addresses: Vec<_> = returning.copied().collect();
    (!addresses.is_empty()).then(|| release(id, network, me, addresses))
}

fn release(id: &NetworkId, network: &Network, me: HostId, addresses: Vec<IpAddr>) -> Command {
    Command::ReleaseAddresses {
        network: id.clone(),
        host: me,
        claims: network.claims_of(me),
        addresses,
    }
}

/// Refills the stock when half of it is used, and releases the excess when it is more than twice
/// its size. So addresses are not claimed and released with each container.
fn plan_stock(
    (id, network): (&NetworkId, &Network),
    pool: &Pool,
    local: &Local,
    me: HostId,
    size: usize,
) -> Option<Command> {
    let from_bottom = network.settings.docker_ipam && network.origin == me;
    let mine = network
        .leases
        .iter()
        .filter(|(address, host)| **host == me && pool.subnet.contains(*address));
    // In the order in which they will be used.
    let mut unused: Vec<IpAddr> = mine
        .map(|(address, _)| *address)
        .filter(|address| is_unused(local, id, *address))
        .collect();
    if !from_bottom {
        unused.reverse();
    }
    // Claimed before the range was known, or for a container that is gone.
    let outside = unused.extract_if(.., |address| !pool.gives(*address)).collect::<Vec<_>>();
    if !outside.is_empty() {
        return Some(release(id, network, me, outside));
    }
    let excess_from = if unused.len() > size * 2 { size } else { unused.len() };
    if excess_from < unused.len() {
        let addresses = unused.split_off(excess_from);
        return Some(release(id, network, me, addresses));
    }
    let wanted = size.checked_sub(unused.len()).filter(|_| unused.len() * 2 < size)?;
    let (subnet, count) = (pool.subnet, u16::try_from(wanted).ok()?);
    let is_full = pool.lowest_free(&network.leases, 1).is_empty();
    let address = if from_bottom {
        WantedAddress::Lowest { subnet, count }
    } else {
        WantedAddress::Highest { subnet, count }
    };
    (!is_full).then(|| Command::ClaimAddress { network: id.clone(), host: me, address })
}

/// An address in `range` from this host's stock, to yield to another host that has no stock while
/// the subnet is full. It is the one that this host would use last.
pub fn spare(
    cluster: &Cluster,
    local: &Local,
    me: HostId,
    id: &NetworkId,
    range: IpNet,
) -> Option<IpAddr> {
    let network = cluster.networks.get(id).filter(|network| !network.removing)?;
    let mine =
        network.leases.iter().filter(|(address, host)| **host == me && range.contains(*address));
    let mut unused =
        mine.map(|(address, _)| *address).filter(|address| is_unused(local, id, *address));
    if network.settings.docker_ipam && network.origin == me {
        unused.next_back()
    } else {
        unused.next()
    }
}

fn is_unused(local: &Local, network: &NetworkId, address: IpAddr) -> bool {
    !local.uses(network, address) && !local.is_returning(network, address)
}

/// The hosts to ask for a [`spare`] address, those with the most unused leases first. Leases of
/// endpoints that a host advertises are in use. The endpoints of hosts that share no network with
/// this one are not known here.
pub fn holders_of_spares(
    cluster: &Cluster,
    peers: &PeerStates,
    me: HostId,
    id: &NetworkId,
    range: IpNet,
) -> Vec<HostId> {
    let mut unused: BTreeMap<HostId, BTreeSet<IpAddr>> = BTreeMap::new();
    for (address, host) in cluster.networks.get(id).iter().flat_map(|network| &network.leases) {
        if *host != me && range.contains(address) && cluster.hosts.contains_key(host) {
            unused.entry(*host).or_default().insert(*address);
        }
    }
    for (host, addresses) in &mut unused {
        let advertised = peers.hosts.get(host).and_then(|peer| peer.networks.get(id));
        let endpoints = advertised.iter().flat_map(|network| network.endpoints.values());
        let used: BTreeSet<_> = endpoints.flat_map(|endpoint| &endpoint.addresses).collect();
        addresses.retain(|address| !used.contains(address));
    }
    let mut holders: Vec<_> = unused.into_iter().filter(|(_, unused)| !unused.is_empty()).collect();
    holders.sort_by_key(|(_, unused)| Reverse(unused.len()));
    holders.into_iter().map(|(host, _)| host).collect()
}

/// Why an address that the engine of a network's origin chose is not available. The engine does not
/// know other hosts and would choose it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenChoice {
    /// The subnet.
    pub subnet: IpNet,
    /// Another address of the subnet that is available.
    pub usable: Option<IpAddr>,
    taken: String,
}

impl TakenChoice {
    /// `None` if the engine does not choose addresses of this network. Then a user chose it, and
    /// the cluster's refusal is the explanation.
    pub fn of(
        cluster: &Cluster,
        local: &Local,
        me: HostId,
        id: &NetworkId,
        address: IpAddr,
    ) -> Option<Self> {
        let network = cluster
            .networks
            .get(id)
            .filter(|network| network.settings.docker_ipam && network.origin == me)?;
        let holder = network.leases.get(&address).filter(|holder| **holder != me)?;
        let pool = network.pool_of(address)?;
        let usable = spare(cluster, local, me, id, pool.subnet)
            .or_else(|| pool.highest_free(&network.leases, 1).into_iter().next());
        let (title, host) = (network.title(id), cluster.host_name(*holder));
        let taken = format!("address {address} of network {title} is in use on host {host}");
        Some(Self { subnet: pool.subnet, usable, taken })
    }
}

impl fmt::Display for TakenChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subnet, usable, taken } = self;
        match usable {
            None => write!(
                f,
                "{taken}, and subnet {subnet} has no free address left: remove containers, or \
                 create a network with a larger subnet"
            ),
            Some(usable) => write!(
                f,
                "{taken}, which Docker on the network's origin does not know: give the container \
                 a free address, such as --ip {usable}, or create networks with --ipam-driver \
                 shoutd"
            ),
        }
    }
}
