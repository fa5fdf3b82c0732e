//! Runs the daemon's tasks. None of them ends before it is asked to: one that does has lost its
//! work, so the daemon ends and is started again.

use std::any::Any;
use std::collections::HashMap;
use std::future::{Future, pending};
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{error, warn};

/// Tasks with names. Dropping it aborts them.
#[derive(Debug, Default)]
pub struct Tasks {
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    /// Starts a task that runs until the daemon stops.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.running.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits until a task ends by itself, and says which and why. Waits forever without tasks.
    pub async fn first_ended(&mut self) -> String {
        let Some(ended) = self.running.join_next_with_id().await else { return pending().await };
        let text = format!("{}; shoutd stops, to be started again", self.describe(ended));
        error!("{text}");
        text
    }

    /// Waits for the end of all tasks, which were asked to end.
    ///
    /// # Errors
    /// The names of tasks that run on after `deadline`, in any order.
    pub async fn join_all(&mut self, deadline: Duration) -> Result<(), Vec<&'static str>> {
        let all = async {
            while let Some(ended) = self.running.join_next_with_id().await {
                match ended {
                    Ok((id, ())) => _ = self.names.remove(&id),
                    Err(_) => warn!("{} while shoutd stopped", self.describe(ended)),
                }
            }
        };
        timeout(deadline, all).await.map_err(|_| self.names.values().copied().collect())
    }

    /// One line about a task that ended.
    fn describe(&mut self, ended: Result<(Id, ()), JoinError>) -> String {
        let (id, how) = match ended {
            Ok((id, ())) => (id, "ended".to_owned()),
            Err(error) => {
                let id = error.id();
                (
                    id,
                    error
                        .try_into_panic()
                        .map_or("was aborted".to_owned(), |panic| panic_text(&*panic)),
                )
            }
        };
        let name = self.names.remove(&id).unwrap_or("without a name");
        format!("the task {name} {how}")
    }
}

/// What a panic said. The panic hook has logged where it happened.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_else(|| "it said nothing".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_or_panics_is_named() {
        let mut tasks = Tasks::default();
        tasks.spawn("waiting", pending());
        tasks.spawn("advertiser", async {});
        let text = tasks.first_ended().await;
        assert_eq!(text, "the task advertiser ended; shoutd stops, to be started again");
        tasks.spawn("leases", async { panic!("no room for {}", 7) });
        let text = tasks.first_ended().await;
        assert!(text.starts_with("the task leases panicked: no room for 7;"), "{text}");
    }

    #[tokio::test]
    async fn a_task_that_panics_while_shoutd_stops_is_not_what_stops_it() {
        let mut tasks = Tasks::default();
        let id = tasks.running.spawn(pending()).id();
        tasks.names.insert(id, "plane");
        tasks.running.abort_all();
        let ended = tasks.running.join_next_with_id().await.unwrap();
        assert_eq!(tasks.describe(ended), "the task plane was aborted");
    }

    #[tokio::test]
    async fn tasks_that_do_not_end_in_time_are_named() {
        let mut tasks = Tasks::default();
        tasks.spawn("quick", async {});
        assert_eq!(tasks.join_all(Duration::from_secs(20)).await, Ok(()));
        tasks.spawn("stuck", pending());
        assert_eq!(tasks.join_all(Duration::from_millis(1)).await, Err(vec!["stuck"]));
    }
}
