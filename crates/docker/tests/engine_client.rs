//! The client of Docker's API against a scripted server, for cases that no real engine produces on
//! demand. (The lab tests real engines.)

// Helpers outside of #[test] functions panic, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use shoutd_core::swarm::SwarmNode;
use shoutd_docker::engine::{
    CreateNetworkError, EngineClient, EngineError, EventTime, Ipam, LeadingOut, ManagedPlugin,
    NetworkAction, NetworkSpec, RemoveNetworkError, Started,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// The other members of a network event.
const REST: &str = r#""scope":"local","time":1795381915,"timeNano":1795381915408447903"#;

const ID: &str = "9d15ee8eb8b8c0d8c1e1cb0b90cd4ce2ab9d9aa49f9a4bbbaec7ff4b2b0be8f1";

/// A server that answers each request by a script.
struct Peer {
    client: EngineClient,
    /// First line and body of each request.
    seen: Arc<Mutex<Vec<(String, String)>>>,
    task: JoinHandle<()>,
    _directory: TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The answer by the request's first line. `None` closes the connection.
type Script = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Peer {
    /// A server with API `version`, which answers everything except `/_ping` by `script`.
    fn of_version(
        version: &'static str,
        script: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self::scripted(move |line| {
            if line.starts_with("GET /_ping ") {
                return Some(format!(
                    "HTTP/1.1 200 OK\r\nApi-Version: {version}\r\nContent-Length: 2\r\n\r\nOK"
                ));
            }
            script(line)
        })
    }

    fn scripted(script: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(script);
        let task = tokio::spawn(accept(listener, Arc::clone(&seen), script));
        Self { client: EngineClient::new(socket), seen, task, _directory: directory }
    }

    fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }
}

async fn accept(
    listener: UnixListener,
    seen: Arc<Mutex<Vec<(String, String)>>>,
    script: Arc<Script>,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(converse(stream, Arc::clone(&seen), Arc::clone(&script)));
    }
}

async fn converse(
    mut stream: UnixStream,
    seen: Arc<Mutex<Vec<(String, String)>>>,
    script: Arc<Script>,
) {
    let mut buffer = Vec::new();
    while let Some((line, body)) = request(&mut stream, &mut buffer).await {
        seen.lock().unwrap().push((line.clone(), body));
        match script(&line) {
            Some(answer) => {
                // The client closes the connection if an answer is too long.
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            None => return,
        }
    }
}

/// The first line and the body of the next request.
async fn request(stream: &mut UnixStream, buffer: &mut Vec<u8>) -> Option<(String, String)> {
    loop {
        let text = String::from_utf8(buffer.clone()).unwrap();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |length| length.parse().unwrap());
            if rest.len() >= length {
                buffer.drain(..head.len() + 4 + length);
                return Some((head.lines().next().unwrap().to_owned(), rest[..length].to_owned()));
            }
        }
        let mut chunk = [0; 4096];
        let length = stream.read(&mut chunk).await.unwrap_or(0);
        if length == 0 {
            return None;
        }
        buffer.extend_from_slice(&chunk[..length]);
    }
}

fn answer(status: &str, body: &str) -> Option<String> {
    Some(format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn spec() -> NetworkSpec {
    NetworkSpec {
        name: "foo".into(),
        driver: "shoutd".into(),
        internal: false,
        attachable: false,
        enable_ipv4: true,
        enable_ipv6: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        ipam: Ipam { driver: "shoutd".into(), options: BTreeMap::new(), configs: Vec::new() },
    }
}

#[tokio::test]
async fn the_version_is_the_newest_that_both_support() {
    for (theirs, ours) in [("1.41", "v1.41"), ("1.45", "v1.45"), ("1.53", "v1.51")] {
        let peer = Peer::of_version(theirs, |_| answer("200 OK", "[]"));
        assert_eq!(peer.client.networks().await.unwrap(), []);
        assert_eq!(
            peer.lines(),
            ["GET /_ping HTTP/1.1".to_owned(), format!("GET /{ours}/networks HTTP/1.1")]
        );
    }
    let old = Peer::of_version("1.40", |_| answer("200 OK", "[]"));
    let error = old.client.networks().await.unwrap_err();
    assert!(
        matches!(error, EngineError::TooOld { .. }) && error.to_string().contains("20.10"),
        "{error}"
    );
    assert!(matches!(
        old.client.wait_until_serving(Duration::from_secs(60)).await,
        Err(EngineError::TooOld { .. })
    ));
    let mute = Peer::scripted(|_| answer("200 OK", "OK"));
    assert!(matches!(mute.client.networks().await, Err(EngineError::Malformed { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_accepts_and_never_answers_times_out() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let client = EngineClient::new(socket);
    let error = client.networks().await.unwrap_err();
    assert!(matches!(error, EngineError::Deadline { .. }), "{error}");
    assert!(matches!(client.network_events(None).await, Err(EngineError::Deadline { .. })));
    assert!(matches!(
        client.wait_until_serving(Duration::from_secs(5)).await,
        Err(EngineError::Deadline { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_ends_times_out() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[";
    let peer = Peer::of_version("1.41", move |_| Some(head.to_owned()));
    assert!(matches!(peer.client.networks().await, Err(EngineError::Deadline { .. })));
}

#[tokio::test]
async fn waiting_ends_when_the_engine_answers_or_time_is_up() {
    let directory = tempfile::tempdir().unwrap();
    let socket: PathBuf = directory.path().join("docker.sock");
    let client = EngineClient::new(&socket);
    let error = client.wait_until_serving(Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, EngineError::Connect { .. }), "{error}");
    assert!(error.to_string().contains("is the Docker Engine running?"), "{error}");

    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait_until_serving(Duration::from_secs(20)).await }
    });
    let listener = UnixListener::bind(&socket).unwrap();
    let pong = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK";
    let serving = tokio::spawn(accept(
        listener,
        Arc::default(),
        Arc::new(move |_: &str| Some(pong.to_owned())),
    ));
    waiting.await.unwrap().unwrap();
    serving.abort();
}

#[tokio::test]
async fn invalid_answers_are_errors() {
    let garbage = Peer::scripted(|_| Some("SSH-2.0-OpenSSH_9.2\r\n".to_owned()));
    assert!(matches!(garbage.client.networks().await, Err(EngineError::Transport { .. })));
    let gone = Peer::of_version("1.41", |_| None);
    assert!(matches!(gone.client.engine_info().await, Err(EngineError::Transport { .. })));
    let wrong = Peer::of_version("1.41", |_| answer("200 OK", r#"{"not":"a list"}"#));
    let error = wrong.client.networks().await.unwrap_err().to_string();
    assert!(
        error.starts_with("listing Docker's networks: Docker sent an invalid answer"),
        "{error}"
    );
    let endless = Peer::of_version("1.41", |_| answer("200 OK", &" ".repeat((16 << 20) + 1)));
    let error = endless.client.networks().await.unwrap_err().to_string();
    assert!(error.contains("longer than 16777216 bytes"), "{error}");
    let refusing = Peer::of_version("1.41", |_| answer("500 Oops", "{\"message\":\"no\\nway\"}"));
    let error = refusing.client.networks().await.unwrap_err().to_string();
    assert_eq!(error, "listing Docker's networks: Docker refused (500): no way");
}

#[tokio::test]
async fn errors_of_create_are_distinguished() {
    let peer = Peer::of_version("1.41", |_| {
        answer("201 Created", &format!(r#"{{"Id":"{ID}","Warning":""}}"#))
    });
    assert_eq!(peer.client.create_network(&spec()).await.unwrap().as_str(), ID);
    let (line, body) = peer.seen.lock().unwrap()[1].clone();
    assert_eq!(line, "POST /v1.41/networks/create HTTP/1.1");
    assert!(
        body.contains(r#""Name":"foo""#) && body.contains(r#""CheckDuplicate":true"#),
        "{body}"
    );

    let peer = refusing("409 Conflict", "network with name foo already exists");
    let taken = peer.client.create_network(&spec()).await.unwrap_err();
    assert!(matches!(taken, CreateNetworkError::NameTaken { .. }), "{taken}");
    for (status, message) in [
        ("403 Forbidden", "Pool overlaps with other one on this address space"),
        (
            "400 Bad Request",
            "invalid pool request: Pool overlaps with other one on this address space",
        ),
    ] {
        let peer = refusing(status, message);
        let overlap = peer.client.create_network(&spec()).await.unwrap_err();
        assert!(matches!(overlap, CreateNetworkError::SubnetOverlap { .. }), "{overlap}");
    }
    let peer = refusing("404 Not Found", "plugin shoutd not found");
    let other = peer.client.create_network(&spec()).await.unwrap_err();
    assert!(matches!(other, CreateNetworkError::Engine(EngineError::Refused { .. })), "{other}");
}

/// An engine that refuses all requests.
fn refusing(status: &'static str, message: &'static str) -> Peer {
    Peer::of_version("1.41", move |_| answer(status, &format!(r#"{{"message":"{message}"}}"#)))
}

#[tokio::test]
async fn errors_of_remove_are_distinguished() {
    let id = ID.parse().unwrap();
    let peer = refusing("404 Not Found", "network 9d15 not found");
    let gone = peer.client.remove_network(&id).await.unwrap_err();
    assert!(matches!(gone, RemoveNetworkError::NotFound { .. }), "{gone}");
    let peer = refusing("404 Not Found", r#"plugin \"shoutd\" not found"#);
    let no_plugin = peer.client.remove_network(&id).await.unwrap_err();
    assert!(
        matches!(no_plugin, RemoveNetworkError::Engine(_)),
        "the network still exists: {no_plugin}"
    );
    let peer = refusing(
        "403 Forbidden",
        "error while removing network: network foo id 9d15 has active endpoints",
    );
    let used = peer.client.remove_network(&id).await.unwrap_err();
    assert!(matches!(used, RemoveNetworkError::InUse { .. }), "{used}");
    let peer = refusing("403 Forbidden", "host is a pre-defined network and cannot be removed");
    let predefined = peer.client.remove_network(&id).await.unwrap_err();
    assert!(matches!(predefined, RemoveNetworkError::Engine(_)), "{predefined}");

    let peer = Peer::of_version("1.41", |line| match line {
        line if line.starts_with("DELETE") => Some("HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        _ => answer("404 Not Found", r#"{"message":"network 9d15 not found"}"#),
    });
    peer.client.remove_network(&id).await.unwrap();
    assert_eq!(peer.client.network(&id).await.unwrap(), None);
}

#[tokio::test]
async fn starting_a_container_reports_whether_it_was_started() {
    let id = "c".repeat(64).parse().unwrap();
    let peer = Peer::of_version("1.41", |_| Some("HTTP/1.1 204 No Content\r\n\r\n".to_owned()));
    assert_eq!(peer.client.start_container(&id).await.unwrap(), Started::Now);
    let peer = Peer::of_version("1.41", |_| Some("HTTP/1.1 304 Not Modified\r\n\r\n".to_owned()));
    assert_eq!(peer.client.start_container(&id).await.unwrap(), Started::Before);
    let peer = refusing("404 Not Found", "No such container: cccc");
    assert_eq!(peer.client.start_container(&id).await.unwrap(), Started::Gone);
    let peer = refusing("404 Not Found", r#"plugin \"shoutd\" not found"#);
    let no_plugin = peer.client.start_container(&id).await.unwrap_err().to_string();
    assert!(no_plugin.contains("plugin \"shoutd\" not found"), "{no_plugin}");
}

#[tokio::test]
async fn the_gateway_bridge_is_created_once() {
    let bridge =
        format!(r#"[{{"Id":"{ID}","Name":"docker_gwbridge","Driver":"bridge","Scope":"local"}}]"#);
    let found = bridge.clone();
    let present = Peer::of_version("1.41", move |_| answer("200 OK", &found));
    assert!(!present.client.ensure_gateway_bridge(LeadingOut::Docker, None).await.unwrap().created);
    assert_eq!(present.lines().len(), 2, "only /_ping and the list");

    // Another process is faster: the bridge is absent from the first list, the create is refused as
    // a duplicate, and the second list has it.
    let posted = Mutex::new(false);
    let raced = Peer::of_version("1.41", move |line| {
        let mut posted = posted.lock().unwrap();
        if line.starts_with("POST") {
            *posted = true;
            return answer(
                "409 Conflict",
                r#"{"message":"network with name docker_gwbridge already exists"}"#,
            );
        }
        answer("200 OK", if *posted { &bridge } else { "[]" })
    });
    let made = raced.client.ensure_gateway_bridge(LeadingOut::Docker, None).await.unwrap();
    assert!(!made.created && made.network.id.as_str() == ID);
    let body = raced
        .seen
        .lock()
        .unwrap()
        .iter()
        .find(|(line, _)| line.starts_with("POST"))
        .unwrap()
        .1
        .clone();
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["Driver"], "bridge");
    assert_eq!(
        body["Options"],
        serde_json::json!({
            "com.docker.network.bridge.name": "docker_gwbridge",
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
        })
    );
}

/// An answer of these chunks, without the last chunk.
fn chunks(chunks: &[&str]) -> String {
    let body: String =
        chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: \
         chunked\r\n\r\n{body}"
    )
}

/// A line of the engine's events about a network.
fn event(action: &str, id: &str, more: &str) -> String {
    let attributes = format!(r#"{{"name":"foo","type":"shoutd"{more}}}"#);
    let actor = format!(r#"{{"ID":"{id}","Attributes":{attributes}}}"#);
    format!("{{\"Type\":\"network\",\"Action\":\"{action}\",\"Actor\":{actor},{REST}}}\n")
}

#[tokio::test]
async fn events_are_read_across_chunks_and_end_with_one_error() {
    let create = event("create", ID, "");
    let connect = event("connect", ID, r#","container":"cd7ef2ca""#);
    let (first, second) = connect.split_at(50);
    let noise = format!(
        "{}{}\nrubbish\n\n{}",
        event("update", ID, ""),
        concat!(
            r#"{"Type":"network","Action":"prune","#,
            r#""Actor":{"ID":"","Attributes":{"reclaimed":"0"}},"time":1,"timeNano":1}"#
        ),
        event("destroy", "../etc", "")
    );
    let stream = chunks(&[&format!("{create}{first}"), second, &noise, &event("destroy", ID, "")])
        + "0\r\n\r\n";
    let peer = Peer::of_version("1.41", move |_| Some(stream.clone()));
    let since = EventTime::from_nanoseconds(1_795_381_915_008_447_903);
    let mut events = peer.client.network_events(Some(since)).await.unwrap();
    let line = peer.lines().pop().unwrap();
    assert!(line.ends_with("&since=1795381915.008447903 HTTP/1.1"), "{line}");

    let mut actions = Vec::new();
    let end = loop {
        match events.next().await.unwrap() {
            Ok(event) => {
                assert_eq!(
                    (event.network.as_str(), event.name.as_str(), event.driver.as_str()),
                    (ID, "foo", "shoutd")
                );
                assert!(event.time > since);
                actions.push((event.action, event.container));
            }
            Err(error) => break error,
        }
    };
    let expected = [
        (NetworkAction::Create, None),
        (NetworkAction::Connect, Some("cd7ef2ca".into())),
        (NetworkAction::Destroy, None),
    ];
    assert_eq!(actions, expected);
    assert!(matches!(end, EngineError::EventsEnded), "{end}");
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn an_event_that_is_too_long_ends_the_stream() {
    let peer = Peer::of_version("1.41", |_| Some(chunks(&["x".repeat(300 << 10).as_str()])));
    let mut events = peer.client.network_events(None).await.unwrap();
    assert!(matches!(events.next().await, Some(Err(EngineError::Malformed { .. }))));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_removal_that_the_engine_remembers_is_found() {
    let other = "f".repeat(64);
    let remembered =
        [event("create", ID, ""), event("destroy", &other, ""), event("disconnect", ID, "")]
            .concat();
    for (answer, expected) in [
        (remembered.clone() + &event("destroy", ID, ""), true),
        (remembered, false),
        (String::new(), false),
    ] {
        let peer = Peer::of_version("1.41", move |_| Some(chunks(&[&answer]) + "0\r\n\r\n"));
        assert_eq!(peer.client.has_removed(&ID.parse().unwrap()).await.unwrap(), expected);
        let line = peer.lines().pop().unwrap();
        let (_, until) = line.split_once("&since=0.000000001&until=").unwrap();
        assert!(until.split('.').next().unwrap().parse::<u64>().unwrap() > 1_700_000_000, "{line}");
    }
}

#[tokio::test]
async fn the_swarm_is_known_only_on_a_manager_while_it_has_a_leader() {
    let cases = [
        (
            r#"{"LocalNodeState":"inactive","ControlAvailable":false,"Error":"","Cluster":null}"#,
            (false, None),
        ),
        (r#"{"LocalNodeState":"active","ControlAvailable":false,"Error":""}"#, (true, None)),
        (
            r#"{"LocalNodeState":"active","ControlAvailable":true,"Error":"",
                "Cluster":{"ID":"s1"}}"#,
            (true, Some("s1")),
        ),
        (
            r#"{"LocalNodeState":"active","ControlAvailable":true,
                "Error":"The swarm does not have a leader","Cluster":{"ID":"s1"}}"#,
            (true, None),
        ),
        (
            r#"{"LocalNodeState":"active","ControlAvailable":true,"Error":"",
                "Cluster":{"ID":""}}"#,
            (true, None),
        ),
    ];
    for (swarm, (active, managed)) in cases {
        let body = format!(r#"{{"Name":"h","ServerVersion":"26.1.5","Swarm":{swarm}}}"#);
        let peer = Peer::of_version("1.45", move |_| answer("200 OK", &body));
        let info = peer.client.engine_info().await.unwrap();
        assert_eq!((info.swarm_active, info.managed_swarm()), (active, managed), "{swarm}");
    }
}

#[tokio::test]
async fn a_node_knows_its_managers() {
    let swarm = r#"{"NodeID":"n1","LocalNodeState":"active","ControlAvailable":false,"Error":"",
        "RemoteManagers":[{"NodeID":"n2","Addr":"10.0.0.2:2377"}]}"#;
    let alone = SwarmNode { id: "n1".to_owned(), swarm: None, managers: [].into() };
    let managed = SwarmNode { managers: ["n2".to_owned()].into(), ..alone.clone() };
    let cases = [
        (swarm, Some(managed)),
        (r#"{"NodeID":"n1","LocalNodeState":"locked","RemoteManagers":null}"#, Some(alone)),
        (r#"{"NodeID":"","LocalNodeState":"inactive","RemoteManagers":null}"#, None),
    ];
    for (swarm, expected) in cases {
        let body = format!(r#"{{"Name":"h","ServerVersion":"26.1.5","Swarm":{swarm}}}"#);
        let peer = Peer::of_version("1.45", move |_| answer("200 OK", &body));
        assert_eq!(peer.client.engine_info().await.unwrap().swarm_node, expected, "{swarm}");
    }
}

#[tokio::test]
async fn a_node_knows_its_own_address_and_those_of_its_managers() {
    let swarm = r#"{"NodeID":"n1","NodeAddr":"10.0.0.1","LocalNodeState":"active",
        "RemoteManagers":[{"NodeID":"n2","Addr":"10.0.0.2:2377"},
        {"NodeID":"n3","Addr":"[fd00::3]:2377"},{"NodeID":"n4","Addr":"nonsense"}]}"#;
    let body = format!(r#"{{"Name":"h","ServerVersion":"26.1.5","Swarm":{swarm}}}"#);
    let peer = Peer::of_version("1.45", move |_| answer("200 OK", &body));
    let info = peer.client.engine_info().await.unwrap();
    assert_eq!(info.swarm_address, Some("10.0.0.1".parse().unwrap()));
    let managers: [IpAddr; 2] = ["10.0.0.2", "fd00::3"].map(|address| address.parse().unwrap());
    assert_eq!(info.swarm_managers, managers);
}

#[tokio::test]
async fn a_manager_knows_the_nodes_of_its_swarm() {
    let peer = Peer::of_version("1.45", |line| match line {
        "GET /v1.45/nodes/there HTTP/1.1" => answer("200 OK", r#"{"ID":"there"}"#),
        "GET /v1.45/nodes/gone HTTP/1.1" => {
            answer("404 Not Found", r#"{"message":"node gone not found"}"#)
        }
        _ => answer("503 Service Unavailable", r#"{"message":"not a swarm manager"}"#),
    });
    assert!(peer.client.has_swarm_node("there").await.unwrap());
    for none in ["gone", "", "../info", "a b"] {
        assert!(!peer.client.has_swarm_node(none).await.unwrap(), "{none}");
    }
    assert!(peer.client.has_swarm_node("other").await.is_err());
}

#[tokio::test]
async fn managed_plugins_are_inspected_created_and_removed() {
    let peer = Peer::of_version("1.41", |line| match line {
        "GET /v1.41/plugins/there/json HTTP/1.1" => answer(
            "200 OK",
            r#"{"Id":"04eb","Name":"there:latest","Enabled":true,"Config":{"Description":"d"}}"#,
        ),
        "POST /v1.41/plugins/create?name=new HTTP/1.1" => {
            Some("HTTP/1.1 204 No Content\r\n\r\n".to_owned())
        }
        "POST /v1.41/plugins/there/disable HTTP/1.1" => {
            answer("409 Conflict", r#"{"message":"plugin there:latest is in use"}"#)
        }
        _ => answer("404 Not Found", r#"{"message":"plugin not found"}"#),
    });
    let there = ManagedPlugin { description: "d".to_owned(), enabled: true };
    assert_eq!(peer.client.plugin("there").await.unwrap(), Some(there));
    assert_eq!(peer.client.plugin("nowhere").await.unwrap(), None);
    peer.client.create_plugin("new", b"archive".to_vec()).await.unwrap();
    assert_eq!(peer.seen.lock().unwrap().last().unwrap().1, "archive");
    let error = peer.client.disable_plugin("there").await.unwrap_err();
    assert!(
        matches!(error, EngineError::Refused { .. }) && error.to_string().contains("in use"),
        "{error}"
    );
    assert!(matches!(peer.client.remove_plugin("nowhere").await, Err(EngineError::Refused { .. })));
}
