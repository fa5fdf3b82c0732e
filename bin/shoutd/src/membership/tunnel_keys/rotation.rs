//! Rotations: users let all pairs replace their keys, for `shoutdctl rotate-keys`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use shoutd_core::HostId;
use shoutd_core::cluster::Command;
use shoutd_core::tunnel_keys::{AskRotation, KeyRotation, is_behind, progress};
use tokio::time::{Instant, sleep};

use super::TunnelKeys;
use super::follow::BEHIND;
use crate::membership::agreement::AgreementError;

/// How long a host may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(300);

/// How long one request waits at most; a client that waits longer asks again.
const PATIENCE_MAX: Duration = Duration::from_secs(10);

impl TunnelKeys {
    /// Lets all pairs replace their keys. Returns how far that is.
    ///
    /// # Errors
    /// No network was ever encrypted, or there is no agreement.
    pub async fn rotate(&self) -> Result<KeyRotation, AgreementError> {
        let to = self.agreement.cluster().encryption.rotation.saturating_add(1);
        self.agreement.propose(Command::RotateTunnelKeys { to }).await?;
        Ok(self.progress(to).await)
    }

    /// How far a rotation is, once it is done or the requested time is over.
    pub async fn rotation(&self, asked: &AskRotation) -> KeyRotation {
        let deadline = Instant::now() + Duration::from_millis(asked.patience).min(PATIENCE_MAX);
        loop {
            let progress = self.progress(asked.rotation).await;
            if progress.pending.is_empty() || Instant::now() + PAUSE > deadline {
                return progress;
            }
            sleep(PAUSE).await;
        }
    }

    async fn progress(&self, rotation: u64) -> KeyRotation {
        let cluster = self.agreement.cluster();
        let asked = cluster.hosts.iter().map(async |(host, known)| {
            if *host == self.agreement.me {
                return (*host, Some(self.behind(rotation)));
            }
            let answer = self
                .peers
                .call_host::<_, BTreeSet<HostId>>(
                    *host,
                    known.address,
                    BEHIND,
                    &rotation,
                    ANSWER_DEADLINE,
                )
                .await;
            (*host, answer.ok())
        });
        let answers: BTreeMap<_, _> = join_all(asked).await.into_iter().collect();
        progress(&cluster, rotation, &answers)
    }

    /// The hosts with which this one has no key of this rotation yet.
    pub(super) fn behind(&self, rotation: u64) -> BTreeSet<HostId> {
        let cluster = self.agreement.cluster();
        let pairs = self.pairs.lock();
        let others = cluster.hosts.keys().filter(|host| **host != self.agreement.me);
        let behind = others
            .filter(|host| pairs.get(host).is_none_or(|pair| is_behind(&pair.keys, rotation)));
        behind.copied().collect()
    }

    /// The rotation of the oldest key.
    pub(super) fn oldest(&self) -> Option<u64> {
        let pairs = self.pairs.lock();
        pairs.values().filter_map(|pair| Some(pair.keys.current.as_ref()?.rotation)).min()
    }
}
