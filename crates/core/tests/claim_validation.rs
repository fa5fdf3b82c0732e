//! Which claims of peers are accepted.
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
use shoutd_core::limits::{REJECTION_GRACE, REPORTED_REJECTIONS_MAX};
use shoutd_core::local::{Endpoint, Local};
use shoutd_core::names::Name;
use shoutd_core::{HostId, MacAddress};

use crate::common::{cluster_of, groups, host, network_id, pool, settings};

/// Three hosts, and a network with 10.0.0.0/24 and the gateway 10.0.0.254.
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

/// What a host advertises of the network: these endpoints, and groups that are never rejected.
fn advertised(endpoints: impl IntoIterator<Item = AdvertisedEndpoint>) -> PeerState {
    let endpoints = endpoints
        .into_iter()
        .enumerate()
        .map(|(place, endpoint)| (format!("{place:016}").parse().unwrap(), endpoint))
        .collect();
    let network = AdvertisedNetwork { endpoints, memberships: groups(3), mtu: None };
    let networks: Content = [(network_id(0), Arc::new(network))].into();
    PeerState { in_sync: true, networks }
}

/// A host that receives the advertisements of others.
#[derive(Default)]
struct Receiver {
    local: Local,
    received: BTreeMap<HostId, PeerState>,
    peers: Arc<PeerStates>,
    validation: ClaimValidation,
    now: Duration,
}

impl Receiver {
    /// The accepted endpoints of a host that advertises this.
    fn receive(
        &mut self,
        cluster: &Cluster,
        from: u64,
        advertised: PeerState,
    ) -> Vec<AdvertisedEndpoint> {
        self.received.insert(host(from), advertised);
        self.validate(cluster, host(from));
        self.validation.contested().into_iter().for_each(|rival| self.validate(cluster, rival));
        self.accepted(from)
    }

    fn validate(&mut self, cluster: &Cluster, at: HostId) {
        let known = Known { cluster, local: &self.local };
        self.validation.update(
            &mut self.peers,
            at,
            self.received.get(&at).cloned(),
            known,
            self.now,
        );
    }

    fn accepted(&self, from: u64) -> Vec<AdvertisedEndpoint> {
        let network = &self.peers.hosts[&host(from)].networks[&network_id(0)];
        assert_eq!(network.memberships, groups(3), "memberships are accepted");
        network.endpoints.values().cloned().collect()
    }

    fn rejections(&self, cluster: &Cluster, from: u64, after: Duration) -> Vec<String> {
        let rejections = self.validation.rejections(host(from), cluster, self.now + after);
        rejections.into_iter().map(|rejection| rejection.text).collect()
    }
}

#[test]
fn only_addresses_that_are_leased_to_the_host_are_accepted() {
    let mut cluster = cluster(&[], false);
    lease(&mut cluster, 2, "10.0.0.2");
    lease(&mut cluster, 3, "10.0.0.3");
    let mut receiver = Receiver::default();
    let claimed: Vec<_> = ["10.0.0.2", "6.6.6.6", "10.0.0.254", "10.0.0.3", "10.0.0.9", "10.0.0.2"]
        .iter()
        .zip(1..)
        .map(|(address, last)| endpoint(mac(last), address, &["auth", "web"]))
        .collect();
    let accepted = receiver.receive(&cluster, 2, advertised(claimed.clone()));
    assert_eq!(accepted[0], claimed[0]);
    assert!(
        accepted[1..]
            .iter()
            .all(|endpoint| endpoint.addresses.is_empty() && endpoint.names.is_empty())
    );
    assert!(
        accepted.iter().zip(&claimed).all(|(is, claimed)| is.mac == claimed.mac),
        "MAC addresses are accepted"
    );
    let at_once = receiver.rejections(&cluster, 2, Duration::ZERO);
    assert!(
        at_once[0].contains("network 000000000000: address 6.6.6.6")
            && at_once[0].contains("in no subnet")
    );
    assert!(at_once[1].contains("10.0.0.254") && at_once[1].contains("reserved"), "{at_once:?}");
    assert!(
        at_once[2].contains("10.0.0.2 ") && at_once[2].contains("another endpoint"),
        "{at_once:?}"
    );
    assert_eq!(at_once.len(), 3, "a rejection that may pass by itself is not reported at once");
    let later = receiver.rejections(&cluster, 2, REJECTION_GRACE);
    assert!(
        later
            .iter()
            .any(|rejection| rejection.contains("10.0.0.3")
                && rejection.contains("leased to host h3")),
        "{later:?}"
    );
    assert!(
        later
            .iter()
            .any(|rejection| rejection.contains("10.0.0.9")
                && rejection.contains("not leased to it")),
        "{later:?}"
    );
}

#[test]
fn an_address_is_accepted_once_its_lease_is_known() {
    let mut cluster = cluster(&[], false);
    let mut receiver = Receiver::default();
    let claimed = endpoint(mac(1), "10.0.0.2", &["web"]);
    assert!(receiver.receive(&cluster, 2, advertised([claimed.clone()]))[0].names.is_empty());
    lease(&mut cluster, 2, "10.0.0.2");
    receiver.validate(&cluster, host(2));
    assert_eq!(receiver.accepted(2), [claimed]);
    assert_eq!(receiver.rejections(&cluster, 2, REJECTION_GRACE), [""; 0]);
    // A keepalive then validates nothing again.
    let before = receiver.peers.clone();
    receiver.validate(&cluster, host(2));
    assert!(Arc::ptr_eq(&before, &receiver.peers));
    // When the lease is released, the address is rejected again.
    let addresses = vec!["10.0.0.2".parse().unwrap()];
    let release =
        Command::ReleaseAddresses { network: network_id(0), host: host(2), claims: 1, addresses };
    cluster.apply(&release).unwrap();
    receiver.validate(&cluster, host(2));
    assert!(receiver.accepted(2)[0].addresses.is_empty());
}

#[test]
fn claims_on_swarm_networks_and_unknown_networks_need_no_leases() {
    let swarm = cluster(&[], true);
    let inside = endpoint(mac(1), "10.0.0.2", &["web"]);
    let outside = endpoint(mac(2), "10.0.1.2", &[]);
    let mut receiver = Receiver::default();
    let accepted = receiver.receive(&swarm, 2, advertised([inside.clone(), outside.clone()]));
    assert_eq!(accepted[0], inside);
    assert!(accepted[1].addresses.is_empty());
    let mut receiver = Receiver::default();
    assert_eq!(
        receiver.receive(&cluster_of(3), 2, advertised([inside.clone(), outside.clone()])),
        [inside, outside]
    );
}

#[test]
fn names_of_the_public_dns_and_of_the_host_itself_are_rejected() {
    let claimed = [
        "web",
        "my_app-1",
        "db.internal",
        "kafka.1",
        "auth.docker.io",
        "host.docker.internal",
        "ip6-localhost",
    ];
    let (names, rejections) = accepted_names(&[], &claimed);
    assert_eq!(names, ["db.internal", "kafka.1", "my_app-1", "web"]);
    let texts: Vec<&str> = rejections.iter().map(|rejection| rejection.text.as_str()).collect();
    assert!(
        texts
            .iter()
            .any(|text| text.contains("auth.docker.io") && text.contains("--opt shoutd.names=all"))
    );
    assert!(
        rejections.len() == 3 && rejections.iter().all(|rejection| !rejection.is_fault),
        "{rejections:?}"
    );
    let (names, rejections) = accepted_names(&[("shoutd.names", "all")], &claimed);
    assert_eq!(names, ["auth.docker.io", "db.internal", "kafka.1", "my_app-1", "web"]);
    assert_eq!(rejections.len(), 2);
}

/// The names that are accepted of those that host 2 claims for an endpoint, on a network with these
/// options, and the rejections.
fn accepted_names(
    options: &[(&str, &str)],
    claimed: &[&str],
) -> (Vec<String>, Vec<ReportedRejection>) {
    let mut cluster = cluster(options, false);
    lease(&mut cluster, 2, "10.0.0.2");
    let mut receiver = Receiver::default();
    let accepted =
        receiver.receive(&cluster, 2, advertised([endpoint(mac(1), "10.0.0.2", claimed)]));
    let names = accepted[0].names.iter().map(ToString::to_string).collect();
    (names, receiver.validation.rejections(host(2), &cluster, Duration::ZERO))
}

#[test]
fn names_with_a_public_top_level_domain_may_be_public() {
    for public in ["docker.io", "a.b.example.com", "x.xn--p1ai", "1.in-addr.arpa", "DB.PROD"] {
        assert!(public.parse::<Name>().unwrap().may_be_public(), "{public}");
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
        assert!(!private.parse::<Name>().unwrap().may_be_public(), "{private}");
    }
}

#[test]
fn the_mac_address_of_another_hosts_live_endpoint_is_rejected() {
    let mut cluster = cluster(&[], false);
    lease(&mut cluster, 2, "10.0.0.2");
    lease(&mut cluster, 3, "10.0.0.3");
    let (first, second) =
        (endpoint(mac(7), "10.0.0.2", &["a"]), endpoint(mac(7), "10.0.0.3", &["b"]));
    let mut receiver = Receiver::default();
    receiver.receive(&cluster, 2, advertised([first.clone()]));
    assert_eq!(receiver.receive(&cluster, 3, advertised([second.clone()])), []);
    assert_eq!(receiver.accepted(2), vec![first.clone()], "the first claim wins");
    assert_eq!(
        receiver.rejections(&cluster, 3, Duration::ZERO),
        [""; 0],
        "a container may be moving"
    );
    let rejections = receiver.rejections(&cluster, 3, REJECTION_GRACE);
    assert!(
        rejections[0].contains("02:00:00:00:00:07") && rejections[0].contains("on host h2"),
        "{rejections:?}"
    );
    // The container has moved.
    receiver.receive(&cluster, 2, advertised([]));
    assert_eq!((receiver.accepted(2), receiver.accepted(3)), (vec![], vec![second.clone()]));
    // Its host was lost, and comes back while another host has the MAC address.
    receiver.receive(&cluster, 3, PeerState { in_sync: false, ..advertised([second.clone()]) });
    assert_eq!(receiver.receive(&cluster, 2, advertised([first.clone()])), vec![first.clone()]);
    assert_eq!(receiver.receive(&cluster, 3, advertised([second])), []);
    assert_eq!(receiver.accepted(2), [first]);
}

#[test]
fn a_mac_address_derived_from_an_address_belongs_to_the_holder_of_the_lease() {
    let mut cluster = cluster(&[], false);
    lease(&mut cluster, 2, "10.0.0.2");
    lease(&mut cluster, 3, "10.0.0.3");
    let made = MacAddress::for_ipv4(Ipv4Addr::new(10, 0, 0, 3));
    let (thief, owner) = (endpoint(made, "10.0.0.2", &[]), endpoint(made, "10.0.0.3", &[]));
    let mut receiver = Receiver::default();
    assert_eq!(
        receiver.receive(&cluster, 2, advertised([thief.clone()])),
        vec![thief.clone()],
        "no other host claims it yet"
    );
    assert_eq!(receiver.receive(&cluster, 3, advertised([owner.clone()])), vec![owner.clone()]);
    assert_eq!(receiver.accepted(2), []);
    assert_eq!(receiver.receive(&cluster, 2, advertised([thief])), []);
    assert_eq!(receiver.accepted(3), [owner]);
}

#[test]
fn a_mac_address_of_this_hosts_own_endpoint_is_rejected() {
    let mut cluster = cluster(&[], false);
    lease(&mut cluster, 2, "10.0.0.2");
    let mut receiver = Receiver::default();
    let own = Endpoint {
        network: network_id(0),
        addresses: ["10.0.0.1/24".parse().unwrap()].into(),
        mac: mac(7),
        sandbox: None,
        multicast_routes: [].into(),
        interface_name: None,
        default_route: None,
        created: Duration::ZERO,
        left: None,
        container: None,
    };
    receiver.local.add_endpoint("9".repeat(16).parse().unwrap(), own).unwrap();
    assert_eq!(receiver.receive(&cluster, 2, advertised([endpoint(mac(7), "10.0.0.2", &[])])), []);
}

#[test]
fn rejections_are_bounded_and_earlier_versions_ignore_them() {
    let cluster = cluster(&[], false);
    let mut receiver = Receiver::default();
    let many = (0..1000_u16).map(|count| {
        let [high, low] = count.to_be_bytes();
        endpoint(
            MacAddress([2, 0, 0, 0, high, low]),
            &IpAddr::from([6, 6, high, low]).to_string(),
            &[],
        )
    });
    receiver.receive(&cluster, 2, advertised(many));
    assert_eq!(receiver.rejections(&cluster, 2, REJECTION_GRACE).len(), REPORTED_REJECTIONS_MAX);
    assert_eq!(serde_json::to_string(&Reply::has(5)).unwrap(), r#"{"has":{"sequence":5}}"#);
    let rejections = vec![ReportedRejection { text: "a\nb".to_owned(), is_fault: true }.bounded()];
    let text =
        serde_json::to_string(&Reply::Has { sequence: 5, rejections: rejections.clone() }).unwrap();
    assert_eq!(text, r#"{"has":{"sequence":5,"doubts":[{"text":"a b","is_fault":true}]}}"#);
    assert_eq!(
        serde_json::from_str::<Reply>(&text).unwrap(),
        Reply::Has { sequence: 5, rejections }
    );
    assert_eq!(
        serde_json::from_str::<Reply>(r#"{"has":{"sequence":5,"mood":1}}"#).unwrap(),
        Reply::has(5)
    );
}

proptest! {
    /// For anything that hosts advertise in any order: no address is accepted from a host without
    /// its lease, no MAC address from two hosts that are in sync, and in the end all valid claims
    /// are accepted.
    #[test]
    fn accepted_claims_never_conflict(
        claims in proptest::collection::vec((2..4_u64, 0..6_u8, 0..6_u8, any::<bool>()), 1..24),
    ) {
        let mut cluster = cluster(&[], false);
        (2..4).for_each(|one| lease(&mut cluster, one, &format!("10.0.0.{one}")));
        let mut receiver = Receiver::default();
        for (from, address, last, in_sync) in claims {
            let one = endpoint(mac(last), &format!("10.0.0.{address}"), &["web"]);
            receiver.receive(&cluster, from, PeerState { in_sync, ..advertised([one]) });
            let mut seen = BTreeMap::new();
            for (host, peer) in &receiver.peers.hosts {
                for endpoint in peer.networks[&network_id(0)].endpoints.values() {
                    let leases = &cluster.networks[&network_id(0)].leases;
                    prop_assert!(
                        endpoint.addresses.iter().all(|address| leases.get(address) == Some(host))
                    );
                    let other = peer.in_sync.then(|| seen.insert(endpoint.mac, *host)).flatten();
                    prop_assert!(
                        other.is_none(),
                        "{:?} is {:?}'s and {:?}'s",
                        endpoint.mac,
                        host,
                        other
                    );
                }
            }
        }
        for one in 2..4 {
            let valid =
                endpoint(mac(10 + u8::try_from(one).unwrap()), &format!("10.0.0.{one}"), &["web"]);
            prop_assert_eq!(receiver.receive(&cluster, one, advertised([valid.clone()])), [valid]);
        }
    }
}
