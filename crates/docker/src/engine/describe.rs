//! A description of the engine and its networks for bug reports. It names what it takes: an answer
//! of the engine also has proxies with passwords, and labels with whatever users put there.

use hyper::Method;
use serde_json::{Map, Value};

use super::error::EngineError;
use super::{EngineClient, QUERY_DEADLINE};

/// What is taken of `/info`.
const INFO: [&str; 24] = [
    "Architecture",
    "CgroupDriver",
    "CgroupVersion",
    "Containers",
    "ContainersRunning",
    "DefaultAddressPools",
    "DockerRootDir",
    "Driver",
    "ExperimentalBuild",
    "FirewallBackend",
    "KernelVersion",
    "LiveRestoreEnabled",
    "LoggingDriver",
    "MemTotal",
    "NCPU",
    "Name",
    "OSType",
    "OSVersion",
    "OperatingSystem",
    "Plugins",
    "SecurityOptions",
    "ServerVersion",
    "SystemTime",
    "Warnings",
];

/// What is taken of the member `Swarm` of `/info`.
const SWARM: [&str; 6] =
    ["ControlAvailable", "Error", "LocalNodeState", "NodeAddr", "NodeID", "RemoteManagers"];

/// What is taken of `/version`.
const VERSION: [&str; 7] =
    ["ApiVersion", "Arch", "Components", "GitCommit", "MinAPIVersion", "Os", "Version"];

/// What is taken of each network.
const NETWORK: [&str; 12] = [
    "Attachable",
    "Created",
    "Driver",
    "EnableIPv4",
    "EnableIPv6",
    "IPAM",
    "Id",
    "Ingress",
    "Internal",
    "Name",
    "Options",
    "Scope",
];

/// Drivers whose options are settings, which are taken with their values. Other drivers may have
/// passwords as options.
const KNOWN_DRIVERS: [&str; 7] =
    ["bridge", "host", "ipvlan", "macvlan", "null", "overlay", "shoutd"];

/// A description of an engine: its `/version`, `/info` and `/networks`, as JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// Its version, and those of its components.
    pub version: Value,
    /// Its state and settings, without proxies and registries.
    pub info: Value,
    /// Its networks, without the values of their labels.
    pub networks: Value,
}

impl EngineClient {
    /// Describes the engine for a bug report.
    ///
    /// # Errors
    /// The engine cannot be reached, does not answer in time, or sends an invalid answer.
    pub async fn description(&self) -> Result<Description, EngineError> {
        let version = self.ask("reading the engine's version", "/version").await?;
        let info = self.ask("reading the engine's information", "/info").await?;
        let networks = self.ask("listing Docker's networks", "/networks").await?;
        Ok(Description {
            version: taken(&version, &VERSION),
            info: info_of(&info),
            networks: networks
                .as_array()
                .map(|networks| networks.iter().map(network).collect())
                .unwrap_or_default(),
        })
    }

    async fn ask(&self, operation: &str, path: &str) -> Result<Value, EngineError> {
        let reply = self.call(operation, Method::GET, path, None, QUERY_DEADLINE).await?;
        serde_json::from_slice(&reply.expect_success(operation)?)
            .map_err(|source| EngineError::malformed(operation, source))
    }
}

/// These members of an object.
fn taken(whole: &Value, members: &[&str]) -> Value {
    let found = members.iter().filter_map(|name| Some(((*name).to_owned(), whole.get(name)?)));
    Value::Object(found.map(|(name, value)| (name, value.clone())).collect())
}

fn info_of(info: &Value) -> Value {
    let mut kept = taken(info, &INFO);
    let swarm = info.get("Swarm").map(|swarm| taken(swarm, &SWARM));
    kept["Swarm"] = swarm.unwrap_or_default();
    for proxy in ["HttpProxy", "HttpsProxy"] {
        let is_set = info.get(proxy).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        kept[proxy] = is_set.into();
    }
    kept
}

fn network(network: &Value) -> Value {
    let mut kept = taken(network, &NETWORK);
    kept["Labels"] = names(network.get("Labels"));
    let driver = network["Driver"].as_str().unwrap_or_default();
    if !KNOWN_DRIVERS.contains(&driver.split(['-', ':']).next().unwrap_or_default()) {
        kept["Options"] = names(network.get("Options"));
    }
    if kept["IPAM"].is_object() && network["IPAM"]["Driver"] != "default" {
        kept["IPAM"]["Options"] = names(network["IPAM"].get("Options"));
    }
    kept
}

/// The names of an object's members.
fn names(object: Option<&Value>) -> Value {
    let names = |object: &Map<String, Value>| object.keys().cloned().map(Value::from).collect();
    object.and_then(Value::as_object).map(names).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn passwords_and_values_of_labels_are_left_out() {
        let info = json!({
            "ServerVersion": "28.5.2", "HttpProxy": "http://me:password@proxy", "HttpsProxy": "",
            "RegistryConfig": {"IndexConfigs": {"password": {}}},
            "Labels": ["password"],
            "Swarm": {"LocalNodeState": "active", "Cluster": {"JoinTokens": "password"}},
        });
        let kept = info_of(&info);
        assert_eq!(kept["HttpProxy"], true);
        assert_eq!(kept["HttpsProxy"], false);
        assert_eq!(kept["Swarm"], json!({"LocalNodeState": "active"}));
        assert!(!kept.to_string().contains("password"), "{kept}");
        let kept = network(&json!({
            "Name": "foo", "Driver": "shoutd", "Labels": {"owner": "password"},
            "Options": {"shoutd.names": "off"}, "Containers": {},
        }));
        assert_eq!(
            kept,
            json!({
                "Name": "foo", "Driver": "shoutd", "Labels": ["owner"],
                "Options": {"shoutd.names": "off"},
            })
        );
        let kept = network(&json!({"Driver": "other:1", "Options": {"key": "password"}}));
        assert_eq!(kept["Options"], json!(["key"]));
    }
}
