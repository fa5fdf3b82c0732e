//! The networks of a Docker Swarm. The Swarm creates them, brings them to its nodes and removes
//! them. It calls the plugin on the node that leads at that time, and the call is lost if shoutd
//! has no quorum then. So every host that is a manager of the Swarm compares the Swarm's networks
//! with agreed state.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::NetworkId;
use crate::cluster::{Cluster, Description, Pool, Settings};
use crate::plane::{InvalidOption, check_options};

/// Name of the managed plugin. It must not be `shoutd`: a managed plugin with that name would
/// replace the one on the socket.
pub const PLUGIN: &str = "shoutd-swarm";

/// Docker's name for the managed plugin's driver. It needs the tag, which engines do not add to the
/// name of a driver.
pub const SWARM_DRIVER: &str = "shoutd-swarm:latest";

/// Directory, in the data directory, of the socket between the managed plugin and the daemon. It
/// must exist when the engine starts after a boot, which may be before shoutd.
pub const SOCKET_DIRECTORY: &str = "swarm";

/// Name of that socket.
pub const SOCKET: &str = "shoutd.sock";

/// The networks of a Swarm, according to one of its managers.
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
    /// Its subnets; empty before the Swarm has chosen them.
    pub pools: Vec<Pool>,
    /// `-o` options.
    pub options: BTreeMap<String, String>,
    /// `--internal`.
    pub internal: bool,
    /// `--ipv6`.
    pub ipv6: bool,
}

impl SwarmNetwork {
    /// The settings with which it is created in the cluster.
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

    /// Why shoutd does not provide it; `None` if it does.
    pub fn refusal(&self) -> Option<RefusedNetwork> {
        check_network(&self.settings()).err()
    }
}

/// Why shoutd does not provide a Swarm's network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedNetwork {
    /// One of its options is refused.
    #[error(transparent)]
    Option(#[from] InvalidOption),
    /// A Swarm gives each task one address, of either family (moby/swarmkit, `allocateNetworkIPs`).
    /// The engines of its nodes choose the other one themselves, and two tasks would have the same.
    #[error(
        "a Swarm gives each task only one address, and each engine chooses the one of the other \
         family itself, so two tasks would have the same one: create the network without --ipv6 \
         and {0}"
    )]
    Ipv6(IpNet),
}

/// Checks whether shoutd can provide a network of a Swarm.
///
/// # Errors
/// The reason, if it cannot.
pub fn check_network(settings: &Settings) -> Result<(), RefusedNetwork> {
    match settings.pools.iter().find(|pool| pool.subnet.network().is_ipv6()) {
        Some(pool) => Err(RefusedNetwork::Ipv6(pool.subnet)),
        None => Ok(check_options(&settings.options)?),
    }
}

/// A host's part in a Swarm, according to its engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmNode {
    /// The node's id.
    pub id: String,
    /// The Swarm's id. Only managers know it, and only while the Swarm has a leader.
    pub swarm: Option<String>,
    /// The node ids of the Swarm's managers.
    pub managers: Vec<String>,
}

/// The hosts, by name, that may belong to this Swarm. The id of a host's Swarm is the one that the
/// host or one of its managers knows; if none does, the host may belong to any Swarm.
pub fn possible_nodes<'a>(
    swarm: Option<&str>,
    nodes: &'a BTreeMap<String, SwarmNode>,
) -> Vec<&'a str> {
    let mut possible = Vec::new();
    for (name, node) in nodes {
        let mut managers = nodes.values().filter(|other| node.managers.contains(&other.id));
        let known =
            node.swarm.as_deref().or_else(|| managers.find_map(|manager| manager.swarm.as_deref()));
        if swarm.is_none() || known.is_none() || known == swarm {
            possible.push(name.as_str());
        }
    }
    possible
}

/// A step for one network of a Swarm.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SwarmAction {
    /// Describe it to the cluster, as the engine shows it.
    Describe(NetworkId),
    /// Create it in the cluster, because the Swarm has it.
    Adopt(NetworkId),
    /// Remove it from the cluster, because the Swarm no longer has it.
    Remove(NetworkId),
    /// Report that shoutd refuses it.
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

/// Compares agreed state with the networks of a Swarm, as its manager `me` sees them. The caller
/// carries out `Adopt` and `Remove` only if later comparisons plan them too: the Swarm changes its
/// list and calls the plugin one after the other, and a comparison may fall in between.
pub fn plan_swarm(cluster: &Cluster, swarm: &Swarm, me: crate::HostId) -> Vec<SwarmAction> {
    let mut actions = Vec::new();
    for (id, listed) in &swarm.networks {
        match cluster.networks.get(id).filter(|network| network.settings.swarm) {
            Some(known)
                if known
                    .description
                    .as_ref()
                    .is_none_or(|agreed| !is_described(agreed, &listed.description)) =>
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
    // Networks of another Swarm are not this manager's. A network without a description is handled
    // by its origin.
    let gone = unlisted.filter(|(_, network)| {
        match network.description.as_ref().and_then(|agreed| agreed.swarm.as_ref()) {
            Some(id) => *id == swarm.id,
            None => network.origin == me,
        }
    });
    actions.extend(gone.map(|(id, _)| SwarmAction::Remove(id.clone())));
    actions
}

/// How long a difference must persist before we assume that a call of the Swarm was lost. The
/// Swarm's leader normally calls at once, and waits for the answer.
const PATIENCE: Duration = Duration::from_secs(25);

/// Since when each difference has been seen in every comparison.
#[derive(Debug, Default)]
pub struct Differences {
    since: BTreeMap<SwarmAction, Duration>,
}

impl Differences {
    /// The actions of this comparison to do now. Those that a call of the Swarm may still do wait.
    /// `now` is a monotonic clock, since any instant.
    pub fn due(&mut self, mut actions: Vec<SwarmAction>, now: Duration) -> Vec<SwarmAction> {
        self.since.retain(|action, _| actions.contains(action));
        actions.retain(|action| {
            let since = *self.since.entry(action.clone()).or_insert(now);
            matches!(action, SwarmAction::Describe(_) | SwarmAction::Refuse(_))
                || now.saturating_sub(since) > PATIENCE
        });
        actions
    }
}

/// Whether the agreed description is what the engine shows. The agreed name may have a suffix: see
/// [`distinct_name`].
fn is_described(agreed: &Description, shown: &Description) -> bool {
    agreed.swarm == shown.swarm
        && agreed.labels == shown.labels
        && agreed.name.starts_with(&shown.name)
}

/// A network's name in the cluster if another network has its name there. A Swarm does not check
/// names with shoutd.
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

    fn node(id: &str, swarm: Option<&str>, manager: &str) -> (String, SwarmNode) {
        let node = SwarmNode {
            id: id.to_owned(),
            swarm: swarm.map(str::to_owned),
            managers: [manager.to_owned()].into(),
        };
        (id.to_owned(), node)
    }

    #[test]
    fn an_action_that_the_swarm_may_still_do_itself_waits_and_starts_again_when_it_was_not_needed()
    {
        let (describe, adopt) = (SwarmAction::Describe(network()), SwarmAction::Adopt(network()));
        let (alone, both) = ([describe.clone()], [describe, adopt]);
        let (mut differences, moment) = (Differences::default(), Duration::from_nanos(1));
        assert_eq!(differences.due(both.to_vec(), Duration::ZERO), alone);
        assert_eq!(differences.due(both.to_vec(), PATIENCE), alone);
        assert_eq!(differences.due(both.to_vec(), PATIENCE + moment), both);
        assert_eq!(differences.due(alone.to_vec(), PATIENCE * 2), alone);
        assert_eq!(differences.due(both.to_vec(), PATIENCE * 3), alone);
    }

    #[test]
    fn a_host_with_an_unknown_swarm_may_belong_to_any() {
        let old = [node("m", Some("s1"), "m"), node("w", None, "m")].into();
        assert_eq!(possible_nodes(Some("s1"), &old), ["m", "w"]);
        assert_eq!(
            possible_nodes(Some("s2"), &old),
            [""; 0],
            "a worker's Swarm is that of its manager"
        );
        assert_eq!(possible_nodes(None, &old), ["m", "w"], "its Swarm is not known");
        let lost = [node("w", None, "m"), node("x", Some("s2"), "x")].into();
        assert_eq!(
            possible_nodes(Some("s1"), &lost),
            ["w"],
            "its manager is not one of the hosts, or does not know"
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
            "its origin removes it"
        );
        assert_eq!(plan_swarm(&cluster, &lacks, host(2)), []);
        let description = listed("bar").description;
        cluster.apply(&Command::DescribeNetwork { id: network(), description }).unwrap();
        assert_eq!(plan_swarm(&cluster, &has, host(2)), []);
        assert_eq!(plan_swarm(&cluster, &lacks, host(2)), [SwarmAction::Remove(network())]);
        assert_eq!(plan_swarm(&cluster, &swarm("s2", &[]), host(1)), [], "another Swarm's");
    }

    #[test]
    fn a_network_without_subnets_is_left_alone() {
        let mut has = swarm("s1", &[ID]);
        has.networks.get_mut(&network()).unwrap().pools.clear();
        assert_eq!(plan_swarm(&cluster(), &has, host(1)), []);
    }

    #[test]
    fn a_refused_network_is_not_adopted_and_an_agreed_one_is_kept() {
        let mut cluster = cluster();
        let mut has = swarm("s1", &[ID]);
        has.networks
            .get_mut(&network())
            .unwrap()
            .options
            .insert("parent".to_owned(), "eth0".to_owned());
        assert_eq!(plan_swarm(&cluster, &has, host(1)), [SwarmAction::Refuse(network())]);
        let settings = has.networks[&network()].settings();
        // Created by an older version.
        cluster
            .apply(&Command::CreateNetwork { id: network(), origin: host(1), settings })
            .unwrap();
        assert_eq!(plan_swarm(&cluster, &has, host(1)), [SwarmAction::Describe(network())]);
        let problems = crate::plane::unkept_networks(&cluster);
        assert!(
            problems[0].contains("option parent") && problems[0].contains("advertise addresses"),
            "{problems:?}"
        );
        let mut six = listed("bar");
        six.pools[0].subnet = "fd00::/64".parse().unwrap();
        assert!(six.refusal().unwrap().to_string().contains("without --ipv6 and fd00::/64"));
    }

    #[test]
    fn another_swarm_leader_creates_the_same_network_again() {
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
    fn a_swarm_network_has_no_leases_and_no_mirrors_and_is_removed_at_once() {
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
            interface_name: None,
            default_route: None,
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
        assert!(cluster.networks.is_empty(), "although a host still has endpoints on it");
        assert_eq!(plan_leases(&cluster, &local, host(1)), []);
    }

    #[test]
    fn a_distinct_name_counts_as_described() {
        let mut cluster = cluster();
        cluster.apply(&create(1)).unwrap();
        let name = distinct_name(&network(), "bar");
        assert_eq!(name, "bar (ip1qmux69w7v)");
        let description = Description { name, ..listed("bar").description };
        cluster.apply(&Command::DescribeNetwork { id: network(), description }).unwrap();
        assert_eq!(plan_swarm(&cluster, &swarm("s1", &[ID]), host(1)), []);
    }
}
