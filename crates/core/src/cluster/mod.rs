//! Agreed state: what the hosts agree on by Raft. It is small, changes slowly and never forks.
//!
//! [`Cluster`] is a deterministic state machine: the same commands in the same order give the same
//! state on every host, independent of clocks, memory and hash seeds. [`Cluster::apply`] is total:
//! a command that cannot be applied is refused with the reason, and changes nothing.

mod admission;
mod apply;
mod command;
mod encryption;
mod leases;
mod pool;
mod refusal;
mod subnets;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

pub use admission::{Admissions, Authority, Pass, RemovedHost, Token};
pub use command::{Command, Outcome, WantedAddress};
pub use encryption::{
    Encryption, STATE_WITH_ENCRYPTION, STATE_WITHOUT_ENCRYPTION, TunnelEnd, TunnelKey,
};
use ipnet::{IpNet, Ipv4Net};
pub use pool::Pool;
pub use refusal::Refusal;
use serde::{Deserialize, Serialize};
pub use subnets::{HostRoute, with_routes};

use crate::limits::VNI_FIRST;
use crate::plane::{INTERFACE_PREFIX, interface_prefix, multicast_routes, resolves_names};
use crate::{ClusterId, HostId, NetworkId, Vni};

/// The agreed state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster's id; `None` until it is founded.
    pub id: Option<ClusterId>,
    /// The hosts of the cluster.
    pub hosts: BTreeMap<HostId, Host>,
    /// The networks. The `Arc` makes a change to one network copy only that network.
    pub networks: BTreeMap<NetworkId, Arc<Network>>,
    /// Who may join, and who was removed.
    #[serde(default)]
    pub admissions: Admissions,
    /// Which networks are encrypted, and the hosts' ends of the encrypted underlay.
    #[serde(default, skip_serializing_if = "Encryption::is_unused")]
    pub encryption: Encryption,
    /// Where the search for a free VNI starts. It advances with each network: the VNI of a removed
    /// network must not be reused while a host that was away still has its devices.
    next_vni: u32,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            id: None,
            hosts: BTreeMap::new(),
            networks: BTreeMap::new(),
            admissions: Admissions::default(),
            encryption: Encryption::default(),
            next_vni: VNI_FIRST,
        }
    }
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its host name.
    pub name: String,
    /// The address at which peers reach it. The IP address is its VTEP too.
    pub address: SocketAddr,
    /// Subnets that something other than shoutd uses on the host.
    #[serde(default)]
    pub subnets: Vec<ReportedSubnet>,
}

/// A subnet that something other than shoutd uses on a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReportedSubnet {
    /// The subnet.
    pub subnet: IpNet,
    /// The user of the subnet: the name of a Docker network or of an interface.
    pub user: String,
    /// Whether a container breaks if its network overlaps this subnet. This holds for
    /// `docker_gwbridge` and the underlay.
    pub exclusive: bool,
    /// Whether the subnet is behind a gateway and not directly connected. shoutd avoids it, if
    /// possible, when it chooses a subnet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remote: bool,
}

/// A network of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its VXLAN network identifier.
    pub vni: Vni,
    /// The host on which it was created.
    pub origin: HostId,
    /// The settings with which it was created.
    pub settings: Settings,
    /// What Docker tells only in its API; `None` until the origin has read it back. Other hosts
    /// make no mirrors before that.
    pub description: Option<Description>,
    /// The leases: addresses of endpoints, and each host's stock.
    pub leases: BTreeMap<IpAddr, HostId>,
    /// How often each host has claimed addresses of the network. A release carries the count that
    /// the host had when it decided. If the host has claimed again since, the release has no
    /// effect, so a late one cannot take away an address that is in use again.
    #[serde(default)]
    pub claims: BTreeMap<HostId, u64>,
    /// The hosts that have endpoints on the network, and thus its devices. They are each other's
    /// remotes.
    #[serde(default)]
    pub attached: BTreeSet<HostId>,
    /// Whether a user removed the network. It is deleted once no host holds an address of it, and
    /// stays if a host turns out to have endpoints on it.
    #[serde(default)]
    pub removing: bool,
    /// Whether its frames are encrypted between the hosts. It never changes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
}

/// What Docker tells a network driver about a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Its subnets, IPv4 first.
    pub pools: Vec<Pool>,
    /// The `-o` options, as the user typed them.
    pub options: BTreeMap<String, String>,
    /// `--internal`: the containers have no way out.
    pub internal: bool,
    /// `--ipv6`.
    pub ipv6: bool,
    /// Whether the origin's Docker network uses Docker's own IPAM. It does not know other hosts,
    /// and allocates the lowest free address first.
    #[serde(default)]
    pub docker_ipam: bool,
    /// Whether it is a Docker Swarm network. The Swarm creates and removes it, and manages its
    /// addresses. It has no leases and no mirrors.
    #[serde(default)]
    pub swarm: bool,
}

/// What Docker tells about a network only in its API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--attachable`.
    pub attachable: bool,
    /// What the engine shows of its subnets.
    #[serde(default)]
    pub subnets: BTreeMap<IpNet, DescribedSubnet>,
    /// `--ipam-opt`.
    #[serde(default)]
    pub ipam_options: BTreeMap<String, String>,
    /// The id of the Swarm to which the network belongs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swarm: Option<String>,
}

/// What Docker tells about a subnet only in its API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedSubnet {
    /// `--ip-range`, without host bits.
    pub range: Option<IpNet>,
    /// The gateway, if the engine shows it. It does not show a gateway that it chose itself for a
    /// subnet that the user chose.
    pub gateway: Option<IpAddr>,
}

impl Network {
    /// The gateway of the subnet of the IPv4 address among these; `None` if the network has no way
    /// out (`--internal`).
    pub fn gateway_of(&self, addresses: &BTreeSet<IpNet>) -> Option<Ipv4Addr> {
        let address = addresses.iter().map(IpNet::addr).find(IpAddr::is_ipv4)?;
        let pool = self.pool_of(address).filter(|_| !self.settings.internal)?;
        match pool.gateway? {
            IpAddr::V4(gateway) => Some(gateway),
            IpAddr::V6(_) => None,
        }
    }

    /// The pool that contains this address.
    pub fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        self.settings.pools.iter().find(|pool| pool.subnet.contains(&address))
    }

    /// Whether shoutd resolves the names of its containers across hosts. In Swarm networks Docker's
    /// own resolver does so.
    pub fn resolves_names(&self) -> bool {
        !self.settings.swarm && resolves_names(&self.settings.options)
    }

    /// How often this host has claimed addresses of the network.
    pub fn claims_of(&self, host: HostId) -> u64 {
        self.claims.get(&host).copied().unwrap_or(0)
    }

    /// Whether it was created with the same settings. Of Swarm networks only the subnets are
    /// compared: a new leader of the Swarm creates them again, from its own node.
    fn is_same(&self, origin: HostId, settings: &Settings) -> bool {
        if !(self.settings.swarm && settings.swarm) {
            return self.origin == origin && self.settings == *settings;
        }
        let ours = self.settings.pools.iter().map(|pool| pool.subnet);
        ours.eq(settings.pools.iter().map(|pool| pool.subnet))
    }

    fn count_claim(&mut self, host: HostId) {
        *self.claims.entry(host).or_default() += 1;
    }

    /// Whether a host has leases or endpoints on the network.
    fn is_held_by(&self, host: HostId) -> bool {
        self.attached.contains(&host) || self.leases.values().any(|holder| *holder == host)
    }

    /// Its name, or its short id as long as it has no name.
    pub fn title<'a>(&'a self, id: &'a NetworkId) -> &'a str {
        self.description.as_ref().map_or_else(|| id.short(), |description| &description.name)
    }
}

/// Whether the name of a network is agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Containers can start on it: the name is unique in the cluster.
    Settled,
    /// It was just created. The cluster either accepts its name next, or refuses it because another
    /// network has the name.
    Open,
    /// The cluster does not have the network, or dropped it before it had a name.
    Lost,
}

impl Cluster {
    /// Whether the name of a network is agreed. A Swarm keeps the names of its networks unique
    /// itself.
    pub fn naming(&self, id: &NetworkId) -> Naming {
        match self.networks.get(id) {
            Some(network) if network.description.is_some() || network.settings.swarm => {
                Naming::Settled
            }
            Some(network) if !network.removing => Naming::Open,
            _ => Naming::Lost,
        }
    }

    /// A network's name, or its short id if it has no name or is not known.
    pub fn network_title<'a>(&'a self, id: &'a NetworkId) -> &'a str {
        self.networks.get(id).map_or(id.short(), |network| network.title(id))
    }

    /// The network that has exactly this subnet. Subnets of networks do not overlap, so there is at
    /// most one.
    pub fn network_with_subnet(&self, subnet: IpNet) -> Option<(&NetworkId, &Arc<Network>)> {
        self.networks
            .iter()
            .find(|(_, network)| network.settings.pools.iter().any(|pool| pool.subnet == subnet))
    }

    /// The network with this name. The name of a network that is being removed is free.
    pub fn network_named(&self, name: &str) -> Option<(&NetworkId, &Arc<Network>)> {
        let mut kept = self.networks.iter().filter(|(_, network)| !network.removing);
        kept.find(|(_, network)| network.description.as_ref().is_some_and(|d| d.name == name))
    }

    /// The prefix of the name of a container's interface on a network.
    pub fn interface_prefix(&self, id: &NetworkId) -> &str {
        self.networks
            .get(id)
            .map_or(INTERFACE_PREFIX, |known| interface_prefix(&known.settings.options))
    }

    /// The multicast routes of a network; empty if the network is not known.
    pub fn multicast_routes(&self, id: &NetworkId) -> BTreeSet<Ipv4Net> {
        self.networks
            .get(id)
            .map(|known| multicast_routes(&known.settings.options))
            .unwrap_or_default()
    }

    /// A host's name, or its id if it has left.
    pub fn host_name(&self, id: HostId) -> String {
        self.hosts.get(&id).map_or_else(|| id.to_string(), |host| host.name.clone())
    }

    fn host_names(&self, ids: &BTreeSet<HostId>) -> String {
        let names: Vec<_> = ids.iter().map(|id| self.host_name(*id)).collect();
        names.join(", ")
    }
}
