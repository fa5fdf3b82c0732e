//! `--ip-range`: the part of a subnet from which all hosts choose addresses.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

mod common;

use std::net::IpAddr;

use ipnet::IpNet;
use shoutd_core::NetworkId;
use shoutd_core::cluster::{
    Cluster, Command, DescribedSubnet, Description, Outcome, Pool, Refusal, WantedAddress,
};
use shoutd_core::local::Local;
use shoutd_core::stock::{plan_leases, stock_size};

use crate::common::{cluster_of, host, pool, settings};

const SUBNET: &str = "10.9.0.0/16";

fn network() -> NetworkId {
    "aaaaaaaaaaaaaaaa".parse().unwrap()
}

/// Two hosts, and a network that host 1 described with this range.
fn cluster(range: Option<&str>) -> Cluster {
    let pool = Pool { gateway: Some("10.9.7.0".parse().unwrap()), ..pool(SUBNET) };
    let subnet = pool.subnet;
    let described =
        DescribedSubnet { range: range.map(|range| range.parse().unwrap()), gateway: None };
    let description = Description {
        name: "foo".to_owned(),
        subnets: [(subnet, described)].into(),
        ..Description::default()
    };
    let mut cluster = cluster_of(2);
    for command in [
        Command::CreateNetwork { id: network(), origin: host(1), settings: settings(pool) },
        Command::DescribeNetwork { id: network(), description },
    ] {
        cluster.apply(&command).unwrap();
    }
    cluster
}

fn claim(
    cluster: &mut Cluster,
    number: u64,
    address: WantedAddress,
) -> Result<Vec<IpAddr>, Refusal> {
    let claim = Command::ClaimAddress { network: network(), host: host(number), address };
    match cluster.apply(&claim)? {
        Outcome::Leased(leased) => Ok(leased.iter().map(IpNet::addr).collect()),
        other => panic!("{other:?}"),
    }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn addresses_are_chosen_from_the_range_and_may_be_requested_outside() {
    let mut cluster = cluster(Some("10.9.7.0/30"));
    let subnet = SUBNET.parse().unwrap();
    let highest = claim(&mut cluster, 2, WantedAddress::Highest { subnet, count: 1 }).unwrap();
    assert_eq!(highest, addresses(&["10.9.7.3"]), "the last address of the range is usable");
    let lowest = claim(&mut cluster, 1, WantedAddress::Lowest { subnet, count: 9 }).unwrap();
    assert_eq!(lowest, addresses(&["10.9.7.1", "10.9.7.2"]), "10.9.7.0 is the gateway");
    let refused = claim(&mut cluster, 2, WantedAddress::Highest { subnet, count: 1 });
    assert!(matches!(refused, Err(Refusal::Exhausted { .. })), "{refused:?}");
    let requested = WantedAddress::Exactly("10.9.200.1".parse().unwrap());
    assert_eq!(claim(&mut cluster, 2, requested).unwrap(), addresses(&["10.9.200.1"]));
}

#[test]
fn the_size_of_a_range_excludes_reserved_addresses() {
    for (range, size, why) in [
        (Some("10.9.7.0/24"), 255, "all but the gateway"),
        (Some("10.9.0.0/24"), 255, "all but the subnet's own address"),
        (Some("10.9.255.0/24"), 255, "all but the broadcast address"),
        (Some("10.9.9.9/32"), 1, "the only one"),
        (None, 65_536 - 3, "all but those three"),
    ] {
        let pool = cluster(range).networks[&network()].settings.pools[0].clone();
        assert_eq!(pool.size(), size, "{range:?}: {why}");
    }
    let pool = cluster(Some("10.9.7.0/30")).networks[&network()].settings.pools[0].clone();
    assert_eq!(
        stock_size(&pool, 2),
        0,
        "with three addresses, a stock would take them from other hosts"
    );
}

#[test]
fn a_range_outside_of_the_subnet_is_ignored() {
    let pool = cluster(Some("10.8.0.0/24")).networks[&network()].settings.pools[0].clone();
    assert_eq!(pool.range, None);
}

#[test]
fn stock_outside_of_the_range_is_released() {
    let mut cluster = cluster(Some("10.9.7.0/24"));
    claim(&mut cluster, 2, WantedAddress::Exactly("10.9.200.1".parse().unwrap())).unwrap();
    let mut local = Local::default();
    let range = "10.9.7.0/24".parse().unwrap();
    let pool = (SUBNET.parse().unwrap(), range);
    assert_eq!(
        local.reserve_from_stock(&cluster, host(2), &network(), pool, std::time::Duration::ZERO),
        None
    );
    let plan = plan_leases(&cluster, &local, host(2));
    let released = plan.iter().find_map(|command| match command {
        Command::ReleaseAddresses { addresses, .. } => Some(addresses.clone()),
        _ => None,
    });
    assert_eq!(released, Some(addresses(&["10.9.200.1"])));
    for command in plan {
        cluster.apply(&command).unwrap();
    }
    for command in plan_leases(&cluster, &local, host(2)) {
        cluster.apply(&command).unwrap();
    }
    let held = cluster.networks[&network()].leases.keys();
    assert!(
        held.clone().count() == 8 && held.clone().all(|address| pool.1.contains(address)),
        "{held:?}"
    );
}
