//! How agreed state changes when one host continues without the others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod common;

use std::time::Duration;

use shoutd_core::NetworkId;
use shoutd_core::cluster::{Cluster, Command, Outcome, WantedAddress};

use crate::common::{cluster_of, host, pool, settings};

/// Three hosts, each with an address of a network that host 2 created.
fn three_hosts() -> (Cluster, NetworkId) {
    let mut cluster = cluster_of(3);
    let id: NetworkId = "00000000000000aa".parse().unwrap();
    let settings = settings(pool("10.9.0.0/24"));
    cluster.apply(&Command::CreateNetwork { id: id.clone(), origin: host(2), settings }).unwrap();
    for number in 1..=3 {
        let address = WantedAddress::Exactly(format!("10.9.0.{number}").parse().unwrap());
        cluster
            .apply(&Command::ClaimAddress { network: id.clone(), host: host(number), address })
            .unwrap();
        cluster.apply(&Command::Attach { network: id.clone(), host: host(number) }).unwrap();
    }
    (cluster, id)
}

#[test]
fn lost_hosts_keep_their_leases_until_they_are_removed() {
    let (mut cluster, id) = three_hosts();
    let before = cluster.networks[&id].clone();
    let now = Duration::from_secs(5);
    let lost = cluster.keep_only(host(2), now);
    assert_eq!(lost.keys().copied().collect::<Vec<_>>(), [host(1), host(3)]);
    assert_eq!(cluster.hosts.keys().copied().collect::<Vec<_>>(), [host(2)]);
    assert_eq!(cluster.networks[&id], before);
    assert_eq!(cluster.lost_hosts().keys().copied().collect::<Vec<_>>(), [host(1), host(3)]);
    // The machine of host 1 joins again. It has another id, so the old address is not its own.
    let (name, address) = ("h1".to_owned(), "192.0.2.1:7789".parse().unwrap());
    cluster.apply(&Command::AdmitHost { host: host(7), name, address }).unwrap();
    let wanted = WantedAddress::Exactly("10.9.0.1".parse().unwrap());
    let claim = Command::ClaimAddress { network: id.clone(), host: host(7), address: wanted };
    assert!(cluster.apply(&claim).is_err());
    assert_eq!(cluster.apply(&Command::RemoveHost { host: host(1), now }), Ok(Outcome::Done));
    assert!(cluster.apply(&claim).is_ok());
    assert_eq!(cluster.lost_hosts().keys().copied().collect::<Vec<_>>(), [host(3)]);
}

#[test]
fn a_machine_restored_from_a_backup_keeps_its_leases() {
    let (mut cluster, id) = three_hosts();
    cluster.make_only_member(
        host(9),
        "new",
        "192.0.2.2:7790".parse().unwrap(),
        Duration::from_secs(5),
    );
    assert_eq!(cluster.hosts.keys().copied().collect::<Vec<_>>(), [host(9)]);
    let network = &cluster.networks[&id];
    assert_eq!(network.origin, host(9));
    assert_eq!(network.leases.values().copied().collect::<Vec<_>>(), [host(1), host(9), host(3)]);
    assert!(network.attached.contains(&host(9)) && !network.attached.contains(&host(2)));
    assert!(
        !cluster.lost_hosts().contains_key(&host(2))
            && cluster.admissions.removed.contains_key(&host(2))
    );
    // A machine with another address takes over nothing.
    let (mut cluster, id) = three_hosts();
    cluster.make_only_member(
        host(9),
        "new",
        "192.0.2.9:7789".parse().unwrap(),
        Duration::from_secs(5),
    );
    assert_eq!(cluster.admissions.removed.len(), 3);
    assert!(!cluster.networks[&id].leases.values().any(|holder| *holder == host(9)));
}
