//! The wire format of Docker Engine 20.10, 26, 28 and 29: each call as bytes on a real socket, the
//! request that reaches the driver, and the answer.

// Helpers outside of #[test] functions panic, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use common::{CHOSEN_MAC, ENDPOINT, NETWORK, Plugin, Seen};
use serde_json::{Value, json};
use shoutd_docker::plugin::{
    AddressPool, AddressPurpose, CreateEndpoint, CreateNetwork, EndpointKey, Join, ReleaseAddress,
    RequestAddress, RequestPool, Scope,
};

fn key() -> EndpointKey {
    EndpointKey { network: NETWORK.parse().unwrap(), endpoint: ENDPOINT.parse().unwrap() }
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Sends a call; checks the request that reaches the driver, and the answer.
async fn check(method: &str, body: &str, seen: Seen, answer: Value) {
    let plugin = Plugin::start().await;
    let body = body.replace("$N", NETWORK).replace("$E", ENDPOINT);
    let got = plugin.call(method, &body).await;
    assert_eq!(plugin.driver.take(), vec![seen], "{method} {body}");
    assert_eq!((got.status, got.body), (200, answer), "{method} {body}");
    plugin.finish().await;
}

fn network(subnet: &str, gateway: &str) -> CreateNetwork {
    CreateNetwork {
        scope: Scope::Local,
        network: NETWORK.parse().unwrap(),
        options: BTreeMap::new(),
        internal: false,
        enable_ipv4: true,
        enable_ipv6: false,
        ipv4: vec![AddressPool {
            address_space: "LocalDefault".into(),
            subnet: subnet.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
            auxiliary: BTreeMap::new(),
        }],
        ipv6: Vec::new(),
    }
}

#[tokio::test]
async fn create_network_of_20_10() {
    let body = r#"{"NetworkID":"$N",
        "Options":{"com.docker.network.enable_ipv6":false,"com.docker.network.generic":{}},
        "IPv4Data":[
          {"AddressSpace":"LocalDefault","Gateway":"172.18.0.1/16","Pool":"172.18.0.0/16"}],
        "IPv6Data":[]}"#;
    let request = network("172.18.0.0/16", "172.18.0.1");
    check("NetworkDriver.CreateNetwork", body, Seen::CreateNetwork(request), json!({})).await;
}

#[tokio::test]
async fn create_network_of_26_internal_with_options_and_both_families() {
    let body = r#"{"NetworkID":"$N",
        "Options":{"com.docker.network.enable_ipv6":true,"com.docker.network.internal":true,
        "com.docker.network.generic":
          {"com.docker.network.driver.mtu":"1400","shoutd.network":"0123456789ab"}},
        "IPv4Data":[{"AddressSpace":"LocalDefault","Pool":"10.9.0.0/16","Gateway":"10.9.0.1/16",
          "AuxAddresses":{"printer":"10.9.0.7/16"}}],
        "IPv6Data":[{"AddressSpace":"LocalDefault","Pool":"fd00:9::/64","Gateway":"fd00:9::1/64",
          "AuxAddresses":null}]}"#;
    let mut request = network("10.9.0.0/16", "10.9.0.1");
    request.options =
        texts(&[("com.docker.network.driver.mtu", "1400"), ("shoutd.network", "0123456789ab")]);
    (request.internal, request.enable_ipv6) = (true, true);
    request.ipv4[0].auxiliary = BTreeMap::from([("printer".into(), "10.9.0.7".parse().unwrap())]);
    request.ipv6 = network("fd00:9::/64", "fd00:9::1").ipv4;
    check("NetworkDriver.CreateNetwork", body, Seen::CreateNetwork(request), json!({})).await;
}

#[tokio::test]
async fn create_network_of_29_without_ipv4_and_with_unknown_members() {
    let body = r#"{"NetworkID":"$N",
        "Options":{"com.docker.network.enable_ipv4":false,"com.docker.network.enable_ipv6":true,
        "com.docker.network.generic":null,"com.docker.network.new":{"a":[1]}},"IPv4Data":null,
        "IPv6Data":[{"AddressSpace":"LocalDefault","Pool":"fd00:9::/64","Gateway":""}],
        "Tomorrow":{"x":1}}"#;
    let mut request = network("fd00:9::/64", "fd00:9::1");
    (request.enable_ipv4, request.enable_ipv6) = (false, true);
    request.ipv6 = std::mem::take(&mut request.ipv4);
    request.ipv6[0].gateway = None;
    check("NetworkDriver.CreateNetwork", body, Seen::CreateNetwork(request), json!({})).await;
}

#[tokio::test]
async fn create_endpoint_returns_a_mac_only_if_none_was_requested() {
    let mut request = CreateEndpoint {
        network: NETWORK.parse().unwrap(),
        endpoint: ENDPOINT.parse().unwrap(),
        ipv4: Some("172.18.0.2/16".parse().unwrap()),
        ipv6: None,
        mac: None,
        options: BTreeMap::new(),
    };
    let free = r#"{"NetworkID":"$N","EndpointID":"$E",
        "Interface":{"Address":"172.18.0.2/16","AddressIPv6":"","MacAddress":""},
        "Options":{
          "com.docker.network.endpoint.exposedports":[],"com.docker.network.portmap":[]}}"#;
    let answer = json!({
        "Interface": { "Address": "", "AddressIPv6": "", "MacAddress": CHOSEN_MAC.to_string() }
    });
    check("NetworkDriver.CreateEndpoint", free, Seen::CreateEndpoint(request.clone()), answer)
        .await;

    let fixed = r#"{"NetworkID":"$N","EndpointID":"$E",
        "Interface":{"Address":"172.18.0.2/16","AddressIPv6":"fd00:9::2/64",
          "MacAddress":"02:11:22:33:44:55"},
        "Options":{"com.docker.network.endpoint.exposedports":[{"Proto":6,"Port":80}],
          "com.docker.network.portmap":[
            {"Proto":6,"IP":"","Port":80,"HostIP":"","HostPort":8080,"HostPortEnd":8080}],
          "com.docker.network.endpoint.macaddress":"AhEiM0RV","shoutd.route":"none"}}"#;
    request.ipv6 = Some("fd00:9::2/64".parse().unwrap());
    request.mac = Some("02:11:22:33:44:55".parse().unwrap());
    request.options =
        texts(&[("com.docker.network.endpoint.macaddress", "AhEiM0RV"), ("shoutd.route", "none")]);
    let answer = json!({ "Interface": { "Address": "", "AddressIPv6": "", "MacAddress": "" } });
    check("NetworkDriver.CreateEndpoint", fixed, Seen::CreateEndpoint(request), answer).await;
}

#[tokio::test]
async fn join_returns_interface_routes_and_gateway() {
    let body = r#"{"NetworkID":"$N","EndpointID":"$E",
        "SandboxKey":"/var/run/docker/netns/3238a552aef2",
        "Options":{
          "com.docker.network.endpoint.exposedports":[],"com.docker.network.portmap":null}}"#;
    let seen = Seen::Join(Join {
        network: NETWORK.parse().unwrap(),
        endpoint: ENDPOINT.parse().unwrap(),
        sandbox: "/var/run/docker/netns/3238a552aef2".into(),
        publishes: false,
    });
    let answer = json!({
        "InterfaceName": { "SrcName": "sh0e1d2c3b4a59", "DstName": "", "DstPrefix": "shout" },
        "Gateway": "10.9.0.1", "GatewayIPv6": "", "DisableGatewayService": false,
        "StaticRoutes": [
            { "Destination": "224.0.0.0/4", "RouteType": 1, "NextHop": "" },
            { "Destination": "10.0.0.0/8", "RouteType": 0, "NextHop": "10.9.0.1" },
        ],
    });
    check("NetworkDriver.Join", body, seen, answer.clone()).await;

    let body = r#"{"NetworkID":"$N","EndpointID":"$E",
        "SandboxKey":"/var/run/docker/netns/3238a552aef2",
        "Options":{"com.docker.network.endpoint.exposedports":[{"Proto":6,"Port":80}],
          "com.docker.network.portmap":[{"Proto":6,"IP":"","Port":80,"HostIP":"",
            "HostPort":8080,"HostPortEnd":8080}]}}"#;
    let seen = Seen::Join(Join {
        network: NETWORK.parse().unwrap(),
        endpoint: ENDPOINT.parse().unwrap(),
        sandbox: "/var/run/docker/netns/3238a552aef2".into(),
        publishes: true,
    });
    check("NetworkDriver.Join", body, seen, answer).await;
}

#[tokio::test]
async fn leave_delete_and_info_reach_the_driver() {
    let endpoint = r#"{"NetworkID":"$N","EndpointID":"$E"}"#;
    check("NetworkDriver.Leave", endpoint, Seen::Leave(key()), json!({})).await;
    check("NetworkDriver.DeleteEndpoint", endpoint, Seen::DeleteEndpoint(key()), json!({})).await;
    let info = json!({ "Value": { "vni": "4711" } });
    check("NetworkDriver.EndpointOperInfo", endpoint, Seen::Info(key()), info).await;
    let gone = Seen::DeleteNetwork(NETWORK.parse().unwrap());
    check("NetworkDriver.DeleteNetwork", r#"{"NetworkID":"$N"}"#, gone, json!({})).await;
}

#[tokio::test]
async fn pools_are_requested_and_released() {
    let granted = json!({ "PoolID": "shoutdlocal/10.9.0.0/16", "Pool": "10.9.0.0/16", "Data": {} });
    let mut request = RequestPool {
        address_space: "shoutdlocal".into(),
        subnet: None,
        range: None,
        options: BTreeMap::new(),
        ipv6: false,
    };
    let any = r#"{"AddressSpace":"shoutdlocal","Pool":"","SubPool":"","Options":null,"V6":false}"#;
    check("IpamDriver.RequestPool", any, Seen::RequestPool(request.clone()), granted.clone()).await;

    request.subnet = Some("10.9.0.0/16".parse().unwrap());
    request.range = Some("10.9.8.0/24".parse().unwrap());
    request.options = texts(&[("x", "y")]);
    let given = r#"{"AddressSpace":"shoutdlocal","Pool":"10.9.1.2/16","SubPool":"10.9.8.0/24",
        "Options":{"x":"y"},"V6":false}"#;
    check("IpamDriver.RequestPool", given, Seen::RequestPool(request), granted).await;

    let pool = r#"{"PoolID":"shoutdlocal/10.9.0.0/16"}"#;
    let released = Seen::ReleasePool("shoutdlocal/10.9.0.0/16".parse().unwrap());
    check("IpamDriver.ReleasePool", pool, released, json!({})).await;
}

#[tokio::test]
async fn addresses_are_requested_for_gateways_and_endpoints() {
    let pool = || "shoutdlocal/10.9.0.0/16".parse().unwrap();
    let granted = json!({ "Address": "10.9.0.5/16", "Data": {} });
    let cases = [
        (r#"null"#, "", AddressPurpose::Endpoint { mac: None, container: None }),
        (
            r#"{"RequestAddressType":"com.docker.network.gateway"}"#,
            "10.9.0.1",
            AddressPurpose::Gateway,
        ),
        (
            r#"{"com.docker.network.endpoint.macaddress":"02:42:0a:09:00:05",
                "com.docker.network.ipam.serial":"true"}"#,
            "",
            AddressPurpose::Endpoint {
                mac: Some("02:42:0a:09:00:05".parse().unwrap()),
                container: None,
            },
        ),
        (
            r#"{"com.docker.network.endpoint.name":"web"}"#,
            "10.9.0.5",
            AddressPurpose::Endpoint { mac: None, container: Some("web".into()) },
        ),
    ];
    for (options, address, purpose) in cases {
        let body = format!(
            r#"{{"PoolID":"shoutdlocal/10.9.0.0/16","Address":"{address}","Options":{options}}}"#
        );
        let seen = RequestAddress { pool: pool(), address: address.parse().ok(), purpose };
        check("IpamDriver.RequestAddress", &body, Seen::RequestAddress(seen), granted.clone())
            .await;
    }
    let body = r#"{"PoolID":"shoutdlocal/10.9.0.0/16","Address":"10.9.0.5"}"#;
    let seen = ReleaseAddress { pool: pool(), address: "10.9.0.5".parse().unwrap() };
    check("IpamDriver.ReleaseAddress", body, Seen::ReleaseAddress(seen), json!({})).await;
}

#[tokio::test]
async fn fixed_answers_need_no_driver_and_no_body() {
    let plugin = Plugin::start().await;
    let cases = [
        ("Plugin.Activate", json!({ "Implements": ["NetworkDriver", "IpamDriver"] })),
        (
            "NetworkDriver.GetCapabilities",
            json!({ "Scope": "local", "ConnectivityScope": "local" }),
        ),
        (
            "IpamDriver.GetCapabilities",
            json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false }),
        ),
        (
            "IpamDriver.GetDefaultAddressSpaces",
            json!({
                "LocalDefaultAddressSpace": "shoutdlocal",
                "GlobalDefaultAddressSpace": "shoutdglobal",
            }),
        ),
        ("NetworkDriver.ProgramExternalConnectivity", json!({})),
        ("NetworkDriver.RevokeExternalConnectivity", json!({})),
        ("NetworkDriver.DiscoverNew", json!({})),
        ("NetworkDriver.DiscoverDelete", json!({})),
    ];
    for (method, expected) in cases {
        for body in [
            "",
            r#"{"DiscoveryType":1,
                "DiscoveryData":{"Address":"10.0.0.1","BindAddress":"","Self":false}}"#,
        ] {
            let answer = plugin.call(method, body).await;
            assert_eq!((answer.status, &answer.body), (200, &expected), "{method}");
        }
    }
    for method in ["NetworkDriver.AllocateNetwork", "NetworkDriver.FreeNetwork"] {
        assert!(plugin.call(method, "{}").await.error("Err").contains("local scope"));
    }
    assert_eq!(plugin.driver.take(), vec![]);
    plugin.finish().await;
}
