//! Facts about Docker.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use shoutd_cli::read_at_most;
use shoutd_core::doctor::{EngineFacts, Settings, SettingsFacts, UsedSubnet};
use shoutd_core::mirror::DRIVER;
use shoutd_dataplane::host_routes;
use shoutd_docker::engine::EngineClient;
use tokio::time::timeout;

/// How long the engine may take to answer.
const ENGINE_TIME_MAX: Duration = Duration::from_secs(10);

/// Docker's settings (dockerd(8), `--config-file`).
const SETTINGS_FILE: &str = "/etc/docker/daemon.json";

/// Size limit of that file, in octets.
const SETTINGS_BYTES_MAX: u64 = 1 << 20;

/// The Docker Engine.
pub async fn engine(socket: &Path) -> Result<EngineFacts, String> {
    let client = EngineClient::new(socket);
    let info = timeout(ENGINE_TIME_MAX, client.engine_info()).await.map_err(|_| late())?;
    let info = info.map_err(|error| error.to_string())?;
    Ok(EngineFacts { version: info.version, swarm: info.swarm_active })
}

fn late() -> String {
    format!("Docker does not answer within {} s", ENGINE_TIME_MAX.as_secs())
}

/// Docker's settings.
pub fn settings() -> SettingsFacts {
    let file = PathBuf::from(SETTINGS_FILE);
    let content = match read_at_most(&file, SETTINGS_BYTES_MAX) {
        Ok(text) => match serde_json::from_slice::<Value>(&text) {
            Ok(settings) => Settings::Valid { iptables: settings["iptables"] != false },
            // Docker takes an empty file as no settings.
            Err(_) if text.trim_ascii().is_empty() => Settings::Absent,
            Err(error) => Settings::Invalid(error.to_string()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Settings::Absent,
        Err(error) => Settings::Unreadable(error.to_string()),
    };
    SettingsFacts { file, content }
}

/// The subnets that this host uses otherwise: of Docker's other networks, and those to which it is
/// connected directly.
pub async fn subnets(socket: &Path) -> Result<Vec<UsedSubnet>, String> {
    let client = EngineClient::new(socket);
    let networks = timeout(ENGINE_TIME_MAX, client.networks()).await.map_err(|_| late())?;
    let networks = networks.map_err(|error| error.to_string())?;
    let routes =
        tokio::task::spawn_blocking(host_routes).await.map_err(|error| error.to_string())?;
    let routes = routes.map_err(|error| error.to_string())?;
    let foreign =
        networks.into_iter().filter(|network| network.driver != DRIVER && network.scope == "local");
    let mut used: Vec<UsedSubnet> = foreign
        .flat_map(|network| {
            let user = format!("Docker network {}", network.name);
            let subnets = network.ipam.configs.into_iter().filter_map(|config| config.subnet);
            // 0.0.0.0/0 is the subnet of Docker's IPAM driver `null`.
            let subnets = subnets.filter(|subnet| subnet.prefix_len() > 0);
            subnets.map(move |subnet| UsedSubnet {
                subnet: subnet.trunc(),
                user: user.clone(),
                docker: true,
            })
        })
        .collect();
    // A route to a Docker network's bridge is no user of its own.
    let known: BTreeSet<_> = used.iter().map(|used| used.subnet).collect();
    used.extend(
        routes
            .into_iter()
            .filter(|route| !route.remote && !known.contains(&route.destination.trunc()))
            .map(|route| UsedSubnet {
                subnet: route.destination.trunc(),
                user: format!("interface {}", route.interface),
                docker: false,
            }),
    );
    Ok(used)
}
