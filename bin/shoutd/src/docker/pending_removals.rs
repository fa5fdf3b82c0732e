//! Networks that a user removed here: the wish is on disk before the cluster is asked, and is kept
//! until the cluster has answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoutd_consensus::{ProposeError, StoreError};
use shoutd_core::NetworkId;
use shoutd_core::cluster::{Cluster, Command};
use shoutd_core::events::EventKind;
use tokio::sync::Mutex;
use tracing::warn;

use crate::api::events::Events;
use crate::app::local_state::LocalState;
use crate::ipam::leases;
use crate::membership::agreement::{Agreement, AgreementError};

/// How long a removal waits for the other hosts.
const PATIENCE: Duration = Duration::from_secs(5);

/// The removals of this host.
#[derive(Debug)]
pub struct PendingRemovals {
    agreement: Agreement,
    local: Arc<LocalState>,
    events: Arc<Events>,
    /// Each wish is put to the cluster once at a time, by whoever comes first.
    asking: Mutex<()>,
}

impl PendingRemovals {
    /// Puts the parts together; nothing happens yet.
    pub fn new(agreement: Agreement, local: Arc<LocalState>, events: Arc<Events>) -> Self {
        Self { agreement, local, events, asking: Mutex::default() }
    }

    /// Puts every wish to the cluster that has not been answered. One that cannot be answered now
    /// is kept. Returns the networks that stay after all, and why.
    ///
    /// # Errors
    /// If an answer cannot be written to disk.
    pub async fn settle(&self) -> Result<BTreeMap<NetworkId, String>, StoreError> {
        let mut kept = BTreeMap::new();
        if self.local.get().removals.is_empty() {
            return Ok(kept);
        }
        let _one_at_a_time = self.asking.lock().await;
        // What this host itself does not use any more must not stand in the way.
        leases::settle(&self.agreement, &self.local).await;
        for network in &self.local.get().removals {
            match self.ask(network).await {
                Answer::None => continue,
                Answer::Removed => {}
                Answer::Kept(why) => _ = kept.insert(network.clone(), why),
            }
            self.local.change(|local| local.removals.remove(network)).await?;
        }
        Ok(kept)
    }

    /// The other hosts give their stock back within a moment, or say that they use the network. One
    /// that is away does so when it is back.
    async fn wait_until_gone(&self, network: &NetworkId) -> Answer {
        let title = self.agreement.cluster().network_title(network).to_owned();
        let mut cluster = self.agreement.watch();
        let is_decided = |cluster: &Arc<Cluster>| {
            cluster.networks.get(network).is_none_or(|network| !network.removing)
        };
        match tokio::time::timeout(PATIENCE, cluster.wait_for(is_decided)).await {
            Ok(Ok(cluster)) => match cluster.networks.get(network) {
                None => self.events.note(
                    EventKind::NetworkRemoved,
                    &title,
                    "removed from the cluster, as a user of this host wished",
                ),
                Some(known) => {
                    let hosts: Vec<_> =
                        known.attached.iter().map(|host| cluster.host_name(*host)).collect();
                    return self.kept(
                        &title,
                        &format!("network {title} is in use on {} after all", hosts.join(", ")),
                    );
                }
            },
            _ => {
                let text = "its removal waits for hosts that are away: see shoutdctl networks";
                self.events.note(EventKind::NetworkLeaving, &title, text);
            }
        }
        Answer::Removed
    }

    fn kept(&self, title: &str, why: &str) -> Answer {
        let text = format!("{why}: it stays, and comes back on this host");
        self.events.note(EventKind::NetworkKept, title, &text);
        Answer::Kept(text)
    }

    async fn ask(&self, network: &NetworkId) -> Answer {
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

/// What the cluster says of a wish.
#[derive(Debug)]
enum Answer {
    /// Nothing yet.
    None,
    /// The network goes.
    Removed,
    /// It stays, and why.
    Kept(String),
}
