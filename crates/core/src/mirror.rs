//! Which Docker networks a host's engine should have, and what to do about the difference.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Cluster, Naming, Network, Pool};
use crate::local::Local;
use crate::{DockerNetworkId, HostId, NetworkId};

/// The `-o` option by which a mirror says which network it is.
pub const NETWORK_OPTION: &str = "shoutd.network";

/// Docker's name for this driver, and for its address management.
pub const DRIVER: &str = "shoutd";

/// A network of this host's engine, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineNetwork {
    /// Its id on this engine.
    pub id: DockerNetworkId,
    /// Its name.
    pub name: String,
    /// Whether its driver is shoutd.
    pub ours: bool,
    /// What its option [`NETWORK_OPTION`] says; only mirrors have it.
    pub mirrors: Option<NetworkId>,
}

impl EngineNetwork {
    /// The network of the cluster that this is a copy of.
    pub fn network(&self) -> NetworkId {
        self.mirrors.clone().unwrap_or_else(|| NetworkId::from(&self.id))
    }
}

/// What to do about one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirrorAction {
    /// Tell the cluster the name and labels of a network that was created here.
    Describe {
        /// The network.
        network: NetworkId,
        /// Its copy here.
        docker: DockerNetworkId,
    },
    /// Make a mirror.
    Create {
        /// The network.
        network: NetworkId,
    },
    /// Take note of a copy that this host does not remember, as its data was lost.
    Bind {
        /// The network.
        network: NetworkId,
        /// The copy here.
        docker: DockerNetworkId,
    },
    /// Replace the copy that a user created, whose addresses Docker's own IPAM gives out, by a
    /// mirror, whose addresses shoutd does: the address that Docker would give out next is another
    /// host's, and Docker would give it out again and again.
    TakeOver {
        /// The network.
        network: NetworkId,
        /// The copy here.
        docker: DockerNetworkId,
    },
    /// Remove a copy of a network that the cluster does not have any more.
    Remove {
        /// The copy here.
        docker: DockerNetworkId,
    },
    /// Remove all copies of a network but one: an engine has one copy of each network.
    RemoveSurplus {
        /// The network.
        network: NetworkId,
        /// Its copies here, the one to keep first.
        copies: Vec<DockerNetworkId>,
    },
    /// Ask the cluster to forget a network whose creation here was never finished.
    Abandon {
        /// The network.
        network: NetworkId,
    },
    /// A mirror cannot be made, as another network of this engine has the name.
    NameTaken {
        /// The network.
        network: NetworkId,
        /// Its name.
        name: String,
    },
}

/// Compares what the cluster has with what this host's engine has.
///
/// `engine` must have been read before `cluster`: every network is agreed before its engine has it,
/// so one that the engine has and the cluster has not was removed. `creating` are networks whose
/// creation may be under way in this host's engine: those are not missed yet.
pub fn plan_mirrors(
    cluster: &Cluster,
    local: &Local,
    me: HostId,
    engine: &[EngineNetwork],
    creating: &BTreeSet<NetworkId>,
) -> Vec<MirrorAction> {
    let copies = || engine.iter().filter(|copy| copy.ours);
    let mut actions: Vec<_> =
        copies().filter_map(|copy| about_copy(copy, cluster, local, me)).collect();
    // After the copies are bound: a surplus copy must not be the last one that this host knows.
    actions.extend(surplus(cluster, local, engine));
    let present: BTreeSet<_> = copies().map(EngineNetwork::network).collect();
    // A Swarm takes its networks to its nodes itself.
    let staying =
        cluster.networks.iter().filter(|(_, network)| !network.removing && !network.settings.swarm);
    let absent = staying.filter(|(id, _)| !present.contains(*id));
    let missed = absent.filter(|(id, _)| !creating.contains(*id) && !local.removals.contains(*id));
    actions
        .extend(missed.filter_map(|(id, network)| about_absent(id, network, me, engine, cluster)));
    actions
}

/// What to do about a copy that this engine has.
fn about_copy(
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

/// Networks with several copies on this engine. A daemon that was killed while the engine made one,
/// or a user who made a second one by hand, leaves them behind.
///
/// The copy to keep has the network's name, is the one that a user created, and is known here, in
/// this order. A network that is being removed loses its copies in another way.
fn surplus(cluster: &Cluster, local: &Local, engine: &[EngineNetwork]) -> Vec<MirrorAction> {
    let mut copies: BTreeMap<NetworkId, Vec<&EngineNetwork>> = BTreeMap::new();
    for copy in engine.iter().filter(|copy| copy.ours) {
        copies.entry(copy.network()).or_default().push(copy);
    }
    let is_staying = |id: &NetworkId| {
        let known = cluster.networks.get(id);
        known.is_some_and(|network| !network.removing) && !local.removals.contains(id)
    };
    copies.retain(|id, copies| copies.len() > 1 && is_staying(id));
    let action = |(network, mut copies): (NetworkId, Vec<&EngineNetwork>)| {
        let title = cluster.network_title(&network);
        copies.sort_by_key(|copy| {
            let is_known = local.bindings.contains_key(&copy.id);
            (copy.name != title, copy.mirrors.is_some(), !is_known, copy.id.clone())
        });
        let copies = copies.into_iter().map(|copy| copy.id.clone()).collect();
        MirrorAction::RemoveSurplus { network, copies }
    };
    copies.into_iter().map(action).collect()
}

/// Whether Docker's own IPAM, which gives the lowest address that it has not given out itself, can
/// give out none but one of another host. While containers use the copy it cannot be replaced.
fn is_stuck(id: &NetworkId, network: &Network, local: &Local, me: HostId) -> bool {
    let next = |pool: &Pool| pool.lowest_free(&BTreeMap::new(), 1).first().copied();
    let holders = network
        .settings
        .pools
        .iter()
        .filter_map(next)
        .filter_map(|address| network.leases.get(&address));
    network.settings.docker_ipam
        && !local.is_attached(id)
        && holders.into_iter().any(|holder| *holder != me)
}

/// What to do about a network that this engine has no copy of.
fn about_absent(
    id: &NetworkId,
    network: &Network,
    me: HostId,
    engine: &[EngineNetwork],
    cluster: &Cluster,
) -> Option<MirrorAction> {
    let Some(description) = &network.description else {
        // Only its origin can know whether it is still being created; there it would be busy.
        return (network.origin == me).then(|| MirrorAction::Abandon { network: id.clone() });
    };
    let name = &description.name;
    // A copy of ours that has the name without the cluster's agreement is about to make room.
    let is_going =
        |other: &EngineNetwork| other.ours && cluster.naming(&other.network()) != Naming::Settled;
    let namesakes: Vec<_> = engine.iter().filter(|other| other.name == *name).collect();
    if namesakes.is_empty() {
        return Some(MirrorAction::Create { network: id.clone() });
    }
    let is_taken = !namesakes.into_iter().all(is_going);
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
        let admit = |value: u64| Command::AdmitHost {
            host: host(value),
            name: format!("h{value}"),
            address: format!("10.0.0.{value}:7789").parse().unwrap(),
        };
        let description = Description {
            name: "foo".to_owned(),
            labels: BTreeMap::new(),
            attachable: false,
            ..Description::default()
        };
        let id: NetworkId = ID.parse().unwrap();
        let mut commands = vec![
            Command::Found { cluster: ClusterId::new(1) },
            admit(1),
            admit(2),
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
            "also on its origin, if lost there"
        );
        assert_eq!(
            plan(&cluster(true), 2, &[copy("bbbbbbbbbbbbbbbb", "foo", true, Some(ID))], &[]),
            []
        );
    }

    #[test]
    fn a_copy_that_the_host_does_not_remember_is_taken_note_of() {
        let network: NetworkId = ID.parse().unwrap();
        let mirror = copy("bbbbbbbbbbbbbbbb", "foo", true, Some(ID));
        let engine = std::slice::from_ref(&mirror);
        let plan =
            |local: &Local| plan_mirrors(&cluster(true), local, host(2), engine, &BTreeSet::new());
        let bind = MirrorAction::Bind { network: network.clone(), docker: mirror.id.clone() };
        assert_eq!(plan(&Local::default()), [bind]);
        let removed_by_a_user = Local { removals: BTreeSet::from([network]), ..Local::default() };
        assert_eq!(plan(&removed_by_a_user), []);
    }

    #[test]
    fn only_the_origin_describes_and_abandons() {
        let network: NetworkId = ID.parse().unwrap();
        let own = copy(ID, "foo", true, None);
        let describe = MirrorAction::Describe { network: network.clone(), docker: own.id.clone() };
        assert_eq!(plan(&cluster(false), 1, std::slice::from_ref(&own), &[ID]), [describe]);
        assert_eq!(plan(&cluster(false), 1, &[], &[ID]), [], "its creation is under way");
        assert_eq!(plan(&cluster(false), 1, &[], &[]), [MirrorAction::Abandon { network }]);
        assert_eq!(plan(&cluster(false), 2, &[], &[]), []);
    }

    #[test]
    fn a_copy_whose_next_address_is_another_hosts_is_taken_over_when_nothing_uses_it() {
        let mut cluster = cluster(true);
        let network: NetworkId = ID.parse().unwrap();
        let own = copy(ID, "foo", true, None);
        let claim = |host, address: &str| Command::ClaimAddress {
            network: network.clone(),
            host,
            address: WantedAddress::Exactly(address.parse().unwrap()),
        };
        cluster.apply(&claim(host(2), "10.1.0.7")).unwrap();
        assert_eq!(
            plan(&cluster, 1, std::slice::from_ref(&own), &[]),
            [],
            "Docker gives out 10.1.0.1 next"
        );
        cluster.apply(&claim(host(2), "10.1.0.1")).unwrap();
        let take_over = MirrorAction::TakeOver { network: network.clone(), docker: own.id.clone() };
        assert_eq!(plan(&cluster, 1, std::slice::from_ref(&own), &[]), [take_over]);
        assert_eq!(
            plan(&cluster, 1, &[copy("bbbbbbbbbbbbbbbb", "foo", true, Some(ID))], &[]),
            [],
            "it is a mirror already"
        );
    }

    #[test]
    fn of_several_copies_the_one_with_the_networks_name_stays() {
        let cluster = cluster(true);
        let network: NetworkId = ID.parse().unwrap();
        let first = copy("bbbbbbbbbbbbbbbb", "foo", true, Some(ID));
        let second = copy("cccccccccccccccc", "foo", true, Some(ID));
        let other = copy("1111111111111111", "bar", true, Some(ID));
        let own = copy(ID, "foo", true, None);
        let surplus = |copies: &[&EngineNetwork]| MirrorAction::RemoveSurplus {
            network: network.clone(),
            copies: copies.iter().map(|copy| copy.id.clone()).collect(),
        };
        let engine = [other.clone(), second.clone(), first.clone()];
        assert_eq!(plan(&cluster, 2, &engine, &[]), [surplus(&[&first, &second, &other])]);
        assert_eq!(
            plan(&cluster, 1, &[first.clone(), own.clone()], &[]),
            [surplus(&[&own, &first])]
        );
        let known = Local {
            bindings: BTreeMap::from([(second.id.clone(), network.clone())]),
            ..Local::default()
        };
        let engine = [first.clone(), second.clone()];
        let bind = MirrorAction::Bind { network: network.clone(), docker: first.id.clone() };
        assert_eq!(
            plan_mirrors(&cluster, &known, host(2), &engine, &BTreeSet::new()),
            [bind, surplus(&[&second, &first])],
            "each is known before one goes, so that the endpoints stay known"
        );
        let removed = Local { removals: BTreeSet::from([network]), ..Local::default() };
        assert_eq!(plan_mirrors(&cluster, &removed, host(2), &engine, &BTreeSet::new()), []);
    }

    #[test]
    fn what_the_cluster_does_not_have_goes_and_what_is_not_ours_stays() {
        let mirror = copy("bbbbbbbbbbbbbbbb", "gone", true, Some("cccccccccccccccc"));
        let foreign = copy("dddddddddddddddd", "bridge", false, None);
        let expected = [MirrorAction::Remove { docker: mirror.id.clone() }];
        assert_eq!(plan(&Cluster::default(), 1, &[mirror, foreign], &[]), expected);
    }

    #[test]
    fn a_name_that_another_driver_has_is_told() {
        let foreign = copy("dddddddddddddddd", "foo", false, None);
        let expected =
            MirrorAction::NameTaken { network: ID.parse().unwrap(), name: "foo".to_owned() };
        assert_eq!(plan(&cluster(true), 2, &[foreign], &[]), [expected]);
    }

    #[test]
    fn of_two_networks_created_with_one_name_the_one_without_agreement_makes_room() {
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
            "the name is not said to be taken"
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
