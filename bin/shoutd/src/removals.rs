//! Networks that a user removed here: the wish is on disk before the cluster is asked, and is kept until the cluster has answered.

use std::sync::Arc;

use shoutd_consensus::{ProposeError, StoreError};
use shoutd_core::NetworkId;
use shoutd_core::cluster::Command;
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::agreement::{Agreement, AgreementError};
use crate::leases;
use crate::local_state::LocalState;

/// The removals of this host.
#[derive(Debug)]
pub struct Removals {
    agreement: Agreement,
    local: Arc<LocalState>,
    /// Each wish is put to the cluster once at a time, by whoever comes first.
    asking: Mutex<()>,
}

impl Removals {
    /// Puts the parts together; nothing happens yet.
    pub fn new(agreement: Agreement, local: Arc<LocalState>) -> Self {
        Self { agreement, local, asking: Mutex::default() }
    }

    /// Puts every wish to the cluster that has not been answered. One that cannot be answered now is kept.
    ///
    /// # Errors
    /// If an answer cannot be written to disk.
    pub async fn settle(&self) -> Result<(), StoreError> {
        if self.local.get().removals.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.asking.lock().await;
        // What this host itself does not use any more must not stand in the way.
        leases::settle(&self.agreement, &self.local).await;
        for network in &self.local.get().removals {
            if self.is_answered(network).await {
                self.local.change(|local| local.removals.remove(network)).await?;
            }
        }
        Ok(())
    }

    async fn is_answered(&self, network: &NetworkId) -> bool {
        match self.agreement.propose(Command::RemoveNetwork { id: network.clone() }).await {
            Ok(_) => info!(network = network.short(), "removed from the cluster"),
            Err(AgreementError::Propose(ProposeError::Refused(refusal))) => {
                warn!("{refusal}: it stays, and comes back on this host");
            }
            Err(error) => {
                warn!(network = network.short(), "cannot remove it from the cluster yet: {error}");
                return false;
            }
        }
        true
    }
}
