//! Starts containers that the engine could not start because shoutd was not running.
//!
//! A starting engine tries each container with a restart policy once. If a plugin does not answer
//! within 15 s, the container stays down (moby's `daemon.restore` only logs the error). The same
//! happens to a container that ends while shoutd is being upgraded.

use std::collections::BTreeMap;
use std::time::Duration;

use shoutd_core::events::EventKind;
use shoutd_core::mirror::DRIVER;
use shoutd_docker::engine::{ContainerId, EngineError, Started, StoppedContainer};
use tracing::warn;

use crate::app::services::Services;
use crate::docker::driver::NOT_AGREED;

/// How often we check for such containers after the engine came up: the engine repeats its own
/// attempt for 15 s, and that may fail after our first check.
const CHECKS: u32 = 4;

/// The time between two checks.
const PERIOD: Duration = Duration::from_secs(10);

/// How often we try to start one container.
const TRIES_MAX: u32 = 3;

/// How many containers we start per check: each may take seconds. The next check starts the others.
const STARTS_PER_CHECK_MAX: usize = 256;

/// Checks for such containers for a while, and starts them one after the other.
pub async fn run(services: Services) {
    let mut tries = BTreeMap::new();
    for _ in 0..CHECKS {
        if let Err(error) = check(&services, &mut tries).await {
            warn!("cannot check whether containers must be started: {error}");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn check(
    services: &Services,
    tries: &mut BTreeMap<ContainerId, u32>,
) -> Result<(), EngineError> {
    for container in left_down(services).await?.into_iter().take(STARTS_PER_CHECK_MAX) {
        let tried = tries.entry(container.id.clone()).or_default();
        if *tried >= TRIES_MAX {
            continue;
        }
        *tried += 1;
        match services.engine.start_container(&container.id).await {
            Ok(Started::Now) => {
                let text = "started because of its restart policy; the engine could not start it \
                            while shoutd was not running";
                services.events.note(EventKind::ContainerStarted, &container.name, text);
            }
            Ok(Started::Before | Started::Gone) => {}
            Err(error) => {
                let text =
                    format!("not started while shoutd was not running, and fails again: {error}");
                services.events.note(EventKind::ContainerRefused, &container.name, &text);
            }
        }
    }
    Ok(())
}

/// The containers on shoutd's networks that are down because shoutd was not running.
async fn left_down(services: &Services) -> Result<Vec<StoppedContainer>, EngineError> {
    let mut found = BTreeMap::new();
    for network in
        services.engine.networks().await?.iter().filter(|network| network.driver == DRIVER)
    {
        for id in services.engine.exited_containers(&network.id).await? {
            if found.contains_key(&id) {
                continue;
            }
            let container = services.engine.stopped_container(&id).await?;
            found.insert(id, container.filter(is_left_down));
        }
    }
    Ok(found.into_values().flatten().collect())
}

/// Whether a container should run and is down only because shoutd did not answer. A container that
/// a user stopped has no error, and the engine does not start it.
fn is_left_down(container: &StoppedContainer) -> bool {
    container.restarts_always && container.has_run && is_missing_plugin(&container.error)
}

/// Whether this is an error of the engine that the plugin is missing or does not answer.
fn is_missing_plugin(error: &str) -> bool {
    // In this order: the engine has not loaded the plugin yet and finds no socket; it has loaded
    // it; any failure at the socket; shoutd's own error at boot, when the engine's API does not
    // answer.
    [r#"plugin "shoutd" not found"#, "could not resolve driver shoutd", "shoutd.sock", NOT_AGREED]
        .iter()
        .any(|words| error.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the messages of Docker 20.10.24.
    #[test]
    fn only_errors_of_a_missing_plugin_count() {
        for error in [
            r#"failed to add endpoint: plugin "shoutd" not found"#,
            r#"plugin "shoutd" not found"#,
            "failed to add endpoint: legacy plugin: Post \
             \"http://%2Frun%2Fdocker%2Fplugins%2Fshoutd.sock/Plugin.Activate\": dial unix \
             /run/docker/plugins/shoutd.sock: connect: connection refused",
        ] {
            assert!(is_missing_plugin(error), "{error}");
        }
        for error in [
            "",
            r#"plugin "other" not found"#,
            "failed to create endpoint c1 on network foo: NetworkDriver.CreateEndpoint: 10.44.0.9 \
             is host2's",
            "OCI runtime create failed: exec: \"shoutd\": executable file not found in $PATH: \
             unknown",
        ] {
            assert!(!is_missing_plugin(error), "{error}");
        }
    }
}
