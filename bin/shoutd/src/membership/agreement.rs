//! Asking the cluster, as the rest of the daemon does it: with a deadline, and with errors for
//! people.

use std::sync::Arc;
use std::time::Duration;

use shoutd_consensus::{Consensus, ProposeError};
use shoutd_core::cluster::{Cluster, Command, Outcome, WantedAddress};
use shoutd_core::limits::AGREEMENT_DEADLINE;
use shoutd_core::view::Membership;
use shoutd_core::{HostId, NetworkId};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

/// This host's view of the cluster, and its voice in it.
#[derive(Debug, Clone)]
pub struct Agreement {
    /// This host.
    pub me: HostId,
    consensus: Arc<Consensus>,
    membership: watch::Receiver<Membership>,
    lease_gate: Arc<RwLock<()>>,
}

/// Why the cluster did not do what was asked, in words for people.
#[derive(Debug, thiserror::Error)]
pub enum AgreementError {
    /// This host belongs to no cluster yet.
    #[error("this host belongs to no cluster yet: {0}")]
    NoMember(String),
    /// This host could not write down what it was about to do.
    #[error("{0}")]
    Local(String),
    /// The cluster said no, or did not answer.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl AgreementError {
    /// Whether the cluster said no: to ask again later is of no use.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Propose(ProposeError::Refused(_)))
    }
}

impl Agreement {
    /// The view and voice of host `me`.
    pub fn new(
        me: HostId,
        consensus: Arc<Consensus>,
        membership: watch::Receiver<Membership>,
    ) -> Self {
        Self { me, consensus, membership, lease_gate: Arc::default() }
    }

    /// What is agreed, as far as this host knows.
    pub fn cluster(&self) -> Arc<Cluster> {
        self.consensus.state().borrow().clone()
    }

    /// Follows what is agreed.
    pub fn watch(&self) -> watch::Receiver<Arc<Cluster>> {
        self.consensus.state()
    }

    /// Consensus itself, for showing how it is doing.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Whether this host belongs to a cluster.
    pub fn membership(&self) -> Membership {
        self.membership.borrow().clone()
    }

    /// Follows whether this host belongs to a cluster.
    pub fn watch_membership(&self) -> watch::Receiver<Membership> {
        self.membership.clone()
    }

    /// Waits until this host belongs to a cluster.
    ///
    /// # Errors
    /// If it still does not when time is up: why not.
    pub async fn member(&self) -> Result<(), AgreementError> {
        let mut membership = self.membership.clone();
        let member = membership.wait_for(|membership| *membership == Membership::Member);
        let waited = tokio::time::timeout(AGREEMENT_DEADLINE, member).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => match self.membership() {
                Membership::Member => Ok(()),
                Membership::Joining(why) => Err(AgreementError::NoMember(why)),
                Membership::AwaitingApproval { .. } => {
                    Err(AgreementError::NoMember("it waits for approval".to_owned()))
                }
            },
        }
    }

    /// Has a command agreed on and applied here.
    ///
    /// # Errors
    /// The reason it was refused, or who is missing.
    pub async fn propose(&self, command: Command) -> Result<Outcome, AgreementError> {
        self.propose_within(command, AGREEMENT_DEADLINE).await
    }

    /// The same with less patience.
    pub async fn propose_within(
        &self,
        command: Command,
        deadline: Duration,
    ) -> Result<Outcome, AgreementError> {
        Ok(self.consensus.propose(command, deadline).await?)
    }

    /// Keeps leases from being given back as surplus while this is held: from before an address is
    /// claimed until local state knows what it is for.
    pub async fn hold_leases(&self) -> OwnedRwLockReadGuard<()> {
        self.lease_gate.clone().read_owned().await
    }

    /// Keeps addresses from being claimed while it is found out which leases are surplus, and these
    /// are given back.
    pub async fn settle_leases(&self) -> OwnedRwLockWriteGuard<()> {
        self.lease_gate.clone().write_owned().await
    }

    /// Leases addresses to this host.
    ///
    /// # Errors
    /// If another host has it, none is left, or the cluster does not answer.
    pub async fn claim(
        &self,
        network: &NetworkId,
        wanted: WantedAddress,
    ) -> Result<(), AgreementError> {
        let command =
            Command::ClaimAddress { network: network.clone(), host: self.me, address: wanted };
        self.propose(command).await.map(|_| ())
    }
}
