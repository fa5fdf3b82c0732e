//! Why a command was not carried out.

use serde::{Deserialize, Serialize};
use shoutd_core::cluster::Refusal;

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ProposeError {
    /// The cluster applied the command, and refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no leader or no quorum, or the leader cannot be used. The text has the reason.
    #[error("{0}")]
    NoLeader(String),
    /// It was not committed in time; it may still be.
    #[error("the change was not committed within {0} ms")]
    TimedOut(u64),
    /// A host cannot be removed, as the others would have no quorum. The text names the hosts that
    /// do not answer.
    #[error("{0}")]
    NoMajority(String),
    /// Consensus waits for this host's disk. The text has the reason.
    #[error("consensus waits for this host's disk: {0}")]
    Disk(String),
    /// This host has left the cluster. The text is that of [`crate::Consensus::removed`].
    #[error("{0}")]
    Removed(String),
    /// The leader runs an older version, which does not know the command.
    #[error("the leader {0} runs an older version of shoutd: upgrade it")]
    OldLeader(String),
    /// Hosts do not support the command. The text names them.
    #[error(
        "{0}: what you ask for needs a version that every host has; upgrade shoutd there, or \
         remove the host from the cluster"
    )]
    OldHosts(String),
    /// Consensus does not run on this host.
    #[error("consensus has stopped on this host")]
    Stopped,
}
