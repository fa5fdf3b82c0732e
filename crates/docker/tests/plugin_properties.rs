//! The plugin answers any bytes with JSON that Docker can read.

// Helpers outside of #[test] functions panic, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use common::{ENDPOINT, NETWORK, Recorder};
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use shoutd_docker::plugin::{Scope, router};
use tower::ServiceExt;

const METHODS: [&str; 11] = [
    "NetworkDriver.CreateNetwork",
    "NetworkDriver.DeleteNetwork",
    "NetworkDriver.CreateEndpoint",
    "NetworkDriver.DeleteEndpoint",
    "NetworkDriver.EndpointOperInfo",
    "NetworkDriver.Join",
    "NetworkDriver.Leave",
    "IpamDriver.RequestPool",
    "IpamDriver.ReleasePool",
    "IpamDriver.RequestAddress",
    "IpamDriver.ReleaseAddress",
];

/// Calls a plugin. Returns the status and the JSON object of the answer.
fn call(method: &str, body: Vec<u8>) -> (u16, Value) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let plugin: Router = router(Arc::new(Recorder::default()), Scope::Local);
        let request = Request::post(format!("/{method}")).body(Body::from(body)).unwrap();
        let response: Response<Body> = plugin.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert!(value.is_object());
        (status, value)
    })
}

/// Checks that an error is in the member that Docker reads, is not empty, and is one line.
fn well_formed(method: &str, value: &Value) {
    let (right, wrong) =
        if method.starts_with("Ipam") { ("Error", "Err") } else { ("Err", "Error") };
    assert_eq!(value.get(wrong), None);
    if let Some(error) = value.get(right) {
        let error = error.as_str().unwrap();
        assert!(!error.is_empty() && error.len() < 4096 && !error.contains('\n'));
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~\u{e9}\n]{0,20}".prop_map(Value::from),
        prop::sample::select(vec![
            NETWORK,
            ENDPOINT,
            "10.9.0.1/16",
            "fd00::1/64",
            "10.9.0.1",
            "02:00:00:00:00:01"
        ])
        .prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "com.docker.network.generic",
        "com.docker.network.internal",
        "Address",
        "AddressIPv6",
        "MacAddress",
        "Pool",
        "Gateway",
        "AuxAddresses",
    ]);
    leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_get_a_well_formed_answer(
        method in prop::sample::select(METHODS.to_vec()),
        body: Vec<u8>,
    ) {
        let (status, value) = call(method, body);
        prop_assert_eq!(status, 200);
        well_formed(method, &value);
    }

    #[test]
    fn any_members_get_a_well_formed_answer(
        method in prop::sample::select(METHODS.to_vec()),
        has_ids: bool,
        members in prop::collection::btree_map(
            prop::sample::select(vec![
                "NetworkID", "EndpointID", "Options", "IPv4Data", "IPv6Data", "Interface",
                "SandboxKey", "PoolID", "Pool", "SubPool", "AddressSpace", "Address", "V6",
            ]),
            any_json(),
            0..8,
        ),
    ) {
        let mut request = serde_json::Map::new();
        request.extend(members.into_iter().map(|(name, value)| (name.to_owned(), value)));
        if has_ids {
            // With valid ids, the other members are checked, too.
            request.insert("NetworkID".to_owned(), json!(NETWORK));
            request.insert("EndpointID".to_owned(), json!(ENDPOINT));
        }
        let (status, value) = call(method, serde_json::to_vec(&request).unwrap());
        prop_assert_eq!(status, 200);
        well_formed(method, &value);
    }

    #[test]
    fn any_method_gets_an_answer(method in "[A-Za-z.]{0,40}") {
        let (status, value) = call(&method, Vec::new());
        prop_assert!(status == 200 || status == 404);
        prop_assert!(status == 200 || value["Err"].is_string());
    }

    #[test]
    fn a_driver_error_is_one_bounded_line(message: String) {
        let error = shoutd_docker::plugin::DriverError::new(&message);
        prop_assert!(!error.message().is_empty());
        prop_assert!(error.message().len() <= 2048 + '…'.len_utf8());
        prop_assert!(!error.message().chars().any(char::is_control));
    }
}
