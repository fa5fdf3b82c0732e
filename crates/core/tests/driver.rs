//! What the driver does and answers when Docker calls it.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;
use shoutd_core::cluster::{Cluster, Command, Pool, Settings, WantedAddress};
use shoutd_core::driver::{
    AddressAnswer, Deleted, MirrorRefusal, RemovalState, answer_address, bind, check_mirror,
    choose_subnet, delete_copy, pools_to_try, removal_state,
};
use shoutd_core::in_flight::Operations;
use shoutd_core::local::{Endpoint, Local};
use shoutd_core::{DockerNetworkId, MacAddress, NetworkId};

use crate::common::{cluster_of, host, network_id, pool, settings};

/// Two hosts. Networks 1 and 2 are of host 1; network 3 is of a Swarm.
fn cluster() -> Cluster {
    let mut cluster = cluster_of(2);
    for index in 1..=3 {
        let gateway = Some(format!("10.{index}.0.1").parse().unwrap());
        let auxiliary =
            BTreeMap::from([("router".to_owned(), format!("10.{index}.0.9").parse().unwrap())]);
        let first = Pool { gateway, auxiliary, ..pool(&format!("10.{index}.0.0/24")) };
        let second = Pool {
            range: Some(format!("10.10{index}.0.128/25").parse().unwrap()),
            ..pool(&format!("10.10{index}.0.0/24"))
        };
        let third = pool(&format!("fd00:{index}::/64"));
        let is_swarm = index == 3;
        let settings = Settings {
            pools: vec![first, second, third],
            swarm: is_swarm,
            ipv6: !is_swarm,
            ..settings(pool("10.0.0.0/24"))
        };
        let command = Command::CreateNetwork { id: network_id(index), origin: host(1), settings };
        cluster.apply(&command).unwrap();
    }
    cluster
}

fn copy(index: u8) -> DockerNetworkId {
    format!("{index:02x}").repeat(8).parse().unwrap()
}

fn endpoint(network: NetworkId) -> Endpoint {
    Endpoint {
        network,
        addresses: BTreeSet::new(),
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        sandbox: None,
        multicast_routes: BTreeSet::new(),
        interface_name: None,
        default_route: None,
        created: Duration::ZERO,
        left: None,
        container: None,
    }
}

proptest! {
    /// A deletion counts as a user's removal of the network exactly if the network would otherwise
    /// stay, the copy was the last one, and nobody else removes it.
    #[test]
    fn only_a_user_removes_a_network(
        bound in prop::collection::btree_map(0_u8..5, 1_u8..5, 0..5),
        (deleted, is_mirroring, is_replacing) in (0_u8..5, any::<bool>(), any::<bool>()),
        is_removing in any::<bool>(),
    ) {
        let mut cluster = cluster();
        if is_removing {
            // A lease of the other host keeps it from being gone at once.
            let claim = Command::ClaimAddress {
                network: network_id(1),
                host: host(2),
                address: WantedAddress::Exactly("10.1.0.7".parse().unwrap()),
            };
            cluster.apply(&claim).unwrap();
            cluster.apply(&Command::RemoveNetwork { id: network_id(1) }).unwrap();
        }
        let bindings: BTreeMap<_, _> =
            bound.iter().map(|(docker, network)| (copy(*docker), network_id(*network))).collect();
        let endpoints = (1..5).map(|index| {
            (format!("{index:02x}").repeat(8).parse().unwrap(), endpoint(network_id(index)))
        });
        let before = Local { bindings, endpoints: endpoints.collect(), ..Local::default() };
        let mut operations = Operations::default();
        let network = before.bindings.get(&copy(deleted)).cloned();
        if let Some(network) = &network {
            operations.mirroring(network, is_mirroring);
        }
        operations.replacing(&copy(deleted), is_replacing);

        let mut local = before.clone();
        let answer = delete_copy(&mut local, &cluster, &operations, &copy(deleted));

        let Some(network) = network else {
            prop_assert_eq!(answer, Deleted::Unknown);
            prop_assert_eq!(local, before);
            return Ok(());
        };
        let is_last = !local.bindings.values().any(|other| *other == network);
        let known = cluster.networks.get(&network);
        let is_staying = known.is_some_and(|known| !known.removing && !known.settings.swarm);
        let is_by_user = is_last && is_staying && !is_mirroring && !is_replacing;
        prop_assert_eq!(answer == Deleted::Network(network.clone()), is_by_user);
        prop_assert_eq!(local.removals.contains(&network), is_by_user);
        prop_assert_eq!(local.bindings.len() + 1, before.bindings.len());
        prop_assert_eq!(local.is_attached(&network), !is_last);
        let left = before.endpoints.values().filter(|endpoint| endpoint.network != network).count();
        prop_assert!(local.endpoints.len() >= left);
    }

    /// An answer lies in the requested subnet, and never is the address of a container.
    #[test]
    fn an_address_that_is_granted_at_once_is_no_endpoints(
        (subnet, last) in (0_u8..6, 0_u8..=255),
        (is_named, is_for_gateway, is_inside) in (any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let cluster = cluster();
        let net: IpNet = format!("10.{subnet}.0.0/24").parse().unwrap();
        let third = u8::from(!is_inside);
        let address: IpAddr = format!("10.{subnet}.{third}.{last}").parse().unwrap();
        let address = is_named.then_some(address);
        let answer = answer_address(&cluster, net, address, is_for_gateway);
        let known = cluster.network_with_subnet(net);
        match answer {
            Ok(AddressAnswer::Grant(granted)) => {
                prop_assert!(net.contains(&granted.addr()) && granted.prefix_len() == 24);
                prop_assert!(address.is_none_or(|address| address == granted.addr()));
                let is_reserved = known.is_none_or(|(_, network)| {
                    network.pool_of(granted.addr()).unwrap().is_reserved(granted.addr())
                });
                prop_assert!(is_for_gateway || is_reserved);
            }
            Ok(AddressAnswer::Lease(network)) => {
                prop_assert!(!is_for_gateway);
                prop_assert_eq!(Some(&network), known.map(|(id, _)| id));
            }
            Ok(AddressAnswer::NoNetwork) => prop_assert!(known.is_none() && !is_named),
            Err(invalid) => {
                prop_assert!(!is_inside && is_named);
                prop_assert_eq!(invalid.subnet, net);
            }
        }
    }

    /// A subnet is not chosen twice, whatever was granted before.
    #[test]
    fn a_chosen_subnet_is_free_and_was_not_granted(count in 0_usize..40, me in 1_u64..3) {
        let cluster = cluster();
        let mut granted = BTreeSet::new();
        for _ in 0..count {
            let chosen = IpNet::V4(choose_subnet(&cluster, host(me), &granted).unwrap());
            prop_assert!(cluster.network_with_subnet(chosen).is_none());
            prop_assert!(granted.insert(chosen));
        }
    }
}

#[test]
fn a_chosen_subnet_overlaps_none_that_is_taken() {
    let cluster = cluster();
    let first = choose_subnet(&cluster, host(1), &BTreeSet::new()).unwrap();
    let within: IpNet = format!("{}/28", first.network()).parse().unwrap();
    let around: IpNet = IpNet::V4(first).supernet().unwrap();
    for taken in [within, around] {
        let chosen = choose_subnet(&cluster, host(1), &[taken].into()).unwrap();
        assert_ne!(chosen, first, "{taken}");
    }
}

#[test]
fn the_gateway_is_the_users_or_the_agreed_or_the_first_address() {
    let cluster = cluster();
    for (subnet, address, gateway) in [
        ("10.1.0.0/24", None, "10.1.0.1/24"),
        ("10.1.0.0/24", Some("10.1.0.5"), "10.1.0.5/24"),
        ("10.77.0.0/24", None, "10.77.0.1/24"),
        ("fd00:77::/64", None, "fd00:77::1/64"),
    ] {
        let address = address.map(|address: &str| address.parse().unwrap());
        let answer = answer_address(&cluster, subnet.parse().unwrap(), address, true);
        assert_eq!(answer, Ok(AddressAnswer::Grant(gateway.parse().unwrap())), "{subnet}");
    }
    let single = "10.77.0.1/32".parse().unwrap();
    let refused = answer_address(&cluster, single, None, true).unwrap_err();
    assert_eq!(refused.to_string(), "address 10.77.0.2 is not in subnet 10.77.0.1/32");
}

#[test]
fn another_subnet_of_the_same_family_follows_a_full_one() {
    let (first, second) = ("10.1.0.0/24".parse().unwrap(), "10.101.0.0/24".parse().unwrap());
    let (range, third) = ("10.101.0.128/25".parse().unwrap(), "fd00:1::/64".parse().unwrap());
    for (requested, expected) in [
        ((first, first), vec![(first, first), (second, range)]),
        ((second, range), vec![(second, range), (first, first)]),
        ((third, third), vec![(third, third)]),
    ] {
        assert_eq!(pools_to_try(&cluster(), &network_id(1), requested), expected);
    }
    let unknown = pools_to_try(&cluster(), &network_id(9), (first, first));
    assert_eq!(unknown, [(first, first)]);
}

#[test]
fn only_a_mirror_that_shoutd_creates_may_name_its_network() {
    let (cluster, mut operations) = (cluster(), Operations::default());
    for unknown in ["no id", &network_id(9).to_string()] {
        let refused = check_mirror(&cluster, &operations, unknown, Vec::new());
        assert_eq!(refused, Err(MirrorRefusal::Unknown(unknown.to_owned())));
    }
    let pools = &cluster.networks[&network_id(1)].settings.pools;
    let subnets: Vec<IpNet> = pools.iter().map(|pool| pool.subnet).collect();
    let named = network_id(1).to_string();
    let too_early = check_mirror(&cluster, &operations, &named, subnets.clone());
    assert_eq!(too_early, Err(MirrorRefusal::Reserved));
    operations.mirroring(&network_id(1), true);
    let first = subnets[..1].to_vec();
    assert_eq!(check_mirror(&cluster, &operations, &named, subnets), Ok(network_id(1)));
    let other = check_mirror(&cluster, &operations, &named, first).unwrap_err();
    assert!(matches!(other, MirrorRefusal::OtherSubnets { .. }), "{other}");
}

#[test]
fn a_second_mirror_is_no_copy() {
    let mut local = Local { removals: BTreeSet::from([network_id(1)]), ..Local::default() };
    assert!(bind(&mut local, copy(1), network_id(1)));
    assert_eq!(local.removals, BTreeSet::new(), "the user wants the network again");
    assert!(bind(&mut local, copy(1), network_id(1)), "the engine repeats a call");
    assert!(!bind(&mut local, copy(2), network_id(1)));
    let own: DockerNetworkId = network_id(1).to_string().parse().unwrap();
    assert!(bind(&mut local, own, network_id(1)), "the user's own network is no mirror");
}

#[test]
fn a_removal_waits_for_leases_and_ends_if_the_network_is_in_use() {
    let (mut cluster, network) = (cluster(), network_id(1));
    assert_eq!(removal_state(&cluster, &network_id(9)), RemovalState::Gone);
    let address = WantedAddress::Exactly("10.1.0.7".parse().unwrap());
    let claim = Command::ClaimAddress { network: network.clone(), host: host(2), address };
    cluster.apply(&claim).unwrap();
    cluster.apply(&Command::RemoveNetwork { id: network.clone() }).unwrap();
    assert_eq!(removal_state(&cluster, &network), RemovalState::Waiting);
    cluster.apply(&Command::Attach { network: network.clone(), host: host(2) }).unwrap();
    assert_eq!(removal_state(&cluster, &network), RemovalState::InUse(vec!["h2".to_owned()]));
}
