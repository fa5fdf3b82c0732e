//! Helpers of the tests: hosts, clusters, networks and memberships.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "no test needs all helpers, and a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use shoutd_core::advertise::Message;
use shoutd_core::cluster::{Cluster, Command, Pool, Settings};
use shoutd_core::multicast::{Memberships, SourceFilter};
use shoutd_core::{ClusterId, HostId, NetworkId};

/// A host.
pub fn host(value: u64) -> HostId {
    HostId::new(value).unwrap()
}

/// A network.
pub fn network_id(index: u8) -> NetworkId {
    format!("{index:016x}").parse().unwrap()
}

/// A cluster without hosts.
pub fn founded() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(&Command::Found { cluster: ClusterId::new(1) }).unwrap();
    cluster
}

/// The command that admits a host.
pub fn admission(number: u64) -> Command {
    let address = format!("192.0.2.{number}:7789").parse().unwrap();
    Command::AdmitHost { host: host(number), name: format!("h{number}"), address }
}

/// A cluster with this many hosts.
pub fn cluster_of(hosts: u64) -> Cluster {
    let mut cluster = founded();
    for number in 1..=hosts {
        cluster.apply(&admission(number)).unwrap();
    }
    cluster
}

/// A subnet without reserved addresses.
pub fn pool(subnet: &str) -> Pool {
    Pool { subnet: subnet.parse().unwrap(), gateway: None, auxiliary: BTreeMap::new(), range: None }
}

/// The settings of a network with one subnet and no options.
pub fn settings(pool: Pool) -> Settings {
    Settings {
        pools: vec![pool],
        options: BTreeMap::new(),
        internal: false,
        ipv6: false,
        docker_ipam: true,
        swarm: false,
    }
}

/// Memberships in this many groups, for all sources.
pub fn groups(count: u32) -> Memberships {
    let groups = (0..count)
        .map(|index| (IpAddr::V4(Ipv4Addr::from(0xef00_0000 + index)), SourceFilter::all()));
    Memberships { groups: groups.collect(), router: false }
}

/// The message after serialization.
pub fn sent(message: &Message) -> Message {
    serde_json::from_slice(&serde_json::to_vec(message).unwrap()).unwrap()
}
