//! The managed plugin of a Swarm: the adapter forwards calls of Docker Engine 20.10 and 26 to the
//! daemon's second socket.

// Helpers outside of #[test] functions panic, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Answer, Client, PATIENCE, Plugin, Seen, docker_request, within};
use serde_json::json;
use shoutd_docker::plugin::{
    AdapterLimits, PluginLimits, Scope, adapter_with_limits, bind, daemon_answers, serve,
};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// An id as swarmkit generates it.
const NETWORK: &str = "qwynw1s5va6xny0aqlpbjn49e";

const ALLOCATE: &str = r#"{"NetworkID":"qwynw1s5va6xny0aqlpbjn49e",
    "Options":{"shoutd.max-rate":"7"},
    "IPv4Data":[{"AddressSpace":"","Pool":"10.0.1.0/24","Gateway":"10.0.1.1/24",
        "AuxAddresses":null}],"IPv6Data":null}"#;

/// An adapter on its own socket.
struct Adapter {
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    _directory: TempDir,
}

impl Adapter {
    async fn start(daemon: &Path) -> Self {
        let limits = AdapterLimits {
            plugin: PluginLimits {
                call: Duration::from_secs(2),
                body_bytes: 10_000,
                ..PluginLimits::default()
            },
            absence: Duration::from_millis(300),
            leaders_absence: Duration::from_millis(100),
            answer_bytes: 10_000,
        };
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("shoutd-swarm.sock");
        let listener = bind(&socket).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let router = adapter_with_limits(daemon.to_owned(), limits);
        let task = tokio::spawn(serve(listener, router, async move {
            let _ = stopped.await;
        }));
        Self { socket, stop, task, _directory: directory }
    }

    async fn call(&self, method: &str, body: &str) -> Answer {
        let mut client = Client::connect(&self.socket).await;
        client.send(&docker_request(method, body)).await;
        client.answer().await
    }

    async fn finish(self) {
        self.stop.send(()).unwrap();
        within(self.task).await.unwrap();
    }
}

#[tokio::test]
async fn calls_and_answers_pass_through_the_adapter_unchanged() {
    let daemon = Plugin::start_as(Scope::Swarm, PluginLimits::default()).await;
    let adapter = Adapter::start(&daemon.socket).await;
    assert!(daemon_answers(&daemon.socket, PATIENCE).await);
    let answer = adapter.call("NetworkDriver.AllocateNetwork", ALLOCATE).await;
    assert_eq!(
        (answer.status, answer.body),
        (200, json!({ "Options": { "shoutd.max-rate": "7" } }))
    );
    let create = ALLOCATE.replace(
        r#"{"shoutd.max-rate":"7"}"#,
        r#"{"com.docker.network.generic":{"shoutd.max-rate":"7"},
            "com.docker.network.internal":true}"#,
    );
    assert_eq!(adapter.call("NetworkDriver.CreateNetwork", &create).await.body, json!({}));
    assert_eq!(
        adapter
            .call("NetworkDriver.FreeNetwork", &format!(r#"{{"NetworkID":"{NETWORK}"}}"#))
            .await
            .body,
        json!({})
    );
    let seen = daemon.driver.take();
    let [Seen::AllocateNetwork(allocated), Seen::CreateNetwork(created), Seen::FreeNetwork(freed)] =
        seen.as_slice()
    else {
        panic!("{seen:?}")
    };
    assert_eq!(allocated.options["shoutd.max-rate"], "7");
    assert_eq!(allocated.ipv4[0].gateway, "10.0.1.1".parse().ok());
    assert_eq!((created.scope, created.internal), (Scope::Swarm, true));
    assert_eq!((&created.options, &created.ipv4), (&allocated.options, &allocated.ipv4));
    assert_eq!(freed.as_str(), NETWORK);
    // The Swarm sends IPv6 subnets in IPv4Data.
    let both =
        ALLOCATE.replace(r#"null}],"#, r#"null},{"Pool":"fd62::/64","Gateway":"fd62::1/64"}],"#);
    assert_eq!(adapter.call("NetworkDriver.AllocateNetwork", &both).await.status, 200);
    let seen = daemon.driver.take();
    let [Seen::AllocateNetwork(allocated)] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(allocated.ipv4[0].gateway, "10.0.1.1".parse().ok());
    assert_eq!((allocated.ipv6[0].gateway, allocated.ipv6.len()), ("fd62::1".parse().ok(), 1));
    // Errors pass, too.
    let answer = adapter.call("NetworkDriver.CreateNetwork", "{}").await;
    assert!(answer.error("Err").contains("NetworkID"), "{answer:?}");
    assert_eq!(adapter.call("NetworkDriver.Whatever", "{}").await.status, 404);
    assert_eq!(
        adapter.call("IpamDriver.RequestPool", "{}").await.status,
        404,
        "a Swarm has its own IPAM"
    );
    adapter.finish().await;
    daemon.finish().await;
}

#[tokio::test]
async fn without_a_daemon_it_answers_activation_and_the_swarms_leader() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("shoutd.sock");
    let adapter = Adapter::start(&nowhere).await;
    assert!(!daemon_answers(&nowhere, PATIENCE).await);
    assert_eq!(
        adapter.call("Plugin.Activate", "").await.body,
        json!({ "Implements": ["NetworkDriver"] })
    );
    let scope = json!({ "Scope": "global", "ConnectivityScope": "global" });
    assert_eq!(adapter.call("NetworkDriver.GetCapabilities", "").await.body, scope);
    let kept = json!({ "Options": { "shoutd.max-rate": "7" } });
    assert_eq!(adapter.call("NetworkDriver.AllocateNetwork", ALLOCATE).await.body, kept);
    assert_eq!(
        adapter.call("NetworkDriver.AllocateNetwork", r#"{"Options":null}"#).await.body,
        json!({ "Options": {} })
    );
    assert_eq!(adapter.call("NetworkDriver.FreeNetwork", "{}").await.body, json!({}));
    let answer = adapter.call("NetworkDriver.Join", "{}").await;
    assert!(answer.error("Err").contains("not running on this host"), "{answer:?}");
    let answer = adapter.call("NetworkDriver.AllocateNetwork", "nonsense").await;
    assert!(answer.error("Err").contains("not running on this host"), "{answer:?}");
    adapter.finish().await;
}

#[tokio::test]
async fn the_adapter_waits_for_a_daemon_that_starts() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("shoutd.sock");
    // The socket of a killed daemon: nothing answers there.
    drop(UnixListener::bind(&socket).unwrap());
    let limits = AdapterLimits { absence: PATIENCE, ..AdapterLimits::default() };
    let own = directory.path().join("own.sock");
    let listener = bind(&own).await.unwrap();
    tokio::spawn(serve(
        listener,
        adapter_with_limits(socket.clone(), limits),
        std::future::pending(),
    ));
    let mut client = Client::connect(&own).await;
    client.send(&docker_request("NetworkDriver.Leave", "{}")).await;
    let daemon = bind(&socket).await.unwrap();
    let router =
        adapter_with_limits("/nowhere".into(), AdapterLimits { absence: Duration::ZERO, ..limits });
    tokio::spawn(serve(daemon, router, std::future::pending()));
    // The second adapter was reached, and reports that it has no daemon.
    assert!(client.answer().await.error("Err").contains("not running on this host"));
}

#[tokio::test]
async fn a_daemon_that_hangs_or_sends_an_invalid_answer_is_an_error_in_dockers_format() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let too_long =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n\"{}\"", "x".repeat(19_998));
    for said in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnonsense!",
        "rubbish\r\n\r\n",
        too_long.as_str(),
        "hang",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("shoutd.sock");
        let daemon = UnixListener::bind(&socket).unwrap();
        let reply = said.to_owned();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = daemon.accept().await.unwrap();
            let mut chunk = [0; 1024];
            let _ = stream.read(&mut chunk).await;
            if reply == "hang" {
                std::future::pending::<()>().await;
            }
            let _ = stream.write_all(reply.as_bytes()).await;
        });
        let adapter = Adapter::start(&socket).await;
        let answer = adapter.call("NetworkDriver.Join", "{}").await;
        assert_eq!(answer.status, 200, "{said:?}");
        let error = answer.error("Err");
        assert!(
            error.contains("call to shoutd failed") || error.contains("did not answer within"),
            "{said:?}: {error}"
        );
        serving.abort();
        adapter.finish().await;
    }
    let adapter = Adapter::start(Path::new("/nowhere")).await;
    let answer = adapter.call("NetworkDriver.Join", &"x".repeat(10_001)).await;
    assert!(answer.error("Err").contains("longer than 10000 bytes"), "{answer:?}");
    adapter.finish().await;
}
