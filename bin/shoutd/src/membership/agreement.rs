//! Access to agreed state for the rest of the daemon: reading it, and proposing changes with
//! a deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoutd_consensus::{Consensus, ProposeError};
use shoutd_core::cluster::{Cluster, Command, Outcome, WantedAddress};
use shoutd_core::limits::AGREEMENT_DEADLINE;
use shoutd_core::view::Membership;
use shoutd_core::{HostId, NetworkId};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

use crate::app::condition::met;
use crate::membership::encrypt::EncryptWish;
use crate::metrics::Meters;

/// Handle to agreed state.
#[derive(Debug, Clone)]
pub struct Agreement {
    /// This host.
    pub me: HostId,
    consensus: Arc<Consensus>,
    membership: watch::Receiver<Membership>,
    encrypt: EncryptWish,
    lease_gate: Arc<RwLock<()>>,
    meters: Meters,
}

/// Why a proposal failed.
#[derive(Debug, thiserror::Error)]
pub enum AgreementError {
    /// This host is not a member of a cluster yet.
    #[error("this host belongs to no cluster yet: {0}")]
    NoMember(String),
    /// This host itself failed, or refused.
    #[error("{0}")]
    Local(String),
    /// The cluster refused, or did not answer.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl AgreementError {
    /// Whether the cluster refused, so that a retry is useless.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Propose(ProposeError::Refused(_)))
    }
}

impl Agreement {
    /// The handle of host `me`.
    pub fn new(
        me: HostId,
        consensus: Arc<Consensus>,
        membership: watch::Receiver<Membership>,
        encrypt: EncryptWish,
        meters: Meters,
    ) -> Self {
        Self { me, consensus, membership, encrypt, lease_gate: Arc::default(), meters }
    }

    /// Agreed state, as far as it is applied on this host.
    pub fn cluster(&self) -> Arc<Cluster> {
        self.consensus.state().borrow().clone()
    }

    /// Follows agreed state.
    pub fn watch(&self) -> watch::Receiver<Arc<Cluster>> {
        self.consensus.state()
    }

    /// The Raft node.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Whether this host is a member of a cluster.
    pub fn membership(&self) -> Membership {
        self.membership.borrow().clone()
    }

    /// Follows whether this host is a member of a cluster.
    pub fn watch_membership(&self) -> watch::Receiver<Membership> {
        self.membership.clone()
    }

    /// Waits until this host is a member of a cluster.
    ///
    /// # Errors
    /// It is not a member by the deadline.
    pub async fn member(&self) -> Result<(), AgreementError> {
        let member =
            met(&self.membership, AGREEMENT_DEADLINE, |state| *state == Membership::Member).await;
        match member {
            Ok(_) => Ok(()),
            Err(_) => match self.membership() {
                Membership::Member => Ok(()),
                Membership::Joining(why) => Err(AgreementError::NoMember(why)),
                Membership::AwaitingApproval { .. } => {
                    Err(AgreementError::NoMember("it is waiting for approval".to_owned()))
                }
            },
        }
    }

    /// Proposes a command, and waits until it is committed and applied here.
    ///
    /// # Errors
    /// The command is refused, or there is no agreement by the deadline.
    pub async fn propose(&self, command: Command) -> Result<Outcome, AgreementError> {
        self.propose_within(command, AGREEMENT_DEADLINE).await
    }

    /// [`Self::propose`] with another deadline.
    pub async fn propose_within(
        &self,
        command: Command,
        deadline: Duration,
    ) -> Result<Outcome, AgreementError> {
        self.encrypt.check(&self.cluster(), &command)?;
        let begin = Instant::now();
        let proposed = self.consensus.propose(command, deadline).await;
        let result = match &proposed {
            Ok(_) => "committed",
            Err(ProposeError::Refused(_)) => "refused",
            Err(_) => "failed",
        };
        self.meters.proposed(result, begin.elapsed());
        Ok(proposed?)
    }

    /// Prevents surplus leases from being returned while this is held: from before an address is
    /// claimed until local state records its use.
    pub async fn hold_leases(&self) -> OwnedRwLockReadGuard<()> {
        self.lease_gate.clone().read_owned().await
    }

    /// Prevents addresses from being claimed while surplus leases are determined and returned.
    pub async fn settle_leases(&self) -> OwnedRwLockWriteGuard<()> {
        self.lease_gate.clone().write_owned().await
    }

    /// Leases addresses to this host.
    ///
    /// # Errors
    /// Another host holds the address, none is left, or the cluster does not answer.
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
