//! Use of networks: leases, the hosts that have endpoints, and removal.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Cluster, Network, Outcome, Pool, Refusal, WantedAddress};
use crate::limits::LEASES_PER_NETWORK_MAX;
use crate::{HostId, NetworkId};

impl Cluster {
    /// A host that has endpoints on a network keeps it. This holds too if a user removed the
    /// network before the host could attach.
    pub(super) fn attach(&mut self, id: &NetworkId, host: HostId) -> Result<Outcome, Refusal> {
        if !self.hosts.contains_key(&host) {
            return Err(Refusal::UnknownHost(host));
        }
        let network =
            self.networks.get_mut(id).ok_or_else(|| Refusal::UnknownNetwork(id.clone()))?;
        let network = Arc::make_mut(network);
        network.attached.insert(host);
        network.removing = false;
        Ok(Outcome::Done)
    }

    pub(super) fn detach(&mut self, id: &NetworkId, host: HostId) -> Outcome {
        if let Some(network) = self.networks.get_mut(id) {
            Arc::make_mut(network).attached.remove(&host);
        }
        Outcome::Done
    }

    /// Marks a network for removal. It is deleted once all hosts have released their addresses,
    /// which each host does when it has no endpoints. Before that, a host may have given an address
    /// of its stock to a container without having been able to attach.
    pub(super) fn remove(&mut self, id: &NetworkId) -> Result<Outcome, Refusal> {
        let Some(network) = self.networks.get_mut(id) else {
            return Ok(Outcome::Done);
        };
        if network.settings.swarm {
            // The Swarm removes a network when no task uses it on any node that it can reach. What
            // a lost node holds must not delay that.
            self.networks.remove(id);
            return Ok(Outcome::Done);
        }
        if !network.attached.is_empty() {
            let (network, hosts) = (network.title(id).to_owned(), network.attached.clone());
            return Err(Refusal::InUse { network, hosts: self.host_names(&hosts) });
        }
        Arc::make_mut(network).removing = true;
        self.finish_removals();
        Ok(if self.networks.contains_key(id) { Outcome::Removing } else { Outcome::Done })
    }

    /// Deletes the removed networks that are no longer held by a host.
    pub(super) fn finish_removals(&mut self) {
        self.networks.retain(|_, network| {
            !(network.removing && network.leases.is_empty() && network.attached.is_empty())
        });
    }

    pub(super) fn claim(
        &mut self,
        id: &NetworkId,
        host: HostId,
        wanted: WantedAddress,
    ) -> Result<Outcome, Refusal> {
        if !self.hosts.contains_key(&host) {
            return Err(Refusal::UnknownHost(host));
        }
        let network = self.networks.get(id).ok_or_else(|| Refusal::UnknownNetwork(id.clone()))?;
        if network.removing {
            return Err(Refusal::BeingRemoved(network.title(id).to_owned()));
        }
        if network.settings.swarm {
            return Err(Refusal::SwarmsAddresses(network.title(id).to_owned()));
        }
        let leased = self.choose(id, network, host, wanted)?;
        if network.leases.len() + leased.len() > LEASES_PER_NETWORK_MAX {
            return Err(Refusal::Full {
                what: "leases of one network".to_owned(),
                count: LEASES_PER_NETWORK_MAX,
            });
        }
        if let Some(network) = self.networks.get_mut(id) {
            let network = Arc::make_mut(network);
            network.leases.extend(leased.iter().map(|leased| (leased.addr(), host)));
            network.count_claim(host);
        }
        Ok(Outcome::Leased(leased))
    }

    fn choose(
        &self,
        id: &NetworkId,
        network: &Network,
        host: HostId,
        wanted: WantedAddress,
    ) -> Result<Vec<IpNet>, Refusal> {
        match wanted {
            WantedAddress::Exactly(address) => {
                Ok(vec![self.check_claim(id, network, host, address)?])
            }
            WantedAddress::Highest { subnet, count } => {
                let pool = pool_with(id, network, subnet)?;
                leasable(id, network, subnet, pool.highest_free(&network.leases, count.into()))
            }
            WantedAddress::Lowest { subnet, count } => {
                let pool = pool_with(id, network, subnet)?;
                leasable(id, network, subnet, pool.lowest_free(&network.leases, count.into()))
            }
        }
    }

    fn check_claim(
        &self,
        id: &NetworkId,
        network: &Network,
        host: HostId,
        address: IpAddr,
    ) -> Result<IpNet, Refusal> {
        let title = network.title(id);
        let Some(pool) = network.pool_of(address) else {
            return Err(Refusal::AddressOutside { address, network: title.to_owned() });
        };
        if pool.is_reserved(address) {
            return Err(Refusal::AddressReserved { address, network: title.to_owned() });
        }
        match network.leases.get(&address) {
            Some(holder) if *holder != host => Err(Refusal::AddressTaken {
                address,
                network: title.to_owned(),
                host: self.host_name(*holder),
            }),
            _ => Ok(with_prefix_of(address, pool.subnet)),
        }
    }

    pub(super) fn yield_address(
        &mut self,
        id: &NetworkId,
        address: IpAddr,
        (from, claims): (HostId, u64),
        to: HostId,
    ) -> Result<Outcome, Refusal> {
        if !self.hosts.contains_key(&to) {
            return Err(Refusal::UnknownHost(to));
        }
        let network =
            self.networks.get_mut(id).ok_or_else(|| Refusal::UnknownNetwork(id.clone()))?;
        if network.removing {
            return Err(Refusal::BeingRemoved(network.title(id).to_owned()));
        }
        if network.leases.get(&address) == Some(&from) && network.claims_of(from) == claims {
            let network = Arc::make_mut(network);
            network.leases.insert(address, to);
            network.count_claim(to);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn release(
        &mut self,
        id: &NetworkId,
        (host, claims): (HostId, u64),
        addresses: &[IpAddr],
    ) -> Result<Outcome, Refusal> {
        // A network that is gone took its leases with it. If the host has claimed addresses since
        // it decided to release these, one of these may be leased to it again and be in a
        // container. So a late command releases nothing; the host sees what it still holds and
        // proposes again.
        if let Some(network) = self.networks.get_mut(id)
            && network.claims_of(host) == claims
        {
            let network = Arc::make_mut(network);
            for address in addresses {
                if network.leases.get(address) == Some(&host) {
                    network.leases.remove(address);
                }
            }
            self.finish_removals();
        }
        Ok(Outcome::Done)
    }
}

fn pool_with<'a>(id: &NetworkId, network: &'a Network, subnet: IpNet) -> Result<&'a Pool, Refusal> {
    let pool = network.settings.pools.iter().find(|pool| pool.subnet == subnet);
    pool.ok_or_else(|| Refusal::AddressOutside {
        address: subnet.addr(),
        network: network.title(id).to_owned(),
    })
}

fn leasable(
    id: &NetworkId,
    network: &Network,
    subnet: IpNet,
    free: Vec<IpAddr>,
) -> Result<Vec<IpNet>, Refusal> {
    if free.is_empty() {
        return Err(Refusal::Exhausted { subnet, network: network.title(id).to_owned() });
    }
    Ok(free.into_iter().map(|address| with_prefix_of(address, subnet)).collect())
}

fn with_prefix_of(address: IpAddr, subnet: IpNet) -> IpNet {
    // The prefix length is valid for the family, because the address lies in the subnet. The
    // fallback is a host route, which does no harm.
    IpNet::new(address, subnet.prefix_len()).unwrap_or_else(|_| IpNet::from(address))
}
