//! Calls to other hosts of the cluster, and what they show: which peers answer, at which address,
//! and their progress.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoutd_core::HostId;
use shoutd_core::cluster::Cluster;
use shoutd_peer::{CallError, Rejection};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::calls::Calls;
use crate::clock::millis;
use crate::notice::NoticeKind;
use crate::participation::Participation;
use crate::removal_notice::RemovalNotice;
use crate::status::PeerStatus;
use crate::wire::{self, Answer, Message, Progress, Sender, StatusAnswer};

/// Consecutive time-outs after which a host counts as unreachable: a single one may be a slow disk.
const SLOW_CALLS_MAX: u32 = 3;

/// How long the result of a call counts.
const MEMORY: Duration = Duration::from_secs(15);

/// This host's knowledge about its peers.
#[derive(Debug)]
pub(crate) struct PeerHealth {
    calls: Calls,
    /// This host's address and run.
    own: Sender,
    cluster: watch::Receiver<Arc<Cluster>>,
    participation: Arc<Participation>,
    seen: Mutex<BTreeMap<HostId, Seen>>,
    /// Hosts whose address differs from agreed state.
    moved: Mutex<BTreeMap<HostId, Moved>>,
    /// The furthest progress of each host.
    progress: Mutex<BTreeMap<HostId, Progress>>,
}

/// The address at which a host was found, and its address in agreed state at that time. It no
/// longer applies once agreed state has another address for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moved {
    to: SocketAddr,
    from: SocketAddr,
}

/// The recent calls to one host.
#[derive(Debug, Clone)]
struct Seen {
    last: Instant,
    /// Consecutive time-outs.
    slow: u32,
    /// Why it counts as unreachable, if it does.
    failure: Option<String>,
    /// Whether the reason is that one of the two hosts does not trust the other's certificate, for
    /// example because a clock is wrong.
    distrust: bool,
}

impl PeerHealth {
    pub fn new(
        calls: Calls,
        own: Sender,
        cluster: watch::Receiver<Arc<Cluster>>,
        participation: Arc<Participation>,
    ) -> Self {
        Self {
            calls,
            own,
            cluster,
            participation,
            seen: Mutex::default(),
            moved: Mutex::default(),
            progress: Mutex::default(),
        }
    }

    /// A host's address: where it was found, if it has moved; else the one in agreed state; else
    /// `noted`, from the Raft membership.
    pub fn address(&self, host: HostId, noted: Option<&str>) -> Option<SocketAddr> {
        let agreed = self.agreed(host);
        self.moved_to(host).or(agreed).or_else(|| noted?.parse().ok())
    }

    fn agreed(&self, host: HostId) -> Option<SocketAddr> {
        self.cluster.borrow().hosts.get(&host).map(|host| host.address)
    }

    /// Where a host was found, if that differs from its address in agreed state.
    fn moved_to(&self, host: HostId) -> Option<SocketAddr> {
        let moved = self.moved().get(&host).copied()?;
        (self.agreed(host) == Some(moved.from)).then_some(moved.to)
    }

    /// The hosts that have exchanged addresses in a ring with this one, with their new addresses:
    /// this host has the agreed address of another, which has that of a third, and so on until one
    /// has this host's.
    pub fn ring(&self) -> Option<BTreeMap<HostId, SocketAddr>> {
        let (me, cluster) = (self.calls.identity().host(), Arc::clone(&self.cluster.borrow()));
        let mut ring = BTreeMap::from([(me, self.own.address)]);
        let mut taken = self.own.address;
        loop {
            let (holder, _) =
                cluster.hosts.iter().find(|(_, host)| host.address.ip() == taken.ip())?;
            if *holder == me {
                return Some(ring);
            }
            taken = self.moved_to(*holder)?;
            if ring.insert(*holder, taken).is_some() {
                return None;
            }
        }
    }

    /// Records a host's address, from the host itself or from another. A wrong one does no harm: a
    /// call succeeds only if that host answers, and a failed call drops the address.
    pub fn learn(&self, host: HostId, to: SocketAddr) {
        let is_own = host == self.calls.identity().host();
        if is_own
            || to == self.own.address
            || to.is_ipv4() != self.own.address.is_ipv4()
            || !can_be_called(&to)
        {
            return;
        }
        // A host that is not a member yet states its address when it is admitted.
        let Some(from) = self.agreed(host) else { return };
        let news = Moved { to, from };
        let before =
            if to == from { self.moved().remove(&host) } else { self.moved().insert(host, news) };
        if to != from && before != Some(news) {
            tracing::info!(host = self.name(host), %to, %from, "host has moved");
        }
    }

    /// Records where others found hosts that this one cannot reach.
    pub fn learn_from(&self, peer_health: &[PeerStatus]) {
        for PeerStatus { host, address, .. } in peer_health {
            if let Some(address) = address.filter(|_| !self.is_reachable(*host)) {
                self.learn(*host, address);
            }
        }
    }

    /// Drops the address at which a host was found: it did not answer there.
    fn unlearn(&self, host: HostId, address: SocketAddr) {
        let mut moved = self.moved();
        if moved.get(&host).is_some_and(|moved| moved.to == address) {
            moved.remove(&host);
        }
    }

    /// The envelope for a message to host `to`; `None` is whichever host has the called address.
    pub fn message<T>(&self, to: Option<HostId>, content: T) -> Message<T> {
        let recalled = to.and_then(|to| self.progress_of(to));
        Message { epoch: self.participation.epoch(), sender: Some(self.own), recalled, content }
    }

    /// This host's address and run.
    pub fn own(&self) -> Sender {
        self.own
    }

    /// Remembers a host's progress.
    pub fn recall(&self, host: HostId, progress: Progress) {
        let mut all = self.progress.lock();
        let known = all.entry(host).or_insert(progress);
        *known = (*known).max(progress);
    }

    /// The furthest progress known of a host.
    pub fn progress_of(&self, host: HostId) -> Option<Progress> {
        self.progress.lock().get(&host).copied()
    }

    /// Asks a host for its status. Its answer may show that the cluster knows this host at another
    /// address.
    pub async fn ask_status(
        &self,
        host: HostId,
        address: SocketAddr,
        deadline: Duration,
    ) -> Result<StatusAnswer, CallError> {
        let answer: StatusAnswer = self.call(host, address, wire::STATUS, &(), deadline).await?;
        self.learn_from(&answer.status.peer_health);
        if let Some(address) = answer.your_address {
            self.participation.note_known_at(address);
        }
        Ok(answer)
    }

    /// Calls a host, and records whether it answers.
    pub async fn call<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        host: HostId,
        address: SocketAddr,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        let message = self.message(Some(host), request);
        let answer =
            self.calls.call::<_, Answer<A>>(Some(host), address, path, &message, deadline).await;
        match &answer {
            Ok(_) => self.note_answer(host),
            Err(error) => self.failed(host, address, error),
        }
        self.take_note(address, answer)
    }

    /// Calls whichever host has this address.
    pub async fn call_address<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        address: SocketAddr,
        path: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, CallError> {
        let message = self.message(None, request);
        let answer = self.calls.call::<_, Answer<A>>(None, address, path, &message, deadline).await;
        self.take_note(address, answer)
    }

    /// Detects a removal notice for this host.
    fn take_note<A>(
        &self,
        address: SocketAddr,
        answer: Result<Answer<A>, CallError>,
    ) -> Result<A, CallError> {
        let answer = answer.inspect_err(|error| {
            if let CallError::Refused { rejection: Rejection::Removed { .. }, .. } = error {
                self.participation.leave(RemovalNotice::Removed { at: None });
            }
        });
        answer?.map_err(|removal_notice| {
            self.participation.leave(removal_notice);
            let host = self.calls.identity().host();
            CallError::Refused { address, rejection: Rejection::Removed { host } }
        })
    }

    /// Records that a host answers or sent a message.
    pub fn note_answer(&self, host: HostId) {
        let fresh = Seen { last: Instant::now(), slow: 0, failure: None, distrust: false };
        let before = self.seen().insert(host, fresh);
        if before.is_some_and(|before| before.failure.is_some()) {
            tracing::info!(host = self.name(host), "host answers again");
        }
    }

    fn failed(&self, host: HostId, address: SocketAddr, error: &CallError) {
        let mut seen = self.seen();
        let entry = seen.entry(host).or_insert_with(|| Seen {
            last: Instant::now(),
            slow: 0,
            failure: None,
            distrust: false,
        });
        entry.last = Instant::now();
        if matches!(error, CallError::TimedOut { .. }) {
            entry.slow += 1;
            if entry.slow < SLOW_CALLS_MAX {
                return;
            }
        }
        let trusted_before = !entry.distrust;
        entry.distrust = matches!(
            error,
            CallError::Untrusted { .. }
                | CallError::Refused { rejection: Rejection::Unauthenticated { .. }, .. }
        );
        let is_distrusted_now = trusted_before && entry.distrust;
        let first = entry.failure.replace(error.to_string()).is_none();
        drop(seen);
        self.unlearn(host, address);
        if is_distrusted_now {
            let name = self.name(host);
            let text = distrust_text(&name, &error.to_string());
            self.participation.notices.add(NoticeKind::Distrusted, name, text);
        }
        if first {
            tracing::warn!(host = self.name(host), %error, "host does not answer");
        }
    }

    /// Whether calls to `host` have been failing lately.
    pub fn is_unreachable(&self, host: HostId) -> bool {
        self.seen()
            .get(&host)
            .is_some_and(|seen| seen.failure.is_some() && seen.last.elapsed() < MEMORY)
    }

    /// Whether the last call to `host` succeeded, and was lately.
    pub fn is_reachable(&self, host: HostId) -> bool {
        self.seen()
            .get(&host)
            .is_some_and(|seen| seen.failure.is_none() && seen.last.elapsed() < MEMORY)
    }

    /// A host's name, for messages.
    pub fn name(&self, host: HostId) -> String {
        self.cluster.borrow().host_name(host)
    }

    /// The hosts that cannot be called because one side does not trust the other's certificate, one
    /// line each.
    pub fn distrusted(&self) -> Vec<String> {
        let failures: Vec<(HostId, String)> = self
            .seen()
            .iter()
            .filter(|(_, seen)| seen.distrust && seen.last.elapsed() < MEMORY)
            .filter_map(|(host, seen)| Some((*host, seen.failure.clone()?)))
            .collect();
        failures.iter().map(|(host, failure)| distrust_text(&self.name(*host), failure)).collect()
    }

    pub fn status(&self) -> Vec<PeerStatus> {
        self.seen()
            .iter()
            .map(|(host, seen)| PeerStatus {
                host: *host,
                reachable: seen.failure.is_none(),
                error: seen.failure.clone(),
                millis: millis(seen.last.elapsed()),
                address: self.moved_to(*host),
            })
            .collect()
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<HostId, Seen>> {
        self.seen.lock()
    }

    fn moved(&self) -> MutexGuard<'_, BTreeMap<HostId, Moved>> {
        self.moved.lock()
    }
}

fn distrust_text(name: &str, failure: &str) -> String {
    format!("cannot talk to {name}: {failure}")
}

/// Whether this can be a host's address.
fn can_be_called(address: &SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}
