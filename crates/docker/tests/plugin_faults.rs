//! Faults that the plugin must survive: invalid requests, failing drivers, and clients that are
//! slow, stuck, too many or gone.

// Helpers outside of #[test] functions panic, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Client, ENDPOINT, NETWORK, PATIENCE, Plugin, docker_request, within};
use shoutd_docker::plugin::{BindError, PluginLimits, bind, serve};

fn new_network(behaviour: &str) -> String {
    format!(
        r#"{{"NetworkID":"{NETWORK}",
        "Options":{{"com.docker.network.generic":{{"behave":"{behaviour}"}}}}}}"#
    )
}

/// A client whose call waits in the driver until the gate opens.
async fn at_gate(plugin: &Plugin) -> Client {
    let mut client = Client::connect(&plugin.socket).await;
    client.send(&docker_request("NetworkDriver.CreateNetwork", &new_network("gate"))).await;
    let started = Instant::now();
    while plugin.driver.at_gate.load(Ordering::SeqCst) == 0 {
        assert!(started.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    client
}

/// A client that has received an answer and is idle.
async fn once_used(plugin: &Plugin) -> Client {
    let mut client = Client::connect(&plugin.socket).await;
    client.send(&docker_request("Plugin.Activate", "")).await;
    client.answer().await;
    client
}

#[tokio::test]
async fn a_call_without_a_body_is_refused_in_the_member_that_docker_reads() {
    let plugin = Plugin::start().await;
    let network = [
        "CreateNetwork",
        "DeleteNetwork",
        "CreateEndpoint",
        "EndpointOperInfo",
        "DeleteEndpoint",
        "Join",
        "Leave",
    ];
    let ipam = ["RequestPool", "ReleasePool", "RequestAddress", "ReleaseAddress"];
    let calls = network.map(|method| (format!("NetworkDriver.{method}"), "Err"));
    for (method, member) in
        calls.into_iter().chain(ipam.map(|method| (format!("IpamDriver.{method}"), "Error")))
    {
        let answer = plugin.call(&method, "").await;
        assert_eq!(answer.status, 200, "{method}");
        assert!(answer.error(member).contains("empty body"), "{method}: {answer:?}");
    }
    assert_eq!(plugin.driver.take(), vec![]);
    plugin.finish().await;
}

#[tokio::test]
async fn an_invalid_request_is_refused_before_the_driver_is_called() {
    let plugin = Plugin::start().await;
    let endpoint =
        |rest: &str| format!(r#"{{"NetworkID":"{NETWORK}","EndpointID":"{ENDPOINT}",{rest}}}"#);
    let pool = |rest: &str| format!(r#"{{"NetworkID":"{NETWORK}","IPv4Data":[{{{rest}}}]}}"#);
    let cases = [
        ("NetworkDriver.CreateNetwork", "{".to_owned(), "EOF"),
        ("NetworkDriver.CreateNetwork", "{}".to_owned(), "NetworkID"),
        ("NetworkDriver.CreateNetwork", "null".to_owned(), "null"),
        (
            "NetworkDriver.CreateNetwork",
            r#"{"NetworkID":"../../etc/passwd"}"#.to_owned(),
            "NetworkID",
        ),
        (
            "NetworkDriver.CreateNetwork",
            format!(r#"{{"NetworkID":"{}"}}"#, "a".repeat(65)),
            "NetworkID",
        ),
        ("NetworkDriver.CreateNetwork", pool(r#""Pool":"rubbish""#), "Pool"),
        ("NetworkDriver.CreateNetwork", pool(r#""Pool":"fd00::/64""#), "wrong family"),
        (
            "NetworkDriver.CreateNetwork",
            pool(r#""Pool":"10.9.0.0/16","Gateway":"fd00::1/64""#),
            "Gateway",
        ),
        (
            "NetworkDriver.CreateEndpoint",
            endpoint(r#""Interface":{"Address":"10.9.0.256/16"}"#),
            "Address",
        ),
        (
            "NetworkDriver.CreateEndpoint",
            endpoint(r#""Interface":{"MacAddress":"01:00:5e:00:00:01"}"#),
            "MacAddress",
        ),
        ("NetworkDriver.Join", endpoint(r#""SandboxKey":"""#), "SandboxKey"),
        ("NetworkDriver.Leave", format!(r#"{{"NetworkID":"{NETWORK}"}}"#), "EndpointID"),
    ];
    for (method, body, clue) in cases {
        let answer = plugin.call(method, &body).await;
        assert_eq!(answer.status, 200);
        assert!(answer.error("Err").contains(clue), "{method} {body}: {answer:?}");
    }
    let wrong_family = r#"{"AddressSpace":"shoutdlocal","Pool":"10.9.0.0/16","V6":true}"#;
    assert!(
        plugin
            .call("IpamDriver.RequestPool", wrong_family)
            .await
            .error("Error")
            .contains("wrong address family")
    );
    let no_pool = r#"{"Address":"10.9.0.1"}"#;
    assert!(
        plugin.call("IpamDriver.ReleaseAddress", no_pool).await.error("Error").contains("PoolID")
    );
    assert_eq!(plugin.driver.take(), vec![]);
    plugin.finish().await;
}

#[tokio::test]
async fn a_driver_that_fails_or_panics_fails_one_call() {
    let plugin = Plugin::start().await;
    let mut client = Client::connect(&plugin.socket).await;
    client.send(&docker_request("NetworkDriver.CreateNetwork", &new_network("fail"))).await;
    assert_eq!(client.answer().await.error("Err"), "subnet 10.9.0.0/16 overlaps \"foo\"");
    client.send(&docker_request("NetworkDriver.CreateNetwork", &new_network("panic"))).await;
    assert!(client.answer().await.error("Err").contains("internal error"));
    client.send(&docker_request("NetworkDriver.CreateNetwork", &new_network("nothing"))).await;
    assert_eq!(client.answer().await.body, serde_json::json!({}), "on the same connection");
    let full = r#"{"AddressSpace":"shoutdlocal","Options":{"full":""}}"#;
    assert_eq!(plugin.call("IpamDriver.RequestPool", full).await.error("Error"), "no free subnet");
    plugin.finish().await;
}

#[tokio::test]
async fn unknown_methods_and_verbs_are_refused() {
    let plugin = Plugin::start().await;
    let answer = plugin.call("NetworkDriver.Levitate", "{}").await;
    assert_eq!(answer.status, 404);
    assert!(answer.error("Err").contains("NetworkDriver.Levitate"));
    let mut client = Client::connect(&plugin.socket).await;
    client.send(b"GET /Plugin.Activate HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 405);
    plugin.finish().await;
}

#[tokio::test]
async fn a_body_that_is_too_long_or_too_slow_is_refused() {
    let limits = PluginLimits {
        body: Duration::from_millis(200),
        body_bytes: 100,
        ..PluginLimits::default()
    };
    let plugin = Plugin::start_with(limits).await;
    let mut client = Client::connect(&plugin.socket).await;
    let claimed =
        "POST /NetworkDriver.Join HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n";
    client.send(claimed.as_bytes()).await;
    assert!(client.answer().await.error("Err").contains("longer than 100 bytes"));

    let mut client = Client::connect(&plugin.socket).await;
    let chunked =
        "POST /NetworkDriver.Join HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(format!("{chunked}80\r\n{}\r\n", "x".repeat(128)).as_bytes()).await;
    assert!(client.answer().await.error("Err").contains("longer than 100 bytes"));

    let mut client = Client::connect(&plugin.socket).await;
    client
        .send(b"POST /IpamDriver.RequestPool HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        .await;
    assert!(client.answer().await.error("Error").contains("did not arrive"));
    assert_eq!(plugin.driver.take(), vec![]);
    plugin.finish().await;
}

#[tokio::test]
async fn a_driver_that_hangs_is_aborted_at_the_deadline() {
    let limits = PluginLimits { call: Duration::from_millis(200), ..PluginLimits::default() };
    let plugin = Plugin::start_with(limits).await;
    let answer = plugin.call("NetworkDriver.CreateNetwork", &new_network("hang")).await;
    assert!(answer.error("Err").contains("did not finish within 200ms"), "{answer:?}");
    plugin.finish().await;
}

#[tokio::test]
async fn the_driver_gets_no_more_concurrent_calls_than_allowed() {
    let plugin = Plugin::start_with(PluginLimits { in_flight: 3, ..PluginLimits::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = Client::connect(&plugin.socket).await;
        client.send(&docker_request("NetworkDriver.CreateNetwork", &new_network("gate"))).await;
        clients.push(client);
    }
    // A call that needs no driver does not wait for those that do.
    assert_eq!(plugin.call("NetworkDriver.GetCapabilities", "").await.status, 200);
    plugin.driver.gate.add_permits(10);
    for client in &mut clients {
        assert_eq!(client.answer().await.body, serde_json::json!({}));
    }
    assert!((1..=3).contains(&plugin.driver.most_at_gate.load(Ordering::SeqCst)));
    plugin.finish().await;
}

#[tokio::test]
async fn waiting_for_a_slot_counts_towards_the_deadline() {
    let limits =
        PluginLimits { in_flight: 1, call: Duration::from_secs(3), ..PluginLimits::default() };
    let plugin = Plugin::start_with(limits).await;
    let hang = docker_request("NetworkDriver.CreateNetwork", &new_network("hang"));
    let (mut first, mut second) =
        (Client::connect(&plugin.socket).await, Client::connect(&plugin.socket).await);
    let started = Instant::now();
    first.send(&hang).await;
    second.send(&hang).await;
    let mut answered = Vec::new();
    for client in [&mut first, &mut second] {
        assert!(client.answer().await.error("Err").contains("within 3s"));
        answered.push(started.elapsed());
    }
    assert!(answered[1] < answered[0] * 2, "both waits share one deadline: {answered:?}");
    plugin.finish().await;
}

#[tokio::test]
async fn a_call_continues_when_its_caller_disconnects() {
    let plugin = Plugin::start().await;
    let client = at_gate(&plugin).await;
    drop(client);
    plugin.driver.gate.add_permits(1);
    within(plugin.driver.finished.acquire()).await.unwrap().forget();
    plugin.finish().await;
}

#[tokio::test]
async fn garbage_and_idle_connections_do_not_keep_docker_out() {
    let plugin = Plugin::start().await;
    let mut idle = once_used(&plugin).await;
    let mut stuck = Vec::new();
    for number in 0..400 {
        let mut client = Client::connect(&plugin.socket).await;
        match number % 3 {
            0 => {}
            1 => client.send(b"POST /NetworkDriver.Join HTTP/1.1\r\nHos").await,
            _ => client.send(b"\x16\x03\x01\x02\x00\x01garbage\r\n\r\n\0\0").await,
        }
        stuck.push(client);
    }
    let answer = plugin.call("NetworkDriver.GetCapabilities", "").await;
    assert_eq!(answer.status, 200);
    assert!(!idle.more().await, "the longest idle connection is closed first");
    plugin.finish().await;
}

#[tokio::test]
async fn idle_connections_are_kept() {
    let plugin = Plugin::start().await;
    let mut idle = once_used(&plugin).await;
    for _ in 0..200 {
        plugin.call("NetworkDriver.GetCapabilities", "").await;
    }
    idle.send(&docker_request("Plugin.Activate", "")).await;
    assert_eq!(idle.answer().await.status, 200);
    plugin.finish().await;
}

#[tokio::test]
async fn shutdown_waits_only_for_calls_in_flight() {
    let plugin = Plugin::start().await;
    let _idle = Client::connect(&plugin.socket).await;
    let mut half = Client::connect(&plugin.socket).await;
    half.send(b"POST /Netw").await;
    let mut client = at_gate(&plugin).await;
    plugin.stop.send(()).unwrap();
    // New calls are refused; the one in flight finishes.
    assert!(!half.more().await);
    plugin.driver.gate.add_permits(1);
    assert_eq!(client.answer().await.body, serde_json::json!({}));
    within(plugin.task).await.unwrap();
    assert!(tokio::net::UnixStream::connect(&plugin.socket).await.is_err());
    assert!(plugin.socket.exists(), "the socket's name stays");
}

#[tokio::test]
async fn a_socket_is_only_for_root_and_replaces_a_dead_one_but_not_a_live_one() {
    let plugin = Plugin::start().await;
    let socket = plugin.socket.clone();
    let found = std::fs::symlink_metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    assert!(matches!(bind(&socket).await, Err(BindError::InUse { .. })));
    assert_eq!(plugin.call("Plugin.Activate", "").await.status, 200, "it was left alone");

    plugin.stop.send(()).unwrap();
    within(plugin.task).await.unwrap();
    drop(bind(&socket).await.unwrap());
    let names: Vec<_> = std::fs::read_dir(socket.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["shoutd.sock"], "no temporary file is left");

    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "precious").unwrap();
    assert!(matches!(bind(&socket).await, Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read(&socket).unwrap(), b"precious");

    let long = socket.with_file_name("x".repeat(120));
    let error = bind(&long).await.unwrap_err().to_string();
    assert!(error.contains("cannot bind the socket"), "{error}");
}

/// A cleaner of `/run` or a reinstalled package may remove it.
#[tokio::test]
async fn a_removed_socket_is_restored_with_its_directory() {
    let plugin = Plugin::start().await;
    let directory = plugin.socket.parent().unwrap().to_owned();
    let mut kept = Client::connect(&plugin.socket).await;
    for is_directory in [false, true] {
        if is_directory {
            std::fs::remove_dir_all(&directory)
        } else {
            std::fs::remove_file(&plugin.socket)
        }
        .unwrap();
        let back = async {
            while tokio::net::UnixStream::connect(&plugin.socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within(back).await;
        assert_eq!(plugin.call("Plugin.Activate", "").await.status, 200);
        assert_eq!(
            std::fs::symlink_metadata(&plugin.socket).unwrap().permissions().mode() & 0o7777,
            0o600
        );
    }
    kept.send(&docker_request("Plugin.Activate", "")).await;
    assert_eq!(kept.answer().await.status, 200, "earlier connections still work");
    plugin.finish().await;
}

#[tokio::test]
async fn another_process_socket_in_its_place_is_left_alone_and_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shoutd.sock");
    let socket = bind(&path).await.unwrap();
    let mut state = socket.watch();
    std::fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let serving = tokio::spawn(serve(socket, axum::Router::new(), std::future::pending()));
    let problem = within(state.wait_for(|state| state.problem.is_some()))
        .await
        .unwrap()
        .problem
        .clone()
        .unwrap();
    assert!(problem.contains("another process"), "{problem}");
    drop(other);
    within(state.wait_for(|state| state.put_back == 1 && state.problem.is_none())).await.unwrap();
    serving.abort();
}
