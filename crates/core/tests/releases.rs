//! Releases of addresses, which may be applied late.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::IpAddr;

use shoutd_core::cluster::{Cluster, Command, Outcome, Settings, WantedAddress};
use shoutd_core::local::{Endpoint, Local};
use shoutd_core::stock::{Taken, plan_leases, taken};
use shoutd_core::{HostId, NetworkId};

use crate::common::{cluster_of, host, pool, settings};

fn network() -> NetworkId {
    "00000000000000aa".parse().unwrap()
}

fn address() -> IpAddr {
    "10.9.0.7".parse().unwrap()
}

/// Two hosts. The first has claimed the address.
fn cluster() -> Cluster {
    let mut cluster = cluster_of(2);
    let settings = Settings { docker_ipam: false, ..settings(pool("10.9.0.0/24")) };
    cluster.apply(&Command::CreateNetwork { id: network(), origin: host(1), settings }).unwrap();
    cluster.apply(&claim(1)).unwrap();
    cluster
}

fn claim(id: u64) -> Command {
    Command::ClaimAddress {
        network: network(),
        host: host(id),
        address: WantedAddress::Exactly(address()),
    }
}

fn release(cluster: &Cluster, id: u64) -> Command {
    let claims = cluster.networks[&network()].claims_of(host(id));
    Command::ReleaseAddresses {
        network: network(),
        host: host(id),
        claims,
        addresses: vec![address()],
    }
}

fn yield_to(cluster: &Cluster, from: u64, to: u64) -> Command {
    let claims = cluster.networks[&network()].claims_of(host(from));
    Command::YieldAddress {
        network: network(),
        address: address(),
        from: host(from),
        claims,
        to: host(to),
    }
}

fn holder(cluster: &Cluster) -> Option<HostId> {
    cluster.networks[&network()].leases.get(&address()).copied()
}

#[test]
fn a_late_release_does_not_take_an_address_from_a_later_claim() {
    let mut cluster = cluster();
    for late in [release(&cluster, 1), yield_to(&cluster, 1, 2)] {
        // Released by another attempt in the meantime, and claimed again.
        cluster.apply(&release(&cluster, 1)).unwrap();
        assert_eq!(holder(&cluster), None);
        cluster.apply(&claim(1)).unwrap();
        assert_eq!(cluster.apply(&late), Ok(Outcome::Done));
        assert_eq!(holder(&cluster), Some(host(1)), "{late:?}");
    }
    // The same if it was claimed again without having been released.
    let late = release(&cluster, 1);
    cluster.apply(&claim(1)).unwrap();
    cluster.apply(&late).unwrap();
    assert_eq!(holder(&cluster), Some(host(1)));
}

#[test]
fn a_yielded_address_counts_as_claimed() {
    let mut cluster = cluster();
    let late = release(&cluster, 2);
    cluster.apply(&yield_to(&cluster, 1, 2)).unwrap();
    assert_eq!(holder(&cluster), Some(host(2)));
    cluster.apply(&late).unwrap();
    assert_eq!(holder(&cluster), Some(host(2)));
    cluster.apply(&release(&cluster, 2)).unwrap();
    assert_eq!(holder(&cluster), None);
}

#[test]
fn claims_of_another_host_do_not_void_a_release() {
    let mut cluster = cluster();
    let release = release(&cluster, 1);
    let other = WantedAddress::Highest { subnet: "10.9.0.0/24".parse().unwrap(), count: 2 };
    cluster
        .apply(&Command::ClaimAddress { network: network(), host: host(2), address: other })
        .unwrap();
    cluster.apply(&release).unwrap();
    assert_eq!(holder(&cluster), None);
}

/// Local state after a rollback: an endpoint with an address that this host has released since.
#[test]
fn an_address_that_is_now_another_hosts_is_reported_and_not_claimed() {
    let mut cluster = cluster();
    let endpoint = Endpoint {
        network: network(),
        addresses: ["10.9.0.7/24".parse().unwrap()].into(),
        mac: "02:73:0a:09:00:07".parse().unwrap(),
        sandbox: None,
        multicast_routes: [].into(),
        interface_name: None,
        default_route: None,
        created: std::time::Duration::ZERO,
        left: None,
        container: None,
    };
    let mut local = Local::default();
    local.endpoints.insert("ee".repeat(32).parse().unwrap(), endpoint);
    assert_eq!(
        (taken(&cluster, &local, host(1)), claims(&cluster, &local)),
        (vec![], false),
        "it is leased to this host"
    );
    cluster.apply(&release(&cluster, 1)).unwrap();
    assert_eq!(
        (taken(&cluster, &local, host(1)), claims(&cluster, &local)),
        (vec![], true),
        "it is not leased"
    );
    cluster.apply(&claim(2)).unwrap();
    let lost = Taken { network: network(), address: address(), holder: host(2) };
    assert!(
        lost.text(&cluster).contains("10.9.0.7") && lost.text(&cluster).contains("leased to h2")
    );
    assert_eq!(
        (taken(&cluster, &local, host(1)), claims(&cluster, &local)),
        (vec![lost], false),
        "it is leased to another host"
    );
}

/// Whether host 1 is about to claim the address.
fn claims(cluster: &Cluster, local: &Local) -> bool {
    plan_leases(cluster, local, host(1)).contains(&claim(1))
}
