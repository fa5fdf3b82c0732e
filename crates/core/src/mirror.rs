//! Which Docker networks a host's engine should have, and the steps to get there.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Cluster, Naming, Network};
use crate::local::Local;
use crate::{DockerNetworkId, HostId, NetworkId};

/// The `-o` option by which a mirror names its network.
pub const NETWORK_OPTION: &str = "shoutd.network";

/// Docker's name for the shoutd network and IPAM drivers.
pub const DRIVER: &str = "shoutd";

/// A Docker network of this host's engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineNetwork {
    /// Its id on this engine.
    pub id: DockerNetworkId,
    /// Its name.
    pub name: String,
    /// Whether its driver is shoutd.
    pub ours: bool,
    /// The value of the option [`NETWORK_OPTION`]; only mirrors have it.
    pub mirrors: Option<NetworkId>,
}

impl EngineNetwork {
    /// The network of the cluster to which it belongs.
    pub fn network(&self) -> NetworkId {
        self.mirrors.clone().unwrap_or_else(|| NetworkId::from(&self.id))
    }
}

/// A step for one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirrorAction {
    /// Tell the cluster the name and labels of a network that was created here.
    Describe {
        /// The network.
        network: NetworkId,
        /// Its Docker network here.
        docker: DockerNetworkId,
    },
    /// Create a mirror.
    Create {
        /// The network.
        network: NetworkId,
    },
    /// Note a Docker network that this host does not remember, because it lost its data.
    Bind {
        /// The network.
        network: NetworkId,
        /// The Docker network here.
        docker: DockerNetworkId,
    },
    /// Replace a user's Docker network with a mirror. The user's network has Docker's own IPAM,
    /// which is stuck: it would offer an address that another host holds, again and again. A mirror
    /// has shoutd's IPAM.
    TakeOver {
        /// The network.
        network: NetworkId,
        /// The Docker network here.
        docker: DockerNetworkId,
    },
    /// Remove the Docker network of a network that the cluster no longer has.
    Remove {
        /// The Docker network here.
        docker: DockerNetworkId,
    },
    /// Remove all copies of a network but one.
    RemoveSurplus {
        /// The network.
        network: NetworkId,
        /// Its Docker networks here; the first one stays.
        copies: Vec<DockerNetworkId>,
    },
    /// Ask the cluster to drop a network whose creation here was not finished.
    Abandon {
        /// The network.
        network: NetworkId,
    },
    /// Report that a mirror cannot be created, because another Docker network has the name.
    NameTaken {
        /// The network.
        network: NetworkId,
        /// Its name.
        name: String,
    },
}

/// Compares the networks of the cluster with those of this host's engine.
///
/// `engine` must have been read before `cluster`. The cluster agrees on a network before the engine
/// creates it. So if `engine` has a network that `cluster` lacks, the network was removed from the
/// cluster. `creating` are networks whose creation in this host's engine may be in flight; these do
/// not count as missing.
pub fn plan_mirrors(
    cluster: &Cluster,
    local: &Local,
    me: HostId,
    engine: &[EngineNetwork],
    creating: &BTreeSet<NetworkId>,
) -> Vec<MirrorAction> {
    let copies: Vec<_> = engine.iter().filter(|copy| copy.ours).collect();
    let mut actions: Vec<_> =
        copies.iter().filter_map(|copy| plan_copy(copy, cluster, local, me)).collect();
    // Bindings come first, so that the copy that stays is known to this host before the others are
    // removed.
    actions.extend(surplus(cluster, local, engine));
    let present: BTreeSet<_> = copies.iter().map(|copy| copy.network()).collect();
    // A Swarm creates its networks on its nodes itself.
    let kept =
        cluster.networks.iter().filter(|(_, network)| !network.removing && !network.settings.swarm);
    let absent = kept.filter(|(id, _)| !present.contains(*id));
    let missing = absent.filter(|(id, _)| !creating.contains(*id) && !local.removals.contains(*id));
    actions
        .extend(missing.filter_map(|(id, network)| plan_absent(id, network, me, engine, cluster)));
    actions
}

/// The step for a Docker network that this engine has.
fn plan_copy(
    copy: &EngineNetwork,
    cluster: &Cluster,
    local: &Local,
    me: HostId,
) -> Option<MirrorAction> {
    let docker = copy.id.clone();
    let known = cluster.networks.get(&copy.network());
    match known.filter(|network| !network.removing || local.is_attached(&copy.network())) {
        None => Some(MirrorAction::Remove { docker }),
        Some(network) if network.description.is_none() && network.origin == me => {
            Some(MirrorAction::Describe { network: copy.network(), docker })
        }
        Some(network) if !network.removing && !local.knows(&copy.id, &copy.network()) => {
            Some(MirrorAction::Bind { network: copy.network(), docker })
        }
        Some(network)
            if copy.mirrors.is_none() && is_stuck(&copy.network(), network, local, me) =>
        {
            Some(MirrorAction::TakeOver { network: copy.network(), docker })
        }
        Some(_) => None,
    }
}

/// Networks with several Docker networks (copies) on this engine. This happens if a daemon was
/// killed while the engine created one, or if a user created another one by hand.
///
/// The copy to keep is the one with the network's name; among several, one that a user created;
/// among several, one that this host knows. If the network is being removed, all copies go, and
/// none is surplus.
fn surplus(cluster: &Cluster, local: &Local, engine: &[EngineNetwork]) -> Vec<MirrorAction> {
    let mut copies: BTreeMap<NetworkId, Vec<&EngineNetwork>> = BTreeMap::new();
    for copy in engine.iter().filter(|copy| copy.ours) {
        copies.entry(copy.network()).or_default().push(copy);
    }
    let mut actions = Vec::new();
    for (network, mut copies) in copies {
        let is_kept = cluster.networks.get(&network).is_some_and(|known| !known.removing)
            && !local.removals.contains(&network);
        if copies.len() < 2 || !is_kept {
            continue;
        }
        let title = cluster.network_title(&network);
        copies.sort_by_key(|copy| {
            let is_known = local.bindings.contains_key(&copy.id);
            (copy.name != title, copy.mirrors.is_some(), !is_known, copy.id.clone())
        });
        let copies = copies.into_iter().map(|copy| copy.id.clone()).collect();
        actions.push(MirrorAction::RemoveSurplus { network, copies });
    }
    actions
}

/// Whether Docker's own IPAM is stuck: it offers the lowest address that it has not given out, and
/// another host holds that address. Without endpoints here, Docker has given out none. With
/// endpoints, the Docker network could not be replaced anyway.
fn is_stuck(id: &NetworkId, network: &Network, local: &Local, me: HostId) -> bool {
    if !network.settings.docker_ipam || local.is_attached(id) {
        return false;
    }
    network.settings.pools.iter().any(|pool| {
        let first = pool.lowest_free(&BTreeMap::new(), 1).first().copied();
        let holder = first.and_then(|address| network.leases.get(&address));
        holder.is_some_and(|holder| *holder != me)
    })
}

/// The step for a network that this engine does not have.
fn plan_absent(
    id: &NetworkId,
    network: &Network,
    me: HostId,
    engine: &[EngineNetwork],
    cluster: &Cluster,
) -> Option<MirrorAction> {
    let Some(description) = &network.description else {
        // Only the origin knows whether the creation is still in flight.
        return (network.origin == me).then(|| MirrorAction::Abandon { network: id.clone() });
    };
    let name = &description.name;
    let same_name: Vec<_> = engine.iter().filter(|other| other.name == *name).collect();
    if same_name.is_empty() {
        return Some(MirrorAction::Create { network: id.clone() });
    }
    // The cluster gave the name to this network. So it refuses the name to another network that is
    // not settled, and the copy of that network will be removed: wait for that.
    let is_taken = same_name
        .into_iter()
        .any(|other| !other.ours || cluster.naming(&other.network()) == Naming::Settled);
    is_taken.then(|| MirrorAction::NameTaken { network: id.clone(), name: name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClusterId;
    use crate::cluster::{Command, Description, Outcome, Pool, Settings, WantedAddress};

    const ID: &str = "aaaaaaaaaaaaaaaa";

    fn host(value: u64) -> HostId {
        HostId::new(value).unwrap()
    }

    fn cluster(described: bool) -> Cluster {
        let pool = Pool {
            subnet: "10.1.0.0/16".parse().unwrap(),
            gateway: None,
            auxiliary: BTreeMap::new(),
            range: None,
        };
        let settings = Settings {
            pools: vec![pool],
            options: BTreeMap::new(),
            internal: false,
            ipv6: false,
            docker_ipam: true,
            swarm: false,
        };
        let [first, second] = [1, 2].map(|value| Command::AdmitHost {
            host: host(value),
            name: format!("h{value}"),
            address: format!("10.0.0.{value}:7789").parse().unwrap(),
        });
        let description = Description {
            name: "foo".to_owned(),
            labels: BTreeMap::new(),
            attachable: false,
            ..Description::default()
        };
        let id: NetworkId = ID.parse().unwrap();
        let mut commands = vec![
            Command::Found { cluster: ClusterId::new(1) },
            first,
            second,
            Command::CreateNetwork { id: id.clone(), origin: host(1), settings },
        ];
        if described {
            commands.push(Command::DescribeNetwork { id, description });
        }
        let mut cluster = Cluster::default();
        for command in commands {
            cluster.apply(&command).unwrap();
        }
        cluster
    }

    fn copy(id: &str, name: &str, ours: bool, mirrors: Option<&str>) -> EngineNetwork {
        EngineNetwork {
            id: id.parse().unwrap(),
            name: name.to_owned(),
            ours,
            mirrors: mirrors.map(|id| id.parse().unwrap()),
        }
    }

    fn plan(
        cluster: &Cluster,
        me: u64,
        engine: &[EngineNetwork],
        creating: &[&str],
    ) -> Vec<MirrorAction> {
        let creating = creating.iter().map(|id| id.parse().unwrap()).collect();
        let bindings = engine.iter().map(|copy| (copy.id.clone(), copy.network())).collect();
        plan_mirrors(cluster, &Local { bindings, ..Local::default() }, host(me), engine, &creating)
    }

    #[test]
    fn a_described_network_is_mirrored_where_it_is_absent() {
        let network: NetworkId = ID.parse().unwrap();
        assert_eq!(
            plan(&cluster(true), 2, &[], &[]),
            [MirrorAction::Create { network: network.clone() }]
        );
        assert_eq!(
            plan(&cluster(true), 1, &[], &[]),
            [MirrorAction::Create { network }],
            "also on its origin, if it was lost there"
        );
        assert_eq!(
            plan(&cluster(true), 2, &[copy("bbbbbbbbbbbbbbbb", "foo", true, Some(ID))], &[]),
            []
        );
    }

    #[test]
    fn a_docker_network_that_the_host_does_not_remember_is_bound() {
        let network: NetworkId = ID.parse().unwrap();
        let mirror = copy("bbbbbbbbbbbbbbbb", "foo", true, Some(ID));
        let engine = std::slice::from_ref(&mirror);
        let bind = MirrorAction::Bind { network: network.clone(), docker: mirror.id.clone() };
        let removed_by_a_user = Local { removals: BTreeSet::from([network]), ..Local::default() };
        for (local, expected) in [(Local::default(), vec![bind]), (removed_by_a_user, vec![])] {
            let plan = plan_mirrors(&cluster(true), &local, host(2), engine, &BTreeSet::new());
            assert_eq!(plan, expected);
        }
    }

    #[test]
    fn only_the_origin_describes_and_abandons() {
        let network: NetworkId = ID.parse().unwrap();
        let own = copy(ID, "foo", true, None);
        let describe = MirrorAction::Describe { network: network.clone(), docker: own.id.clone() };
        assert_eq!(plan(&cluster(false), 1, std::slice::from_ref(&own), &[ID]), [describe]);
        assert_eq!(plan(&cluster(false), 1, &[], &[ID]), [], "its creation is in flight");
        assert_eq!(plan(&cluster(false), 1, &[], &[]), [MirrorAction::Abandon { network }]);
        assert_eq!(plan(&cluster(false), 2, &[], &[]), []);
    }

    #[test]
    fn an_unused_docker_network_with_a_stuck_ipam_is_replaced_by_a_mirror() {
        let mut cluster = cluster(true);
        let network: NetworkId = ID.parse().unwrap();
        let own = copy(ID, "foo", true, None);
        let [later, next] = ["10.1.0.7", "10.1.0.1"].map(|address| Command::ClaimAddress {
            network: network.clone(),
            host: host(2),
            address: WantedAddress::Exactly(address.parse().unwrap()),
        });
        cluster.apply(&later).unwrap();
        assert_eq!(
            plan(&cluster, 1, std::slice::from_ref(&own), &[]),
            [],
            "Docker offers 10.1.0.1 next"
        );
        cluster.apply(&next).unwrap();
        let take_over = MirrorAction::TakeOver { network: network.clone(), docker: own.id.clone() };
        assert_eq!(plan(&cluster, 1, std::slice::from_ref(&own), &[]), [take_over]);
        assert_eq!(
            plan(&cluster, 1, &[copy("bbbbbbbbbbbbbbbb", "foo", true, Some(ID))], &[]),
            [],
            "it already is a mirror"
        );
    }

    fn remove_surplus(copies: &[&EngineNetwork]) -> MirrorAction {
        MirrorAction::RemoveSurplus {
            network: ID.parse().unwrap(),
            copies: copies.iter().map(|copy| copy.id.clone()).collect(),
        }
    }

    #[test]
    fn the_docker_network_with_the_right_name_stays_if_there_are_several() {
        let cluster = cluster(true);
        let network: NetworkId = ID.parse().unwrap();
        let first = copy("bbbbbbbbbbbbbbbb", "foo", true, Some(ID));
        let second = copy("cccccccccccccccc", "foo", true, Some(ID));
        let other = copy("1111111111111111", "bar", true, Some(ID));
        let own = copy(ID, "foo", true, None);
        let engine = [other.clone(), second.clone(), first.clone()];
        assert_eq!(plan(&cluster, 2, &engine, &[]), [remove_surplus(&[&first, &second, &other])]);
        assert_eq!(
            plan(&cluster, 1, &[first.clone(), own.clone()], &[]),
            [remove_surplus(&[&own, &first])]
        );
        let known = Local {
            bindings: BTreeMap::from([(second.id.clone(), network.clone())]),
            ..Local::default()
        };
        let engine = [first.clone(), second.clone()];
        let bind = MirrorAction::Bind { network: network.clone(), docker: first.id.clone() };
        assert_eq!(
            plan_mirrors(&cluster, &known, host(2), &engine, &BTreeSet::new()),
            [bind, remove_surplus(&[&second, &first])],
            "each is bound before one is removed, so that the endpoints stay known"
        );
        let removed = Local { removals: BTreeSet::from([network]), ..Local::default() };
        assert_eq!(plan_mirrors(&cluster, &removed, host(2), &engine, &BTreeSet::new()), []);
    }

    #[test]
    fn a_network_unknown_to_the_cluster_is_removed_and_other_drivers_networks_stay() {
        let mirror = copy("bbbbbbbbbbbbbbbb", "gone", true, Some("cccccccccccccccc"));
        let foreign = copy("dddddddddddddddd", "bridge", false, None);
        let expected = [MirrorAction::Remove { docker: mirror.id.clone() }];
        assert_eq!(plan(&Cluster::default(), 1, &[mirror, foreign], &[]), expected);
    }

    #[test]
    fn a_name_taken_by_another_driver_is_reported() {
        let foreign = copy("dddddddddddddddd", "foo", false, None);
        let expected =
            MirrorAction::NameTaken { network: ID.parse().unwrap(), name: "foo".to_owned() };
        assert_eq!(plan(&cluster(true), 2, &[foreign], &[]), [expected]);
    }

    #[test]
    fn the_network_whose_name_is_refused_is_removed_in_favour_of_the_other() {
        let mut cluster = cluster(true);
        let (winner, loser): (NetworkId, NetworkId) =
            (ID.parse().unwrap(), "eeeeeeeeeeeeeeee".parse().unwrap());
        let own = copy(loser.as_str(), "foo", true, None);
        let settings = Settings {
            pools: vec![Pool {
                subnet: "10.2.0.0/16".parse().unwrap(),
                ..cluster.networks[&winner].settings.pools[0].clone()
            }],
            ..cluster.networks[&winner].settings.clone()
        };
        cluster
            .apply(&Command::CreateNetwork { id: loser.clone(), origin: host(2), settings })
            .unwrap();
        assert_eq!(
            [cluster.naming(&winner), cluster.naming(&loser)],
            [Naming::Settled, Naming::Open]
        );
        let describe = MirrorAction::Describe { network: loser.clone(), docker: own.id.clone() };
        let engine = std::slice::from_ref(&own);
        assert_eq!(
            plan(&cluster, 2, engine, &[loser.as_str()]),
            [describe],
            "the name is not reported as taken"
        );
        let description = cluster.networks[&winner].description.clone().unwrap();
        let refused = cluster
            .apply(&Command::DescribeNetwork { id: loser.clone(), description })
            .unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the name foo is taken by another network of the cluster, created on host h1"
        );
        cluster.apply(&Command::RemoveNetwork { id: loser.clone() }).unwrap();
        assert_eq!(cluster.naming(&loser), Naming::Lost);
        assert_eq!(
            plan(&cluster, 2, engine, &[]),
            [MirrorAction::Remove { docker: own.id.clone() }]
        );
        assert_eq!(plan(&cluster, 2, &[], &[]), [MirrorAction::Create { network: winner }]);
    }

    #[test]
    fn a_network_in_use_is_not_removed() {
        let mut cluster = cluster(true);
        let id: NetworkId = ID.parse().unwrap();
        let address = WantedAddress::Exactly("10.1.0.9".parse().unwrap());
        cluster
            .apply(&Command::ClaimAddress { network: id.clone(), host: host(2), address })
            .unwrap();
        cluster.apply(&Command::Attach { network: id.clone(), host: host(2) }).unwrap();
        let refusal = cluster.apply(&Command::RemoveNetwork { id: id.clone() }).unwrap_err();
        assert_eq!(refusal.to_string(), "network foo is in use on h2");
        cluster.apply(&Command::Detach { network: id.clone(), host: host(2) }).unwrap();
        assert_eq!(
            cluster.apply(&Command::RemoveNetwork { id: id.clone() }),
            Ok(Outcome::Removing),
            "host 2 has an address in stock"
        );
        let own = [copy(ID, "foo", true, None)];
        assert_eq!(
            plan(&cluster, 1, &own, &[]),
            [MirrorAction::Remove { docker: own[0].id.clone() }]
        );
        assert_eq!(plan(&cluster, 2, &[], &[]), []);
        let addresses = vec!["10.1.0.9".parse().unwrap()];
        cluster
            .apply(&Command::ReleaseAddresses { network: id, host: host(2), claims: 1, addresses })
            .unwrap();
        assert!(cluster.networks.is_empty());
    }
}
