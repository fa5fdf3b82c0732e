//! Messages that a host must not act on.

#[cfg(test)]
#[allow(dead_code, reason = "shared with other tests")]
mod common;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shoutd_core::{ClusterId, HostId};
    use shoutd_peer::{CallError, Client, Identity, Plain, Rejection};

    use crate::common::{Node, Place, SOON, cluster, founded, stop_all};

    fn host(id: u64) -> HostId {
        HostId::new(id).unwrap()
    }

    fn client(id: u64, cluster: Option<ClusterId>) -> Client {
        Client::new(Identity::new(host(id), cluster), Plain::from_address([127, 0, 0, 1].into()))
    }

    /// What openraft would send as the leader of this term.
    fn append(leader: u64, term: u64) -> Value {
        let vote = json!({ "leader_id": { "term": term, "node_id": leader }, "committed": true });
        json!({ "vote": vote, "prev_log_id": null, "entries": [], "leader_commit": null })
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
    async fn consensus_listens_to_its_own_cluster_only() {
        let directory = tempfile::tempdir().unwrap();
        let (_, nodes) = cluster(directory.path(), 1).await;
        let (node, ours, theirs) = (&nodes[0], Some(founded()), Some(ClusterId::new(8)));
        let before = node.status();
        let path = "/v1/raft/append";

        let other = rejection(send(&client(9, theirs), node, path, &append(9, 99)).await);
        assert_eq!(other, Rejection::OtherCluster { has: founded(), caller: ClusterId::new(8) });
        let nameless = rejection(send(&client(9, None), node, path, &append(9, 99)).await);
        assert!(matches!(nameless, Rejection::Malformed { .. }), "{nameless}");
        let unaddressed = client(9, ours).call::<_, Value>(node.address, path, &append(9, 99), SOON).await;
        assert!(matches!(rejection(unaddressed), Rejection::Malformed { .. }));
        let another_name = rejection(send(&client(9, ours), node, path, &append(10, 99)).await);
        assert!(matches!(another_name, Rejection::Malformed { .. }), "{another_name}");
        let garbage = send(&client(9, ours), node, path, &json!({ "vote": 1 })).await;
        assert!(matches!(garbage, Err(CallError::Refused { .. })), "{garbage:?}");

        assert_eq!(node.status(), before, "none of them got through");
        node.create(1).await;
        stop_all(nodes).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn commands_are_taken_from_admitted_hosts_only() {
        let directory = tempfile::tempdir().unwrap();
        let (_, nodes) = cluster(directory.path(), 1).await;
        let command = json!({ "command": { "RemoveNetwork": { "id": "f".repeat(64) } }, "within": 1000 });
        let nameless = rejection(send(&client(9, None), &nodes[0], "/v1/propose", &command).await);
        assert!(matches!(nameless, Rejection::Malformed { .. }), "{nameless}");
        let unknown = send(&client(9, Some(founded())), &nodes[0], "/v1/propose", &command).await.unwrap();
        assert_eq!(unknown, json!({ "failed": { "no_leader": "the leader h1 does not know host 0000000000000009" } }));
        stop_all(nodes).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_new_host_belongs_to_the_first_cluster_that_addresses_it() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path(), 1);
        let node = place.start().await;
        let path = "/v1/raft/append";
        send(&client(9, Some(founded())), &node, path, &append(9, 1)).await.unwrap();
        assert_eq!(node.consensus.identity().cluster(), Some(founded()));
        let other = rejection(send(&client(10, Some(ClusterId::new(8))), &node, path, &append(10, 2)).await);
        assert_eq!(other, Rejection::OtherCluster { has: founded(), caller: ClusterId::new(8) });
        node.stop().await;
        // It remembers.
        let node = place.start().await;
        assert_eq!(node.consensus.identity().cluster(), Some(founded()));
        node.stop().await;
    }
}
