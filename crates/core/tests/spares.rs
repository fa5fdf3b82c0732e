//! A full subnet in which hosts hold unused addresses.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use shoutd_core::advertise::{AdvertisedEndpoint, AdvertisedNetwork, PeerState, PeerStates};
use shoutd_core::cluster::{Cluster, Command, Settings, WantedAddress};
use shoutd_core::local::{Local, Reservation};
use shoutd_core::stock::{TakenChoice, holders_of_spares, spare};
use shoutd_core::{MacAddress, NetworkId};

use crate::common::{cluster_of, host, network_id, pool, settings};

const ALL: &str = "10.0.0.0/29";

fn range(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn at(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

/// A network of six addresses that host 1 created, with their holders; 0 is none.
fn cluster(docker_ipam: bool, holders: [u64; 6]) -> (Cluster, NetworkId) {
    let (mut cluster, network) = (cluster_of(3), network_id(0));
    let settings = Settings { docker_ipam, ..settings(pool(ALL)) };
    cluster
        .apply(&Command::CreateNetwork { id: network.clone(), origin: host(1), settings })
        .unwrap();
    for (holder, last) in holders.into_iter().zip(1..).filter(|(holder, _)| *holder != 0) {
        let address = WantedAddress::Exactly(at(last));
        cluster
            .apply(&Command::ClaimAddress { network: network.clone(), host: host(holder), address })
            .unwrap();
    }
    (cluster, network)
}

/// An advertisement with endpoints that have these addresses.
fn peers(from: u64, addresses: &[u8]) -> PeerStates {
    let mut network = AdvertisedNetwork::default();
    for &last in addresses {
        let mac = MacAddress([2, 0, 0, 0, 0, last]);
        let endpoint = AdvertisedEndpoint { mac, addresses: [at(last)].into(), names: [].into() };
        network.endpoints.insert(format!("{last:016}").parse().unwrap(), endpoint);
    }
    let state = PeerState { in_sync: true, networks: [(network_id(0), Arc::new(network))].into() };
    PeerStates { hosts: [(host(from), Arc::new(state))].into() }
}

#[test]
fn only_unused_addresses_are_yielded() {
    for (docker_ipam, last, then) in [(false, 1, 3), (true, 6, 4)] {
        let (mut cluster, network) = cluster(docker_ipam, [1, 2, 1, 1, 3, 1]);
        let mut local = Local::default();
        let all = range(ALL);
        // Docker's IPAM on the origin uses the lowest address first, ours the highest.
        assert_eq!(spare(&cluster, &local, host(1), &network, all), Some(at(last)));
        let single = range("10.0.0.4/32");
        assert_eq!(spare(&cluster, &local, host(1), &network, single), Some(at(4)));
        local.start_returning(&network, &[at(last)]);
        assert_eq!(
            spare(&cluster, &local, host(1), &network, all),
            Some(at(then)),
            "that one is being released"
        );
        let held = local.reservations.entry(network.clone()).or_default();
        held.extend([1, 3, 4, 6].map(|last| (at(last), Reservation { since: Duration::ZERO })));
        assert_eq!(spare(&cluster, &local, host(1), &network, all), None);
        cluster.apply(&Command::RemoveNetwork { id: network.clone() }).unwrap();
        assert_eq!(
            spare(&cluster, &Local::default(), host(1), &network, all),
            None,
            "a network that is being removed yields none"
        );
    }
}

#[test]
fn hosts_with_the_most_unused_leases_are_asked_first() {
    let (cluster, network) = cluster(false, [1, 2, 2, 3, 3, 3]);
    for (peers, me, within, asked) in [
        (PeerStates::default(), 1, ALL, vec![3, 2]),
        (PeerStates::default(), 3, ALL, vec![2, 1]),
        (peers(3, &[4, 5]), 1, ALL, vec![2, 3]),
        (peers(3, &[4, 5, 6]), 1, ALL, vec![2]),
        (PeerStates::default(), 1, "10.0.0.2/32", vec![2]),
    ] {
        let found = holders_of_spares(&cluster, &peers, host(me), &network, range(within));
        let asked: Vec<_> = asked.into_iter().map(host).collect();
        assert_eq!(found, asked, "host {me} asks for {within}");
    }
}

#[test]
fn the_message_differs_if_the_engine_chose_the_address() {
    let full = explanation(true, [3, 2, 2, 3, 3, 3], 1).unwrap();
    assert!(full.contains("10.0.0.2 of network") && full.contains("in use on host h2"), "{full}");
    assert!(
        full.contains("subnet 10.0.0.0/29 has no free address left") && !full.contains("--ip "),
        "{full}"
    );
    let free = explanation(true, [3, 2, 0, 0, 3, 3], 1).unwrap();
    assert!(free.contains("--ip 10.0.0.4") && free.contains("--ipam-driver shoutd"), "{free}");
    let in_stock = explanation(true, [1, 2, 0, 0, 3, 3], 1).unwrap();
    assert!(in_stock.contains("--ip 10.0.0.1"), "{in_stock}");
    // A user chose it.
    assert_eq!(explanation(true, [1, 2, 2, 3, 3, 3], 3), None);
    assert_eq!(explanation(false, [1, 2, 2, 3, 3, 3], 1), None);
}

/// What a host tells of 10.0.0.2, which host 2 holds, if the engine chose it.
fn explanation(docker_ipam: bool, holders: [u64; 6], me: u64) -> Option<String> {
    let (cluster, network) = cluster(docker_ipam, holders);
    TakenChoice::of(&cluster, &Local::default(), host(me), &network, at(2))
        .map(|choice| choice.to_string())
}
