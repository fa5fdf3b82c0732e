use super::*;

/// From Docker 20.10.24, without some members that do not matter here.
const BRIDGE_20_10: &str = r#"{"Name":"bridge",
    "Id":"9d15ee8eb8b8c0d8c1e1cb0b90cd4ce2ab9d9aa49f9a4bbbaec7ff4b2b0be8f1",
    "Created":"2026-11-22T20:00:00.0Z","Scope":"local","Driver":"bridge","EnableIPv6":false,
    "IPAM":{"Driver":"default","Options":null,
      "Config":[{"Subnet":"172.17.0.0/16","Gateway":"172.17.0.1"}]},
    "Internal":false,"Attachable":false,"Ingress":false,"ConfigFrom":{"Network":""},
    "ConfigOnly":false,
    "Containers":{"4f1a5f3e1f8e0f7c3f4f1a5f3e1f8e0f7c3f4f1a5f3e1f8e0f7c3f4f1a5f3e1f":{
      "Name":"web",
      "EndpointID":"aa1a5f3e1f8e0f7c3f4f1a5f3e1f8e0f7c3f4f1a5f3e1f8e0f7c3f4f1a5f3e1f",
      "MacAddress":"02:42:ac:11:00:02","IPv4Address":"172.17.0.2/16","IPv6Address":""},
     "ep-bb1a5f3e1f8e0f7c3f4f1a5f3e1f8e0f7c3f4f1a5f3e1f8e0f7c3f4f1a5f3e1f":{
      "Name":"half",
      "EndpointID":"bb1a5f3e1f8e0f7c3f4f1a5f3e1f8e0f7c3f4f1a5f3e1f8e0f7c3f4f1a5f3e1f",
      "MacAddress":"","IPv4Address":"","IPv6Address":"fd00::2/64"}},
    "Options":{"com.docker.network.bridge.name":"docker0"},"Labels":{}}"#;

/// Docker 29: `EnableIPv4`, a gateway with a prefix length, an unknown member, null maps.
const DUAL_29: &str = r#"{"Name":"v6",
    "Id":"0d15ee8eb8b8c0d8c1e1cb0b90cd4ce2ab9d9aa49f9a4bbbaec7ff4b2b0be8f1","Scope":"local",
    "Driver":"shoutd","EnableIPv4":false,"EnableIPv6":true,"Status":{"IPAM":{}},
    "IPAM":{"Driver":"default","Options":{},"Config":[
      {"Subnet":"fd00:1::/64","IPRange":"fd00:1::/80","Gateway":"fd00:1::1/64",
       "AuxiliaryAddresses":{"printer":"fd00:1::9"}},
      {"Subnet":"","Gateway":""},{"Subnet":"rubbish"}]},
    "Internal":true,"Attachable":true,"Containers":null,"Options":null,"Labels":null}"#;

#[test]
fn networks_of_old_and_new_engines_are_read() {
    let bridge = parse_network(&Bytes::from(BRIDGE_20_10)).unwrap();
    assert!(bridge.network.enable_ipv4, "IPv4 is the default if the engine does not report it");
    assert_eq!(bridge.network.ipam.configs[0].subnet, Some("172.17.0.0/16".parse().unwrap()));
    assert_eq!(bridge.endpoints.len(), 2);
    assert_eq!(bridge.endpoints[0].ipv4, Some("172.17.0.2/16".parse().unwrap()));
    assert_eq!(bridge.endpoints[0].mac, Some("02:42:ac:11:00:02".parse().unwrap()));
    assert_eq!(bridge.endpoints[1].container, None);
    assert_eq!(bridge.endpoints[1].ipv6, Some("fd00::2/64".parse().unwrap()));

    let list = parse_networks(&Bytes::from(format!("[{BRIDGE_20_10},{DUAL_29}]"))).unwrap();
    assert_eq!(list.len(), 2);
    let dual = &list[1];
    assert!(!dual.enable_ipv4 && dual.enable_ipv6 && dual.internal && dual.attachable);
    assert_eq!(dual.ipam.configs.len(), 1, "invalid subnets are left out");
    assert_eq!(dual.ipam.configs[0].gateway, Some("fd00:1::1".parse().unwrap()));
    assert_eq!(dual.ipam.configs[0].auxiliary["printer"], "fd00:1::9".parse::<IpAddr>().unwrap());
}

#[test]
fn a_network_with_an_invalid_id_is_refused() {
    assert!(parse_network(&Bytes::from(r#"{"Name":"x","Id":"../etc"}"#)).is_err());
    assert!(parse_network(&Bytes::from("null")).is_err());
}

#[test]
fn create_requests_a_unique_name_and_omits_defaults() {
    let spec = NetworkSpec {
        name: "foo".into(),
        driver: "shoutd".into(),
        internal: false,
        attachable: false,
        enable_ipv4: true,
        enable_ipv6: false,
        labels: BTreeMap::from([("a".into(), "b".into())]),
        options: BTreeMap::new(),
        ipam: Ipam {
            driver: "shoutd".into(),
            options: BTreeMap::new(),
            configs: vec![IpamConfig {
                subnet: Some("10.9.0.0/16".parse().unwrap()),
                ..IpamConfig::default()
            }],
        },
    };
    let body: serde_json::Value = serde_json::from_slice(&create_body(&spec).unwrap()).unwrap();
    let expected = serde_json::json!({
        "Name": "foo", "CheckDuplicate": true, "Driver": "shoutd", "Internal": false,
        "Attachable": false, "EnableIPv6": false, "Labels": {"a": "b"}, "Options": {},
        "IPAM": {"Driver": "shoutd", "Options": {}, "Config": [{"Subnet": "10.9.0.0/16"}]},
    });
    assert_eq!(body, expected);
}
