//! Proposing commands: this host commits them if it leads, and forwards them to the leader
//! otherwise.

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
use crate::logged::Logged;
use crate::node::Node;
use crate::peer_health::millis;
use crate::status::{ConsensusStatus, Role};
use crate::wire::{self, Errand, Located, Propose, Proposed};

/// Bytes of a command's JSON. The limits on user input keep commands below this. It protects the
/// log against a bug: an entry too large to be sent would block replication.
const COMMAND_BYTES_MAX: usize = 8 << 20;

/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Time between two checks of the disk.
const DISK_LOOK: Duration = Duration::from_millis(500);

/// How long the other voters may take to say who leads.
const SEARCH_DEADLINE: Duration = Duration::from_millis(1000);

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ProposeError {
    /// The cluster applied the command, and refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no leader or no quorum. The text says which hosts are missing.
    #[error("{0}")]
    NoLeader(String),
    /// It was not committed in time; it may still be.
    #[error("the change was not committed within {0} ms")]
    TimedOut(u64),
    /// A host cannot be removed, as the others would have no quorum. The text says which are
    /// missing.
    #[error("{0}")]
    NoMajority(String),
    /// Consensus waits for this host's disk. The text has the reason.
    #[error("consensus waits for this host's disk: {0}")]
    Disk(String),
    /// This host has left the cluster. The text is that of [`Consensus::removed`].
    #[error("{0}")]
    Removed(String),
    /// The leader runs an older version, which does not know the command.
    #[error("the leader {0} runs an older version of shoutd: upgrade it")]
    OldLeader(String),
    /// Consensus does not run on this host.
    #[error("consensus has stopped on this host")]
    Stopped,
}

impl Consensus {
    /// Commits a command within the deadline. When it returns, [`Consensus::state`] includes it.
    /// After [`ProposeError::NoLeader`], [`ProposeError::Disk`] and [`ProposeError::TimedOut`] the
    /// command may still be committed later.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(
        &self,
        command: Command,
        deadline: Duration,
    ) -> Result<Outcome, ProposeError> {
        self.node.propose(command, deadline).await
    }

    /// Removes a host from the cluster, with all that it held, and from the Raft membership. The
    /// host may be down, and may be this one. When it returns without an error,
    /// [`Consensus::state`] includes the removal, and the others no longer need the host. Removing
    /// it again is no error.
    ///
    /// # Errors
    /// [`ProposeError::NoMajority`] if the other hosts would have no quorum,
    /// [`ProposeError::Refused`] for an unknown host and for the last one, and as
    /// [`Consensus::propose`].
    pub async fn remove_host(&self, host: HostId, deadline: Duration) -> Result<(), ProposeError> {
        self.node.run_errand(Errand::Remove(host), deadline).await.map(drop)
    }
}

impl Node {
    pub async fn propose(
        self: &Arc<Self>,
        command: Command,
        deadline: Duration,
    ) -> Result<Outcome, ProposeError> {
        let bytes = serde_json::to_vec(&command).map_or(usize::MAX, |json| json.len());
        if bytes > COMMAND_BYTES_MAX {
            let text = format!("the command has {bytes} bytes; {COMMAND_BYTES_MAX} is the limit");
            return Err(Refusal::TooLarge(text).into());
        }
        self.run_errand(Errand::Command(command.into()), deadline).await
    }

    pub async fn run_errand(
        self: &Arc<Self>,
        errand: Errand,
        deadline: Duration,
    ) -> Result<Outcome, ProposeError> {
        let until = Instant::now() + deadline;
        let mut trouble = None;
        let agreed = timeout_at(until, async {
            tokio::select! {
                biased;
                done = self.run_until(&errand, until, &mut trouble) => done,
                unable = self.unable() => Err(unable),
            }
        });
        let agreed = agreed.await;
        agreed.unwrap_or_else(|_| Err(self.why_not(trouble, deadline)))
    }

    /// Resolves when the same disk fault is there for two checks: then no caller need wait until
    /// the deadline.
    async fn unable(&self) -> ProposeError {
        let mut before = None;
        loop {
            sleep(DISK_LOOK).await;
            let now = self.record.fault();
            if let Some(fault) = now.clone().filter(|_| before == now) {
                return ProposeError::Disk(fault);
            }
            before = now;
        }
    }

    /// Tries until the errand is done or cannot be. `trouble` is the last obstacle.
    async fn run_until(
        self: &Arc<Self>,
        errand: &Errand,
        until: Instant,
        trouble: &mut Option<Obstacle>,
    ) -> Result<Outcome, ProposeError> {
        let mut hint = None;
        loop {
            self.check_able()?;
            let leader = hint.take().or_else(|| self.located(self.leader()?));
            let proposed = match leader {
                Some(leader) if leader.host == self.me() => {
                    self.carry_out(errand.clone(), until).await
                }
                Some(leader) => match self.forward(leader, errand, until).await {
                    Ok(proposed) => proposed,
                    Err(error) => {
                        // A call that had no time left tells less than the obstacle before it.
                        if trouble.is_none() || Instant::now() < until {
                            *trouble = Some(Obstacle::Call(leader.host, error));
                        }
                        // This host's view may be out of date. The others may know the leader.
                        Proposed::NotLeader {
                            leader: self
                                .search_leader()
                                .await
                                .filter(|found| found.host != leader.host),
                        }
                    }
                },
                None if self.identity.cluster().is_none() => return Err(Refusal::NoCluster.into()),
                None => Proposed::NotLeader { leader: self.search_leader().await },
            };
            match proposed {
                Proposed::Done { index, result } => {
                    let outcome = result?;
                    // A host that removed itself might never receive that entry.
                    let is_own_removal = *errand == Errand::Remove(self.me());
                    return if is_own_removal {
                        Ok(outcome)
                    } else {
                        self.wait_applied(index).await.map(|()| outcome)
                    };
                }
                Proposed::NotLeader { leader } => hint = leader,
                Proposed::Failed(
                    error @ (ProposeError::Refused(_)
                    | ProposeError::NoMajority(_)
                    | ProposeError::OldLeader(_)),
                ) => return Err(error),
                // Another host's error: there may be a better leader.
                Proposed::Failed(error) => *trouble = Some(Obstacle::Leader(error)),
            }
            sleep(PAUSE).await;
        }
    }

    /// Checks that this host can take part in consensus.
    fn check_able(&self) -> Result<(), ProposeError> {
        if let Some(line) = self.removed() {
            return Err(ProposeError::Removed(line));
        }
        if self.raft.metrics().borrow().running_state.is_err() {
            return Err(ProposeError::Stopped);
        }
        self.record.fault().map_or(Ok(()), |fault| Err(ProposeError::Disk(fault)))
    }

    /// Forwards an errand to the leader. Gives up when this host learns of another leader.
    async fn forward(
        &self,
        leader: Located,
        errand: &Errand,
        until: Instant,
    ) -> Result<Proposed, CallError> {
        let remaining = until.saturating_duration_since(Instant::now());
        // The leader gives up a little earlier, so that its reason arrives.
        let request = Propose { errand: errand.clone(), within: millis(remaining * 9 / 10) };
        let answer =
            self.peer_health.call(leader.host, leader.address, wire::PROPOSE, &request, remaining);
        tokio::select! {
            // An answer takes precedence over news of another leader.
            biased;
            answer = answer => answer,
            () = self.other_leader_than(leader.host) => Ok(Proposed::NotLeader { leader: None }),
        }
    }

    /// Does another host's errand if this host leads.
    pub async fn carry_out_for(&self, caller: HostId, errand: Errand, until: Instant) -> Proposed {
        if self.leader() == Some(self.me()) && !self.cluster().hosts.contains_key(&caller) {
            // The previous leader may have admitted it, and this host has not applied that yet.
            let text = format!(
                "the leader {} does not know host {caller}",
                self.peer_health.name(self.me())
            );
            return Proposed::Failed(ProposeError::NoLeader(text));
        }
        self.carry_out(errand, until).await
    }

    /// Does an errand if this host leads.
    async fn carry_out(&self, errand: Errand, until: Instant) -> Proposed {
        match errand {
            Errand::Command(Logged::Known(command)) => self.write_until(command, until).await,
            // This host must not append a command that it does not know: it could not apply it
            // itself.
            Errand::Command(Logged::Unknown(_)) => {
                Proposed::Failed(ProposeError::OldLeader(self.peer_health.name(self.me())))
            }
            Errand::Remove(host) => self.remove_until(host, until).await,
        }
    }

    /// Commits a command if this host leads.
    pub async fn write_until(&self, command: Command, until: Instant) -> Proposed {
        let deadline = until.saturating_duration_since(Instant::now());
        let written = timeout_at(until, async {
            tokio::select! {
                // A committed entry takes precedence over news of another leader.
                biased;
                written = self.raft.client_write(command.into()) => Some(written),
                () = self.other_leader_than(self.me()) => None,
            }
        });
        match written.await {
            Ok(Some(Ok(response))) => {
                // Only openraft's own entries have no result.
                Proposed::Done {
                    index: response.log_id.index,
                    result: response.data.0.unwrap_or(Ok(Outcome::Done)),
                }
            }
            // `ForwardToLeader`; the other variant concerns membership changes only.
            Ok(Some(Err(RaftError::APIError(_))) | None) => {
                // This host must not name itself: the caller would only ask it again.
                let leader = self.leader().filter(|leader| *leader != self.me());
                Proposed::NotLeader { leader: leader.and_then(|leader| self.located(leader)) }
            }
            Ok(Some(Err(RaftError::Fatal(_)))) => Proposed::Failed(ProposeError::Stopped),
            Err(_) => Proposed::Failed(self.why_not(None, deadline)),
        }
    }

    /// Resolves when this host learns of a new leader that is not `leader`.
    async fn other_leader_than(&self, leader: HostId) {
        let mut metrics = self.raft.metrics();
        let before = metrics.borrow_and_update().current_leader;
        let other = metrics.wait_for(|metrics| {
            let now = metrics.current_leader;
            now != before && now.is_some_and(|now| now != leader.get())
        });
        if other.await.is_err() {
            // openraft has stopped. The call that this races against reports that.
            std::future::pending::<()>().await;
        }
    }

    async fn wait_applied(&self, index: u64) -> Result<(), ProposeError> {
        let mut applied = self.published.applied.clone();
        applied
            .wait_for(|applied| *applied > index)
            .await
            .map(drop)
            .map_err(|_| ProposeError::Stopped)
    }

    pub fn located(&self, host: HostId) -> Option<Located> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let noted = metrics
            .membership_config
            .membership()
            .get_node(&host.get())
            .map(|node| node.addr.as_str());
        Some(Located { host, address: self.peer_health.address(host, noted)? })
    }

    /// Asks the other voters for the leader. Needed if the leader does not reach this host, for
    /// example at a new address.
    async fn search_leader(self: &Arc<Self>) -> Option<Located> {
        let mut asked = JoinSet::new();
        for voter in self.voters().into_iter().filter(|voter| *voter != self.me()) {
            if let Some(Located { host, address }) = self.located(voter) {
                let node = Arc::clone(self);
                asked.spawn(async move {
                    node.peer_health
                        .ask_status(host, address, SEARCH_DEADLINE)
                        .await
                        .ok()
                        .map(|answer| answer.status)
                });
            }
        }
        let mut best: Option<ConsensusStatus> = None;
        while let Some(answered) = asked.join_next().await {
            let Ok(Some(status)) = answered else { continue };
            // A candidate has raised its term without having a leader in it.
            let leads = status.leader.is_some() && status.role != Role::Candidate;
            if leads && best.as_ref().is_none_or(|best| best.term < status.term) {
                best = Some(status);
            }
        }
        self.located(best?.leader?)
    }

    /// A voter's name for messages; also explains a voter that was removed while its vote could not
    /// be taken.
    fn name_of_voter(&self, host: HostId) -> String {
        match self.cluster().admissions.removed.get(&host) {
            Some(removed) => format!(
                "{}, which was removed but still has its vote: start it once more, or see \
                 shoutdctl recover",
                removed.name
            ),
            None => self.peer_health.name(host),
        }
    }

    /// Explains why nothing was committed.
    pub fn why_not(&self, trouble: Option<Obstacle>, deadline: Duration) -> ProposeError {
        if let Err(unable) = self.check_able() {
            return unable;
        }
        let voters = self.voters();
        let missing: Vec<_> = voters
            .iter()
            .copied()
            .filter(|voter| self.peer_health.is_unreachable(*voter))
            .collect();
        let quorum = voters.len() / 2 + 1;
        if voters.len() - missing.len() < quorum {
            let mut names: Vec<_> = missing.iter().map(|host| self.name_of_voter(*host)).collect();
            names.sort();
            let text = format!(
                "no leader: {} of {} hosts unreachable ({})",
                missing.len(),
                voters.len(),
                names.join(", ")
            );
            return ProposeError::NoLeader(text);
        }
        match trouble {
            Some(Obstacle::Leader(error)) => error,
            Some(Obstacle::Call(leader, error)) => ProposeError::NoLeader(format!(
                "the leader {} does not answer: {error}",
                self.peer_health.name(leader)
            )),
            None if self.leader().is_none() => ProposeError::NoLeader(format!(
                "no leader: the {} voters have not elected one yet",
                voters.len()
            )),
            None => ProposeError::TimedOut(millis(deadline)),
        }
    }
}

/// Why an errand has not reached the leader, or why the leader could not do it.
pub(crate) enum Obstacle {
    Call(HostId, CallError),
    Leader(ProposeError),
}
