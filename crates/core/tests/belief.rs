//! What is believed of what other hosts announce.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use shoutd_core::advertise::{
    AdvertisedEndpoint, AdvertisedNetwork, ClaimValidation, Content, Known, PeerState, PeerStates,
    Reply, ReportedRejection,
};
use shoutd_core::cluster::{Cluster, Command, Pool, Settings, WantedAddress};
use shoutd_core::limits::{DOUBT_GRACE, DOUBTS_TOLD_MAX};
use shoutd_core::local::{Endpoint, Local};
use shoutd_core::names::Name;
use shoutd_core::{EndpointId, HostId, MacAddress};

use crate::common::{cluster_of, groups, host, network_id, pool, settings};

/// Three hosts and a network, 10.0.0.0/24 with the gateway 10.0.0.254.
fn cluster(options: &[(&str, &str)], swarm: bool) -> Cluster {
    let mut cluster = cluster_of(3);
    let options =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let pool = Pool { gateway: Some("10.0.0.254".parse().unwrap()), ..pool("10.0.0.0/24") };
    let settings = Settings { options, swarm, ..settings(pool) };
    cluster
        .apply(&Command::CreateNetwork { id: network_id(0), origin: host(1), settings })
        .unwrap();
    cluster
}

fn lease(cluster: &mut Cluster, to: u64, address: &str) {
    let address = WantedAddress::Exactly(address.parse().unwrap());
    cluster
        .apply(&Command::ClaimAddress { network: network_id(0), host: host(to), address })
        .unwrap();
}

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, last])
}

fn endpoint(mac: MacAddress, address: &str, names: &[&str]) -> AdvertisedEndpoint {
    let names = names.iter().map(|name| name.parse().unwrap()).collect();
    AdvertisedEndpoint { mac, addresses: [address.parse().unwrap()].into(), names }
}

/// What a host announces of the network, with groups, which nobody doubts.
fn announced(endpoints: impl IntoIterator<Item = AdvertisedEndpoint>) -> PeerState {
    let id = |place: usize| format!("{place:016}").parse::<EndpointId>().unwrap();
    let endpoints =
        endpoints.into_iter().enumerate().map(|(place, endpoint)| (id(place), endpoint)).collect();
    let network = AdvertisedNetwork { endpoints, memberships: groups(3), mtu: None };
    let networks: Content = [(network_id(0), Arc::new(network))].into();
    PeerState { in_sync: true, networks }
}

/// A host that hears others.
#[derive(Default)]
struct Hearing {
    local: Local,
    said: BTreeMap<HostId, PeerState>,
    heard: Arc<PeerStates>,
    beliefs: ClaimValidation,
    now: Duration,
}

impl Hearing {
    /// What is believed of a host that announces this.
    fn hear(
        &mut self,
        cluster: &Cluster,
        from: u64,
        announced: PeerState,
    ) -> Vec<AdvertisedEndpoint> {
        self.said.insert(host(from), announced);
        self.look(cluster, host(from));
        self.beliefs.contested().into_iter().for_each(|rival| self.look(cluster, rival));
        self.believed(from)
    }

    fn look(&mut self, cluster: &Cluster, at: HostId) {
        let known = Known { cluster, local: &self.local };
        self.beliefs.update(&mut self.heard, at, self.said.get(&at).cloned(), known, self.now);
    }

    fn believed(&self, from: u64) -> Vec<AdvertisedEndpoint> {
        let network = &self.heard.hosts[&host(from)].networks[&network_id(0)];
        assert_eq!(network.memberships, groups(3), "multicast goes on");
        network.endpoints.values().cloned().collect()
    }

    fn doubts(&self, cluster: &Cluster, from: u64, after: Duration) -> Vec<String> {
        let doubts = self.beliefs.doubts(host(from), cluster, self.now + after);
        doubts.into_iter().map(|doubt| doubt.text).collect()
    }
}

#[test]
fn only_addresses_that_are_leased_to_the_host_are_believed() {
    let mut cluster = cluster(&[], false);
    lease(&mut cluster, 2, "10.0.0.2");
    lease(&mut cluster, 3, "10.0.0.3");
    let mut hearing = Hearing::default();
    let said: Vec<_> = ["10.0.0.2", "6.6.6.6", "10.0.0.254", "10.0.0.3", "10.0.0.9", "10.0.0.2"]
        .iter()
        .zip(1..)
        .map(|(address, last)| endpoint(mac(last), address, &["auth", "web"]))
        .collect();
    let believed = hearing.hear(&cluster, 2, announced(said.clone()));
    assert_eq!(believed[0], said[0]);
    assert!(
        believed[1..]
            .iter()
            .all(|endpoint| endpoint.addresses.is_empty() && endpoint.names.is_empty())
    );
    assert!(
        believed.iter().zip(&said).all(|(is, said)| is.mac == said.mac),
        "unicast goes on, too"
    );
    let at_once = hearing.doubts(&cluster, 2, Duration::ZERO);
    assert!(
        at_once[0].contains("network 000000000000: address 6.6.6.6")
            && at_once[0].contains("in no subnet")
    );
    assert!(at_once[1].contains("10.0.0.254") && at_once[1].contains("reserved"), "{at_once:?}");
    assert!(
        at_once[2].contains("10.0.0.2 ") && at_once[2].contains("another endpoint"),
        "{at_once:?}"
    );
    assert_eq!(at_once.len(), 3, "what passes by itself is not told of at once");
    let later = hearing.doubts(&cluster, 2, DOUBT_GRACE);
    assert!(
        later.iter().any(|doubt| doubt.contains("10.0.0.3") && doubt.contains("leased to host h3")),
        "{later:?}"
    );
    assert!(
        later.iter().any(|doubt| doubt.contains("10.0.0.9") && doubt.contains("not leased to it")),
        "{later:?}"
    );
}

#[test]
fn a_lease_that_comes_later_is_believed_then_and_was_no_fault() {
    let mut cluster = cluster(&[], false);
    let mut hearing = Hearing::default();
    let said = endpoint(mac(1), "10.0.0.2", &["web"]);
    assert!(hearing.hear(&cluster, 2, announced([said.clone()]))[0].names.is_empty());
    lease(&mut cluster, 2, "10.0.0.2");
    hearing.look(&cluster, host(2));
    assert_eq!(hearing.believed(2), [said]);
    assert_eq!(hearing.doubts(&cluster, 2, DOUBT_GRACE), [""; 0]);
    // And from then on nothing is looked at again for a beat.
    let before = hearing.heard.clone();
    hearing.look(&cluster, host(2));
    assert!(Arc::ptr_eq(&before, &hearing.heard));
    // It goes with the lease.
    let addresses = vec!["10.0.0.2".parse().unwrap()];
    let release =
        Command::ReleaseAddresses { network: network_id(0), host: host(2), claims: 1, addresses };
    cluster.apply(&release).unwrap();
    hearing.look(&cluster, host(2));
    assert!(hearing.believed(2)[0].addresses.is_empty());
}

#[test]
fn swarms_networks_have_no_leases_and_unknown_networks_nothing_to_compare_with() {
    let swarm = cluster(&[], true);
    let inside = endpoint(mac(1), "10.0.0.2", &["web"]);
    let outside = endpoint(mac(2), "10.0.1.2", &[]);
    let mut hearing = Hearing::default();
    let believed = hearing.hear(&swarm, 2, announced([inside.clone(), outside.clone()]));
    assert_eq!(believed[0], inside);
    assert!(believed[1].addresses.is_empty());
    let mut hearing = Hearing::default();
    assert_eq!(
        hearing.hear(&cluster_of(3), 2, announced([inside.clone(), outside.clone()])),
        [inside, outside]
    );
}

#[test]
fn names_of_the_public_dns_and_of_the_host_itself_are_withheld() {
    let said = [
        "web",
        "my_app-1",
        "db.internal",
        "kafka.1",
        "auth.docker.io",
        "host.docker.internal",
        "ip6-localhost",
    ];
    let believed = |options: &[(&str, &str)]| {
        let mut cluster = cluster(options, false);
        lease(&mut cluster, 2, "10.0.0.2");
        let mut hearing = Hearing::default();
        let believed = hearing.hear(&cluster, 2, announced([endpoint(mac(1), "10.0.0.2", &said)]));
        let names: Vec<String> = believed[0].names.iter().map(ToString::to_string).collect();
        (names, hearing.beliefs.doubts(host(2), &cluster, Duration::ZERO))
    };
    let (names, doubts) = believed(&[]);
    assert_eq!(names, ["db.internal", "kafka.1", "my_app-1", "web"]);
    let texts: Vec<&str> = doubts.iter().map(|doubt| doubt.text.as_str()).collect();
    assert!(
        texts
            .iter()
            .any(|text| text.contains("auth.docker.io") && text.contains("--opt shoutd.names=all"))
    );
    assert!(doubts.len() == 3 && doubts.iter().all(|doubt| !doubt.is_fault), "{doubts:?}");
    let (names, doubts) = believed(&[("shoutd.names", "all")]);
    assert_eq!(names, ["auth.docker.io", "db.internal", "kafka.1", "my_app-1", "web"]);
    assert_eq!(doubts.len(), 2);
}

#[test]
fn which_names_could_be_public() {
    let may_be = |name: &str| name.parse::<Name>().unwrap().may_be_public();
    for public in ["docker.io", "a.b.example.com", "x.xn--p1ai", "1.in-addr.arpa", "DB.PROD"] {
        assert!(may_be(public), "{public}");
    }
    for private in [
        "web",
        "com",
        "a.local",
        "a.b.internal",
        "a.home.arpa",
        "home.arpa",
        "a.1",
        "a.b_c",
        "a.b-c",
        "a.x",
    ] {
        assert!(!may_be(private), "{private}");
    }
}

#[test]
fn the_mac_address_of_anothers_live_endpoint_is_not_believed() {
    let mut cluster = cluster(&[], false);
    lease(&mut cluster, 2, "10.0.0.2");
    lease(&mut cluster, 3, "10.0.0.3");
    let (first, second) =
        (endpoint(mac(7), "10.0.0.2", &["a"]), endpoint(mac(7), "10.0.0.3", &["b"]));
    let mut hearing = Hearing::default();
    hearing.hear(&cluster, 2, announced([first.clone()]));
    assert_eq!(hearing.hear(&cluster, 3, announced([second.clone()])), []);
    assert_eq!(hearing.believed(2), vec![first.clone()], "who came first has it");
    assert_eq!(hearing.doubts(&cluster, 3, Duration::ZERO), [""; 0], "a container may be moving");
    let doubts = hearing.doubts(&cluster, 3, DOUBT_GRACE);
    assert!(
        doubts[0].contains("02:00:00:00:00:07") && doubts[0].contains("on host h2"),
        "{doubts:?}"
    );
    // It has moved.
    hearing.hear(&cluster, 2, announced([]));
    assert_eq!((hearing.believed(2), hearing.believed(3)), (vec![], vec![second.clone()]));
    // And its host was lost, and comes back when another has it.
    hearing.hear(&cluster, 3, PeerState { in_sync: false, ..announced([second.clone()]) });
    assert_eq!(hearing.hear(&cluster, 2, announced([first.clone()])), vec![first.clone()]);
    assert_eq!(hearing.hear(&cluster, 3, announced([second])), []);
    assert_eq!(hearing.believed(2), [first]);
}

#[test]
fn a_mac_address_made_of_an_address_is_that_of_who_has_the_lease() {
    let mut cluster = cluster(&[], false);
    lease(&mut cluster, 2, "10.0.0.2");
    lease(&mut cluster, 3, "10.0.0.3");
    let made = MacAddress::for_ipv4(Ipv4Addr::new(10, 0, 0, 3));
    let (thief, owner) = (endpoint(made, "10.0.0.2", &[]), endpoint(made, "10.0.0.3", &[]));
    let mut hearing = Hearing::default();
    assert_eq!(
        hearing.hear(&cluster, 2, announced([thief.clone()])),
        vec![thief.clone()],
        "nobody else has it yet"
    );
    assert_eq!(hearing.hear(&cluster, 3, announced([owner.clone()])), vec![owner.clone()]);
    assert_eq!(hearing.believed(2), []);
    assert_eq!(hearing.hear(&cluster, 2, announced([thief])), []);
    assert_eq!(hearing.believed(3), [owner]);
}

#[test]
fn a_mac_address_of_this_hosts_own_endpoint_is_not_believed() {
    let mut cluster = cluster(&[], false);
    lease(&mut cluster, 2, "10.0.0.2");
    let mut hearing = Hearing::default();
    let own = Endpoint {
        network: network_id(0),
        addresses: ["10.0.0.1/24".parse().unwrap()].into(),
        mac: mac(7),
        sandbox: None,
        multicast_routes: [].into(),
        created: Duration::ZERO,
        left: None,
        container: None,
    };
    hearing.local.add_endpoint("9".repeat(16).parse().unwrap(), own).unwrap();
    assert_eq!(hearing.hear(&cluster, 2, announced([endpoint(mac(7), "10.0.0.2", &[])])), []);
}

#[test]
fn doubts_are_bounded_and_an_earlier_version_reads_over_them() {
    let cluster = cluster(&[], false);
    let mut hearing = Hearing::default();
    let many = (0..1000_u16).map(|count| {
        let [high, low] = count.to_be_bytes();
        endpoint(
            MacAddress([2, 0, 0, 0, high, low]),
            &IpAddr::from([6, 6, high, low]).to_string(),
            &[],
        )
    });
    hearing.hear(&cluster, 2, announced(many));
    assert_eq!(hearing.doubts(&cluster, 2, DOUBT_GRACE).len(), DOUBTS_TOLD_MAX);
    assert_eq!(serde_json::to_string(&Reply::has(5)).unwrap(), r#"{"has":{"sequence":5}}"#);
    let doubts = vec![ReportedRejection { text: "a\nb".to_owned(), is_fault: true }.bounded()];
    let text = serde_json::to_string(&Reply::Has { sequence: 5, doubts: doubts.clone() }).unwrap();
    assert_eq!(text, r#"{"has":{"sequence":5,"doubts":[{"text":"a b","is_fault":true}]}}"#);
    assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), Reply::Has { sequence: 5, doubts });
    assert_eq!(
        serde_json::from_str::<Reply>(r#"{"has":{"sequence":5,"mood":1}}"#).unwrap(),
        Reply::has(5)
    );
}

proptest! {
    /// Whatever hosts announce, in whatever order: no address is believed of two hosts, nor of one
    /// without the lease; no MAC address of two that are in sync; and what all announce rightly is
    /// believed at the end.
    #[test]
    fn whoever_announces_what(said in proptest::collection::vec((2..4_u64, 0..6_u8, 0..6_u8, any::<bool>()), 1..24)) {
        let mut cluster = cluster(&[], false);
        (2..4).for_each(|one| lease(&mut cluster, one, &format!("10.0.0.{one}")));
        let mut hearing = Hearing::default();
        for (from, address, last, in_sync) in said {
            let one = endpoint(mac(last), &format!("10.0.0.{address}"), &["web"]);
            hearing.hear(&cluster, from, PeerState { in_sync, ..announced([one]) });
            let mut seen = BTreeMap::new();
            for (host, heard) in &hearing.heard.hosts {
                for endpoint in heard.networks[&network_id(0)].endpoints.values() {
                    let leases = &cluster.networks[&network_id(0)].leases;
                    prop_assert!(endpoint.addresses.iter().all(|address| leases.get(address) == Some(host)));
                    let other = heard.in_sync.then(|| seen.insert(endpoint.mac, *host)).flatten();
                    prop_assert!(other.is_none(), "{:?} is {:?}'s and {:?}'s", endpoint.mac, host, other);
                }
            }
        }
        for one in 2..4 {
            let rightly = endpoint(mac(10 + u8::try_from(one).unwrap()), &format!("10.0.0.{one}"), &["web"]);
            prop_assert_eq!(hearing.hear(&cluster, one, announced([rightly.clone()])), [rightly]);
        }
    }
}
