//! Which containers are started because the engine could not start them while shoutd was not
//! running.
//!
//! A starting engine tries each container with a restart policy once. If a plugin does not answer
//! within 15 s, the container stays down (moby's `daemon.restore` only logs the error). The same
//! happens to a container that ends while shoutd is being upgraded.

use std::collections::{BTreeMap, BTreeSet};

/// Start of the error that the hosts have not agreed on a network's name in time. An engine that
/// boots gets it.
pub const NOT_AGREED: &str = "the hosts have not agreed on the name of this network";

/// How often we try to start one container.
pub const TRIES_MAX: u32 = 3;

/// How many containers we start per check: each may take seconds. The next check starts the others.
pub const STARTS_PER_CHECK_MAX: usize = 256;

/// A container on one of shoutd's networks that does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped<'a> {
    /// Whether its restart policy is `always` or `unless-stopped`.
    pub restarts_always: bool,
    /// Whether it has ever run.
    pub has_run: bool,
    /// Why its last start failed; empty if it did not fail.
    pub error: &'a str,
}

/// How often we tried to start each container; `Id` is the engine's id of a container.
#[derive(Debug)]
pub struct Restarts<Id> {
    tries: BTreeMap<Id, u32>,
}

impl<Id> Default for Restarts<Id> {
    fn default() -> Self {
        Self { tries: BTreeMap::new() }
    }
}

impl<Id: Ord + Clone> Restarts<Id> {
    /// The containers to start now, in the order of their ids. Counts a try for each.
    pub fn choose<'a>(
        &mut self,
        stopped: impl IntoIterator<Item = (&'a Id, Stopped<'a>)>,
    ) -> Vec<Id>
    where
        Id: 'a,
    {
        let down = stopped.into_iter().filter(|(_, container)| is_left_down(container));
        let down: BTreeSet<_> = down.map(|(id, _)| id).collect();
        let mut chosen = Vec::new();
        for id in down.into_iter().take(STARTS_PER_CHECK_MAX) {
            let tries = self.tries.entry(id.clone()).or_default();
            if *tries < TRIES_MAX {
                *tries += 1;
                chosen.push(id.clone());
            }
        }
        chosen
    }
}

/// Whether a container should run and is down only because shoutd did not answer. A container that
/// a user stopped has no error, and the engine does not start it.
fn is_left_down(container: &Stopped<'_>) -> bool {
    container.restarts_always && container.has_run && is_missing_plugin(container.error)
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
    use proptest::prelude::*;

    use super::*;

    const MISSING: &str = r#"plugin "shoutd" not found"#;

    /// With the messages of Docker 20.10.24.
    #[test]
    fn only_errors_of_a_missing_plugin_count() {
        for error in [
            r#"failed to add endpoint: plugin "shoutd" not found"#,
            MISSING,
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

    #[test]
    fn a_check_starts_a_limited_number_and_a_container_a_limited_number_of_times() {
        let ids: Vec<usize> = (0..STARTS_PER_CHECK_MAX + 1).collect();
        let down = Stopped { restarts_always: true, has_run: true, error: MISSING };
        let mut restarts = Restarts::default();
        for _ in 0..TRIES_MAX {
            let chosen = restarts.choose(ids.iter().map(|id| (id, down)));
            assert_eq!(chosen, ids[..STARTS_PER_CHECK_MAX]);
        }
        assert_eq!(restarts.choose(ids.iter().map(|id| (id, down))), Vec::<usize>::new());
        let rest = &ids[STARTS_PER_CHECK_MAX..];
        assert_eq!(restarts.choose(rest.iter().map(|id| (id, down))), rest);
    }

    proptest! {
        /// Nothing is started that the engine would not have started at boot.
        #[test]
        fn a_container_that_is_meant_to_be_down_stays_down(
            restarts_always in any::<bool>(),
            has_run in any::<bool>(),
            is_plugins in any::<bool>(),
        ) {
            let error = if is_plugins { MISSING } else { "" };
            let container = Stopped { restarts_always, has_run, error };
            let chosen = Restarts::default().choose([(&7, container)]);
            prop_assert_eq!(chosen == [7], restarts_always && has_run && is_plugins);
        }
    }
}
