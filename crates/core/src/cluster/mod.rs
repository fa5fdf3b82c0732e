//! What the hosts agree on: small, slow to change, never forked.
//!
//! [`Cluster`] is a deterministic state machine: the same commands in the same order give the same
//! state on every host, whatever the hosts' clocks, memory or hash seeds. [`Cluster::apply`] is
//! total: a command that cannot be carried out is refused with the reason and changes nothing.

mod admission;
mod apply;
mod command;
mod leases;
mod pool;
mod refusal;
mod subnets;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

pub use admission::{Admissions, Authority, Pass, RemovedHost, Token};
pub use command::{Command, Outcome, WantedAddress};
pub use pool::Pool;
pub use refusal::Refusal;
pub use subnets::{HostRoute, with_routes};

use crate::limits::VNI_FIRST;
use crate::plane::{multicast_routes, resolves_names};
use crate::{ClusterId, HostId, NetworkId, Vni};

/// All agreed state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Which cluster this is; `None` until it is founded.
    pub id: Option<ClusterId>,
    /// The hosts that were admitted.
    pub hosts: BTreeMap<HostId, Host>,
    /// The networks. Shared, so that a change to one network copies just that one.
    pub networks: BTreeMap<NetworkId, Arc<Network>>,
    /// Who may join.
    #[serde(default)]
    pub admissions: Admissions,
    /// Where the search for a free VNI starts: it moves on with each network, so that the VNI of a
    /// network that was just removed is not used again while a host that was away still has its
    /// devices.
    next_vni: u32,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            id: None,
            hosts: BTreeMap::new(),
            networks: BTreeMap::new(),
            admissions: Admissions::default(),
            next_vni: VNI_FIRST,
        }
    }
}

/// A host that belongs to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its host name, for people.
    pub name: String,
    /// Where peers reach it: the IP address is its VTEP too.
    pub address: SocketAddr,
    /// Subnets that something else on it uses.
    #[serde(default)]
    pub subnets: Vec<ReportedSubnet>,
}

/// A subnet that is in use on a host, by something else than shoutd.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReportedSubnet {
    /// The subnet.
    pub subnet: IpNet,
    /// What uses it: a Docker network's or an interface's name.
    pub user: String,
    /// Whether a container breaks that sits on a network which overlaps it: `docker_gwbridge` and
    /// the underlay.
    pub exclusive: bool,
    /// Whether it is behind a gateway, and not at one of the host's interfaces: a subnet that
    /// shoutd chooses avoids it if it can.
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
    /// What was given when it was created.
    pub settings: Settings,
    /// What Docker keeps to itself until the network is there; `None` until the origin has read it
    /// back. Without it there are no mirrors.
    pub description: Option<Description>,
    /// The addresses that hosts hold: their endpoints', and each host's stock for endpoints to
    /// come.
    pub leases: BTreeMap<IpAddr, HostId>,
    /// How often each host has claimed addresses of it. A host gives addresses back as of a count:
    /// what it claimed since stays, however late the giving back is carried out.
    #[serde(default)]
    pub claims: BTreeMap<HostId, u64>,
    /// The hosts that have endpoints on it, and so its devices: the remotes of one another.
    #[serde(default)]
    pub attached: BTreeSet<HostId>,
    /// Whether a user removed it. It goes when no host holds an address of it any more, and stays
    /// after all if a host turns out to have endpoints on it.
    #[serde(default)]
    pub removing: bool,
}

/// What Docker tells a driver about a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Its subnets, IPv4 first.
    pub pools: Vec<Pool>,
    /// `-o` options, as they were typed.
    pub options: BTreeMap<String, String>,
    /// `--internal`: no way out but to other containers.
    pub internal: bool,
    /// `--ipv6`.
    pub ipv6: bool,
    /// Whether the copy on its origin has Docker's own IPAM. That one knows its own host alone and
    /// fills from the bottom.
    #[serde(default)]
    pub docker_ipam: bool,
    /// Whether it is a Docker Swarm's: the Swarm creates and removes it, and gives out its
    /// addresses. It has no leases and no mirrors.
    #[serde(default)]
    pub swarm: bool,
}

/// What Docker tells only its own API about a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--attachable`.
    pub attachable: bool,
    /// What the engine shows of its subnets, where it shows something.
    #[serde(default)]
    pub subnets: BTreeMap<IpNet, DescribedSubnet>,
    /// `--ipam-opt`.
    #[serde(default)]
    pub ipam_options: BTreeMap<String, String>,
    /// The id of the Swarm whose network it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swarm: Option<String>,
}

/// What only Docker's own API tells about a subnet of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedSubnet {
    /// `--ip-range`, without host bits.
    pub range: Option<IpNet>,
    /// The gateway, if the engine shows it: one that it chose for a subnet that a user chose, it
    /// does not show.
    pub gateway: Option<IpAddr>,
}

impl Network {
    /// The pool that this address lies in.
    pub fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        self.settings.pools.iter().find(|pool| pool.subnet.contains(&address))
    }

    /// Whether shoutd resolves the names of its containers across hosts. In networks of a Swarm
    /// Docker's resolver knows all hosts.
    pub fn resolves_names(&self) -> bool {
        !self.settings.swarm && resolves_names(&self.settings.options)
    }

    /// How often this host has claimed addresses of it.
    pub fn claims_of(&self, host: HostId) -> u64 {
        self.claims.get(&host).copied().unwrap_or(0)
    }

    /// Whether it was created just so. A Swarm says it again on another node when its leader
    /// changes.
    fn is_same(&self, origin: HostId, settings: &Settings) -> bool {
        if !(self.settings.swarm && settings.swarm) {
            return self.origin == origin && self.settings == *settings;
        }
        let subnets =
            |settings: &Settings| settings.pools.iter().map(|pool| pool.subnet).collect::<Vec<_>>();
        subnets(&self.settings) == subnets(settings)
    }

    fn count_claim(&mut self, host: HostId) {
        *self.claims.entry(host).or_default() += 1;
    }

    /// Whether a host has addresses or endpoints of it.
    fn is_held_by(&self, host: HostId) -> bool {
        self.attached.contains(&host) || self.leases.values().any(|holder| *holder == host)
    }

    /// What people call it: its name, or the short form of its id while it has none.
    pub fn title<'a>(&'a self, id: &'a NetworkId) -> &'a str {
        self.description.as_ref().map_or_else(|| id.short(), |description| &description.name)
    }
}

/// Whether the name of a network is agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Containers can start on it: no other network of the cluster has its name.
    Settled,
    /// It was created a moment ago: the cluster is about to take its name up, or to say that
    /// another network has it.
    Open,
    /// The cluster does not have it, or let go of it before it had a name.
    Lost,
}

impl Cluster {
    /// Whether the name of a network is agreed on. A Swarm gives its networks their names itself.
    pub fn naming(&self, id: &NetworkId) -> Naming {
        match self.networks.get(id) {
            Some(network) if network.description.is_some() || network.settings.swarm => {
                Naming::Settled
            }
            Some(network) if !network.removing => Naming::Open,
            _ => Naming::Lost,
        }
    }

    /// What people call a network: its name, or the beginning of its id while it has none, or is
    /// not known.
    pub fn network_title<'a>(&'a self, id: &'a NetworkId) -> &'a str {
        self.networks.get(id).map_or(id.short(), |network| network.title(id))
    }

    /// The network that has exactly this subnet. No two networks' subnets overlap, so there is at
    /// most one.
    pub fn network_with_subnet(&self, subnet: IpNet) -> Option<(&NetworkId, &Arc<Network>)> {
        self.networks
            .iter()
            .find(|(_, network)| network.settings.pools.iter().any(|pool| pool.subnet == subnet))
    }

    /// The network of this name. One that is being removed has given its name up.
    pub fn network_named(&self, name: &str) -> Option<(&NetworkId, &Arc<Network>)> {
        let mut staying = self.networks.iter().filter(|(_, network)| !network.removing);
        staying.find(|(_, network)| network.description.as_ref().is_some_and(|d| d.name == name))
    }

    /// The multicast routes that a network is for; none of one that is not known.
    pub fn multicast_routes(&self, id: &NetworkId) -> BTreeSet<Ipv4Net> {
        self.networks
            .get(id)
            .map(|known| multicast_routes(&known.settings.options))
            .unwrap_or_default()
    }

    /// What people call a host: its name, or its id if it has left since.
    pub fn host_name(&self, id: HostId) -> String {
        self.hosts.get(&id).map_or_else(|| id.to_string(), |host| host.name.clone())
    }

    fn host_names(&self, ids: &BTreeSet<HostId>) -> String {
        let names: Vec<_> = ids.iter().map(|id| self.host_name(*id)).collect();
        names.join(", ")
    }
}
