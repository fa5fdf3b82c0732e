//! Properties of the agreed state machine, for any commands in any order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;
use shoutd_core::advertise::PeerStates;
use shoutd_core::cluster::{
    Cluster, Command, Description, Outcome, Pass, Pool, Refusal, ReportedSubnet, Settings,
    WantedAddress,
};
use shoutd_core::limits::{LEASES_PER_NETWORK_MAX, MTU_MIN};
use shoutd_core::plane::{MTU_OPTION, ReplicationCache, Underlay, desired};
use shoutd_core::stock::plan_leases;
use shoutd_core::{ClusterId, HostId, NetworkId, TokenHash, local};

use crate::common::founded;

/// Small domains, so that commands affect the same objects.
fn host() -> impl Strategy<Value = HostId> {
    (1..=4u64).prop_map(|value| HostId::new(value).unwrap())
}

fn network() -> impl Strategy<Value = NetworkId> {
    (0..4u8).prop_map(|index| format!("{index:016x}").parse().unwrap())
}

fn subnet() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (0..4u8, 26..=31u8).prop_map(|(third, length)| format!("10.0.{third}.0/{length}")),
        (0..4u8).prop_map(|fourth| format!("10.0.0.{fourth}/24")),
        (0..3u8).prop_map(|third| format!("fd00:0:0:{third}::/64")),
        Just("224.0.0.0/8".to_owned()),
        Just("0.0.0.0/0".to_owned()),
    ]
    .prop_map(|text| text.parse().unwrap())
}

fn address() -> impl Strategy<Value = IpAddr> {
    (0..4u8, any::<u8>()).prop_map(|(third, fourth)| IpAddr::from([10, 0, third, fourth]))
}

fn pool() -> impl Strategy<Value = Pool> {
    (subnet(), proptest::option::of(address()), proptest::option::of(address())).prop_map(
        |(subnet, gateway, auxiliary)| Pool {
            subnet,
            gateway,
            auxiliary: auxiliary.map(|address| ("a".to_owned(), address)).into_iter().collect(),
            range: None,
        },
    )
}

fn settings() -> impl Strategy<Value = Settings> {
    let mtu = proptest::option::of(prop_oneof![Just("1400"), Just("9"), Just("many")]);
    (proptest::collection::vec(pool(), 0..3), mtu, any::<bool>(), any::<bool>()).prop_map(
        |(pools, mtu, internal, swarm)| Settings {
            pools,
            options: mtu.map(|mtu| (MTU_OPTION.to_owned(), mtu.to_owned())).into_iter().collect(),
            internal,
            ipv6: false,
            docker_ipam: internal,
            swarm,
        },
    )
}

fn wanted() -> impl Strategy<Value = WantedAddress> {
    prop_oneof![
        address().prop_map(WantedAddress::Exactly),
        (subnet(), 0..5u16).prop_map(|(subnet, count)| WantedAddress::Highest { subnet, count }),
        (subnet(), 0..5u16).prop_map(|(subnet, count)| WantedAddress::Lowest { subnet, count })
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let reported = (subnet(), any::<bool>()).prop_map(|(subnet, exclusive)| ReportedSubnet {
        subnet,
        user: "eth0".to_owned(),
        exclusive,
        remote: !exclusive,
    });
    prop_oneof![
        1 => (1..3u128).prop_map(|id| Command::Found { cluster: ClusterId::new(id) }),
        3 => (host(), 1..5u8).prop_map(|(host, last)| Command::AdmitHost {
            host,
            name: format!("h{last}"),
            address: format!("192.0.2.{last}:7789").parse().unwrap(),
        }),
        2 => proptest::collection::btree_map(host(), 1..5u8, 0..4).prop_map(|hosts| {
            let hosts = hosts
                .into_iter()
                .map(|(host, last)| (host, format!("192.0.2.{last}:7789").parse().unwrap()));
            Command::MoveHosts { hosts: hosts.collect() }
        }),
        1 => (host(), proptest::collection::vec(reported, 0..2))
            .prop_map(|(host, subnets)| Command::ReportSubnets { host, subnets }),
        6 => (network(), host(), settings())
            .prop_map(|(id, origin, settings)| Command::CreateNetwork { id, origin, settings }),
        2 => (network(), "[ab]").prop_map(|(id, name)| Command::DescribeNetwork {
            id,
            description: Description { name, ..Description::default() },
        }),
        1 => network().prop_map(|id| Command::RemoveNetwork { id }),
        8 => (network(), host(), wanted())
            .prop_map(|(network, host, address)| Command::ClaimAddress { network, host, address }),
        3 => (network(), host()).prop_map(|(network, host)| Command::Attach { network, host }),
        2 => (network(), host()).prop_map(|(network, host)| Command::Detach { network, host }),
        1 => (host(), 0..9u64).prop_map(|(host, second)| Command::RemoveHost {
            host,
            now: Duration::from_secs(second),
        }),
        1 => (host(), 0..9u64).prop_map(|(host, second)| Command::Enroll {
            host,
            pass: Pass::Token(TokenHash([0; 32])),
            now: Duration::from_secs(second),
        }),
        1 => (network(), address(), host(), 0..4u64, host())
            .prop_map(|(network, address, from, claims, to)| Command::YieldAddress {
                network,
                address,
                from,
                claims,
                to,
            }),
        3 => (network(), host(), 0..4u64, proptest::collection::vec(address(), 0..4))
            .prop_map(|(network, host, claims, addresses)| Command::ReleaseAddresses {
                network,
                host,
                claims,
                addresses,
            }),
    ]
}

#[test]
fn hosts_take_one_anothers_addresses_only_if_all_move_at_once() {
    let mut cluster = Cluster::default();
    cluster.apply(&Command::Found { cluster: ClusterId::new(1) }).unwrap();
    for last in 1..=3 {
        let (host, name) = (HostId::new(last.into()).unwrap(), format!("h{last}"));
        cluster.apply(&Command::AdmitHost { host, name, address: at(last) }).unwrap();
    }
    for places in [&[(1, 2)][..], &[(1, 2), (2, 3)], &[(1, 9), (2, 9)]] {
        let refused = cluster.apply(&moves(places)).unwrap_err();
        assert!(matches!(refused, Refusal::HostAddressTaken { .. }), "{refused}");
    }
    assert!(matches!(cluster.apply(&moves(&[(7, 7)])), Err(Refusal::UnknownHost(_))));
    cluster.apply(&moves(&[(1, 2), (2, 3), (3, 1)])).unwrap();
    let addresses: Vec<_> = cluster.hosts.values().map(|host| host.address).collect();
    assert_eq!(addresses, [at(2), at(3), at(1)]);
}

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 7789))
}

/// Moves each host to the address with this last octet.
fn moves(places: &[(u64, u8)]) -> Command {
    let hosts = places.iter().map(|(host, last)| (HostId::new(*host).unwrap(), at(*last)));
    Command::MoveHosts { hosts: hosts.collect() }
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// What must hold after every command.
fn check(cluster: &Cluster) {
    let networks: Vec<_> = cluster.networks.iter().collect();
    let vnis: BTreeSet<_> = networks.iter().map(|(_, network)| network.vni).collect();
    assert_eq!(vnis.len(), networks.len(), "two networks have one VNI");
    let names: Vec<_> = networks
        .iter()
        .filter_map(|(_, network)| network.description.as_ref())
        .map(|d| &d.name)
        .collect();
    assert_eq!(
        names.iter().collect::<BTreeSet<_>>().len(),
        names.len(),
        "two networks have one name"
    );
    let pools: Vec<_> = networks.iter().flat_map(|(_, network)| &network.settings.pools).collect();
    for (index, pool) in pools.iter().enumerate() {
        assert!(
            !pools[..index].iter().any(|other| overlap(other.subnet, pool.subnet)),
            "two subnets overlap"
        );
    }
    let underlays: Vec<_> = cluster.hosts.values().map(|host| host.address.ip()).collect();
    assert_eq!(
        underlays.iter().collect::<BTreeSet<_>>().len(),
        underlays.len(),
        "two hosts have one address"
    );
    for (_, network) in networks {
        assert!(
            !network.settings.swarm || (network.leases.is_empty() && !network.removing),
            "a Swarm network has leases or a pending removal"
        );
        assert!(
            network.attached.iter().all(|host| cluster.hosts.contains_key(host)),
            "an unknown host is attached"
        );
        assert!(
            !network.removing || network.attached.is_empty() && !network.leases.is_empty(),
            "a network that is being removed is still in use, or should be gone"
        );
        for (address, holder) in &network.leases {
            assert!(cluster.hosts.contains_key(holder), "{address} is leased to an unknown host");
            assert!(network.leases.len() <= LEASES_PER_NETWORK_MAX);
            let pool = network
                .pool_of(*address)
                .expect("a leased address lies in a subnet of its network");
            assert!(!pool.is_reserved(*address), "{address} is leased and reserved");
        }
    }
}

proptest! {
    #[test]
    fn invariants_hold_and_refusals_change_nothing(
        commands in proptest::collection::vec(command(), 0..80),
    ) {
        let mut cluster = founded();
        for command in &commands {
            let before = cluster.clone();
            let result = cluster.apply(command);
            check(&cluster);
            match result {
                Err(_) => prop_assert_eq!(&cluster, &before),
                Ok(Outcome::Leased(leased)) => {
                    let Command::ClaimAddress { network, host, .. } = command else {
                        panic!("only claims lease")
                    };
                    prop_assert!(!leased.is_empty());
                    for address in leased.iter().map(IpNet::addr) {
                        prop_assert_eq!(cluster.networks[network].leases.get(&address), Some(host));
                        let holder = before.networks[network].leases.get(&address);
                        prop_assert!(
                            holder.is_none_or(|holder| holder == host),
                            "taken from another host"
                        );
                    }
                }
                Ok(Outcome::Removing) => {
                    let Command::RemoveNetwork { id } = command else {
                        panic!("only removals remove")
                    };
                    prop_assert!(
                        cluster.networks[id].removing && !cluster.networks[id].leases.is_empty()
                    );
                }
                Ok(Outcome::Done) => {}
            }
        }
    }

    #[test]
    fn a_restored_snapshot_behaves_like_the_original(
        before in proptest::collection::vec(command(), 0..40),
        after in proptest::collection::vec(command(), 0..40),
    ) {
        let mut original = founded();
        for command in &before {
            let _ = original.apply(command);
        }
        let snapshot = serde_json::to_vec(&original).unwrap();
        let mut restored: Cluster = serde_json::from_slice(&snapshot).unwrap();
        prop_assert_eq!(&restored, &original);
        for command in &after {
            let wire: Command =
                serde_json::from_slice(&serde_json::to_vec(command).unwrap()).unwrap();
            prop_assert_eq!(restored.apply(&wire), original.apply(command));
        }
        prop_assert_eq!(restored, original);
    }

    #[test]
    fn a_repeated_command_changes_nothing(commands in proptest::collection::vec(command(), 0..60)) {
        let mut cluster = founded();
        for command in &commands {
            let is_claim_of_any = match command {
                Command::ClaimAddress { address, .. } => {
                    !matches!(address, WantedAddress::Exactly(_))
                }
                _ => false,
            };
            let is_enrolment = matches!(command, Command::Enroll { .. });
            if cluster.apply(command).is_ok() && !is_claim_of_any && !is_enrolment {
                let once = cluster.clone();
                prop_assert!(cluster.apply(command).is_ok());
                prop_assert_eq!(&cluster, &once);
            }
        }
    }

    #[test]
    fn nothing_is_accepted_before_the_cluster_is_founded(command in command()) {
        let mut cluster = Cluster::default();
        let is_founding = matches!(command, Command::Found { .. });
        prop_assert_eq!(cluster.apply(&command).is_ok(), is_founding);
    }

    #[test]
    fn the_suggested_subnet_is_free(
        commands in proptest::collection::vec(command(), 0..40),
        turn: u64,
    ) {
        let mut cluster = founded();
        for command in &commands {
            let _ = cluster.apply(command);
        }
        if let Some(free) = cluster.free_subnet(turn) {
            let free = IpNet::V4(free);
            let networks = cluster
                .networks
                .values()
                .flat_map(|network| network.settings.pools.iter().map(|pool| pool.subnet));
            let near = cluster
                .hosts
                .values()
                .flat_map(|host| &host.subnets)
                .filter(|reported| !reported.remote);
            // A subnet behind a gateway may be chosen if there is no other.
            prop_assert!(
                !networks
                    .chain(near.map(|reported| reported.subnet))
                    .any(|taken| overlap(taken, free))
            );
        }
    }

    #[test]
    fn every_host_that_has_the_network_is_a_remote_of_the_others(
        commands in proptest::collection::vec(command(), 0..80),
    ) {
        let mut cluster = founded();
        for command in &commands {
            let _ = cluster.apply(command);
        }
        for (me, host) in &cluster.hosts {
            let local = local_state_of(&cluster, *me);
            let underlay = Underlay { address: host.address.ip(), mtu: 1500 };
            let desired = desired(
                &cluster,
                &local,
                *me,
                underlay,
                &PeerStates::default(),
                &mut ReplicationCache::default(),
            );
            for segment in desired.segments.values() {
                let network = &cluster.networks[&segment.network];
                prop_assert!(segment.mtu >= MTU_MIN);
                let others = network.attached.iter().filter(|other| *other != me);
                let expected: BTreeSet<_> =
                    others.map(|other| cluster.hosts[other].address.ip()).collect();
                prop_assert_eq!(&segment.remotes, &expected);
            }
            let mine = cluster
                .networks
                .values()
                .filter(|network| network.leases.values().any(|holder| holder == me))
                .count();
            prop_assert_eq!(desired.segments.len(), mine);
        }
    }

    /// For any history: when all hosts carry out their plans, all plans become empty, every
    /// endpoint has a lease of its host, removed networks are gone unless there are endpoints on
    /// them, and stocks are full as far as there are addresses.
    #[test]
    fn plans_of_all_hosts_converge(
        commands in proptest::collection::vec(command(), 0..80),
        keep in proptest::collection::vec(any::<bool>(), 4),
    ) {
        let mut cluster = founded();
        for command in &commands {
            let _ = cluster.apply(command);
        }
        let locals: BTreeMap<_, _> = cluster
            .hosts
            .keys()
            .enumerate()
            .map(|(index, me)| {
                let local = if keep[index % 4] {
                    local_state_of(&cluster, *me)
                } else {
                    local::Local::default()
                };
                (*me, local)
            })
            .collect();
        let removed: Vec<_> = cluster
            .networks
            .iter()
            .filter(|(_, network)| network.removing)
            .map(|(id, _)| id.clone())
            .collect();
        let mut is_settled = false;
        for _ in 0..8 {
            is_settled = true;
            for (me, local) in &locals {
                for command in plan_leases(&cluster, local, *me) {
                    is_settled = false;
                    let _ = cluster.apply(&command);
                    check(&cluster);
                }
            }
            if is_settled {
                break;
            }
        }
        prop_assert!(is_settled, "the plans do not converge");
        for id in removed {
            let is_used = locals.values().any(|local| local.is_attached(&id));
            prop_assert_eq!(cluster.networks.contains_key(&id), is_used);
        }
        for (me, local) in &locals {
            for endpoint in local.endpoints.values() {
                let network = &cluster.networks[&endpoint.network];
                prop_assert!(network.attached.contains(me));
                prop_assert!(
                    endpoint
                        .addresses
                        .iter()
                        .all(|address| network.leases.get(&address.addr()) == Some(me))
                );
            }
        }
        for (id, network) in &cluster.networks {
            for me in &network.attached {
                prop_assert!(locals[me].is_attached(id));
            }
        }
    }
}

/// Local state in which each lease of a host belongs to an endpoint.
fn local_state_of(cluster: &Cluster, me: HostId) -> local::Local {
    let mut local = local::Local::default();
    for (index, (id, network)) in cluster.networks.iter().enumerate() {
        let leases = network.leases.iter().filter(|(_, holder)| **holder == me);
        for (number, (address, _)) in (0_u16..).zip(leases) {
            let [high, low] = number.to_be_bytes();
            let endpoint = local::Endpoint {
                network: id.clone(),
                addresses: [IpNet::from(*address)].into(),
                mac: shoutd_core::MacAddress([2, 0, 0, 0, high, low]),
                sandbox: None,
                multicast_routes: BTreeSet::new(),
                interface_name: None,
                default_route: None,
                created: Duration::ZERO,
                left: None,
                container: None,
            };
            let name = format!("{index}{address}").replace(['.', ':'], "x") + "0000000000";
            local.add_endpoint(name.parse().unwrap(), endpoint).unwrap();
        }
    }
    local
}
