//! The task: it leads the pairs in which this host has the lower id, and tries the second keys of
//! all pairs whose hosts cannot ask each other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use shoutd_core::HostId;
use shoutd_core::cluster::Cluster;
use shoutd_core::events::EventKind;
use shoutd_core::tunnel_keys::{ASK_RETRY, Claim, Reading, Standing, Step, leads, next};
use shoutd_peer::{RevealedKey, draw_pair_key};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::follow::{Offer, PATH};
use super::{Pair, TunnelKeys};
use crate::app::clock::now;

/// How often the pairs are looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// How long a call may take. The other host writes to disk and programs its WireGuard.
const CALL_DEADLINE: Duration = Duration::from_secs(8);

/// Steps that a leader takes in succession at most: a whole rotation has six.
const STEPS_MAX: usize = 8;

impl TunnelKeys {
    /// Agrees on keys with all other hosts, from the first encrypted network on, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut agreed, mut leading) = (self.agreement.watch(), JoinSet::new());
        // The last rotation that is in an event, and the state of the cluster at the last look.
        let (mut told, mut seen) = (None, None);
        loop {
            let is_time = tokio::select! {
                _ = tick.tick() => true,
                Ok(()) = agreed.changed() => false,
                () = stop.cancelled() => return,
            };
            while leading.try_join_next().is_some() {}
            let cluster = agreed.borrow_and_update().clone();
            let encryption = &cluster.encryption;
            // Most changes of agreed state are about something else.
            let now = (encryption.rotation, encryption.ends.len(), cluster.hosts.len());
            let is_new = seen.replace(now) != Some(now);
            let is_member = cluster.hosts.contains_key(&self.agreement.me);
            if encryption.wanted && is_member && (is_time || is_new) {
                self.look(&cluster, &mut leading).await;
                self.tell(&cluster, &mut told);
            }
        }
    }

    async fn look(self: &Arc<Self>, cluster: &Cluster, leading: &mut JoinSet<()>) {
        let gone: Vec<_> = self.pairs.lock().keys().copied().collect();
        for host in gone.into_iter().filter(|host| !cluster.hosts.contains_key(host)) {
            self.forget(host).await;
        }
        let me = self.agreement.me;
        for host in cluster.hosts.keys().copied().filter(|host| *host != me) {
            self.try_keys(host).await;
            let begins = leads(me, host) && {
                let mut pairs = self.pairs.lock();
                !std::mem::replace(&mut pairs.entry(host).or_default().is_busy, true)
            };
            if begins {
                let this = self.clone();
                leading.spawn(async move {
                    if let Err(error) = this.lead(host).await {
                        debug!("the preshared key with host {host}: {error:#}");
                    }
                    this.pairs.lock().entry(host).or_default().is_busy = false;
                });
            }
        }
        self.publish();
    }

    /// Decides which of two keys WireGuard should have.
    async fn try_keys(self: &Arc<Self>, host: HostId) {
        let (handshake, time_of_day) = (self.handshake(host), now());
        let reading = Reading { handshake, time_of_day, now: self.now() };
        let leads = leads(self.agreement.me, host);
        let swaps = {
            let mut pairs = self.pairs.lock();
            let Pair { keys, trial, .. } = pairs.entry(host).or_default();
            trial.decide(keys, leads, reading)
        };
        if swaps && let Err(error) = self.change(host, |keys| keys.swapped()).await {
            debug!("{error:#}");
        }
    }

    /// Takes the steps that are due in a pair.
    async fn lead(self: &Arc<Self>, host: HostId) -> Result<()> {
        for _ in 0..STEPS_MAX {
            match self.next_step(host) {
                Step::Nothing => return Ok(()),
                Step::Ask => {
                    let waits = self.pairs.lock().get(&host).and_then(|pair| pair.asked);
                    if waits.is_some_and(|asked| asked.elapsed() < ASK_RETRY) {
                        return Ok(());
                    }
                    self.call(host, None).await?;
                }
                Step::Swap => {
                    self.change(host, |keys| keys.swapped()).await?;
                    self.programmed(host).await;
                }
                Step::Settle => {
                    self.change(host, |keys| keys.settled()).await?;
                    // The other host is told at once.
                    if let Some(pair) = self.pairs.lock().get_mut(&host) {
                        (pair.claim, pair.asked) = (None, None);
                    }
                }
                Step::Offer => {
                    let rotation = self.agreement.cluster().encryption.rotation;
                    let key = draw_pair_key(rotation, now())?;
                    let revealed = RevealedKey::of(&key);
                    self.change(host, move |keys| keys.offering(key)).await?;
                    self.call(host, Some(revealed)).await?;
                }
            }
        }
        Ok(())
    }

    fn next_step(&self, host: HostId) -> Step {
        let programmed = self.own_claim(host).programmed;
        let rotation = self.agreement.cluster().encryption.rotation;
        let mut pairs = self.pairs.lock();
        let pair = pairs.entry(host).or_default();
        next(&Standing {
            keys: &pair.keys,
            programmed,
            claim: pair.claim.map(|(claim, at)| (claim, at.elapsed())),
            session: pair.trial.session(self.now()),
            rotation,
            now: now(),
        })
    }

    /// Asks the other host for its claim, with a key if one is offered.
    async fn call(&self, host: HostId, key: Option<RevealedKey>) -> Result<()> {
        let cluster = self.agreement.cluster();
        let address = cluster.hosts.get(&host).context("it was removed")?.address;
        if let Some(pair) = self.pairs.lock().get_mut(&host) {
            // An offer may be taken although there is no answer.
            (pair.claim, pair.asked) = (None, Some(Instant::now()));
        }
        let offer = Offer { claim: self.own_claim(host), key };
        let _permit = self.calls.acquire().await?;
        let claim: Claim = self.peers.call_host(host, address, PATH, &offer, CALL_DEADLINE).await?;
        if let Some(pair) = self.pairs.lock().get_mut(&host) {
            pair.claim = Some((claim, Instant::now()));
        }
        self.note_contact(host);
        Ok(())
    }

    /// Records an event when the keys of all pairs have reached a rotation.
    fn tell(&self, cluster: &Cluster, told: &mut Option<u64>) {
        let rotation = cluster.encryption.rotation;
        let known = told.get_or_insert_with(|| self.oldest().unwrap_or(rotation));
        if *known < rotation && self.behind(rotation).is_empty() {
            *known = rotation;
            let others = cluster.hosts.len().saturating_sub(1);
            self.events.note(
                EventKind::KeysRotated,
                "preshared keys",
                &format!("the keys with all {others} other hosts are those of rotation {rotation}"),
            );
        }
    }
}
