//! Calls about containers: those that an engine should have started and could not, and starting
//! them.

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

/// Octets of an id (64 hexadecimal digits) as the engine gives it.
const ID_LENGTH: usize = 64;

/// Containers of one network that are looked at. An engine is long out of other things with so
/// many.
const CONTAINERS_MAX: usize = 4096;

/// Aliases of a container on one network that are looked at.
const ALIASES_MAX: usize = 256;

/// A container that does not run, as far as it matters to whether it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedContainer {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// Whether its restart policy is `always` or `unless-stopped`: the engine starts it whenever it
    /// starts itself, in the latter case unless a user has stopped it.
    pub restarts_always: bool,
    /// Whether it has ever run.
    pub has_run: bool,
    /// Why its last start failed; empty if that succeeded, whatever ended the container then.
    pub error: String,
}

/// What a container is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerNames {
    /// Its name.
    pub name: String,
    /// Its hosts file, as the engine's host sees it: an absolute path.
    pub hosts_file: Option<PathBuf>,
    /// Its first process, as the engine's host counts it; `None` if it does not run.
    pub process: Option<u32>,
    /// The DNS servers that a user gave it (`--dns`).
    pub dns_servers: Vec<IpAddr>,
    /// By endpoint, what else it is called on that network.
    pub aliases: BTreeMap<EndpointId, Vec<String>>,
}

/// What came of starting a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It was started.
    Now,
    /// It ran already.
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

    /// The part of it that Docker shows.
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
#[error("not a container's id: it has {ID_LENGTH} hexadecimal digits")]
pub struct InvalidId;

impl EngineClient {
    /// What a container is called on each of its networks; `None` if it is gone. An engine does not
    /// answer while it starts or stops the container.
    ///
    /// # Errors
    /// As [`exited_containers`](Self::exited_containers).
    pub async fn container_names(
        &self,
        id: &ContainerId,
    ) -> Result<Option<ContainerNames>, EngineError> {
        let operation = format!("asking for the names of container {}", id.short());
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

    /// The containers of a network that have ended, or that could not be started.
    ///
    /// # Errors
    /// The engine cannot be reached, does not answer in time, or answers what is not an engine's
    /// answer.
    pub async fn exited_containers(
        &self,
        network: &DockerNetworkId,
    ) -> Result<Vec<ContainerId>, EngineError> {
        let operation = format!("listing the containers of Docker network {}", network.short());
        // `{"network":["<id>"],"status":["exited"]}`, percent-encoded.
        let filters = format!(
            "%7B%22network%22%3A%5B%22{network}%22%5D%2C%22status%22%3A%5B%22exited%22%5D%7D"
        );
        let path = format!("/containers/json?all=true&filters={filters}");
        let reply = self.call(&operation, Method::GET, &path, None, QUERY_DEADLINE).await?;
        parse_list(&reply.expect_success(&operation)?)
            .map_err(|source| EngineError::malformed(&operation, source))
    }

    /// How it is with a container that does not run; `None` if it runs, is being restarted by the
    /// engine, or is gone.
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

    /// Starts a container, and says whether it did. The engine calls the drivers of its networks,
    /// shoutd among them, before this returns. One that runs already, or is gone, is no error.
    ///
    /// # Errors
    /// The engine's reason; else as [`exited_containers`](Self::exited_containers).
    pub async fn start_container(&self, id: &ContainerId) -> Result<Started, EngineError> {
        let operation = format!("starting container {}", id.short());
        let path = format!("/containers/{}/start", id.0);
        let reply = self.call(&operation, Method::POST, &path, None, CHANGE_DEADLINE).await?;
        match reply.status {
            StatusCode::NOT_MODIFIED => Ok(Started::Before),
            // What a container needs and the engine does not find, such as a plugin, has the same
            // status.
            StatusCode::NOT_FOUND if reply.message().contains("No such container") => {
                Ok(Started::Gone)
            }
            _ => reply.expect_success(&operation).map(|_| Started::Now),
        }
    }
}

/// What of the answer is no endpoint's, no path or too much is left out.
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
        /// 0 if it does not run.
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
        #[serde(rename = "Networks", default)]
        networks: Option<BTreeMap<String, EndpointJson>>,
    }
    #[derive(Deserialize)]
    struct EndpointJson {
        #[serde(rename = "EndpointID", default)]
        endpoint: String,
        /// Since API 1.44 only what a user gave; before, the container's short id, too.
        #[serde(rename = "Aliases", default)]
        aliases: Option<Vec<String>>,
        /// From API 1.44: all that the engine's resolver answers to.
        #[serde(rename = "DNSNames", default)]
        dns_names: Option<Vec<String>>,
    }
    let container: ContainerJson = serde_json::from_slice(body)?;
    let networks = container.settings.networks.unwrap_or_default();
    let aliases = networks.into_values().filter_map(|endpoint| {
        let names =
            endpoint.aliases.into_iter().chain(endpoint.dns_names).flatten().take(ALIASES_MAX);
        Some((endpoint.endpoint.parse().ok()?, names.collect()))
    });
    Ok(ContainerNames {
        name: one_line(container.name.trim_start_matches('/'), 256),
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
        // Go's zero time, of what never was.
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
    fn ids_that_are_none_are_left_out() {
        let list = format!(r#"[{{"Id":"{}"}},{{"Id":"../x"}},{{"Id":""}}]"#, "c".repeat(ID_LENGTH));
        assert_eq!(parse_list(list.as_bytes()).unwrap(), [id()]);
        assert!(parse_list(b"{}").is_err());
        assert_eq!(id().short(), "cccccccccccc");
    }

    #[test]
    fn containers_as_engines_describe_them() {
        let read = |status: &str, policy: &str, started: &str, error: &str| {
            let text = format!(
                r#"{{"Name":"/a","State":{{"Status":"{status}","Error":"{error}","StartedAt":"{started}"}},"HostConfig":{{"RestartPolicy":{{"Name":"{policy}","MaximumRetryCount":0}}}}}}"#
            );
            parse_container(&id(), text.as_bytes()).unwrap()
        };
        let (then, never) = ("2026-11-23T05:09:49.123456789Z", "0001-01-01T00:00:00Z");
        let down = StoppedContainer {
            id: id(),
            name: "a".to_owned(),
            restarts_always: true,
            has_run: true,
            error: "why".to_owned(),
        };
        assert_eq!(read("exited", "always", then, "why"), Some(down.clone()));
        assert_eq!(read("exited", "unless-stopped", then, "why"), Some(down.clone()));
        for policy in ["no", "", "on-failure"] {
            assert_eq!(
                read("exited", policy, then, "why"),
                Some(StoppedContainer { restarts_always: false, ..down.clone() })
            );
        }
        assert_eq!(
            read("exited", "always", never, "why"),
            Some(StoppedContainer { has_run: false, ..down })
        );
        for status in ["running", "restarting", "created", "paused", "dead", "removing"] {
            assert_eq!(read(status, "always", then, "why"), None);
        }
    }

    #[test]
    fn names_as_engines_tell_them() {
        let endpoint = "e".repeat(64);
        let read = |network: &str, more: &str| {
            let text =
                format!(r#"{{"Name":"/web-1",{more}"NetworkSettings":{{"Networks":{network}}}}}"#);
            parse_names(text.as_bytes()).unwrap()
        };
        // Docker 20.10 tells aliases alone, 26.1 all names that it resolves.
        let older =
            format!(r#"{{"foo":{{"Aliases":["web","0123456789ab"],"EndpointID":"{endpoint}"}}}}"#);
        let newer = format!(
            r#"{{"foo":{{"Aliases":["web"],"DNSNames":["web-1","web"],"EndpointID":"{endpoint}"}}}}"#
        );
        let more = r#""HostsPath":"/var/lib/docker/containers/x/hosts","HostConfig":{"Dns":["127.0.0.12","x"]},"State":{"Pid":7},"#;
        let (older, newer) = (read(&older, more), read(&newer, ""));
        let told =
            |names: &ContainerNames| names.aliases.values().flatten().cloned().collect::<Vec<_>>();
        assert_eq!(
            (older.name.as_str(), told(&older)),
            ("web-1", vec!["web".to_owned(), "0123456789ab".to_owned()])
        );
        assert_eq!(told(&newer), ["web", "web-1", "web"]);
        assert_eq!(older.hosts_file, Some(PathBuf::from("/var/lib/docker/containers/x/hosts")));
        assert_eq!(older.dns_servers, ["127.0.0.12".parse::<IpAddr>().unwrap()]);
        assert_eq!((newer.hosts_file, newer.dns_servers), (None, vec![]));
        assert_eq!((older.process, newer.process), (Some(7), None));
        // Of one that has ended, or is not one that Docker keeps a file for.
        let none = read(
            r#"{"foo":{"Aliases":null,"EndpointID":""}}"#,
            r#""HostsPath":"","State":{"Pid":0},"#,
        );
        assert_eq!((none.aliases.len(), none.hosts_file, none.process), (0, None, None));
        assert_eq!(read("null", r#""HostsPath":"../hosts","#).hosts_file, None);
    }

    #[test]
    fn fuzz_engine_container() {
        fuzz("engine_container", env!("CARGO_MANIFEST_DIR"), |body| {
            (parse_list(body), parse_container(&id(), body), parse_names(body))
        });
    }
}
