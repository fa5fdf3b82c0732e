//! Names of containers across hosts: valid names, the names that a container may resolve, and its
//! hosts file.
#![allow(clippy::unwrap_used, reason = "tests say what they expect by failing")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use shoutd_core::advertise::{AdvertisedEndpoint, AdvertisedNetwork, PeerState, PeerStates};
use shoutd_core::cluster::{Cluster, Command, Settings};
use shoutd_core::limits::{HOSTS_LINES_MAX, NAMES_PER_ENDPOINT_MAX};
use shoutd_core::local::{Endpoint, Local};
use shoutd_core::names::{
    Directory, EndpointContainer, EngineFacts, Name, bounded_names, containers, hosts_file,
    without_lines,
};
use shoutd_core::{EndpointId, MacAddress, NetworkId};

use crate::common::{cluster_of, host, pool, settings};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn names(texts: &[&str]) -> BTreeSet<Name> {
    texts.iter().map(|text| name(text)).collect()
}

/// Names of containers of other hosts, each with its addresses.
fn directory(entries: &[(&str, &[&str])]) -> Directory {
    let mut directory = Directory::default();
    for (text, addresses) in entries {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        directory.addresses.insert(name(text), addresses);
        directory.remote.insert(name(text));
    }
    directory
}

#[test]
fn only_dns_names_are_valid() {
    for valid in ["a", "web-1", "my_app", "x.y.z", "0123456789ab", &"a".repeat(63)] {
        assert_eq!(name(valid).as_str(), valid);
    }
    assert_eq!(name("WeB").as_str(), "web");
    let long = format!("{}.{}", "a".repeat(63), "b".repeat(190));
    for invalid in [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "-a",
        "a b",
        "a\nb",
        "ä",
        "10.0.0.1",
        "fe80::1",
        "localhost",
        "LocalHost",
        "a#b",
        &"a".repeat(64),
        &long,
    ] {
        assert!(invalid.parse::<Name>().is_err(), "{invalid:?}");
    }
    let many: Vec<String> = (0..100).map(|number| format!("n{number}")).collect();
    assert_eq!(bounded_names(many.iter().map(String::as_str)).len(), NAMES_PER_ENDPOINT_MAX);
    assert!(serde_json::from_str::<Name>(r#""a b""#).is_err());
}

#[test]
fn foreign_lines_stay_and_their_names_take_precedence() {
    let now = "127.0.0.1\tlocalhost\n172.18.0.3\t0123456789ab\n10.9.9.9 db # by --add-host\n";
    let mut wanted = directory(&[
        ("web", &["10.0.0.2", "10.0.0.9"]),
        ("db", &["10.0.0.3"]),
        ("also-web", &["10.0.0.2", "fd00::2"]),
    ]);
    // Of a container on this host.
    wanted.addresses.insert(name("here"), ["10.0.0.4".parse().unwrap()].into());
    let lines =
        "10.0.0.2\talso-web web # shoutd\n10.0.0.9\tweb # shoutd\nfd00::2\talso-web # shoutd\n";
    let first = hosts_file(now, &wanted).unwrap();
    assert_eq!(first, format!("{now}{lines}"));
    assert_eq!(hosts_file(&first, &wanted), None, "nothing to do");
    // Docker appends a line to the file.
    let added = format!("{first}172.19.0.3\t0123456789ab\n");
    assert_eq!(hosts_file(&added, &wanted), None, "still nothing to do");
    let fewer = directory(&[("web", &["10.0.0.9"])]);
    assert_eq!(
        hosts_file(&added, &fewer).unwrap(),
        format!("{now}172.19.0.3\t0123456789ab\n10.0.0.9\tweb # shoutd\n")
    );
    assert_eq!(hosts_file(&first, &Directory::default()).unwrap(), now);
    // The last line has no line break.
    assert_eq!(hosts_file("1.2.3.4 x", &fewer).unwrap(), "1.2.3.4 x\n10.0.0.9\tweb # shoutd\n");
}

/// The lines of a hosts file that are not shoutd's.
fn foreign_lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.trim_end().ends_with("# shoutd")).collect()
}

proptest! {
    #[test]
    fn foreign_lines_never_change(
        lines in proptest::collection::vec("[ -~\t]{0,40}", 0..20),
        count in 0..4u8,
    ) {
        let now: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let texts: Vec<String> = (0..count).map(|number| format!("10.0.0.{number}")).collect();
        let addresses: Vec<&str> = texts.iter().map(String::as_str).collect();
        let wanted = directory(&[("some-name-of-ours", &addresses)]);
        let after = hosts_file(&now, &wanted).unwrap_or_else(|| now.clone());
        prop_assert_eq!(hosts_file(&after, &wanted), None);
        prop_assert_eq!(foreign_lines(&now), foreign_lines(&after));
        let cleared = hosts_file(&after, &Directory::default()).unwrap_or(after);
        prop_assert_eq!(foreign_lines(&now), cleared.lines().collect::<Vec<_>>());
    }
}

#[test]
fn the_number_of_lines_in_a_hosts_file_is_limited() {
    let texts: Vec<String> = (0..10_000u32)
        .map(|number| IpAddr::from((0x0a00_0000 + number).to_be_bytes()).to_string())
        .collect();
    let addresses: Vec<&str> = texts.iter().map(String::as_str).collect();
    let file = hosts_file("", &directory(&[("many", &addresses)])).unwrap();
    assert_eq!(file.lines().count(), HOSTS_LINES_MAX);
}

const RED: &str = "aaaaaaaaaaaaaaaa";
const BLUE: &str = "bbbbbbbbbbbbbbbb";
const SILENT: &str = "cccccccccccccccc";

fn network(id: &str) -> NetworkId {
    id.parse().unwrap()
}

fn cluster() -> Cluster {
    let mut cluster = cluster_of(1);
    for (place, (id, resolves)) in
        [(RED, "on"), (BLUE, "on"), (SILENT, "off")].into_iter().enumerate()
    {
        let pool = pool(&format!("10.{place}.0.0/16"));
        let options = BTreeMap::from([("shoutd.names".to_owned(), resolves.to_owned())]);
        let settings = Settings { options, docker_ipam: false, ..settings(pool) };
        cluster
            .apply(&Command::CreateNetwork { id: network(id), origin: host(1), settings })
            .unwrap();
    }
    cluster
}

/// An endpoint of the container with this id on this host.
fn endpoint(on: &str, address: &str, container: &str, called: &[&str]) -> Endpoint {
    let sandbox = Some(PathBuf::from(format!("/netns/{container}")));
    let container = EndpointContainer {
        id: container.to_owned(),
        names: names(called),
        hosts_file: Some(PathBuf::from(format!("/docker/containers/{container}/hosts"))),
        asks_resolver: container == "both",
        engine: Some(EngineFacts { root: PathBuf::from("/docker"), process: 7 }),
    };
    Endpoint {
        network: network(on),
        addresses: [format!("{address}/16").parse().unwrap()].into(),
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        sandbox,
        multicast_routes: BTreeSet::new(),
        interface_name: None,
        default_route: None,
        created: Duration::ZERO,
        left: None,
        container: Some(container),
    }
}

fn local<const COUNT: usize>(endpoints: [Endpoint; COUNT]) -> Local {
    let mut local = Local::default();
    for (place, endpoint) in endpoints.into_iter().enumerate() {
        local.endpoints.insert(format!("{place:016}").parse().unwrap(), endpoint);
    }
    local
}

/// What another host advertises of an endpoint, with its network.
fn advertised(on: &str, address: &str, called: &[&str]) -> (NetworkId, AdvertisedEndpoint) {
    let endpoint = AdvertisedEndpoint {
        mac: MacAddress([2, 0, 0, 0, 0, 9]),
        addresses: [address.parse().unwrap()].into(),
        names: names(called),
    };
    (network(on), endpoint)
}

fn peers<const COUNT: usize>(endpoints: [(NetworkId, AdvertisedEndpoint); COUNT]) -> PeerStates {
    let mut networks: BTreeMap<NetworkId, AdvertisedNetwork> = BTreeMap::new();
    for (place, (on, endpoint)) in endpoints.into_iter().enumerate() {
        let id: EndpointId = format!("{:016}", 100 + place).parse().unwrap();
        networks.entry(on).or_default().endpoints.insert(id, endpoint);
    }
    let networks = networks.into_iter().map(|(id, network)| (id, Arc::new(network))).collect();
    PeerStates { hosts: [(host(2), Arc::new(PeerState { in_sync: true, networks }))].into() }
}

#[test]
fn a_container_resolves_the_names_of_its_networks_and_no_others() {
    let local = local([
        endpoint(RED, "10.0.0.1", "one", &["one", "app"]),
        endpoint(BLUE, "10.1.0.1", "two", &["two"]),
        endpoint(RED, "10.0.0.2", "both", &["both"]),
        endpoint(BLUE, "10.1.0.2", "both", &["both"]),
        endpoint(SILENT, "10.2.0.1", "none", &["none"]),
    ]);
    let peers = peers([
        advertised(RED, "10.0.0.9", &["far", "app"]),
        advertised(BLUE, "10.1.0.9", &["far"]),
        advertised(SILENT, "10.2.0.9", &["far"]),
    ]);
    let containers = containers(&cluster(), &local, &peers);
    let file = containers["one"].hosts_file.as_ref().unwrap();
    assert_eq!((file.path(), file.process), (PathBuf::from("/docker/containers/one/hosts"), 7));
    assert_eq!(containers["one"].asks_in, None);
    assert_eq!(containers["both"].asks_in, Some(PathBuf::from("/netns/both")));
    // A name that a container on this host has too resolves to both addresses, because the hosts
    // file takes precedence over Docker's resolver.
    for (id, lines) in [
        ("one", "10.0.0.1\tapp # shoutd\n10.0.0.9\tapp far # shoutd\n"),
        ("two", "10.1.0.9\tfar # shoutd\n"),
        ("both", "10.0.0.1\tapp # shoutd\n10.0.0.9\tapp far # shoutd\n10.1.0.9\tfar # shoutd\n"),
        ("none", ""),
    ] {
        let found = hosts_file("", &containers[id].directory).unwrap_or_default();
        assert_eq!(found, lines, "{id}");
    }
}

/// A container with this hosts file, of an engine with this root directory.
fn container(file: &str, root: &str) -> EndpointContainer {
    EndpointContainer {
        id: "c".repeat(64),
        names: names(&[]),
        hosts_file: Some(PathBuf::from(file)),
        asks_resolver: false,
        engine: Some(EngineFacts { root: PathBuf::from(root), process: 7 }),
    }
}

#[test]
fn only_the_file_that_the_engine_made_for_the_container_is_its_own() {
    let id = "c".repeat(64);
    let made = format!("/var/lib/docker/containers/{id}/hosts");
    let own = container(&made, "/var/lib/docker");
    assert_eq!(own.own_hosts_file().unwrap().path(), PathBuf::from(&made));
    assert_eq!(own.own_hosts_file().unwrap().owners(), [0].into());
    assert_eq!(own.foreign_hosts_file(), None);
    // What `-v` may mount there: the host's file, a volume's, another container's, and other paths
    // to them.
    let other = format!("/var/lib/docker/containers/{}/hosts", "d".repeat(64));
    let back = format!("/var/lib/docker/containers/{id}/../{id}/hosts");
    for file in ["/etc/hosts", "/var/lib/docker/volumes/v/_data/hosts", &other, &back, "hosts"] {
        assert_eq!(container(file, "/var/lib/docker").own_hosts_file(), None, "{file}");
    }
    assert_eq!(
        container("/etc/hosts", "/var/lib/docker").foreign_hosts_file(),
        Some(Path::new("/etc/hosts"))
    );
    assert_eq!(container(&other, "/var/lib/docker").foreign_hosts_file(), None);
    // State of an earlier version does not prove whose file it is.
    assert_eq!(EndpointContainer { engine: None, ..own.clone() }.own_hosts_file(), None);
    assert_eq!(EndpointContainer { id: "../x".to_owned(), ..own }.own_hosts_file(), None);
    let remapped =
        container(&format!("/docker/100000.100001/containers/{id}/hosts"), "/docker/100000.100001");
    assert_eq!(remapped.own_hosts_file().unwrap().owners(), [0, 100_000].into());
}

#[test]
fn containers_in_state_of_an_earlier_version_are_read() {
    let text = r#"{"id":"x","names":["a"],"hosts_file":"/etc/hosts"}"#;
    let read: EndpointContainer = serde_json::from_str(text).unwrap();
    assert_eq!((read.engine, read.hosts_file), (None, Some(PathBuf::from("/etc/hosts"))));
}

#[test]
fn only_lines_that_are_provably_ours_are_removed_from_foreign_files() {
    let subnets = ["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
    let ours = "10.0.0.2\tdb registry-1.docker.io # shoutd\nfd00::2\tdb # shoutd\n";
    assert_eq!(without_lines("127.0.0.1 localhost\n# about shoutd\n", &subnets), None);
    let cleaned = without_lines(&format!("1.2.3.4 x\n{ours}5.6.7.8 y"), &subnets).unwrap();
    assert_eq!(
        (cleaned.text.as_str(), cleaned.removed, cleaned.left),
        ("1.2.3.4 x\n5.6.7.8 y", 2, 0)
    );
    for others in [
        "10.0.1.2\tdb # shoutd",
        "10.0.0.2 db # shoutd",
        "10.0.0.2\tDB # shoutd",
        "10.0.0.2\tdb  web # shoutd",
        "10.0.0.2\tweb db # shoutd",
        "10.0.0.2\tdb # my shoutd",
        "10.0.0.2\tdb# shoutd",
        "fd00:0::2\tdb # shoutd",
        "10.0.0.2\tdb # shoutd ",
        "\t# shoutd",
        "# shoutd",
    ] {
        let now = format!("{others}\n");
        let cleaned = without_lines(&now, &subnets);
        assert!(
            cleaned.is_none_or(|cleaned| cleaned.text == now && cleaned.removed == 0),
            "{others:?}"
        );
    }
}

#[test]
fn no_line_is_longer_than_musl_reads() {
    let texts: Vec<String> =
        (0..NAMES_PER_ENDPOINT_MAX).map(|number| format!("{}{number}", "n".repeat(60))).collect();
    let entries: Vec<(&str, &[&str])> =
        texts.iter().map(|one| (one.as_str(), &["10.0.0.2"][..])).collect();
    let file = hosts_file("", &directory(&entries)).unwrap();
    assert!(file.lines().all(|line| line.len() < 511 && line.starts_with("10.0.0.2\t")), "{file}");
    assert!(texts.iter().all(|one| file.contains(&format!("{one} "))), "{file}");
    assert_eq!(hosts_file(&file, &directory(&entries)), None);
}
