use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use prometheus_client::registry::Registry;
use shoutd_core::limits::{HOSTS_MAX, METERED_NETWORKS_MAX};
use shoutd_core::plane::Dropped;
use shoutd_core::sessions::{Session, WireguardView};
use shoutd_core::traffic::{Traffic, Volume};
use shoutd_core::tunnel::Carriage;
use shoutd_dataplane::{ReplicatorRound, Round, RoundObserver, RoundOutcome};
use shoutd_docker::plugin::CallObserver;

use super::collector::render;
use super::format::prometheus_text;
use super::meters::{Exchange, Meters};
use super::process::Process;
use super::snapshot::{Network, Peer, Raft, Snapshot};

/// What a scrape of 100 networks may weigh.
const SIZE_MAX: usize = 2 << 20;

const DOCUMENT: &str = "docs/book/src/operations/monitoring.md";

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn volume(packets: u64) -> Volume {
    Volume { packets, octets: packets * 1500 }
}

/// Meters that have counted something of each kind.
fn meters() -> Registry {
    let meters = Meters::default();
    let took = Duration::from_micros(1700);
    for method in ["NetworkDriver.Join", "IpamDriver.RequestAddress"] {
        meters.answered(method, true, took);
        meters.answered(method, false, took);
    }
    meters.proposed("committed", took);
    meters.joined(took);
    meters.applied(took);
    meters.sent(Exchange::Accepted);
    meters.received(Exchange::Refused);
    meters.probed();
    meters.reconciled(&Round { outcome: RoundOutcome::Changed, took, done: 3, failed: 1 });
    meters.replicated(&ReplicatorRound { took, made: 2, failed: 0 });
    let mut registry = Registry::with_prefix("shoutd");
    meters.register(&mut registry);
    registry
}

/// A host with so many networks and peers, and large numbers.
fn snapshot(networks: usize, peers: usize) -> Snapshot {
    let large = 1_000_000_000_000_000;
    let traffic = Traffic {
        sent: volume(large),
        received: volume(large),
        tunnel_sent: volume(large),
        tunnel_received: volume(large),
        spread: large,
        copies_sent: large,
        copies_saved: large,
        without_member: large,
        failed: large,
        over_rate: large,
        group_management: large,
        port_dropped: large,
    };
    let networks = (0..networks).map(|number| Network {
        title: format!("project{number}_network-of-usual-length"),
        endpoints: 10,
        remotes: peers,
        local_groups: 10_000,
        takes_everything: true,
        remote_groups: 10_000,
        receivers: 10_000 * peers,
        entries: 10_000,
        groups_beyond: 0,
        learned: 3,
        traffic: Some(traffic),
    });
    let peers = (0..peers).map(|number| Peer {
        title: format!("host{number}.example.org"),
        is_reachable: Some(true),
        in_sync: Some(true),
        advertised_age: Some(1.234),
        tunnel: Some([Carriage::Carries, Carriage::SmallOnly]),
        encrypted_tunnel: Some([Carriage::Carries, Carriage::SmallOnly]),
        session: Some(Session { handshake_ago: Some(Duration::from_millis(1234)) }),
        probes_received: large,
    });
    Snapshot {
        problems: 1,
        is_member: true,
        hosts: 3,
        networks_agreed: 5,
        raft: Raft { applied: Some(large), contact_age: Some(0.25), ..Raft::default() },
        peers: peers.collect(),
        networks: networks.collect(),
        wireguard: Some(WireguardView {
            tier: Some("userspace".to_owned()),
            port: Some(7792),
            peers: 2,
            sessions: 1,
        }),
        underlay: Dropped { input: 1, forward: 2, output: 3 },
        process: Process::read(),
        ..Snapshot::default()
    }
}

/// The names, types and labels in OpenMetrics text, without those of histograms' buckets.
fn described(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families = BTreeMap::new();
    let mut name = String::new();
    for line in prometheus_text(text).lines() {
        if let Some((family, kind)) =
            line.strip_prefix("# TYPE ").and_then(|text| text.split_once(' '))
        {
            family.clone_into(&mut name);
            families.insert(name.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if let (Some((_, rest)), Some((_, labels))) =
            (line.split_once('{'), families.get_mut(&name))
        {
            let names = rest.split("=\"").filter_map(|part| part.rsplit([',', '{', '"']).next());
            labels.extend(names.filter(|label| is_label(label)).map(str::to_owned));
        }
    }
    families
}

fn is_label(text: &str) -> bool {
    text != "le"
        && !text.is_empty()
        && text.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
}

/// The rows of the tables of metrics in the document.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = fs::read_to_string(root().join(DOCUMENT)).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.filter_map(|row| {
        let (name, rest) = row.split_once('`')?;
        let cells: Vec<&str> = rest.split(" | ").map(str::trim).collect();
        let [_, kind, _, labels, ..] = cells.as_slice() else { return None };
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some((name.to_owned(), ((*kind).to_owned(), labels)))
    });
    rows.filter(|(_, (kind, _))| ["counter", "gauge", "histogram"].contains(&kind.as_str()))
        .collect()
}

#[test]
fn what_is_exported_is_documented_and_nothing_else() {
    let (exported, documented) =
        (described(&render(&meters(), snapshot(1, 1)).unwrap()), documented());
    for (name, family) in &exported {
        assert_eq!(documented.get(name), Some(family), "{name} in {DOCUMENT}");
    }
    for name in documented.keys() {
        assert!(exported.contains_key(name), "{name} is documented, but not exported");
    }
}

/// The names of metrics in a file, without the endings of a histogram's series.
fn used(path: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let names = words.filter(|word| word.starts_with("shoutd_") || word.starts_with("process_"));
    let names = names.map(|name| {
        let endings = ["_bucket", "_sum", "_count"];
        endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name).to_owned()
    });
    names.collect()
}

#[test]
fn rules_and_dashboard_use_metrics_that_exist() {
    let exported = described(&render(&meters(), snapshot(1, 1)).unwrap());
    // Parts of the names of recording rules.
    let recorded = [
        "shoutd_sent_packets",
        "shoutd_copies_saved",
        "shoutd_join_to_programmed_seconds",
        "shoutd_plugin_call_duration_seconds",
    ];
    for path in ["contrib/prometheus/shoutd.rules.yml", "contrib/grafana/shoutd.json"] {
        let used = used(path);
        assert!(used.len() > 10, "{path}: {used:?}");
        for name in used {
            let is_known = exported.contains_key(&name) || recorded.contains(&name.as_str());
            assert!(is_known, "{name} in {path}");
        }
    }
    let dashboard = fs::read(root().join("contrib/grafana/shoutd.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_slice(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "the ids of panels differ");
}

#[test]
fn a_hundred_networks_with_ten_thousand_groups_fit_into_the_limit() {
    for (networks, peers) in [(100, HOSTS_MAX - 1), (METERED_NETWORKS_MAX, HOSTS_MAX - 1)] {
        let text = render(&meters(), snapshot(networks, peers)).unwrap();
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        println!("{networks} networks, {peers} peers: {series} series, {} octets", text.len());
        assert!(text.len() < SIZE_MAX, "{networks} networks: {} octets", text.len());
    }
}

#[test]
fn names_that_strangers_chose_cannot_break_the_text() {
    let mut one = snapshot(1, 1);
    one.networks[0].title = "a\"} 1\n# EOF\nshoutd_up{x=\"\\".to_owned();
    one.peers[0].title = "\u{7}\r\nhost\t\"".to_owned();
    let text = render(&meters(), one).unwrap();
    let expected = r#"shoutd_network_endpoints{network="a\"} 1\n# EOF\nshoutd_up{x=\"\\"} 10.0"#;
    assert!(text.lines().any(|line| line == expected), "{text}");
    assert_eq!(text.matches("# EOF\n").count(), 1);
    assert!(text.ends_with("# EOF\n"));
    let lines = text.split('\n').filter(|line| !line.is_empty());
    assert!(lines.into_iter().all(|line| line.starts_with("shoutd_")
        || line.starts_with("process_")
        || line.starts_with("# ")));
}

#[test]
fn every_family_is_written_once() {
    let text = render(&meters(), snapshot(2, 2)).unwrap();
    let mut names = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        assert!(names.insert(line.to_owned()), "{line} is written twice");
    }
    let mut samples = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sample, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(samples.insert(sample.to_owned()), "{sample} is written twice");
    }
}
