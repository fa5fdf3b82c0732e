//! The cluster's certificate authority: which ones this host trusts, how the cluster gets another
//! one, and how this host gets a certificate from it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use shoutd_core::cluster::{self, Cluster, Command};
use shoutd_core::events::EventKind;
use shoutd_core::trust::Agreed;
use shoutd_core::{Fingerprint, HostId};
use shoutd_peer::identity::ENROLL;
use shoutd_peer::{
    Authority, AuthorityCertificate, Client, CredentialStore, Credentials, NextCredentials,
    SealKey, agreed_authorities,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::agreement::Agreement;
use super::enrollment::wire::{Answer, Request};
use crate::api::events::Events;

/// Pause after no member had a new certificate for this host, and between two looks at whether this
/// host hears a leader.
const RETRY: Duration = Duration::from_secs(3);

/// How long a member may take to answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// How long this host must not have heard a leader before it asks for another certificate. The
/// leader may be a host that this one does not trust: it joined after the authority was replaced.
const CUT_OFF: Duration = Duration::from_secs(15);

/// How long a missing certificate is no problem: the members get theirs one after the other.
const PATIENCE: Duration = Duration::from_secs(10);

/// Members that are asked at a time, so that a large cluster does not delay the next look.
const ASKED_MAX: usize = 5;

/// Follows the authority in agreed state, and replaces it.
#[derive(Debug)]
pub struct AuthorityKeeper {
    agreement: Agreement,
    credentials: Arc<CredentialStore>,
    peers: Client,
    events: Arc<Events>,
    /// One replacement at a time.
    replacing: tokio::sync::Mutex<()>,
    /// Held while credentials are adopted.
    adopting: Mutex<()>,
    since: Instant,
    /// Why this host has no certificate from the current authority.
    problem: Mutex<Option<String>>,
}

/// Tells the credentials what agreed state says, and adopts credentials that count by now.
pub fn trust_agreed(cluster: &Cluster, credentials: &CredentialStore) {
    let agreed = agreed_authorities(cluster);
    let current = agreed.current.clone();
    credentials.trust(agreed);
    if let Err(error) = adopt_prepared(current.as_ref(), credentials) {
        warn!("cannot use this host's new certificate: {error:#}");
    }
}

/// Adopts the next credentials if they are from the current authority.
fn adopt_prepared(
    current: Option<&AuthorityCertificate>,
    credentials: &CredentialStore,
) -> Result<()> {
    let held = credentials.credentials();
    if held.is_none_or(|held| Some(held.authority()) == current) {
        return Ok(());
    }
    let next = credentials.next()?;
    if next.is_some_and(|next| Some(next.credentials.authority()) == current) {
        credentials.adopt_next()?;
    }
    Ok(())
}

impl AuthorityKeeper {
    /// Does nothing yet.
    pub fn new(
        agreement: Agreement,
        credentials: Arc<CredentialStore>,
        peers: Client,
        events: Arc<Events>,
    ) -> Self {
        let (replacing, adopting, problem) = Default::default();
        let since = Instant::now();
        Self { agreement, credentials, peers, events, replacing, adopting, since, problem }
    }

    /// Why this host has no certificate from the cluster's current authority.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    /// Replaces the cluster's authority, and returns the new one's fingerprint.
    ///
    /// # Errors
    /// The cluster does not agree, or the new key cannot be kept.
    pub async fn replace(&self) -> Result<Fingerprint> {
        let _gate = self.replacing.lock().await;
        let cluster = self.agreement.cluster();
        let former = cluster.admissions.authority.as_ref().map(|known| known.certificate.clone());
        let (Some(former), Some(id)) = (former, cluster.id) else {
            bail!("the cluster has no certificate authority yet");
        };
        let (next, authority) = match self.credentials.next()?.and_then(proposed) {
            Some(before) => before,
            None => {
                let (authority, seal_key) = (Authority::draw()?, SealKey::draw()?);
                let sealed = authority.seal(&seal_key, id)?;
                let (key, now) = (self.credentials.key().public(), SystemTime::now());
                let credentials = Credentials::issue(key, &authority, id, seal_key, now)?;
                let sealed_key = Some(sealed.sealed_key.clone());
                let next = NextCredentials { credentials, sealed_key };
                self.credentials.prepare_next(&next)?;
                (next, sealed)
            }
        };
        let proposed = self.agreement.propose(Command::ReplaceAuthority { former, authority });
        proposed.await.context("the cluster did not agree to replace its authority")?;
        self.settle();
        Ok(next.credentials.authority().fingerprint())
    }

    /// Follows agreed state until `stop`.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut agreed = self.agreement.watch();
        let mut needed = Instant::now();
        loop {
            agreed.mark_unchanged();
            self.settle();
            let asks = self.credentials.needs_certificate() || self.is_cut_off();
            let problem = if asks { self.obtain().await } else { None };
            if !self.credentials.needs_certificate() {
                needed = Instant::now();
            }
            *self.problem.lock() = problem.filter(|_| needed.elapsed() >= PATIENCE);
            let next = async {
                tokio::select! {
                    changed = agreed.changed() => if changed.is_err() {
                        std::future::pending::<()>().await;
                    },
                    () = tokio::time::sleep(RETRY) => {}
                }
            };
            if stop.run_until_cancelled(next).await.is_none() {
                return;
            }
        }
    }

    /// Trusts what agreed state says, and adopts credentials that count by now.
    fn settle(&self) {
        let _adopting = self.adopting.lock();
        let before = self.authority();
        trust_agreed(&self.agreement.cluster(), &self.credentials);
        self.note_change(before);
    }

    fn authority(&self) -> Option<Fingerprint> {
        Some(self.credentials.credentials()?.authority().fingerprint())
    }

    fn note_change(&self, before: Option<Fingerprint>) {
        let (Some(before), Some(now)) = (before, self.authority()) else { return };
        if before != now {
            let text = format!(
                "this host has a certificate from the cluster's new authority, with fingerprint \
                 {now}; the former one, {before}, no longer admits hosts"
            );
            self.events.note(EventKind::AuthorityReplaced, "certificate", &text);
        }
    }

    /// Whether this host has not heard a leader for a while, though it has a cluster.
    fn is_cut_off(&self) -> bool {
        let status = self.agreement.consensus().status();
        let silence = status.leader_heard.map(Duration::from_millis);
        self.credentials.credentials().is_some()
            && self.agreement.cluster().hosts.len() > 1
            && silence.unwrap_or(self.since.elapsed()) > CUT_OFF
    }

    /// Asks members for credentials from another authority than this host's, and adopts the first.
    /// Returns why there are none.
    async fn obtain(&self) -> Option<String> {
        let cluster = self.agreement.cluster();
        let mut others: Vec<_> =
            cluster.hosts.iter().filter(|(host, _)| **host != self.agreement.me).collect();
        // Others each time, so that those that cannot help do not hide those that can.
        let start = usize::from(rand::random::<u16>()) % others.len().max(1);
        others.rotate_left(start);
        let mut reasons = Vec::new();
        for (host, known) in others.into_iter().take(ASKED_MAX) {
            match self.ask(*host, known.address).await {
                Ok(true) => return None,
                Ok(false) => reasons.push(format!("{} has no new one either", known.name)),
                Err(error) => reasons.push(format!("{}: {error:#}", known.name)),
            }
        }
        Some(format!(
            "the certificate of this host is from an authority that the cluster has replaced, and \
             no member gives it another one: {}",
            reasons.join("; ")
        ))
    }

    /// Asks one member. Returns whether this host has another certificate now.
    async fn ask(&self, host: HostId, address: std::net::SocketAddr) -> Result<bool> {
        let held = self.credentials.credentials().context("this host belongs to no cluster")?;
        let request = Request { name: String::new(), secret: None, swarm: None };
        let asked = self.peers.call_host(host, address, ENROLL, &request, DEADLINE);
        let Answer::Certified { certificate, authority, seal_key, .. } = asked.await? else {
            bail!("it does not know this host");
        };
        let Agreed { current, former, .. } = agreed_authorities(&self.agreement.cluster());
        let is_expected = match current {
            // Agreed state knows of the replacement.
            Some(current) if current != *held.authority() => authority == current,
            _ => authority != *held.authority() && !former.contains(&authority),
        };
        if !is_expected {
            return Ok(false);
        }
        let key = self.credentials.key().public();
        let credentials = Credentials::new(key, certificate, authority, seal_key)?;
        if credentials.cluster() != held.cluster() {
            bail!("its certificate is for another cluster");
        }
        let _adopting = self.adopting.lock();
        let before = self.authority();
        self.credentials.prepare_next(&NextCredentials { credentials, sealed_key: None })?;
        self.credentials.adopt_next()?;
        self.note_change(before);
        Ok(true)
    }
}

/// Credentials that this host has prepared, and the authority as it was proposed.
fn proposed(next: NextCredentials) -> Option<(NextCredentials, cluster::Authority)> {
    let sealed_key = next.sealed_key.clone()?;
    let certificate = next.credentials.authority().digits();
    Some((next, cluster::Authority { certificate, sealed_key }))
}
