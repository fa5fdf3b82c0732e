//! Getting a command agreed on, whoever leads.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::RaftError;
use serde::{Deserialize, Serialize};
use shoutd_core::HostId;
use shoutd_core::cluster::{Command, Outcome, Refusal};
use shoutd_peer::CallError;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::Consensus;
use crate::consensus::Inner;
use crate::contacts::millis;
use crate::status::{ConsensusStatus, Role};
use crate::wire::{self, Located, Propose, Proposed};

/// Octets of a command's JSON. The limits of what users can write keep commands below; this keeps a mistake out of the log, where
/// it would be too large to be sent to anybody.
const COMMAND_BYTES_MAX: usize = 8 << 20;

/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// How long the other voters may take to say who leads.
const SEARCH_DEADLINE: Duration = Duration::from_millis(1000);

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ProposeError {
    /// The cluster agreed that it must not be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too few hosts are there to agree on anything. The text says which are not.
    #[error("{0}")]
    NoLeader(String),
    /// It was not agreed on in time; it may still be.
    #[error("the hosts did not agree within {0} ms")]
    TimedOut(u64),
    /// Consensus does not run on this host.
    #[error("agreement has stopped on this host")]
    Stopped,
}

impl Consensus {
    /// Gets a command agreed on, within the deadline. When it returns, [`Consensus::state`] has the effect. After
    /// [`ProposeError::NoLeader`] and [`ProposeError::TimedOut`] the command may still be carried out later.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(&self, command: Command, deadline: Duration) -> Result<Outcome, ProposeError> {
        self.inner.propose(command, deadline).await
    }
}

impl Inner {
    pub async fn propose(self: &Arc<Self>, command: Command, deadline: Duration) -> Result<Outcome, ProposeError> {
        let bytes = serde_json::to_vec(&command).map_or(usize::MAX, |json| json.len());
        if bytes > COMMAND_BYTES_MAX {
            let text = format!("the command has {bytes} bytes; {COMMAND_BYTES_MAX} is the limit");
            return Err(Refusal::TooLarge(text).into());
        }
        let until = Instant::now() + deadline;
        let mut trouble = None;
        let agreed = timeout_at(until, self.propose_until(&command, until, &mut trouble)).await;
        agreed.unwrap_or_else(|_| Err(self.why_not(trouble, deadline)))
    }

    /// Tries until it is agreed on or cannot be. `trouble` is the last thing that went wrong on the way.
    async fn propose_until(
        self: &Arc<Self>,
        command: &Command,
        until: Instant,
        trouble: &mut Option<Trouble>,
    ) -> Result<Outcome, ProposeError> {
        let mut hint = None;
        loop {
            let leader = hint.take().or_else(|| self.located(self.leader()?));
            let proposed = match leader {
                Some(leader) if leader.host == self.me() => self.write_until(command.clone(), until).await,
                Some(leader) => match self.forward(leader, command, until).await {
                    Ok(proposed) => proposed,
                    Err(error) => {
                        *trouble = Some(Trouble::Call(leader.host, error));
                        // What this host believes may be long out of date; somebody else may know better.
                        Proposed::NotLeader {
                            leader: self.search_leader().await.filter(|found| found.host != leader.host),
                        }
                    }
                },
                None if self.identity.cluster().is_none() => return Err(Refusal::NoCluster.into()),
                None => Proposed::NotLeader { leader: self.search_leader().await },
            };
            match proposed {
                Proposed::Done { index, result } => {
                    let outcome = result?;
                    return self.wait_applied(index).await.map(|()| outcome);
                }
                Proposed::NotLeader { leader } => hint = leader,
                Proposed::Failed(ProposeError::Refused(refusal)) => return Err(refusal.into()),
                // Of another host: this one may find a better leader yet.
                Proposed::Failed(error) => *trouble = Some(Trouble::Leader(error)),
            }
            if self.raft.metrics().borrow().running_state.is_err() {
                return Err(ProposeError::Stopped);
            }
            sleep(PAUSE).await;
        }
    }

    /// Has the leader commit a command. Given up when this host hears of another leader.
    async fn forward(&self, leader: Located, command: &Command, until: Instant) -> Result<Proposed, CallError> {
        let remaining = until.saturating_duration_since(Instant::now());
        // The leader gives up a little earlier, so that its reason arrives.
        let request = Propose { command: command.clone(), within: millis(remaining * 9 / 10) };
        tokio::select! {
            answer = self.contacts.call(leader.host, leader.address, wire::PROPOSE, &request, remaining) => answer,
            () = self.other_leader_than(leader.host) => Ok(Proposed::NotLeader { leader: None }),
        }
    }

    /// Commits another host's command if this host leads.
    pub async fn write_for(&self, caller: HostId, command: Command, until: Instant) -> Proposed {
        if self.leader() == Some(self.me()) && !self.cluster().hosts.contains_key(&caller) {
            // It may have been admitted by the leader before, and its admission be still to be applied here.
            let text = format!("the leader {} does not know host {caller}", self.contacts.name(self.me()));
            return Proposed::Failed(ProposeError::NoLeader(text));
        }
        self.write_until(command, until).await
    }

    /// Commits a command if this host leads.
    pub async fn write_until(&self, command: Command, until: Instant) -> Proposed {
        let deadline = until.saturating_duration_since(Instant::now());
        let written = timeout_at(until, async {
            tokio::select! {
                written = self.raft.client_write(command) => Some(written),
                () = self.other_leader_than(self.me()) => None,
            }
        });
        match written.await {
            Ok(Some(Ok(response))) => {
                // Only openraft's own entries have no answer, and this is none of them.
                Proposed::Done { index: response.log_id.index, result: response.data.0.unwrap_or(Ok(Outcome::Done)) }
            }
            // The other error of these is only of changes of the group.
            Ok(Some(Err(RaftError::APIError(_))) | None) => {
                // A host does not point to itself: it would only be asked again.
                let leader = self.leader().filter(|leader| *leader != self.me());
                Proposed::NotLeader { leader: leader.and_then(|leader| self.located(leader)) }
            }
            Ok(Some(Err(RaftError::Fatal(_)))) => Proposed::Failed(ProposeError::Stopped),
            Err(_) => Proposed::Failed(self.why_not(None, deadline)),
        }
    }

    /// Ready when this host hears anew that somebody else leads.
    async fn other_leader_than(&self, leader: HostId) {
        let mut metrics = self.raft.metrics();
        let before = metrics.borrow_and_update().current_leader;
        let other = metrics.wait_for(|metrics| {
            let now = metrics.current_leader;
            now != before && now.is_some_and(|now| now != leader.get())
        });
        if other.await.is_err() {
            // Consensus is gone; the call that this is raced against says so.
            std::future::pending::<()>().await;
        }
    }

    async fn wait_applied(&self, index: u64) -> Result<(), ProposeError> {
        let mut applied = self.published.applied.clone();
        applied.wait_for(|applied| *applied > index).await.map(drop).map_err(|_| ProposeError::Stopped)
    }

    pub fn located(&self, host: HostId) -> Option<Located> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let noted = metrics.membership_config.membership().get_node(&host.get()).map(|node| node.addr.as_str());
        Some(Located { host, address: self.contacts.address(host, noted)? })
    }

    /// Asks the other voters who leads. Needed where this host hears from no leader, as its address is a new one.
    async fn search_leader(self: &Arc<Self>) -> Option<Located> {
        let mut asked = JoinSet::new();
        for voter in self.voters().into_iter().filter(|voter| *voter != self.me()) {
            if let Some(Located { host, address }) = self.located(voter) {
                let inner = Arc::clone(self);
                asked.spawn(async move {
                    inner
                        .contacts
                        .call::<_, ConsensusStatus>(host, address, wire::STATUS, &(), SEARCH_DEADLINE)
                        .await
                        .ok()
                });
            }
        }
        let mut best: Option<ConsensusStatus> = None;
        while let Some(answered) = asked.join_next().await {
            let Ok(Some(status)) = answered else { continue };
            // A candidate's term is nobody's yet.
            let leads = status.leader.is_some() && status.role != Role::Candidate;
            if leads && best.as_ref().is_none_or(|best| best.term < status.term) {
                best = Some(status);
            }
        }
        self.located(best?.leader?)
    }

    /// Puts into words why nothing was agreed on.
    fn why_not(&self, trouble: Option<Trouble>, deadline: Duration) -> ProposeError {
        let voters = self.voters();
        let missing: Vec<_> = voters.iter().copied().filter(|voter| self.contacts.is_unreachable(*voter)).collect();
        let quorum = voters.len() / 2 + 1;
        if voters.len() - missing.len() < quorum {
            let mut names: Vec<_> = missing.iter().map(|host| self.contacts.name(*host)).collect();
            names.sort();
            let text =
                format!("no leader: {} of {} hosts unreachable ({})", missing.len(), voters.len(), names.join(", "));
            return ProposeError::NoLeader(text);
        }
        match trouble {
            Some(Trouble::Leader(error)) => error,
            Some(Trouble::Call(leader, error)) => {
                ProposeError::NoLeader(format!("the leader {} does not answer: {error}", self.contacts.name(leader)))
            }
            None if self.leader().is_none() => ProposeError::NoLeader(format!(
                "no leader: the {} hosts that vote have not elected one yet",
                voters.len()
            )),
            None => ProposeError::TimedOut(millis(deadline)),
        }
    }
}

/// What went wrong on the way to the leader.
enum Trouble {
    Call(HostId, CallError),
    Leader(ProposeError),
}
