//! Starts containers that the engine could not start because shoutd was not running.
//! `shoutd_core::restarts` chooses them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use shoutd_core::events::EventKind;
use shoutd_core::mirror::DRIVER;
use shoutd_core::restarts::{Restarts, Stopped};
use shoutd_docker::engine::{ContainerId, EngineError, Started, StoppedContainer};
use tracing::warn;

use crate::app::services::Services;

/// How often we check for such containers after the engine came up: the engine repeats its own
/// attempt for 15 s, and that may fail after our first check.
const CHECKS: u32 = 4;

/// The time between two checks.
const PERIOD: Duration = Duration::from_secs(10);

/// Checks for such containers for a while, and starts them one after the other.
pub async fn run(services: Services) {
    let mut restarts = Restarts::default();
    for _ in 0..CHECKS {
        if let Err(error) = check(&services, &mut restarts).await {
            warn!("cannot check whether containers must be started: {error}");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn check(
    services: &Services,
    restarts: &mut Restarts<ContainerId>,
) -> Result<(), EngineError> {
    let stopped = stopped(services).await?;
    let chosen = restarts.choose(stopped.values().map(|container| {
        let StoppedContainer { restarts_always, has_run, error, .. } = container;
        let (restarts_always, has_run) = (*restarts_always, *has_run);
        (&container.id, Stopped { restarts_always, has_run, error })
    }));
    for container in chosen.iter().filter_map(|id| stopped.get(id)) {
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

/// The containers on shoutd's networks that do not run.
async fn stopped(
    services: &Services,
) -> Result<BTreeMap<ContainerId, StoppedContainer>, EngineError> {
    let mut found = BTreeMap::new();
    for network in
        services.engine.networks().await?.iter().filter(|network| network.driver == DRIVER)
    {
        for id in services.engine.exited_containers(&network.id).await? {
            if let Entry::Vacant(entry) = found.entry(id) {
                let container = services.engine.stopped_container(entry.key()).await?;
                entry.insert(container);
            }
        }
    }
    Ok(found.into_iter().filter_map(|(id, container)| Some((id, container?))).collect())
}
