//! Calls for containers: their names, those that the engine failed to start, and starting them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use shoutd_core::id::{DockerNetworkId, EndpointId};

use super::error::EngineError;
use super::{CHANGE_DEADLINE, EngineClient, QUERY_DEADLINE};
use crate::one_line;

/// Length of an id, in hexadecimal digits.
const ID_LENGTH: usize = 64;

/// How many containers of one network we read. An engine runs out of other resources earlier.
const CONTAINERS_MAX: usize = 4096;

/// How many aliases of a container we read per network.
const ALIASES_MAX: usize = 256;

/// A container that does not run, with what decides whether it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedContainer {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// Whether its restart policy is `always` or `unless-stopped`: the engine starts it at boot; in
    /// the latter case not if a user has stopped it.
    pub restarts_always: bool,
    /// Whether it has ever run.
    pub has_run: bool,
    /// Why its last start failed; empty if the last start succeeded, however the container ended.
    pub error: String,
}

/// Names of a container, and where they apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerNames {
    /// Its name.
    pub name: String,
    /// Absolute path of its hosts file on the engine's host.
    pub hosts_file: Option<PathBuf>,
    /// Its first process in the PID namespace of the engine's host; `None` if it does not run.
    pub process: Option<u32>,
    /// Path of its network namespace, as in `Join`; `None` if it has none.
    pub sandbox: Option<PathBuf>,
    /// The DNS servers that the user set (`--dns`).
    pub dns_servers: Vec<IpAddr>,
    /// Its aliases, by endpoint.
    pub aliases: BTreeMap<EndpointId, Vec<String>>,
}

/// Result of starting a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It was started.
    Now,
    /// It was already running.
    Before,
    /// There is no such container.
    Gone,
}

/// The id of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    fn parse(text: &str) -> Option<Self> {
        let is_id = text.len() == ID_LENGTH && text.bytes().all(|octet| octet.is_ascii_hexdigit());
        is_id.then(|| Self(text.to_owned()))
    }

    /// The first 12 digits, as Docker shows them.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl FromStr for ContainerId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::parse(text).ok_or(InvalidId)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is not the id of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a container id, which has {ID_LENGTH} hexadecimal digits")]
pub struct InvalidId;

impl EngineClient {
    /// The names of a container on each of its networks; `None` if it does not exist. The engine
    /// does not answer while it starts or stops the container.
    ///
    /// # Errors
    /// As [`exited_containers`](Self::exited_containers).
    pub async fn container_names(
        &self,
        id: &ContainerId,
    ) -> Result<Option<ContainerNames>, EngineError> {
        let operation = format!("reading the names of container {}", id.short());
        let reply = self
            .call(
                &operation,
                Method::GET,
                &format!("/containers/{}/json", id.0),
                None,
                QUERY_DEADLINE,
            )
            .await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let names = parse_names(&reply.expect_success(&operation)?);
        names.map(Some).map_err(|source| EngineError::malformed(&operation, source))
    }

    /// The containers of a network in the state `exited`: they have ended, and their next start may
    /// have failed.
    ///
    /// # Errors
    /// The engine cannot be reached, does not answer in time, or sends an invalid answer.
    pub async fn exited_containers(
        &self,
        network: &DockerNetworkId,
    ) -> Result<Vec<ContainerId>, EngineError> {
        self.containers_in_state(network, "exited").await
    }

    /// The containers of a network that are paused (`docker pause`).
    ///
    /// # Errors
    /// As [`exited_containers`](Self::exited_containers).
    pub async fn paused_containers(
        &self,
        network: &DockerNetworkId,
    ) -> Result<Vec<ContainerId>, EngineError> {
        self.containers_in_state(network, "paused").await
    }

    async fn containers_in_state(
        &self,
        network: &DockerNetworkId,
        state: &str,
    ) -> Result<Vec<ContainerId>, EngineError> {
        let operation = format!("listing the containers of Docker network {}", network.short());
        // `{"network":["<id>"],"status":["<state>"]}`, percent-encoded.
        let filters = format!(
            "%7B%22network%22%3A%5B%22{network}%22%5D%2C%22status%22%3A%5B%22{state}%22%5D%7D"
        );
        let path = format!("/containers/json?all=true&filters={filters}");
        let reply = self.call(&operation, Method::GET, &path, None, QUERY_DEADLINE).await?;
        parse_list(&reply.expect_success(&operation)?)
            .map_err(|source| EngineError::malformed(&operation, source))
    }

    /// The state of a stopped container; `None` if it runs, is being restarted by the engine, or
    /// does not exist.
    ///
    /// # Errors
    /// As [`exited_containers`](Self::exited_containers).
    pub async fn stopped_container(
        &self,
        id: &ContainerId,
    ) -> Result<Option<StoppedContainer>, EngineError> {
        let operation = format!("inspecting container {}", id.short());
        let reply = self
            .call(
                &operation,
                Method::GET,
                &format!("/containers/{}/json", id.0),
                None,
                QUERY_DEADLINE,
            )
            .await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        parse_container(id, &reply.expect_success(&operation)?)
            .map_err(|source| EngineError::malformed(&operation, source))
    }

    /// Starts a container. The engine calls the drivers of its networks, including shoutd, before
    /// this returns. A container that already runs, or does not exist, is not an error.
    ///
    /// # Errors
    /// The engine cannot start it; else as [`exited_containers`](Self::exited_containers).
    pub async fn start_container(&self, id: &ContainerId) -> Result<Started, EngineError> {
        let operation = format!("starting container {}", id.short());
        let path = format!("/containers/{}/start", id.0);
        let reply = self.call(&operation, Method::POST, &path, None, CHANGE_DEADLINE).await?;
        match reply.status {
            StatusCode::NOT_MODIFIED => Ok(Started::Before),
            // A missing dependency of the container, such as a plugin, has the same status.
            StatusCode::NOT_FOUND if reply.message().contains("No such container") => {
                Ok(Started::Gone)
            }
            _ => reply.expect_success(&operation).map(|_| Started::Now),
        }
    }
}

/// Leaves out invalid endpoint ids, relative paths, invalid addresses and excess aliases.
pub(super) fn parse_names(body: &[u8]) -> Result<ContainerNames, serde_json::Error> {
    #[derive(Deserialize)]
    struct ContainerJson {
        #[serde(rename = "Name", default)]
        name: String,
        #[serde(rename = "HostsPath", default)]
        hosts_path: Option<PathBuf>,
        #[serde(rename = "NetworkSettings")]
        settings: SettingsJson,
        #[serde(rename = "HostConfig", default)]
        config: HostConfigJson,
        #[serde(rename = "State", default)]
        state: StateJson,
    }
    #[derive(Default, Deserialize)]
    struct StateJson {
        /// 0 if the container does not run.
        #[serde(rename = "Pid", default)]
        process: u32,
    }
    #[derive(Default, Deserialize)]
    struct HostConfigJson {
        #[serde(rename = "Dns", default)]
        dns: Option<Vec<String>>,
    }
    #[derive(Deserialize)]
    struct SettingsJson {
        #[serde(rename = "SandboxKey", default)]
        sandbox: PathBuf,
        #[serde(rename = "Networks", default)]
        networks: Option<BTreeMap<String, EndpointJson>>,
    }
    #[derive(Deserialize)]
    struct EndpointJson {
        #[serde(rename = "EndpointID", default)]
        endpoint: String,
        /// Since API 1.44 only the user's aliases; before, also the container's short id.
        #[serde(rename = "Aliases", default)]
        aliases: Option<Vec<String>>,
        /// Since API 1.44: all names that the engine's resolver answers.
        #[serde(rename = "DNSNames", default)]
        dns_names: Option<Vec<String>>,
    }
    let container: ContainerJson = serde_json::from_slice(body)?;
    let SettingsJson { sandbox, networks } = container.settings;
    let networks = networks.unwrap_or_default();
    let aliases = networks.into_values().filter_map(|endpoint| {
        let names =
            endpoint.aliases.into_iter().chain(endpoint.dns_names).flatten().take(ALIASES_MAX);
        Some((endpoint.endpoint.parse().ok()?, names.collect()))
    });
    Ok(ContainerNames {
        name: one_line(container.name.trim_start_matches('/'), 256),
        sandbox: Some(sandbox).filter(|path| path.is_absolute()),
        dns_servers: container
            .config
            .dns
            .iter()
            .flatten()
            .filter_map(|server| server.parse().ok())
            .collect(),
        hosts_file: container.hosts_path.filter(|path| path.is_absolute()),
        process: Some(container.state.process).filter(|process| *process != 0),
        aliases: aliases.collect(),
    })
}

fn parse_list(body: &[u8]) -> Result<Vec<ContainerId>, serde_json::Error> {
    #[derive(Deserialize)]
    struct ContainerJson {
        #[serde(rename = "Id")]
        id: String,
    }
    let containers: Vec<ContainerJson> = serde_json::from_slice(body)?;
    Ok(containers
        .iter()
        .filter_map(|container| ContainerId::parse(&container.id))
        .take(CONTAINERS_MAX)
        .collect())
}

fn parse_container(
    id: &ContainerId,
    body: &[u8],
) -> Result<Option<StoppedContainer>, serde_json::Error> {
    #[derive(Deserialize)]
    struct ContainerJson {
        #[serde(rename = "Name", default)]
        name: String,
        #[serde(rename = "State")]
        state: StateJson,
        #[serde(rename = "HostConfig")]
        config: ConfigJson,
    }
    #[derive(Deserialize)]
    struct StateJson {
        #[serde(rename = "Status")]
        status: String,
        #[serde(rename = "Error", default)]
        error: String,
        #[serde(rename = "StartedAt", default)]
        started: String,
    }
    #[derive(Deserialize)]
    struct ConfigJson {
        #[serde(rename = "RestartPolicy")]
        policy: PolicyJson,
    }
    #[derive(Deserialize)]
    struct PolicyJson {
        #[serde(rename = "Name", default)]
        name: String,
    }
    let container: ContainerJson = serde_json::from_slice(body)?;
    Ok((container.state.status == "exited").then(|| StoppedContainer {
        id: id.clone(),
        name: one_line(container.name.trim_start_matches('/'), 256),
        restarts_always: matches!(
            container.config.policy.name.as_str(),
            "always" | "unless-stopped"
        ),
        // Go's zero time: never started.
        has_run: !container.state.started.is_empty()
            && !container.state.started.starts_with("0001-01-01"),
        error: one_line(&container.state.error, 1024),
    }))
}

#[cfg(test)]
mod tests {
    use shoutd_fuzz::fuzz;

    use super::*;

    fn id() -> ContainerId {
        ContainerId::parse(&"c".repeat(ID_LENGTH)).unwrap()
    }

    #[test]
    fn invalid_ids_are_left_out() {
        let list = format!(r#"[{{"Id":"{}"}},{{"Id":"../x"}},{{"Id":""}}]"#, "c".repeat(ID_LENGTH));
        assert_eq!(parse_list(list.as_bytes()).unwrap(), [id()]);
        assert!(parse_list(b"{}").is_err());
        assert_eq!(id().short(), "cccccccccccc");
    }

    #[test]
    fn only_exited_containers_are_stopped() {
        let (then, never) = ("2026-11-23T05:09:49.123456789Z", "0001-01-01T00:00:00Z");
        let down = StoppedContainer {
            id: id(),
            name: "a".to_owned(),
            restarts_always: true,
            has_run: true,
            error: "why".to_owned(),
        };
        assert_eq!(container("exited", "always", then), Some(down.clone()));
        assert_eq!(container("exited", "unless-stopped", then), Some(down.clone()));
        for policy in ["no", "", "on-failure"] {
            assert_eq!(
                container("exited", policy, then),
                Some(StoppedContainer { restarts_always: false, ..down.clone() })
            );
        }
        assert_eq!(
            container("exited", "always", never),
            Some(StoppedContainer { has_run: false, ..down })
        );
        for status in ["running", "restarting", "created", "paused", "dead", "removing"] {
            assert_eq!(container(status, "always", then), None);
        }
    }

    fn container(status: &str, policy: &str, started: &str) -> Option<StoppedContainer> {
        let text = format!(
            r#"{{"Name":"/a",
            "State":{{"Status":"{status}","Error":"why","StartedAt":"{started}"}},
            "HostConfig":{{"RestartPolicy":{{"Name":"{policy}","MaximumRetryCount":0}}}}}}"#
        );
        parse_container(&id(), text.as_bytes()).unwrap()
    }

    fn names(networks: &str, more: &str) -> ContainerNames {
        let text =
            format!(r#"{{"Name":"/web-1",{more}"NetworkSettings":{{"Networks":{networks}}}}}"#);
        parse_names(text.as_bytes()).unwrap()
    }

    fn aliases(names: &ContainerNames) -> Vec<&str> {
        names.aliases.values().flatten().map(String::as_str).collect()
    }

    #[test]
    fn names_are_read_from_old_and_new_engines() {
        let endpoint = "e".repeat(64);
        // Docker 20.10 has only `Aliases`; 26.1 also has all names that it resolves.
        let older =
            format!(r#"{{"foo":{{"Aliases":["web","0123456789ab"],"EndpointID":"{endpoint}"}}}}"#);
        let newer = format!(
            r#"{{"foo":{{
            "Aliases":["web"],"DNSNames":["web-1","web"],"EndpointID":"{endpoint}"}}}}"#
        );
        let more = r#""HostsPath":"/var/lib/docker/containers/x/hosts",
            "HostConfig":{"Dns":["127.0.0.12","x"]},"State":{"Pid":7},"#;
        let (older, newer) = (names(&older, more), names(&newer, ""));
        assert_eq!(older.name, "web-1");
        assert_eq!(aliases(&older), ["web", "0123456789ab"]);
        assert_eq!(aliases(&newer), ["web", "web-1", "web"]);
        assert_eq!(older.hosts_file, Some(PathBuf::from("/var/lib/docker/containers/x/hosts")));
        assert_eq!(older.dns_servers, ["127.0.0.12".parse::<IpAddr>().unwrap()]);
        assert_eq!((newer.hosts_file, newer.dns_servers), (None, vec![]));
        assert_eq!((older.process, newer.process), (Some(7), None));
        // A container that has ended, or has no hosts file of Docker.
        let none = names(
            r#"{"foo":{"Aliases":null,"EndpointID":""}}"#,
            r#""HostsPath":"","State":{"Pid":0},"#,
        );
        assert_eq!((none.aliases.len(), none.hosts_file, none.process), (0, None, None));
        assert_eq!(names("null", r#""HostsPath":"../hosts","#).hosts_file, None);
    }

    #[test]
    fn fuzz_engine_container() {
        fuzz("engine_container", env!("CARGO_MANIFEST_DIR"), |body| {
            (parse_list(body), parse_container(&id(), body), parse_names(body))
        });
    }
}
