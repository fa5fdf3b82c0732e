use std::time::Duration;

use super::*;
use crate::HostId;
use crate::events::{EventKind, EventLog};

fn told(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|line| line.news.to_string()).collect()
}

fn scene(number: u64) -> Scene {
    Scene { at: number * 1000, number, host: "h1".to_owned(), ..Scene::default() }
}

fn with_problems(number: u64, problems: &[&str]) -> Scene {
    Scene { problems: problems.iter().map(|one| (*one).to_owned()).collect(), ..scene(number) }
}

#[test]
fn what_comes_and_goes_is_told_once() {
    let id = HostId::new(2).unwrap();
    let host = |reachable| SeenHost { name: "h2".to_owned(), reachable };
    let container = SeenContainer {
        network: "foo".to_owned(),
        host: "h2".to_owned(),
        names: ["web".to_owned()].into(),
        endpoint: "ab".repeat(32).parse().unwrap(),
        addresses: ["10.0.0.2".parse().unwrap()].into(),
    };
    let member = SeenMember {
        network: "foo".to_owned(),
        group: Some("239.1.1.1".parse().unwrap()),
        host: "h2".to_owned(),
    };
    let before = scene(1);
    let now = Scene {
        hosts: [(id, host(true))].into(),
        networks: [("ab".repeat(16).parse().unwrap(), "foo".to_owned())].into(),
        containers: [(container.endpoint.clone(), container.clone())].into(),
        members: [member].into(),
        ..scene(2)
    };
    assert_eq!(
        told(&changes(&before, &now)),
        [
            "host h2 joined the cluster",
            "network foo created",
            "network foo: container web (10.0.0.2) on h2 connected",
            "network foo: group 239.1.1.1 on h2 joined",
        ]
    );
    assert_eq!(
        told(&changes(&now, &Scene { number: 3, ..before })),
        [
            "host h2 is no longer in the cluster",
            "network foo removed",
            "network foo: container web (10.0.0.2) on h2 disconnected",
            "network foo: group 239.1.1.1 on h2 left",
        ]
    );
    assert_eq!(changes(&now, &Scene { number: 3, ..now.clone() }), []);
    let silent = Scene { hosts: [(id, host(false))].into(), number: 3, ..now.clone() };
    let lines = changes(&now, &silent);
    assert_eq!(told(&lines), ["host h2 DOES NOT ANSWER"]);
    assert!(lines[0].news.is_bad());
    let again = Scene { number: 4, ..now };
    assert_eq!(told(&changes(&silent, &again)), ["host h2 answers again"]);
}

#[test]
fn a_name_that_is_learned_late_or_changes_is_told() {
    let seen = |names: &[&str]| SeenContainer {
        network: "foo".to_owned(),
        host: "h2".to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        endpoint: "ab".repeat(32).parse().unwrap(),
        addresses: ["10.0.0.2".parse().unwrap()].into(),
    };
    let with = |number, container: SeenContainer| Scene {
        containers: [(container.endpoint.clone(), container)].into(),
        ..scene(number)
    };
    let scenes = [scene(1), with(2, seen(&[])), with(3, seen(&["web"])), with(4, seen(&["shop"]))];
    let lines: Vec<_> = scenes.windows(2).map(|two| told(&changes(&two[0], &two[1]))).collect();
    assert_eq!(
        lines.concat(),
        [
            "network foo: container abababababab (10.0.0.2) on h2 connected",
            "network foo: container web (10.0.0.2) on h2 is endpoint abababababab",
            "network foo: container shop (10.0.0.2) on h2 is endpoint abababababab",
        ]
    );
    // Names that are no longer known are nothing that a user did.
    assert_eq!(changes(&scenes[2], &with(4, seen(&[]))), []);
}

#[test]
fn a_problem_whose_quantities_change_is_the_same_problem() {
    let before = with_problems(1, &["no contact; as of 5 s ago", "host2: 30 % are lost"]);
    let now = with_problems(2, &["host2: 31 % are lost", "no contact; as of 6 s ago"]);
    assert_eq!(changes(&before, &now), []);
    let other = with_problems(3, &["host3: 31 % are lost", "10.0.0.2 is taken"]);
    assert_eq!(
        told(&changes(&now, &other)),
        [
            "problem over: host2: 31 % are lost",
            "problem over: no contact; as of 6 s ago",
            "PROBLEM host3: 31 % are lost",
            "PROBLEM 10.0.0.2 is taken",
        ]
    );
    // Two of the same kind.
    let twice = with_problems(4, &["lost: 7", "lost: 8"]);
    let once = with_problems(5, &["lost: 9"]);
    assert_eq!(told(&changes(&twice, &once)), ["problem over: lost: 8"]);
}

#[test]
fn events_are_told_oldest_first_and_again_when_they_happen_again() {
    let mut log = EventLog::default();
    let with_events = |log: &EventLog, number| Scene {
        events: log.events().rev().cloned().collect(),
        ..scene(number)
    };
    let at = Duration::from_secs;
    log.note(at(1), EventKind::NetworkKept, "foo", "in use");
    let before = with_events(&log, 1);
    log.note(at(2), EventKind::NetworkMade, "bar", "made");
    log.note(at(3), EventKind::NetworkKept, "foo", "in use");
    let now = with_events(&log, 2);
    let expected = ["event network-made bar: made", "event network-kept foo: in use (2 times)"];
    assert_eq!(told(&changes(&before, &now)), expected);
    assert_eq!(changes(&now, &with_events(&log, 3)), []);
    // After an interruption, what the watcher has not seen.
    assert_eq!(told(&first_lines(&now, Some(2000)))[1..], expected[1..]);
    assert_eq!(first_lines(&now, None).len(), 1);
}

#[test]
fn a_slow_watcher_is_told_and_the_number_of_lines_is_limited() {
    let many: Vec<String> = (0..NEWS_MAX + 5).map(|number| format!("problem a{number}")).collect();
    let now = Scene { problems: many, ..scene(9) };
    let lines = told(&changes(&scene(4), &now));
    assert_eq!(lines.len(), NEWS_MAX + 1);
    assert!(lines[0].contains("in 4 steps"), "{}", lines[0]);
    assert_eq!(lines[NEWS_MAX], "and 6 more changes at once");
}

#[test]
fn a_line_reads_back_from_its_json() {
    let lines = first_lines(&with_problems(1, &["so"]), None);
    for line in lines {
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line, "{text}");
    }
    let text = serde_json::to_string(&Line { at: 7, news: News::Alive }).unwrap();
    assert_eq!(text, r#"{"at":7,"kind":"alive"}"#);
}
