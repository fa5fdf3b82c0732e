//! The networks of a Docker Swarm. The Swarm creates them, takes them to its nodes and removes
//! them, and says so to the plugin of whichever node leads it at that time; what it says is lost if
//! shoutd cannot agree just then. So every host that manages a Swarm compares what the Swarm has
//! with what is agreed.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::NetworkId;
use crate::cluster::{Cluster, Description, Pool, Settings};
use crate::plane::{InvalidOption, check_options};

/// Name of the managed plugin. Not `shoutd`: a managed plugin of that name would take the place of
/// the one on the socket.
pub const PLUGIN: &str = "shoutd-swarm";

/// Docker's name for the driver that the managed plugin is. It needs the tag, which no engine adds
/// to the name of a driver.
pub const SWARM_DRIVER: &str = "shoutd-swarm:latest";

/// Directory of the socket that the managed plugin reaches the daemon by, in the data directory: it
/// must be there when the engine starts after a boot, which may be before shoutd.
pub const SOCKET_DIRECTORY: &str = "swarm";

/// Name of that socket.
pub const SOCKET: &str = "shoutd.sock";

/// What a Swarm has, as one of its managers says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swarm {
    /// The Swarm's id.
    pub id: String,
    /// Its networks whose driver is [`SWARM_DRIVER`].
    pub networks: BTreeMap<NetworkId, SwarmNetwork>,
}

/// A network of a Swarm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SwarmNetwork {
    /// What the engine shows of it.
    pub description: Description,
    /// Its subnets; none before the Swarm has chosen them.
    pub pools: Vec<Pool>,
    /// `-o` options.
    pub options: BTreeMap<String, String>,
    /// `--internal`.
    pub internal: bool,
    /// `--ipv6`.
    pub ipv6: bool,
}

impl SwarmNetwork {
    /// The network as it is agreed.
    pub fn settings(&self) -> Settings {
        Settings {
            pools: self.pools.clone(),
            options: self.options.clone(),
            internal: self.internal,
            ipv6: self.ipv6,
            docker_ipam: true,
            swarm: true,
        }
    }

    /// Why shoutd does not carry it, if it does not.
    pub fn refusal(&self) -> Option<RefusedNetwork> {
        check_network(&self.settings()).err()
    }
}

/// A network of a Swarm that shoutd does not carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedNetwork {
    /// For one of its options.
    #[error(transparent)]
    Option(#[from] InvalidOption),
    /// A Swarm gives each task one address, of either family (moby/swarmkit, `allocateNetworkIPs`),
    /// and the engines of its nodes each make up the other: two tasks would have the same one.
    #[error(
        "a Swarm gives each of its tasks one address only, so that with IPv6 two tasks would have \
         the same one: create the network without --ipv6 and {0}"
    )]
    Ipv6(IpNet),
}

/// Checks a network that a Swarm wants carried.
///
/// # Errors
/// Why it is not.
pub fn check_network(settings: &Settings) -> Result<(), RefusedNetwork> {
    match settings.pools.iter().find(|pool| pool.subnet.network().is_ipv6()) {
        Some(pool) => Err(RefusedNetwork::Ipv6(pool.subnet)),
        None => Ok(check_options(&settings.options)?),
    }
}

/// What a host's engine knows of its part in a Swarm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmNode {
    /// The node's id.
    pub id: String,
    /// The id of the Swarm, which only its managers know, and only while it has a leader.
    pub swarm: Option<String>,
    /// The ids of the nodes that manage the Swarm.
    pub managers: Vec<String>,
}

/// Those of these hosts, by their names, that may belong to this Swarm: a host whose Swarm none of
/// them knows the id of may.
pub fn possible_nodes<'a>(
    swarm: Option<&str>,
    nodes: &'a BTreeMap<String, SwarmNode>,
) -> Vec<&'a str> {
    let id_of = |node: &'a SwarmNode| {
        let mut managers = nodes.values().filter(|other| node.managers.contains(&other.id));
        node.swarm.as_deref().or_else(|| managers.find_map(|manager| manager.swarm.as_deref()))
    };
    let may_belong = |node| swarm.is_none_or(|swarm| id_of(node).is_none_or(|id| id == swarm));
    nodes.iter().filter(|(_, node)| may_belong(node)).map(|(name, _)| name.as_str()).collect()
}

/// What to do about one network of a Swarm.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SwarmAction {
    /// Tell the cluster what the engine shows of it.
    Describe(NetworkId),
    /// The Swarm has it, and the cluster has not.
    Adopt(NetworkId),
    /// The Swarm had it, and does not any more.
    Remove(NetworkId),
    /// The Swarm has it, and shoutd refuses it.
    Refuse(NetworkId),
}

impl SwarmAction {
    /// The network.
    pub fn network(&self) -> &NetworkId {
        match self {
            Self::Describe(network)
            | Self::Adopt(network)
            | Self::Remove(network)
            | Self::Refuse(network) => network,
        }
    }
}

/// Compares what the cluster has with what a Swarm has, as its manager `me` sees it. `Adopt` and
/// `Remove` are to be believed only when they are still so after a while: the Swarm may be about to
/// say them itself, and one look may fall in between.
pub fn plan_swarm(cluster: &Cluster, swarm: &Swarm, me: crate::HostId) -> Vec<SwarmAction> {
    let mut actions = Vec::new();
    for (id, listed) in &swarm.networks {
        match cluster.networks.get(id).filter(|network| network.settings.swarm) {
            Some(known)
                if known
                    .description
                    .as_ref()
                    .is_none_or(|said| !is_told(said, &listed.description)) =>
            {
                actions.push(SwarmAction::Describe(id.clone()));
            }
            Some(_) => {}
            None if listed.pools.is_empty() => {}
            None if listed.refusal().is_some() => actions.push(SwarmAction::Refuse(id.clone())),
            None => actions.push(SwarmAction::Adopt(id.clone())),
        }
    }
    let unlisted = cluster
        .networks
        .iter()
        .filter(|(id, network)| network.settings.swarm && !swarm.networks.contains_key(*id));
    // A network of another Swarm is not this manager's business. One that nobody has described is
    // the business of the host that was told of it.
    let gone = unlisted.filter(|(_, network)| {
        match network.description.as_ref().and_then(|said| said.swarm.as_ref()) {
            Some(id) => *id == swarm.id,
            None => network.origin == me,
        }
    });
    actions.extend(gone.map(|(id, _)| SwarmAction::Remove(id.clone())));
    actions
}

/// Whether what is agreed says what is shown. The name may have been taken by another network: see
/// [`distinct_name`].
fn is_told(agreed: &Description, shown: &Description) -> bool {
    agreed.swarm == shown.swarm
        && agreed.labels == shown.labels
        && agreed.name.starts_with(&shown.name)
}

/// What a network is called in the cluster whose name another network has there: a Swarm asks
/// nobody for names.
pub fn distinct_name(id: &NetworkId, name: &str) -> String {
    format!("{name} ({})", id.short())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cluster::{Command, Outcome, Refusal, WantedAddress};
    use crate::local::{Endpoint, Local};
    use crate::mirror::plan_mirrors;
    use crate::stock::plan_leases;
    use crate::{ClusterId, HostId, MacAddress};

    const ID: &str = "ip1qmux69w7vaaaaaaaaaaaaa";

    fn host(value: u64) -> HostId {
        HostId::new(value).unwrap()
    }

    fn network() -> NetworkId {
        ID.parse().unwrap()
    }

    fn listed(name: &str) -> SwarmNetwork {
        let pool = Pool {
            subnet: "10.0.1.0/24".parse().unwrap(),
            gateway: None,
            auxiliary: BTreeMap::new(),
            range: None,
        };
        let description = Description {
            name: name.to_owned(),
            swarm: Some("s1".to_owned()),
            ..Description::default()
        };
        SwarmNetwork { description, pools: vec![pool], ..SwarmNetwork::default() }
    }

    fn swarm(id: &str, networks: &[&str]) -> Swarm {
        let networks = networks.iter().map(|id| (id.parse().unwrap(), listed("bar"))).collect();
        Swarm { id: id.to_owned(), networks }
    }

    fn create(origin: u64) -> Command {
        Command::CreateNetwork {
            id: network(),
            origin: host(origin),
            settings: listed("bar").settings(),
        }
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        cluster.apply(&Command::Found { cluster: ClusterId::new(1) }).unwrap();
        for value in 1..=2 {
            let address = format!("192.0.2.{value}:7789").parse().unwrap();
            cluster
                .apply(&Command::AdmitHost {
                    host: host(value),
                    name: format!("h{value}"),
                    address,
                })
                .unwrap();
        }
        cluster
    }

    #[test]
    fn who_may_belong_to_a_swarm() {
        let node = |id: &str, swarm: Option<&str>, managers: &[&str]| SwarmNode {
            id: id.to_owned(),
            swarm: swarm.map(str::to_owned),
            managers: managers.iter().map(|&manager| manager.to_owned()).collect(),
        };
        let nodes = |nodes: &[SwarmNode]| {
            nodes.iter().map(|node| (node.id.clone(), node.clone())).collect()
        };
        let old = nodes(&[node("m", Some("s1"), &["m"]), node("w", None, &["m"])]);
        assert_eq!(possible_nodes(Some("s1"), &old), ["m", "w"]);
        assert_eq!(
            possible_nodes(Some("s2"), &old),
            [""; 0],
            "a worker's Swarm is that of its manager"
        );
        assert_eq!(possible_nodes(None, &old), ["m", "w"], "nobody knows whose it is");
        let lost = nodes(&[node("w", None, &["m"]), node("x", Some("s2"), &["x"])]);
        assert_eq!(
            possible_nodes(Some("s1"), &lost),
            ["w"],
            "its manager is none of the hosts, or does not know"
        );
        assert_eq!(possible_nodes(Some("s1"), &BTreeMap::new()), [""; 0]);
    }

    #[test]
    fn a_network_is_adopted_described_and_removed() {
        let mut cluster = cluster();
        let has = swarm("s1", &[ID]);
        assert_eq!(plan_swarm(&cluster, &has, host(1)), [SwarmAction::Adopt(network())]);
        cluster.apply(&create(1)).unwrap();
        assert_eq!(plan_swarm(&cluster, &has, host(2)), [SwarmAction::Describe(network())]);
        let lacks = swarm("s1", &[]);
        assert_eq!(
            plan_swarm(&cluster, &lacks, host(1)),
            [SwarmAction::Remove(network())],
            "its host was told of it"
        );
        assert_eq!(plan_swarm(&cluster, &lacks, host(2)), []);
        let description = listed("bar").description;
        cluster.apply(&Command::DescribeNetwork { id: network(), description }).unwrap();
        assert_eq!(plan_swarm(&cluster, &has, host(2)), []);
        assert_eq!(plan_swarm(&cluster, &lacks, host(2)), [SwarmAction::Remove(network())]);
        assert_eq!(plan_swarm(&cluster, &swarm("s2", &[]), host(1)), [], "another Swarm's");
    }

    #[test]
    fn what_the_swarm_has_not_allocated_is_let_be() {
        let mut has = swarm("s1", &[ID]);
        has.networks.get_mut(&network()).unwrap().pools.clear();
        assert_eq!(plan_swarm(&cluster(), &has, host(1)), []);
    }

    #[test]
    fn what_was_refused_is_not_adopted_and_what_is_agreed_is_kept() {
        let mut cluster = cluster();
        let mut has = swarm("s1", &[ID]);
        has.networks
            .get_mut(&network())
            .unwrap()
            .options
            .insert("encrypted".to_owned(), String::new());
        assert_eq!(plan_swarm(&cluster, &has, host(1)), [SwarmAction::Refuse(network())]);
        let settings = has.networks[&network()].settings();
        // By an older version.
        cluster
            .apply(&Command::CreateNetwork { id: network(), origin: host(1), settings })
            .unwrap();
        assert_eq!(plan_swarm(&cluster, &has, host(1)), [SwarmAction::Describe(network())]);
        let told = crate::plane::unkept_networks(&cluster);
        assert!(
            told[0].contains("option encrypted") && told[0].contains("in the clear"),
            "{told:?}"
        );
        let mut six = listed("bar");
        six.pools[0].subnet = "fd00::/64".parse().unwrap();
        assert!(six.refusal().unwrap().to_string().contains("without --ipv6 and fd00::/64"));
    }

    #[test]
    fn another_leader_says_it_again() {
        let mut cluster = cluster();
        cluster.apply(&create(1)).unwrap();
        let vni = cluster.networks[&network()].vni;
        assert_eq!(cluster.apply(&create(2)), Ok(Outcome::Done));
        assert_eq!(cluster.networks[&network()].vni, vni);
        let mut other = listed("bar").settings();
        other.pools[0].subnet = "10.0.2.0/24".parse().unwrap();
        let changed = Command::CreateNetwork { id: network(), origin: host(2), settings: other };
        assert_eq!(cluster.apply(&changed), Err(Refusal::NetworkExists(network())));
    }

    #[test]
    fn it_has_attachments_but_no_leases_and_no_mirrors_and_goes_at_once() {
        let mut cluster = cluster();
        cluster.apply(&create(1)).unwrap();
        let description = listed("bar").description;
        cluster.apply(&Command::DescribeNetwork { id: network(), description }).unwrap();
        assert_eq!(plan_leases(&cluster, &Local::default(), host(1)), []);
        assert_eq!(plan_mirrors(&cluster, &Local::default(), host(2), &[], &BTreeSet::new()), []);
        let endpoint = Endpoint {
            network: network(),
            addresses: ["10.0.1.3/24".parse().unwrap()].into(),
            mac: MacAddress([2, 0, 0, 0, 0, 3]),
            sandbox: None,
            multicast_routes: BTreeSet::new(),
            created: std::time::Duration::ZERO,
            left: None,
            container: None,
        };
        let local = Local {
            endpoints: [("e".repeat(16).parse().unwrap(), endpoint)].into(),
            ..Local::default()
        };
        let attach = Command::Attach { network: network(), host: host(1) };
        assert_eq!(plan_leases(&cluster, &local, host(1)), std::slice::from_ref(&attach));
        cluster.apply(&attach).unwrap();
        assert_eq!(plan_leases(&cluster, &local, host(1)), []);
        let address = WantedAddress::Exactly("10.0.1.3".parse().unwrap());
        let claim = Command::ClaimAddress { network: network(), host: host(1), address };
        assert_eq!(cluster.apply(&claim), Err(Refusal::SwarmsAddresses("bar".to_owned())));
        for _ in 0..2 {
            assert_eq!(cluster.apply(&Command::RemoveNetwork { id: network() }), Ok(Outcome::Done));
        }
        assert!(cluster.networks.is_empty(), "though a host still has endpoints on it");
        assert_eq!(plan_leases(&cluster, &local, host(1)), []);
    }

    #[test]
    fn a_name_that_another_network_has_is_told_apart() {
        let mut cluster = cluster();
        cluster.apply(&create(1)).unwrap();
        let name = distinct_name(&network(), "bar");
        assert_eq!(name, "bar (ip1qmux69w7v)");
        let description = Description { name, ..listed("bar").description };
        cluster.apply(&Command::DescribeNetwork { id: network(), description }).unwrap();
        assert_eq!(plan_swarm(&cluster, &swarm("s1", &[ID]), host(1)), []);
    }
}
