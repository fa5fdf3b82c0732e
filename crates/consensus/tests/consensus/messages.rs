//! Messages that a host must refuse.

use serde_json::{Value, json};
use shoutd_consensus::STATE_VERSION;
use shoutd_core::cluster::STATE_WITHOUT_ENCRYPTION;
use shoutd_core::{ClusterId, HostId};
use shoutd_peer::{CallError, Client, Identity, Rejection};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::common::{self, Node, Place, SOON, cluster, founded, stop_all};

/// A host that has a certificate and is not admitted.
struct Caller(TempDir);

impl Caller {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn host(&self) -> HostId {
        common::credentials(self.0.path()).host()
    }

    fn client(&self, cluster: Option<ClusterId>) -> Client {
        let identity = Identity::new(self.host(), cluster);
        common::client(&common::credentials(self.0.path()), identity, [127, 0, 0, 1].into())
    }
}

fn message(content: &Value) -> Value {
    json!({ "epoch": 0, "content": content })
}

/// A log entry's payload with a command of this version of agreed state.
fn normal(version: u32, content: &Value) -> Value {
    json!({ "Normal": { "v": version, "content": content } })
}

/// The message that openraft would send as the leader of this term.
fn append(leader: HostId, term: u64) -> Value {
    let vote =
        json!({ "leader_id": { "term": term, "voted_for": leader.get() }, "committed": true });
    message(&json!({ "vote": vote, "prev_log_id": null, "entries": [], "leader_commit": null }))
}

async fn send(client: &Client, node: &Node, path: &str, body: &Value) -> Result<Value, CallError> {
    client.call_host(node.host(), node.address, path, body, SOON).await
}

fn rejection(answer: Result<Value, CallError>) -> Rejection {
    match answer {
        Err(CallError::Refused { rejection, .. }) => rejection,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consensus_accepts_messages_of_its_own_cluster_only() {
    let directory = tempfile::tempdir().unwrap();
    let (_, nodes) = cluster(directory.path(), 1).await;
    let (node, ours, theirs) = (&nodes[0], Some(founded()), Some(ClusterId::new(8)));
    let before = node.status();
    let path = "/v1/raft/append";
    let nine = Caller::new();
    let newest = append(nine.host(), 99);

    let other = rejection(send(&nine.client(theirs), node, path, &newest).await);
    assert_eq!(other, Rejection::OtherCluster { has: founded(), caller: ClusterId::new(8) });
    let nameless = rejection(send(&nine.client(None), node, path, &newest).await);
    assert!(matches!(nameless, Rejection::Malformed { .. }), "{nameless}");
    let unaddressed = nine.client(ours).call::<_, Value>(node.address, path, &newest, SOON).await;
    assert!(matches!(rejection(unaddressed), Rejection::Malformed { .. }));
    let another_name =
        rejection(send(&nine.client(ours), node, path, &append(Caller::new().host(), 99)).await);
    assert!(matches!(another_name, Rejection::Malformed { .. }), "{another_name}");
    let garbage = send(&nine.client(ours), node, path, &json!({ "vote": 1 })).await;
    assert!(matches!(garbage, Err(CallError::Refused { .. })), "{garbage:?}");

    assert_eq!(node.status(), before, "none of them got through");
    node.create(1).await;
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_accepted_from_admitted_hosts_only() {
    let directory = tempfile::tempdir().unwrap();
    let (_, nodes) = cluster(directory.path(), 1).await;
    let command =
        json!({ "v": STATE_VERSION, "content": { "RemoveNetwork": { "id": "f".repeat(64) } } });
    let command = message(&json!({ "errand": { "command": command }, "within": 1000 }));
    let nine = Caller::new();
    let nameless = rejection(send(&nine.client(None), &nodes[0], "/v1/propose", &command).await);
    assert!(matches!(nameless, Rejection::Malformed { .. }), "{nameless}");
    let unknown =
        send(&nine.client(Some(founded())), &nodes[0], "/v1/propose", &command).await.unwrap();
    let told = format!("the leader h1 does not know host {}", nine.host());
    assert_eq!(unknown, json!({ "Ok": { "failed": { "no_leader": told } } }));
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_host_belongs_to_the_first_cluster_that_addresses_it() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), 1);
    let node = place.start().await;
    let path = "/v1/raft/append";
    let (nine, ten) = (Caller::new(), Caller::new());
    send(&nine.client(Some(founded())), &node, path, &append(nine.host(), 1)).await.unwrap();
    assert_eq!(node.consensus.identity().cluster(), Some(founded()));
    let other = rejection(
        send(&ten.client(Some(ClusterId::new(8))), &node, path, &append(ten.host(), 2)).await,
    );
    assert_eq!(other, Rejection::OtherCluster { has: founded(), caller: ClusterId::new(8) });
    node.stop().await;
    // It is recorded on disk.
    let node = place.start().await;
    assert_eq!(node.consensus.identity().cluster(), Some(founded()));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_host_is_told_to_upgrade() {
    let directory = tempfile::tempdir().unwrap();
    let (_, nodes) = cluster(directory.path(), 1).await;
    let nine = Caller::new();
    let join = json!({ "name": "nine", "address": "127.0.0.9:7789", "state": 0, "within": 1000 });
    let answer = send(&nine.client(None), &nodes[0], "/v1/join", &message(&join)).await.unwrap();
    assert_eq!(answer, json!({ "Ok": { "outdated": { "state": STATE_WITHOUT_ENCRYPTION } } }));
    assert_eq!(nodes[0].state().hosts.len(), 1);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_refuses_a_command_that_it_does_not_know() {
    let directory = tempfile::tempdir().unwrap();
    let (places, nodes) = cluster(directory.path(), 2).await;
    let leader = nodes.iter().position(Node::leads).unwrap();
    let other = &places[1 - leader];
    let identity = Identity::new(other.host, Some(founded()));
    let newer =
        common::client(&common::credentials(&other.directory), identity, other.address.ip());
    let command = json!({ "v": STATE_VERSION + 1, "content": { "Paint": { "colour": "red" } } });
    let errand = message(&json!({ "errand": { "command": command }, "within": 1000 }));
    let answer = send(&newer, &nodes[leader], "/v1/propose", &errand).await.unwrap();
    assert_eq!(answer, json!({ "Ok": { "failed": { "old_leader": places[leader].name } } }));
    nodes[leader].create(1).await;
    stop_all(nodes).await;
}

fn log_id(index: u64) -> Value {
    json!({ "leader_id": 1, "index": index })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_stops_at_a_command_that_it_does_not_know() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), 1);
    let node = place.start().await;
    let nine = Caller::new();
    let client = nine.client(Some(founded()));
    let leader = json!({ "term": 1, "voted_for": nine.host().get() });
    let members = json!({
        "configs": [[nine.host().get()]],
        "nodes": { nine.host().get().to_string(): { "addr": "127.0.0.9:7789" } },
    });
    let found = json!({ "Found": { "cluster": founded() } });
    let unknown = json!({ "Paint": { "colour": "red" } });
    let entries = json!([
        { "log_id": log_id(0), "payload": { "Membership": members } },
        { "log_id": log_id(1), "payload": normal(STATE_VERSION, &found) },
        { "log_id": log_id(2), "payload": normal(STATE_VERSION + 1, &unknown) },
        { "log_id": log_id(3), "payload": normal(STATE_VERSION, &json!("RevokeTokens")) },
    ]);
    let append = message(&json!({
        "vote": { "leader_id": leader, "committed": true },
        "prev_log_id": null, "entries": entries, "leader_commit": log_id(3),
    }));
    let _ = send(&client, &node, "/v1/raft/append", &append).await;
    let line = timeout(SOON, node.consensus.stopped()).await.unwrap();
    assert_eq!(
        line,
        "the cluster agreed on something that this version of shoutd does not know (version 4 \
         of agreed state, this one knows 3: it is newer): upgrade shoutd on this host; it \
         then continues where it stopped"
    );
    assert_eq!(node.state().id, Some(founded()), "earlier entries are applied");
    node.stop().await;
    // It does not skip the command after a restart.
    if let Ok(node) = place.try_start().await {
        let _ = send(&client, &node, "/v1/raft/append", &append).await;
        assert_eq!(timeout(SOON, node.consensus.stopped()).await.unwrap(), line);
        node.stop().await;
    }
}
