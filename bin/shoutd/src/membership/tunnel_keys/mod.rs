//! The preshared keys of the pairs that this host forms with the others: agrees on them by
//! `shoutd_core::tunnel_keys`, keeps them on disk, and gives them to the data plane.

mod follow;
mod lead;
mod rotation;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use shoutd_core::HostId;
use shoutd_core::plane::{Observed, ObservedPeer, PresharedKeys};
use shoutd_core::tunnel_keys::{Claim, PairKeys, Trial};
use shoutd_peer::{Client, CredentialStore, PairKeyFiles};
use tokio::sync::{Semaphore, watch};
use tracing::warn;

pub use self::follow::router;
use crate::api::events::Events;
use crate::membership::agreement::Agreement;
use crate::plane::Plane;

/// Calls of a leader that are in flight.
const CALLS_MAX: usize = 16;

/// How long the data plane may take to program a key before the other host is told that it has not.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(3);

/// The keys as they were read at the start, and where they go.
#[derive(Debug)]
pub struct Opened {
    files: PairKeyFiles,
    pairs: BTreeMap<HostId, Pair>,
    published: watch::Sender<Arc<PresharedKeys>>,
}

/// A pair that this host forms with another one.
#[derive(Debug, Default)]
struct Pair {
    keys: PairKeys,
    trial: Trial,
    /// What the other host claimed last, if this one leads.
    claim: Option<(Claim, Instant)>,
    /// When it was asked last.
    asked: Option<Instant>,
    /// Whether a task of the leader is busy with it.
    is_busy: bool,
}

/// Agrees on preshared keys.
#[derive(Debug)]
pub struct TunnelKeys {
    agreement: Agreement,
    plane: Arc<Plane>,
    peers: Client,
    events: Arc<Events>,
    files: PairKeyFiles,
    pairs: Mutex<BTreeMap<HostId, Pair>>,
    /// Held while keys are changed: on disk first.
    changing: tokio::sync::Mutex<()>,
    /// Why keys could not be kept last time. It is logged once, and not at each attempt.
    complaint: Mutex<Option<String>>,
    published: watch::Sender<Arc<PresharedKeys>>,
    calls: Semaphore,
    started: Instant,
}

impl Opened {
    /// Reads the keys. The data plane has them from its first state on, also without a majority.
    /// Plain networks do not depend on them, so whatever cannot be read is no error.
    pub fn open(credentials: &CredentialStore) -> Self {
        let files = credentials.pair_keys();
        let (keys, problems) = files.load();
        problems.iter().for_each(|problem| warn!("{problem}"));
        let pair = |(host, keys)| (host, Pair { keys, ..Pair::default() });
        let pairs = keys.into_iter().map(pair).collect();
        let published = watch::Sender::new(Arc::new(in_use(&pairs)));
        Self { files, pairs, published }
    }

    /// Follows the keys that WireGuard should have.
    pub fn watch(&self) -> watch::Receiver<Arc<PresharedKeys>> {
        self.published.subscribe()
    }
}

/// The keys that WireGuard should have.
fn in_use(pairs: &BTreeMap<HostId, Pair>) -> PresharedKeys {
    let keys = pairs.iter().filter_map(|(host, pair)| {
        let other = pair.keys.other.as_ref().filter(|_| pair.trial.uses_other);
        let key = other.or(pair.keys.current.as_ref())?;
        Some((*host, key.key.clone()))
    });
    keys.collect()
}

impl TunnelKeys {
    /// Does nothing until [`Self::run`].
    pub fn new(
        opened: Opened,
        agreement: Agreement,
        plane: Arc<Plane>,
        peers: Client,
        events: Arc<Events>,
    ) -> Self {
        let Opened { files, pairs, published } = opened;
        Self {
            agreement,
            plane,
            peers,
            events,
            files,
            pairs: Mutex::new(pairs),
            changing: tokio::sync::Mutex::default(),
            complaint: Mutex::default(),
            published,
            calls: Semaphore::new(CALLS_MAX),
            started: Instant::now(),
        }
    }

    /// The time since the start.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Changes the keys of a pair: on disk, then in memory, then in the data plane. It is not cut
    /// off if the caller is, so memory and disk stay the same.
    async fn change(
        self: &Arc<Self>,
        host: HostId,
        change: impl FnOnce(&PairKeys) -> PairKeys + Send + 'static,
    ) -> Result<()> {
        let this = self.clone();
        let changed = tokio::spawn(async move {
            let _changing = this.changing.lock().await;
            let before = this.pairs.lock().entry(host).or_default().keys.clone();
            let after = change(&before);
            if after != before {
                let (writer, keys) = (this.clone(), after.clone());
                let written = move || writer.files.save(host, &keys);
                tokio::task::spawn_blocking(written).await??;
            }
            if let Some(pair) = this.pairs.lock().get_mut(&host) {
                pair.keys = after;
            }
            this.note_contact(host);
            anyhow::Ok(())
        });
        let changed = changed.await?;
        let changed = changed.with_context(|| format!("cannot keep the key of host {host}"));
        let complaint = changed.as_ref().err().map(|error| format!("{error:#}"));
        let before = std::mem::replace(&mut *self.complaint.lock(), complaint.clone());
        if let Some(complaint) = complaint.filter(|complaint| before.as_ref() != Some(complaint)) {
            warn!("{complaint}; trying again");
        }
        changed
    }

    /// Forgets the keys of a pair, whose other host was removed.
    async fn forget(self: &Arc<Self>, host: HostId) {
        let _changing = self.changing.lock().await;
        match self.files.remove(host) {
            Ok(()) => {
                self.pairs.lock().remove(&host);
                self.publish();
            }
            Err(error) => warn!("{error}"),
        }
    }

    /// Notes that both hosts have exchanged claims.
    fn note_contact(&self, host: HostId) {
        let now = self.now();
        self.pairs.lock().entry(host).or_default().trial.note_contact(now);
        self.publish();
    }

    /// Gives the keys to the data plane.
    fn publish(&self) {
        let keys = in_use(&self.pairs.lock());
        self.published.send_if_modified(|published| {
            let is_new = **published != keys;
            if is_new {
                *published = Arc::new(keys);
            }
            is_new
        });
    }

    /// What WireGuard has of another host.
    fn peer(&self, observed: &Observed, host: HostId) -> Option<ObservedPeer> {
        let key = self.agreement.cluster().encryption.ends.get(&host)?.key;
        observed.encryption.as_ref()?.peers.get(&key).cloned()
    }

    /// The time of the last handshake that WireGuard reports, since 1970; `None` without one.
    fn handshake(&self, host: HostId) -> Option<Duration> {
        let peer = self.peer(&self.plane.watch_observed().borrow(), host)?;
        peer.last_handshake?.duration_since(UNIX_EPOCH).ok()
    }

    /// What this host claims about its key.
    fn claim(&self, observed: &Observed, host: HostId) -> Claim {
        let there = self.peer(observed, host).and_then(|peer| peer.preshared_key);
        let pairs = self.pairs.lock();
        let current = pairs.get(&host).and_then(|pair| pair.keys.current.as_ref());
        let programmed = current.is_some_and(|current| there.as_ref() == Some(&current.key));
        Claim { current: current.map(|current| current.digest), programmed }
    }

    fn own_claim(&self, host: HostId) -> Claim {
        self.claim(&self.plane.watch_observed().borrow(), host)
    }

    /// What this host claims once WireGuard has its key, or after [`PROGRAM_DEADLINE`].
    async fn programmed(&self, host: HostId) -> Claim {
        let mut observed = self.plane.watch_observed();
        let programmed = observed.wait_for(|observed| self.claim(observed, host).programmed);
        _ = tokio::time::timeout(PROGRAM_DEADLINE, programmed).await;
        self.own_claim(host)
    }
}
