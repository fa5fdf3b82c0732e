//! `--ip-range`: where addresses are chosen from, on every host.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect by failing")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use shoutd_core::cluster::{
    Cluster, Command, DescribedSubnet, Description, Outcome, Pool, Refusal, Settings, WantedAddress,
};
use shoutd_core::local::Local;
use shoutd_core::stock::{plan_leases, stock_size};
use shoutd_core::{ClusterId, HostId, NetworkId};

const SUBNET: &str = "10.9.0.0/16";

fn host(number: u64) -> HostId {
    HostId::new(number).unwrap()
}

fn network() -> NetworkId {
    "aaaaaaaaaaaaaaaa".parse().unwrap()
}

/// A cluster of two hosts and a network, of which the engine of host 1 has told this range.
fn cluster(range: Option<&str>) -> Cluster {
    let subnet: IpNet = SUBNET.parse().unwrap();
    let gateway = Some("10.9.7.0".parse().unwrap());
    let pools = vec![Pool { subnet, gateway, auxiliary: BTreeMap::new(), range: None }];
    let options = BTreeMap::new();
    let settings = Settings { pools, options, internal: false, ipv6: false, docker_ipam: true, swarm: false };
    let admit = |number: u64| Command::AdmitHost {
        host: host(number),
        name: format!("h{number}"),
        address: format!("10.0.0.{number}:7789").parse().unwrap(),
    };
    let described = DescribedSubnet { range: range.map(|range| range.parse().unwrap()), gateway: None };
    let description =
        Description { name: "foo".to_owned(), subnets: [(subnet, described)].into(), ..Description::default() };
    let mut cluster = Cluster::default();
    for command in [
        Command::Found { cluster: ClusterId::new(1) },
        admit(1),
        admit(2),
        Command::CreateNetwork { id: network(), origin: host(1), settings },
        Command::DescribeNetwork { id: network(), description },
    ] {
        cluster.apply(&command).unwrap();
    }
    cluster
}

fn claim(cluster: &mut Cluster, number: u64, address: WantedAddress) -> Result<Vec<IpAddr>, Refusal> {
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
fn addresses_are_chosen_from_the_range_and_can_be_asked_for_outside() {
    let mut cluster = cluster(Some("10.9.7.0/30"));
    let subnet = SUBNET.parse().unwrap();
    let highest = claim(&mut cluster, 2, WantedAddress::Highest { subnet, count: 1 }).unwrap();
    assert_eq!(highest, addresses(&["10.9.7.3"]), "it is no subnet's last address");
    let lowest = claim(&mut cluster, 1, WantedAddress::Lowest { subnet, count: 9 }).unwrap();
    assert_eq!(lowest, addresses(&["10.9.7.1", "10.9.7.2"]), "10.9.7.0 is the gateway");
    let refused = claim(&mut cluster, 2, WantedAddress::Highest { subnet, count: 1 });
    assert!(matches!(refused, Err(Refusal::Exhausted { .. })), "{refused:?}");
    let asked = WantedAddress::Exactly("10.9.200.1".parse().unwrap());
    assert_eq!(claim(&mut cluster, 2, asked).unwrap(), addresses(&["10.9.200.1"]));
}

#[test]
fn a_range_counts_the_addresses_that_it_has() {
    let size = |range: &str| cluster(Some(range)).networks[&network()].settings.pools[0].size();
    assert_eq!(size("10.9.7.0/24"), 255, "all but the gateway");
    assert_eq!(size("10.9.0.0/24"), 255, "all but the subnet's own address");
    assert_eq!(size("10.9.255.0/24"), 255, "all but the broadcast address");
    assert_eq!(size("10.9.9.9/32"), 1);
    assert_eq!(cluster(None).networks[&network()].settings.pools[0].size(), 65_536 - 3);
    let pool = cluster(Some("10.9.7.0/30")).networks[&network()].settings.pools[0].clone();
    assert_eq!(stock_size(&pool, 2), 0, "a host that keeps some of three takes them from the others");
}

#[test]
fn a_range_that_is_none_of_the_subnet_is_no_range() {
    let pool = cluster(Some("10.8.0.0/24")).networks[&network()].settings.pools[0].clone();
    assert_eq!(pool.range, None);
}

#[test]
fn what_lies_in_stock_outside_the_range_goes_back() {
    let mut cluster = cluster(Some("10.9.7.0/24"));
    claim(&mut cluster, 2, WantedAddress::Exactly("10.9.200.1".parse().unwrap())).unwrap();
    let mut local = Local::default();
    let range = "10.9.7.0/24".parse().unwrap();
    let pool = (SUBNET.parse().unwrap(), range);
    assert_eq!(local.reserve_from_stock(&cluster, host(2), &network(), pool, std::time::Duration::ZERO), None);
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
    assert!(held.clone().count() == 8 && held.clone().all(|address| pool.1.contains(address)), "{held:?}");
}
