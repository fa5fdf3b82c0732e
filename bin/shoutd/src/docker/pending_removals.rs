//! Networks that a user removed on this host. A pending removal is on disk before we propose it to
//! the cluster, and stays there until the cluster has answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoutd_consensus::{ProposeError, StoreError};
use shoutd_core::NetworkId;
use shoutd_core::cluster::Command;
use shoutd_core::driver::{RemovalState, removal_state};
use shoutd_core::events::EventKind;
use tokio::sync::Mutex;
use tracing::warn;

use crate::api::events::Events;
use crate::app::condition::met;
use crate::app::local_state::LocalState;
use crate::ipam::leases;
use crate::membership::agreement::{Agreement, AgreementError};

/// How long a removal waits for the other hosts.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pending removals of this host.
#[derive(Debug)]
pub struct PendingRemovals {
    agreement: Agreement,
    local: Arc<LocalState>,
    events: Arc<Events>,
    /// Serializes [`Self::settle`].
    settling: Mutex<()>,
}

impl PendingRemovals {
    /// The pending removals in local state. Does nothing yet.
    pub fn new(agreement: Agreement, local: Arc<LocalState>, events: Arc<Events>) -> Self {
        Self { agreement, local, events, settling: Mutex::default() }
    }

    /// Proposes all pending removals to the cluster. If the cluster does not answer, a removal
    /// stays pending. Returns the networks that the cluster keeps, and why.
    ///
    /// # Errors
    /// Local state cannot be written to disk.
    pub async fn settle(&self) -> Result<BTreeMap<NetworkId, String>, StoreError> {
        let mut kept = BTreeMap::new();
        if self.local.get().removals.is_empty() {
            return Ok(kept);
        }
        let _one_at_a_time = self.settling.lock().await;
        // Leases that this host no longer uses would prevent the removal.
        leases::settle(&self.agreement, &self.local).await;
        for network in &self.local.get().removals {
            match self.propose(network).await {
                Answer::None => continue,
                Answer::Removed => {}
                Answer::Kept(why) => _ = kept.insert(network.clone(), why),
            }
            self.local.change(|local| local.removals.remove(network)).await?;
        }
        Ok(kept)
    }

    /// Waits until the other hosts have released their leases, or report that they use the network.
    /// A host that is down does so when it is back.
    async fn wait_until_gone(&self, network: &NetworkId) -> Answer {
        let title = self.agreement.cluster().network_title(network).to_owned();
        let decided = met(&self.agreement.watch(), PATIENCE, |cluster| {
            removal_state(cluster, network) != RemovalState::Waiting
        })
        .await;
        let state = match decided {
            Ok(cluster) => removal_state(&cluster, network),
            Err(_) => RemovalState::Waiting,
        };
        let (kind, text) = match state {
            RemovalState::InUse(hosts) => {
                let why = format!("network {title} is in use on {}", hosts.join(", "));
                return self.kept(&title, &why);
            }
            RemovalState::Gone => (
                EventKind::NetworkRemoved,
                "removed from the cluster, because a user removed it on this host",
            ),
            RemovalState::Waiting => (
                EventKind::NetworkLeaving,
                "its removal waits for unreachable hosts; see: shoutdctl networks",
            ),
        };
        self.events.note(kind, &title, text);
        Answer::Removed
    }

    fn kept(&self, title: &str, why: &str) -> Answer {
        let text = format!("{why}: it was not removed, and is restored on this host");
        self.events.note(EventKind::NetworkKept, title, &text);
        Answer::Kept(text)
    }

    async fn propose(&self, network: &NetworkId) -> Answer {
        match self.agreement.propose(Command::RemoveNetwork { id: network.clone() }).await {
            Ok(_) => self.wait_until_gone(network).await,
            Err(AgreementError::Propose(ProposeError::Refused(refusal))) => {
                self.kept(self.agreement.cluster().network_title(network), &refusal.to_string())
            }
            Err(error) => {
                warn!(network = network.short(), "cannot remove it from the cluster yet: {error}");
                Answer::None
            }
        }
    }
}

/// The cluster's answer to a removal.
#[derive(Debug)]
enum Answer {
    /// No answer yet.
    None,
    /// The network is removed.
    Removed,
    /// The network stays, and why.
    Kept(String),
}
