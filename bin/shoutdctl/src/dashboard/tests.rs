//! The page of whole clusters, also of large and of hostile ones.

use std::time::Instant;

use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue};
use serde_json::{Value, from_value, json};
use shoutd_core::explain::{Explanation, Finding, Station, Verdict};

use super::access::Access;
use super::board::{Board, Views};
use super::page::{Regions, group_panel, host_panel, page, regions};
use super::server::differences;

/// A name that would be a script, and breaks lines.
const EVIL: &str = "<script>alert(1)</script>\"'\n";

/// The views of a cluster. Each host has this many containers, all on one network and members of
/// one group. The first one sends to it.
fn views(hosts: usize, containers: usize, network: &str) -> Views {
    let name = |host: usize| format!("host{host}");
    let container = |host: usize, one: usize| format!("c{host}-{one}");
    let host_rows = (1..=hosts).map(|host| {
        json!({
            "id": format!("{host:016x}"), "name": name(host),
            "address": format!("10.0.{}.{}:7789", host / 250, host % 250 + 1), "role": "voter",
            "reachable": true, "this_host": host == 1,
        })
    });
    let endpoints = (1..=hosts).flat_map(|host| {
        (1..=containers).map(move |one| {
            json!({
                "id": format!("{host:032x}{one:032x}"), "network": network, "host": name(host),
                "addresses": [format!("10.1.{host}.{one}")], "mac": "02:00:00:00:00:01",
                "container": container(host, one),
            })
        })
    });
    let members = (1..=hosts).map(|host| {
        let containers: Vec<String> = (1..=containers).map(|one| container(host, one)).collect();
        json!({ "name": name(host), "in_sync": true, "containers": containers })
    });
    let groups = json!([{
        "network": network, "group": "239.1.1.1", "sources": { "exclude": [] },
        "hosts": members.collect::<Vec<_>>(),
    }]);
    let rate = json!({
        "network": network, "group": "239.1.1.1", "source": "10.1.1.1", "sender": "c1-1",
        "host": "host1", "packets": 1000.0, "bits": 1e6, "copies": 2000.0, "flooded": 5000.0,
        "receivers": 3, "is_estimate": false,
    });
    let status = json!({
        "version": "0.1.0", "pid": 1, "host": format!("{:016x}", 1), "name": "host1",
        "address": "10.0.0.1:7789", "underlay_mtu": 1500, "agreed_ago": 0,
        "replication": "vxlan-mdb", "membership": { "state": "member" }, "cluster": null,
        "role": "leader",
        "leader": null, "hosts": hosts, "networks": 1, "endpoints": 1,
        "docker": { "state": "serving", "detail": "26.1.5" }, "problems": [],
    });
    let networks = json!([{
        "id": "1".repeat(64), "name": network, "vni": 4097, "subnets": [], "options": {},
        "internal": false, "origin": "host1", "hosts": ["host1"], "addresses": 1,
        "removal_waits_for": null,
    }]);
    let list = |rows: Vec<Value>| Value::Array(rows);
    Views {
        status: from_value(status).unwrap(),
        hosts: from_value(list(host_rows.collect())).unwrap(),
        networks: from_value(networks).unwrap(),
        endpoints: from_value(json!({
            "endpoints": endpoints.collect::<Vec<_>>(), "unanswered": [],
        }))
        .unwrap(),
        groups: from_value(groups).unwrap(),
        health: Vec::new(),
        events: Vec::new(),
        top: from_value(json!({ "rows": [rate], "silent": [] })).unwrap(),
    }
}

#[test]
fn a_group_has_its_senders_members_and_rates() {
    let board = Board::new(&views(3, 1, "foo"));
    let [group] = &board.groups[..] else { panic!("{:?}", board.groups) };
    assert_eq!((group.senders.as_str(), group.sending, group.members), ("host1/c1-1", 1, 3));
    assert_eq!((group.packets.as_str(), group.bits.as_str()), ("1.00k", "1.00M"));
    assert_eq!(group.copies, "2.00k of 5.00k");
    let chips: Vec<&str> = board
        .hosts
        .iter()
        .flat_map(|host| &host.containers)
        .map(|chip| chip.key.as_str())
        .collect();
    assert_eq!(chips, ["host1/c1-1", "host2/c2-1", "host3/c3-1"]);
    assert!(group.receivers.split('\u{1f}').eq(chips));
}

#[test]
fn names_are_text_and_not_html() {
    let mut views = views(1, 1, EVIL);
    views.endpoints.endpoints[0].container = Some(EVIL.to_owned());
    views.hosts[0].name = EVIL.to_owned();
    let regions = regions(&Board::new(&views));
    let finding = Finding {
        station: Station::Sender,
        host: EVIL.to_owned(),
        container: None,
        verdict: Verdict::Broken,
        text: EVIL.to_owned(),
        remedy: Some(EVIL.to_owned()),
    };
    let found = Ok(Explanation { findings: vec![finding] });
    let pages = [
        page(&regions),
        group_panel(EVIL, EVIL, &found),
        group_panel(EVIL, EVIL, &Err(EVIL.to_owned())),
        host_panel(EVIL, &Err(EVIL.to_owned())),
        page(&Regions::silent(EVIL)),
    ];
    for html in pages {
        assert!(html.contains("alert(1)") && !html.contains("<script>alert"), "{html}");
    }
}

#[test]
fn the_first_broken_station_is_named_first() {
    let finding = |verdict, text: &str| Finding {
        station: Station::Tunnel,
        host: "host2".to_owned(),
        container: None,
        verdict,
        text: text.to_owned(),
        remedy: Some("allow it".to_owned()),
    };
    let findings = vec![
        finding(Verdict::Good, "it leaves"),
        finding(Verdict::Broken, "nothing arrives"),
        finding(Verdict::Broken, "nor there"),
    ];
    let html = group_panel("foo", "239.1.1.1", &Ok(Explanation { findings }));
    let cause = html.find("<strong>nothing arrives</strong><br>allow it").unwrap();
    assert!(cause < html.find("it leaves").unwrap(), "{html}");
}

#[test]
fn two_hundred_hosts_are_made_in_a_moment_and_bounded() {
    let views = views(200, 70, "foo");
    let begin = Instant::now();
    let regions = regions(&Board::new(&views));
    println!("200 hosts with 70 containers: {:?}", begin.elapsed());
    assert_eq!(regions.hosts.matches("class=\"chip\"").count(), 200 * 60);
    assert_eq!(regions.hosts.matches("and 10 more").count(), 200);
    let octets: usize = regions.named().iter().map(|(_, html)| html.len()).sum();
    assert!(octets < 4 << 20, "{octets} octets");
}

#[test]
fn only_what_changed_is_sent() {
    let first = regions(&Board::new(&views(2, 1, "foo")));
    let (events, shown) = differences(&Regions::default(), &first);
    assert_eq!(events.len(), 5);
    let (events, shown) = differences(&shown, &first);
    assert_eq!(events.len(), 0);
    let mut faster = views(2, 1, "foo");
    faster.top.rows[0].packets = 5.0;
    let (events, shown) = differences(&shown, &regions(&Board::new(&faster)));
    assert_eq!(events.len(), 1, "the groups");
    let (events, shown) = differences(&shown, &Regions::silent("it hangs"));
    assert_eq!(events.len(), 1);
    // The summary was replaced, and is sent again.
    let (events, _) = differences(&shown, &regions(&Board::new(&faster)));
    assert_eq!(events.len(), 1);
}

#[test]
fn only_the_token_opens_the_page() {
    let access = Access::new().unwrap();
    assert!(access.knows(access.token()) && !access.knows("") && access.token().len() == 22);
    let admits = |cookie: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_str(cookie).unwrap());
        access.admits(&headers)
    };
    let cookie = access.cookie();
    let pair = cookie.split(';').next().unwrap();
    assert!(admits(pair) && admits(&format!("other=1; {pair}")));
    for wrong in ["", "shoutd-dashboard=", "shoutd-dashboard=x", &format!("x{pair}")] {
        assert!(!admits(wrong), "{wrong}");
    }
    assert!(!access.admits(&HeaderMap::new()));
}
