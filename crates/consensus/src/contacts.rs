//! Calls to other hosts of the cluster, and what they tell about who can be reached.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoutd_core::HostId;
use shoutd_core::cluster::Cluster;
use shoutd_peer::{CallError, Rejection};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::calls::Calls;
use crate::farewell::Farewell;
use crate::standing::Standing;
use crate::status::ContactStatus;
use crate::wire::{Answer, Message};

/// Calls in a row that must time out before a host counts as unreachable: one alone may be a slow disk.
const SLOW_CALLS_MAX: u32 = 3;

/// How long the failure of a call says something about now.
const MEMORY: Duration = Duration::from_secs(15);

/// The other hosts, as this one gets on with them.
#[derive(Debug)]
pub(crate) struct Contacts {
    calls: Calls,
    cluster: watch::Receiver<Arc<Cluster>>,
    standing: Arc<Standing>,
    seen: Mutex<BTreeMap<HostId, Seen>>,
}

/// What is known of one host.
#[derive(Debug, Clone)]
struct Seen {
    last: Instant,
    /// Calls in a row that timed out.
    slow: u32,
    /// Why it counts as unreachable.
    failure: Option<String>,
}

impl Contacts {
    pub fn new(calls: Calls, cluster: watch::Receiver<Arc<Cluster>>, standing: Arc<Standing>) -> Self {
        Self { calls, cluster, standing, seen: Mutex::default() }
    }

    /// Where a host is: what is agreed on counts before what consensus noted when the host was added.
    pub fn address(&self, host: HostId, noted: Option<&str>) -> Option<SocketAddr> {
        let agreed = self.cluster.borrow().hosts.get(&host).map(|host| host.address);
        agreed.or_else(|| noted?.parse().ok())
    }

    /// Asks a host, and takes note of whether it answers.
    pub async fn call<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        host: HostId,
        address: SocketAddr,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        let message = Message { epoch: self.standing.epoch(), content: request };
        let answer = self.calls.call::<_, Answer<A>>(Some(host), address, path, &message, deadline).await;
        match &answer {
            Ok(_) => self.heard(host),
            Err(error) => self.failed(host, error),
        }
        self.take_note(address, answer)
    }

    /// Asks whoever is at this address.
    pub async fn call_whoever<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        address: SocketAddr,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        let message = Message { epoch: self.standing.epoch(), content: request };
        let answer = self.calls.call::<_, Answer<A>>(None, address, path, &message, deadline).await;
        self.take_note(address, answer)
    }

    /// Notices when this host is told to go.
    fn take_note<A>(&self, address: SocketAddr, answer: Result<Answer<A>, CallError>) -> Result<A, CallError> {
        let host = self.calls.identity().host();
        let removed = || CallError::Refused { address, rejection: Rejection::Removed { host } };
        let answer = answer.inspect_err(|error| {
            if let CallError::Refused { rejection: Rejection::Removed { .. }, .. } = error {
                self.standing.leave(Farewell::Removed { at: None });
            }
        });
        answer?.map_err(|farewell| {
            self.standing.leave(farewell);
            removed()
        })
    }

    /// Takes note that a host is there.
    pub fn heard(&self, host: HostId) {
        let fresh = Seen { last: Instant::now(), slow: 0, failure: None };
        let before = self.seen().insert(host, fresh);
        if before.is_some_and(|before| before.failure.is_some()) {
            tracing::info!(host = self.name(host), "host answers again");
        }
    }

    fn failed(&self, host: HostId, error: &CallError) {
        let mut seen = self.seen();
        let entry = seen.entry(host).or_insert_with(|| Seen { last: Instant::now(), slow: 0, failure: None });
        entry.last = Instant::now();
        if matches!(error, CallError::TimedOut { .. }) {
            entry.slow += 1;
            if entry.slow < SLOW_CALLS_MAX {
                return;
            }
        }
        let first = entry.failure.replace(error.to_string()).is_none();
        drop(seen);
        if first {
            tracing::warn!(host = self.name(host), %error, "host does not answer");
        }
    }

    /// Whether calls to this host have been failing lately.
    pub fn is_unreachable(&self, host: HostId) -> bool {
        self.seen().get(&host).is_some_and(|seen| seen.failure.is_some() && seen.last.elapsed() < MEMORY)
    }

    /// Whether the host answered lately.
    pub fn is_reachable(&self, host: HostId) -> bool {
        self.seen().get(&host).is_some_and(|seen| seen.failure.is_none() && seen.last.elapsed() < MEMORY)
    }

    /// What people call a host.
    pub fn name(&self, host: HostId) -> String {
        self.cluster.borrow().host_name(host)
    }

    pub fn status(&self) -> Vec<ContactStatus> {
        let contact = |(host, seen): (&HostId, &Seen)| ContactStatus {
            host: *host,
            reachable: seen.failure.is_none(),
            error: seen.failure.clone(),
            millis: millis(seen.last.elapsed()),
        };
        self.seen().iter().map(contact).collect()
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<HostId, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
