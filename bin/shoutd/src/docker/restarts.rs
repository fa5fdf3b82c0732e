//! Starts the containers that their engine should have started and could not, because shoutd was
//! not there.
//!
//! An engine that starts tries each container with a restart policy once: a plugin that does not
//! answer within 15 s leaves it down for good, as nobody tries again (`daemon.restore` of moby only
//! logs it). So does a container that ends while shoutd is being replaced.

use std::collections::BTreeMap;
use std::time::Duration;

use shoutd_core::events::EventKind;
use shoutd_core::mirror::DRIVER;
use shoutd_docker::engine::{ContainerId, EngineError, Started, StoppedContainer};
use tracing::warn;

use crate::app::services::Services;
use crate::docker::driver::NOT_AGREED;

/// How often containers are looked for after an engine was found: an attempt of its own, which it
/// repeats for 15 s, may still fail meanwhile.
const LOOKS: u32 = 4;

/// The time between two looks.
const PERIOD: Duration = Duration::from_secs(10);

/// How often one container is tried.
const TRIES_MAX: u32 = 3;

/// Containers that are tried at one look: each may take seconds, and the next look takes the
/// others.
const STARTS_PER_LOOK_MAX: usize = 256;

/// Looks for such containers for a while, and starts them one after the other.
pub async fn run(services: Services) {
    let mut tries = BTreeMap::new();
    for _ in 0..LOOKS {
        if let Err(error) = look(&services, &mut tries).await {
            warn!("cannot see whether containers wait to be started: {error}");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn look(
    services: &Services,
    tries: &mut BTreeMap<ContainerId, u32>,
) -> Result<(), EngineError> {
    for container in left_down(services).await?.into_iter().take(STARTS_PER_LOOK_MAX) {
        let tried = tries.entry(container.id.clone()).or_default();
        if *tried >= TRIES_MAX {
            continue;
        }
        *tried += 1;
        match services.engine.start_container(&container.id).await {
            Ok(Started::Now) => {
                let text = "started: its restart policy wants it to run, and its engine could not \
                            start it without shoutd";
                services.events.note(EventKind::ContainerStarted, &container.name, text);
            }
            Ok(Started::Before | Started::Gone) => {}
            Err(error) => {
                let text =
                    format!("left down without shoutd, and still cannot be started: {error}");
                services.events.note(EventKind::ContainerRefused, &container.name, &text);
            }
        }
    }
    Ok(())
}

/// The containers on shoutd's networks that are down for want of shoutd.
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

/// Whether a container should run and does not for no other reason than that shoutd did not answer.
/// One that a user has stopped ended without an error; the engine does not try to start it.
fn is_left_down(container: &StoppedContainer) -> bool {
    container.restarts_always && container.has_run && is_for_want_of_shoutd(&container.error)
}

/// Whether these are an engine's words for a plugin that is not there, or does not answer, and not
/// shoutd's own for something else.
fn is_for_want_of_shoutd(error: &str) -> bool {
    // Where it was not loaded since the engine started and has no socket; where it has been; and of
    // whatever fails at the socket. And shoutd's own at boot, when the engine does not answer it.
    [r#"plugin "shoutd" not found"#, "could not resolve driver shoutd", "shoutd.sock", NOT_AGREED]
        .iter()
        .any(|words| error.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Docker 20.10.24 words them.
    #[test]
    fn only_the_want_of_shoutd_is_a_reason() {
        for error in [
            r#"failed to add endpoint: plugin "shoutd" not found"#,
            r#"plugin "shoutd" not found"#,
            r#"failed to add endpoint: legacy plugin: Post "http://%2Frun%2Fdocker%2Fplugins%2Fshoutd.sock/Plugin.Activate": dial unix /run/docker/plugins/shoutd.sock: connect: connection refused"#,
        ] {
            assert!(is_for_want_of_shoutd(error), "{error}");
        }
        for error in [
            "",
            r#"plugin "other" not found"#,
            "failed to create endpoint c1 on network foo: NetworkDriver.CreateEndpoint: 10.44.0.9 \
             is host2's",
            r#"OCI runtime create failed: exec: "shoutd": executable file not found in $PATH: unknown"#,
        ] {
            assert!(!is_for_want_of_shoutd(error), "{error}");
        }
    }
}
